"""Settings: read once, every fault at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from flujo_client.protocol.errors import (
    SettingsError,
)
from flujo_client.protocol.settings import Settings


def test_settings_report_every_fault_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"FLUJO_URK": "x", "FLUJO_RETENTION_S": "soon", "FLUJO_STRICT_HOOKS": "1", "PATH": "/"})

    assert "FLUJO_URK is not a setting" in str(caught.value)
    assert "FLUJO_RETENTION_S" in str(caught.value)
    with pytest.raises(SettingsError, match="FLUJO_URL is not set"):
        _ = Settings().broker
    assert Settings(url="redis://x", broker_url="amqp://y").broker_kind == "amqp"


def test_every_variable_is_read() -> None:
    settings = Settings.from_env({"FLUJO_URL": "redis://h/1", "FLUJO_NAMESPACE": "ns", "FLUJO_MAX_DELIVERIES": "5"})

    assert (settings.url, settings.namespace, settings.max_deliveries) == ("redis://h/1", "ns", 5)
    assert (settings.broker, settings.broker_kind, settings.state_url) == ("redis://h/1", "redis", "redis://h/1")


def test_the_processes_own_variables_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_NAMESPACE", "mine")

    assert Settings.from_env().namespace == "mine"


@pytest.mark.parametrize("url", ["amqp://h", "amqps://h", "pyamqp://h"])
def test_other_brokers_are_told_by_their_scheme(url: str) -> None:
    assert Settings(url="redis://h", broker_url=url).broker_kind == "amqp"


def test_every_setting_says_which_variable_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert (field.description or "").startswith(f"FLUJO_{name.upper()}: ")
    assert "FLUJO_URL" in (Path(__file__).parents[2] / "README.md").read_text()
