"""The body of a sign-in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from headwater.backend.schemas import Body, Result, Text
from headwater.backend.users.schemas import Me, Password


class Login(Body):
    email: Annotated[Text, StringConstraints(max_length=320)]
    password: Password


class Account(Result):
    """A sign-in that everybody may know."""

    email: str
    password: str


class Session(Result):
    user: Me | None = Field(description="The signed-in user, or null.")
    accounts: list[Account] = Field(description="The demo's accounts; none anywhere else.")
