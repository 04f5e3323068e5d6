"""Settings: read once, every fault at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from flujo_client.protocol.errors import (
    SettingsError,
)
from flujo_client.protocol.settings import Settings


def test_settings_report_every_fault_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {
                "FLUJO_URK": "x",
                "FLUJO_NAMESPCE": "x",
                "FLUJO_RETENTION_S": "soon",
                "FLUJO_STRICT_HOOKS": "1",
                "PATH": "/",
            }
        )

    assert str(caught.value) == (
        "FLUJO_URK is not a setting (did you mean FLUJO_URL?); FLUJO_NAMESPCE is not a setting (did you mean FLUJO_NAMESPACE?); "
        "FLUJO_RETENTION_S: Input should be a valid integer, unable to "
        "parse string as an integer, not 'soon'. Correct or unset it; README.md lists the settings."
    )
    with pytest.raises(SettingsError, match=r"^FLUJO_XYZZY is not a setting\. "):
        Settings.from_env({"FLUJO_XYZZY": "x"})
    with pytest.raises(SettingsError, match="url: it must begin with redis://"):
        Settings(url="http://x")
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
    settings = Settings(url="redis://h", broker_url=url)

    assert (settings.broker_kind, settings.messaging_system) == ("amqp", "rabbitmq")
    assert Settings(url="redis://h").messaging_system == "redis"


def test_every_setting_says_which_variable_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert (field.description or "").startswith(f"FLUJO_{name.upper()}: ")
        assert f"`FLUJO_{name.upper()}`" in (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("FLUJO_URL", "", "FLUJO_URL: it is empty"),
        ("FLUJO_URL", "http://foo", "FLUJO_URL: it must begin with redis:// or rediss:// or unix://"),
        ("FLUJO_URL", "localhost:6379", "FLUJO_URL: it must begin with redis://"),
        ("FLUJO_BROKER_URL", "kafka://x", "FLUJO_BROKER_URL: it must begin with redis:// or rediss:// or amqp://"),
        ("FLUJO_BROKER_URL", "", "FLUJO_BROKER_URL: it is empty"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_with_its_variable(name: str, value: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: value, "FLUJO_POOL": "swimming"})

    assert text in str(caught.value)
    assert "FLUJO_POOL" in str(caught.value)


def test_a_url_given_in_code_is_checked_as_well() -> None:
    settings = Settings(namespace="ns")

    assert settings.at("redis://h/2") == Settings(namespace="ns", url="redis://h/2")
    with pytest.raises(SettingsError, match="FLUJO_URL: it must begin with redis://"):
        settings.at("http://secret@foo")


def test_settings_become_the_variables_that_say_the_same() -> None:
    settings = Settings(url="redis://h", namespace="ns", retention_s=60, strict_dsl=False, message_keys=SecretStr("k"))

    assert settings.to_env() == {
        "FLUJO_URL": "redis://h",
        "FLUJO_NAMESPACE": "ns",
        "FLUJO_RETENTION_S": "60",
        "FLUJO_STRICT_DSL": "False",
        "FLUJO_MESSAGE_KEYS": "k",
    }
    assert Settings.from_env(settings.to_env()) == settings
    assert Settings.names("FLUJO_STRICT_DSL")
    assert not Settings.names("FLUJO_STRICT_HOOKS")
    assert not Settings.names("STRICT_DSL")
