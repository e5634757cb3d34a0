"""The event log on PostgreSQL: statements, appends, following, notices between processes."""
