"""Tables that cannot be changed: by a date-time and the key, reading the last seconds again."""
