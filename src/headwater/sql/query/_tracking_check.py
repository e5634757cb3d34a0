"""Compares the tables of a live query with what their tracking should be, while it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.sql._links import links_drift
from headwater.sql._schemas import SCHEMAS
from headwater.sql._tracking import Tracking
from headwater.sql.postgresql._looks import CatalogueWatch
from headwater.sql.postgresql._triggers import qualified

__all__ = ["TrackingCheck"]


class TrackingCheck:
    """The comparison of one live query's tables.

    Arguments:
        name: of the live query.
    """

    def __init__(self, name: str, tables: Collection[Tracking]) -> None:
        self._name = name
        self._tables = tables
        self._catalogue = CatalogueWatch()

    def soon(self) -> None:
        """Compare at the next read: the schema is another one."""
        self._catalogue.soon()

    def follow(self, engine: AsyncEngine, wake: Callable[[], None]) -> None:
        """Notice on PostgreSQL when the catalogue changes, until ``stop``."""
        if engine.dialect.name == "postgresql":
            self._catalogue.follow(engine, [qualified(each) for each in self._tables], wake)

    async def stop(self) -> None:
        """Undo ``follow``."""
        await self._catalogue.stop()

    async def run(self, connection: AsyncConnection) -> None:
        """Compare if it is due. Raises SourceUnavailableError with what mends it."""
        if not self._catalogue.is_due():
            return
        schema = SCHEMAS[connection.dialect.name]
        for tracking in self._tables:
            try:
                found, wrong = await connection.run_sync(schema.drift, tracking, ())
                wrong = wrong or await connection.run_sync(links_drift, found)
            except DeclarationError as error:
                wrong = [str(error)]
            if wrong:
                said = f"table {tracking.full_name}: {'; '.join(wrong)}. {tracking.call} mends it"
                raise SourceUnavailableError(self._name, said, public=True, lasting=True)
        # The read takes a snapshot of its own.
        await connection.rollback()
        self._catalogue.note()
