"""Settings: from the environment, checked, and each described."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from headwater.backend.settings import Settings
from headwater.cli.options import settings_with


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


@pytest.mark.parametrize("listed", ["nginx", "10.0.0.0/8, proxy.example.com", "10.0.0.300"])
def test_a_proxy_is_given_by_its_address(listed: str):
    """A name would trust nobody, so that all clients would share the limits of one address."""
    with pytest.raises(ValidationError, match="is not an IP address"):
        Settings(proxy_addresses=listed)


def test_proxies_are_addresses_networks_or_everyone():
    for listed in ("", "*", "10.0.0.1", "10.0.0.0/8, fd00::/8"):
        assert Settings(proxy_addresses=listed).proxy_addresses == listed


def test_a_time_that_no_clock_can_subtract_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADWATER_KEEP_LOGS_DAYS", "1e300")
    with pytest.raises(ValidationError, match="less than or equal to 36500"):
        Settings()


def test_a_misspelt_variable_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Also one that makes a server less safe, such as this."""
    monkeypatch.setenv("HEADWATER_SECURE_COOKIE", "true")
    # A cluster sets such as these for a service that is called headwater.
    monkeypatch.setenv("HEADWATER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HEADWATER_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    settings_with()
    assert capsys.readouterr().err == (
        "Warning: HEADWATER_SECURE_COOKIE is no setting: did you mean HEADWATER_SECURE_COOKIES?\n"
    )
