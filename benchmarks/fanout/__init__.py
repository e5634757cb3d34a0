"""Fan-out beside others on this machine: ``uv run python -m benchmarks.fanout``."""
