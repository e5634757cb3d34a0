"""The settings, each also as an environment variable ``HEADWATER_<NAME>``."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")
Listed = Annotated[tuple[str, ...], NoDecode]
# A hundred years: some databases have no time that is much longer ago.
Days = Annotated[float, Field(gt=0, le=36_500)]


def default_folder() -> Path:
    """Where a user's data lives on this system."""
    return Path(platformdirs.user_data_dir("headwater", appauthor=False))


def default_database() -> str:
    """The SQLite file in the user's data folder, as a URL."""
    return f"sqlite:///{default_folder() / 'headwater.db'}"


class Settings(BaseSettings):
    """The backend's settings. A list is written with commas between its values."""

    model_config = SettingsConfigDict(
        env_prefix="HEADWATER_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen at.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    workers: int = Field(default=1, ge=1, le=64, description="Number of processes that serve.")
    database: str = Field(
        default_factory=default_database,
        description="The database: sqlite:///path or postgresql://user@host/name.",
    )
    event_log: str | None = Field(
        default=None,
        description="The event log: sqlite:///path, postgresql://, redis://, nats:// or "
        "memory://. By default it is in the database.",
    )

    session_hours: float = Field(
        default=14 * 24, gt=0, le=10_000, description="Hours from sign-in until a session ends."
    )
    secure_cookies: bool = Field(
        default=False,
        description="Mark the session cookie Secure, also on requests that came by plain http. "
        "On requests by https it always is.",
    )
    allowed_origins: Listed = Field(
        default=(),
        description="Further origins, such as https://app.example.com, whose pages may call with "
        "a user's cookie.",
    )
    allowed_hosts: Listed = Field(
        default=(),
        description="Host names that requests may use, such as headwater.example.com or "
        "*.example.com. By default any.",
    )
    proxy_addresses: str = Field(
        default="127.0.0.1",
        description="IP addresses and networks of reverse proxies whose X-Forwarded-For and "
        "-Proto are trusted, such as 10.0.0.0/8, with commas between them; * is everyone.",
    )
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="The largest request body, in bytes."
    )

    streams_per_user: int = Field(
        default=50,
        ge=1,
        description="The most streams and waiting polls of one user at one process.",
    )
    streams_per_address: int = Field(
        default=200,
        ge=1,
        description="The most streams and waiting polls of one client address, or of one /64 of "
        "IPv6, at one process. HEADWATER_PROXY_ADDRESSES are exempt.",
    )
    max_streams: int | None = Field(
        default=None, ge=1, description="The most streams and waiting polls of one process."
    )
    writes_per_second: int = Field(
        default=100,
        ge=1,
        description="The most requests per second with which one user, satellite or client "
        "address may change something at one process. A burst may be twice as large. Each 64 KiB "
        "of a body count as one more, but the largest body as those of one second at most.",
    )
    max_head_bytes: int = Field(
        default=64 * 1024,
        ge=1024,
        description="The largest request head, in bytes. A larger one gets 431.",
    )
    max_head_lines: int = Field(
        default=100,
        ge=10,
        description="The most header lines of a request. One with more gets 431.",
    )
    head_seconds: float = Field(
        default=10,
        gt=0,
        le=600,
        description="Seconds in which a request's head must arrive. A slower one gets 408.",
    )
    body_seconds: float = Field(
        default=30,
        gt=0,
        le=3600,
        description="Seconds in which a request's body must arrive, and a second more for each "
        "HEADWATER_BODY_RATE bytes of it. A slower one gets 408.",
    )
    body_rate: int = Field(
        default=1024, ge=1, description="Bytes per second at which a long request body must arrive."
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="The most connections of one process. By default as many as its file "
        "descriptors allow.",
    )
    max_connections_per_address: int = Field(
        default=500,
        ge=1,
        description="The most connections of one client address, or of one /64 of IPv6, to one "
        "process, and at most half of all. HEADWATER_PROXY_ADDRESSES are exempt.",
    )
    reserved_descriptors: int | None = Field(
        default=None,
        ge=0,
        description="File descriptors that connections must leave free. By default an eighth of "
        "all, at least 32 and at most 1,024.",
    )
    max_page_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        description="The most bytes of items in a page or a snapshot. Longer items make it "
        "shorter.",
    )
    max_unread_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=1024 * 1024,
        description="The most bytes of answers and streams that one process keeps for clients "
        "that have not read them. Above it, the user with the most loses their slowest client.",
    )

    password_min_length: int = Field(
        default=4, ge=1, le=128, description="The fewest characters of a new password."
    )
    # OWASP's first choice for argon2id: about 20 ms and 19 MiB for each sign-in.
    argon2_time_cost: int = Field(default=2, ge=1, le=100, description="Rounds of argon2.")
    argon2_memory_kib: int = Field(
        default=19 * 1024, ge=8, le=4 * 1024 * 1024, description="Memory of argon2, in KiB."
    )
    argon2_concurrency: int = Field(
        default=2, ge=1, le=64, description="Passwords that are hashed at the same time."
    )
    login_tries_per_email: int = Field(
        default=10,
        ge=1,
        description="Failed sign-ins that one e-mail address may have at once: from all places "
        "together that it never signed in from, and from each device and network that it did. As "
        "many come back each minute.",
    )
    login_tries_per_address: int = Field(
        default=50,
        ge=1,
        description="Failed sign-ins that one client address may have at once. As many come back "
        "each minute.",
    )

    max_credentials: int = Field(
        default=1000,
        ge=1,
        description="Sessions, and API keys, that one user may have. A sign-in beyond it ends the "
        "oldest session; another key is refused.",
    )

    heartbeat_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds of silence before a heartbeat."
    )
    recheck_seconds: float = Field(
        default=30.0, gt=0, le=30, description="Seconds between two checks of a stream's rights."
    )
    io_uring: bool = Field(
        default=True, description="Write to many streams in one system call, where Linux allows it."
    )
    shutdown_seconds: int = Field(
        default=10,
        ge=1,
        le=600,
        description="Seconds after which a shut-down cuts off open requests.",
    )

    keep_logs_days: Days = Field(default=30, description="Days that log entries are kept.")
    keep_notifications_days: Days = Field(
        default=30, description="Days that notifications are kept."
    )
    keep_metrics_days: Days = Field(default=7, description="Days that metrics are kept.")
    keep_activity_days: Days = Field(
        default=30, description="Days that an idle client's row is kept."
    )
    cleanup_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="Seconds between two removals of old rows and events.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto is text on a terminal and json elsewhere."
    )
    access_log: bool = Field(default=False, description="Log a line for each request.")

    @field_validator("allowed_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            scheme, _, rest = origin.partition("://")
            if scheme not in {"http", "https"} or not rest or "/" in rest or "*" in rest:
                raise ValueError(
                    f"{origin!r} is not an origin: write it without a path and without *, such as "
                    "https://app.example.com"
                )
        return tuple(origin.lower() for origin in value)

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is not a host: write it without a scheme, a port and a path, such "
                    "as headwater.example.com, or *.example.com for all below it"
                )
        return tuple(host.lower() for host in value)

    @field_validator("proxy_addresses")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        parts = {part.strip() for part in value.split(",")} - {"", "*"}
        for part in sorted(parts):
            try:
                ipaddress.ip_network(part, strict=False)
            except ValueError:
                raise ValueError(
                    f"{part!r} is not an IP address: write addresses and networks, such as "
                    "10.0.0.0/8, with commas between them, or *"
                ) from None
        return value

    @property
    def event_log_url(self) -> str:
        """Where events are; the database by default."""
        return self.event_log or self.database

    @property
    def session_lifetime(self) -> timedelta:
        return timedelta(hours=self.session_hours)
