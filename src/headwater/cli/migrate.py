"""``headwater migrate``: bring the schema up to date."""

from __future__ import annotations

from headwater.cli.options import DatabaseOption, address_of, settings_with
from headwater.cli.progress import progress


def migrate(database: DatabaseOption = None) -> None:
    """Bring the database's schema up to date, in one transaction."""
    settings = settings_with(database=database)
    from headwater.backend.schema import migrate as run

    address = address_of(settings)
    with progress("bringing the schema up to date"):
        changed = run(address)
    print(f"{address.shown}: the schema {'is now' if changed else 'was'} up to date.")
