"""What a REST poll costs without Headwater: a list endpoint of FastAPI and SQLAlchemy.

It looks up the session, reads the newest rows of the same table and answers them through a model.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import String, Text, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['DATABASE']}")
sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Session(Base):
    __tablename__ = "sessions"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(64))


class LogRow(Base):
    __tablename__ = "log_entries"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(64))
    level: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    fields: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(Text)


class LogEntry(BaseModel):
    id: str
    level: str
    source: str
    message: str
    fields: dict[str, Any]
    created_at: datetime


class Logs(BaseModel):
    logs: list[LogEntry]


async def current_user(session: Annotated[str, Cookie()]) -> str:
    digest = hashlib.sha256(session.encode()).hexdigest()
    async with sessions() as database:
        user = await database.scalar(select(Session.user_id).where(Session.token_hash == digest))
    if user is None:
        raise HTTPException(401)
    return user


app = FastAPI()


@app.get("/api/logs")
async def logs(user: Annotated[str, Depends(current_user)], limit: int = 20) -> Logs:
    newest = (
        select(LogRow).where(LogRow.user_id == user).order_by(LogRow.created_at.desc()).limit(limit)
    )
    async with sessions() as database:
        rows = (await database.scalars(newest)).all()
    names = ("id", "level", "source", "message", "created_at")
    return Logs(
        logs=[
            LogEntry(**{name: getattr(row, name) for name in names}, fields=json.loads(row.fields))
            for row in reversed(rows)
        ]
    )
