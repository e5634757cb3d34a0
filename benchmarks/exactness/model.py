"""The table that is written and followed."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import track


class Own(DeclarativeBase):
    pass


@track()
class Item(Own):
    __tablename__ = "exactness_rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    writer: Mapped[int]
