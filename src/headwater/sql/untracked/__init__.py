"""Tables that cannot be changed: read by a date-time and the key."""
