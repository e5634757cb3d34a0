"""How long a committed row takes to its clients, beside a query per stream every 3 s."""
