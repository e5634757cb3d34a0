"""Is each row of a PostgreSQL table told once? ``uv run python -m benchmarks.exactness``."""
