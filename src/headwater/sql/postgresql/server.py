"""What is asked of a server once: whether it is new enough, and what it tells about itself."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import DeclarationError

__all__ = ["OLDEST", "Server", "ask"]

# xid8, pg_current_xact_id and pg_visible_in_snapshot are of this version.
OLDEST = 130000

_ASK = sa.text(
    "SELECT current_setting('server_version_num')::int, current_setting('server_version'), "
    "has_function_privilege('pg_control_system()', 'execute') "
    "AND has_function_privilege('pg_control_checkpoint()', 'execute') "
    "AND has_function_privilege('pg_walfile_name(pg_lsn)', 'execute')"
)


@dataclass(frozen=True, slots=True)
class Server:
    """Attributes:
    version: such as 180006.
    control: it tells its identifier and timeline.
    """

    version: int
    control: bool


async def ask(connection: AsyncConnection) -> Server:
    """Raises DeclarationError for a server that is too old."""
    version, name, control = (await connection.execute(_ASK)).one()
    if version < OLDEST:
        raise DeclarationError(
            f"PostgreSQL {name} is too old: tables and event logs need PostgreSQL 13 or later, "
            "which know 64-bit transaction ids"
        )
    return Server(version, bool(control))
