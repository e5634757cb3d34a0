"""The body of a sign-in."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from headwater.backend.schemas import Body
from headwater.backend.users.schemas import Password

__all__ = ["Login"]


class Login(Body):
    email: Annotated[str, StringConstraints(max_length=320)]
    password: Password
