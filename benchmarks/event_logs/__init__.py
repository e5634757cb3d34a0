"""What an event log keeps, and how soon others have it, on each engine, across whole processes."""
