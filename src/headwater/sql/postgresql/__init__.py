"""PostgreSQL: rows by transaction, snapshots as places, triggers, LISTEN, and retention."""
