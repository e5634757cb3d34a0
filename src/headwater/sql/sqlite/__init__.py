"""SQLite: change numbers by trigger, pages, the watch on the file, and connections."""
