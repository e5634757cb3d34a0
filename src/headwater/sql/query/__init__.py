"""Live queries: any derivable SELECT as an exact, resumable, keyed source."""
