"""Data for the demo: its users, a history, and activity while it runs."""
