"""The settings of every process: one frozen model, read from FLUJO_* variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from flujo_client.protocol.errors import SettingsError
from flujo_client.protocol.told import Told, closest

__all__ = ["Settings"]

#: Variables that existing Flujo code sets; known, so that they are no error, and read where they matter.
LEGACY_VARIABLES = frozenset({"FLUJO_STRICT_HOOKS", "FLUJO_ALLOW_HITL", "FLUJO_TEST_MODE"})

#: Variables of the test suite and the Makefile.
DEVELOPMENT_VARIABLES = frozenset({"FLUJO_FAILPOINT", "FLUJO_REQUIRE_POSTGRES", "FLUJO_REQUIRE_RABBITMQ"})

#: Schemes that each URL may have.
SCHEMES = {
    "url": ("redis", "rediss", "unix"),
    "broker_url": ("redis", "rediss", "amqp", "amqps", "pyamqp"),
}


class Settings(Told):
    """What a process needs to know. Read once, at the entry point; an unknown FLUJO_* variable is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    _refusal: ClassVar[type[SettingsError]] = SettingsError

    url: str | None = Field(
        None, repr=False, description="FLUJO_URL: Redis that holds the runs, and the broker unless broker_url is set"
    )
    broker_url: str | None = Field(None, repr=False, description="FLUJO_BROKER_URL: Celery's broker; default: url")
    namespace: str = Field(
        "flujo", pattern=r"^[A-Za-z0-9_-]{1,40}$", description="FLUJO_NAMESPACE: separates installations on one Redis"
    )
    shards: int = Field(
        1,
        ge=1,
        le=1024,
        description="FLUJO_SHARDS: hash slots that the runs of a namespace are spread over; every process says the same",
    )
    pipelines: str = Field("", description="FLUJO_PIPELINES: modules that workers import, comma separated")
    state_uri: str | None = Field(
        None,
        repr=False,
        description="FLUJO_STATE_URI: state backend that keeps finished runs: sqlite:///file.db, postgresql://…, file:///folder",
    )
    retention_s: int = Field(7 * 86400, ge=1, description="FLUJO_RETENTION_S: how long a finished run stays, s")
    max_payload_bytes: int = Field(
        64 * 2**20, ge=1024, description="FLUJO_MAX_PAYLOAD_BYTES: largest input, output or context"
    )
    stream_max_bytes: int = Field(
        64 * 2**20, ge=0, description="FLUJO_STREAM_MAX_BYTES: chunks of running steps that a run keeps, in bytes"
    )
    shutdown_grace_s: float = Field(
        20.0, ge=0, description="FLUJO_SHUTDOWN_GRACE_S: what running steps get after SIGTERM, s"
    )
    pool: Literal["asyncio", "prefork", "threads"] = Field(
        "asyncio", description="FLUJO_POOL: asyncio; prefork for steps that burn CPU; threads"
    )
    loop_stall_s: float = Field(
        30.0, ge=1, description="FLUJO_LOOP_STALL_S: how long an async step may block its worker, which then ends, s"
    )
    health_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="FLUJO_HEALTH_PORT: where workers and managers answer /healthz; default: nowhere",
    )
    max_deliveries: int = Field(
        3, ge=1, description="FLUJO_MAX_DELIVERIES: workers that a step may kill before it is dead-lettered"
    )
    strict_pricing: bool = Field(
        False, description="FLUJO_STRICT_PRICING: an agent's tokens without a price fail the run"
    )
    durability: Literal["fast", "acknowledged"] = Field(
        "fast",
        description="FLUJO_DURABILITY: acknowledged shows a submission, result or answer only once it is on Redis' disk",
    )
    payload_keys: SecretStr = Field(
        SecretStr(""), description="FLUJO_PAYLOAD_KEYS: Fernet keys that payloads are encrypted with, newest first"
    )
    message_keys: SecretStr = Field(
        SecretStr(""), description="FLUJO_MESSAGE_KEYS: secrets that messages are signed with, newest first"
    )
    strict_dsl: bool = Field(True, description="FLUJO_STRICT_DSL: neighbours whose types cannot fit are an error")

    @field_validator("url", "broker_url")
    @classmethod
    def _has_a_known_scheme(cls, url: str | None, info: ValidationInfo) -> str | None:
        schemes = SCHEMES[str(info.field_name)]
        scheme, separator, _ = (url or "").partition("://")
        if url is None or (separator and scheme in schemes):
            return url
        begins = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError("it is empty: unset it, or set a URL" if not url else f"it must begin with {begins}")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read every FLUJO_* variable.

        Args:
            environ: The variables; default: those of the process.

        Raises:
            SettingsError: One error that lists every unknown or malformed variable.
        """
        variables = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        faults: list[str] = []
        for name, value in variables.items():
            if not name.startswith("FLUJO_") or name in LEGACY_VARIABLES or name in DEVELOPMENT_VARIABLES:
                continue
            if cls.names(name):
                values[name.removeprefix("FLUJO_").lower()] = value
            else:
                near = closest(name.removeprefix("FLUJO_").lower(), cls.model_fields)
                told = f" (did you mean FLUJO_{near.upper()}?)" if near else ""
                faults.append(f"{name} is not a setting{told}")
        return cls._of(values, faults)

    @classmethod
    def _of(cls, values: Mapping[str, Any], faults: list[str]) -> Self:
        try:
            settings = cls(**values)
        except SettingsError as error:
            faults += [f"FLUJO_{name.upper()}: {words}" for name, _, words in map(_split, error.data["faults"])]
        if faults:
            raise SettingsError(
                "; ".join(faults) + ".", suggestion="Correct or unset it; README.md lists the settings."
            )
        return settings

    @staticmethod
    def names(variable: str) -> bool:
        """Whether a variable is one of these settings."""
        return variable.startswith("FLUJO_") and variable.removeprefix("FLUJO_").lower() in Settings.model_fields

    def at(self, url: str) -> Self:
        """The same settings, with another Redis.

        Raises:
            SettingsError: That is no URL of one.
        """
        return self._of({**self.model_dump(), "url": url}, [])

    def to_env(self) -> dict[str, str]:
        """The variables that say the same to another process."""
        given = self.model_dump(exclude_defaults=True)
        return {f"FLUJO_{name.upper()}": _plain(value) for name, value in given.items()}

    @property
    def sealing_keys(self) -> tuple[str, ...]:
        """The keys of payloads, newest first."""
        return _keys(self.payload_keys)

    @property
    def signing_keys(self) -> tuple[str, ...]:
        """The keys of messages, newest first."""
        return _keys(self.message_keys)

    @property
    def broker(self) -> str:
        """The broker's URL.

        Raises:
            SettingsError: Neither FLUJO_BROKER_URL nor FLUJO_URL is set.
        """
        return self.broker_url or self.state_url

    @property
    def state_url(self) -> str:
        """The URL of the Redis that holds the runs.

        Raises:
            SettingsError: FLUJO_URL is not set.
        """
        if self.url is None:
            raise SettingsError(
                "FLUJO_URL is not set.",
                suggestion="Set it to the Redis that holds the runs, such as redis://localhost:6379/0.",
            )
        return self.url

    @property
    def broker_kind(self) -> Literal["redis", "amqp"]:
        """Which transport the broker's URL selects."""
        return "amqp" if self.broker.startswith(("amqp", "pyamqp")) else "redis"

    @property
    def broker_holds_runs(self) -> bool:
        """Whether the broker is the Redis database that holds the runs."""
        return self.broker == self.state_url

    @property
    def messaging_system(self) -> str:
        """The broker, as spans and metrics name it."""
        return "rabbitmq" if self.broker_kind == "amqp" else "redis"


def _split(fault: str) -> tuple[str, str, str]:
    return fault.partition(": ")


def _keys(secret: SecretStr) -> tuple[str, ...]:
    return tuple(filter(None, (key.strip() for key in secret.get_secret_value().split(","))))


def _plain(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
