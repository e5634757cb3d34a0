"""The event log on SQLite: statements, following, and the watch of the file."""
