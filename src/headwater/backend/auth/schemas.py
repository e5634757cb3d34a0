"""The body of a sign-in."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from headwater.backend.schemas import Body, Text
from headwater.backend.users.schemas import Password

__all__ = ["Login"]


class Login(Body):
    email: Annotated[Text, StringConstraints(max_length=320)]
    password: Password
