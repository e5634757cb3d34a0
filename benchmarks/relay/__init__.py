"""Is each row of a relayed table once in the log? See ``__main__``."""
