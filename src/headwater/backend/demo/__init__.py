"""A throw-away backend that lives: who is in it, what happened before, and what goes on now."""
