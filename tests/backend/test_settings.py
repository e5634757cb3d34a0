"""Settings: from the environment, checked, and each described."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from headwater.backend.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("HEADWATER_")]:
        monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_contract():
    settings = Settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert settings.database.startswith("sqlite:///")
    assert settings.event_log_url == settings.database
    assert settings.allowed_origins == ()


def test_each_setting_is_a_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADWATER_PORT", "9000")
    monkeypatch.setenv("HEADWATER_EVENT_LOG", "memory://")
    monkeypatch.setenv("HEADWATER_ALLOWED_ORIGINS", "https://A.example.com , http://b.example:81,")
    monkeypatch.setenv("HEADWATER_HOST", "")
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 9000)
    assert settings.event_log_url == "memory://"
    assert settings.allowed_origins == ("https://a.example.com", "http://b.example:81")


@pytest.mark.parametrize("origin", ["*", "example.com", "https://a.example/path", "https://*.a"])
def test_an_origin_is_one_origin(origin: str):
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(allowed_origins=origin)


def test_every_setting_says_what_it_is():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
