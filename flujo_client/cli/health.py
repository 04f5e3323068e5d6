"""`--health` of `flujo worker` and `flujo manager`: asks the process of this machine whether it is of use."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any

import typer

from flujo_client.cli.output import execute
from flujo_client.protocol.errors import SettingsError
from flujo_client.protocol.settings import Settings

__all__ = ["HealthOption", "ask_health"]

#: Option of every command that stays.
HealthOption = typer.Option(
    False,
    "--health",
    help="Ask the one that runs on this machine at FLUJO_HEALTH_PORT; exit code 1 if it is of no use.",
)

_TIMEOUT_S = 5.0


def ask_health() -> None:
    """Print what `/healthz` says as one JSON document.

    Raises:
        typer.Exit: Code 0 if the process is healthy, 1 if not, or if nobody answers.
    """

    async def port() -> int:
        number = Settings.from_env().health_port
        if number is None:
            raise SettingsError(
                "FLUJO_HEALTH_PORT is not set.", suggestion="Set the port that the process was started with."
            )
        return number

    document = _asked(execute(port, as_json=False))
    sys.stdout.write(json.dumps(document) + "\n")
    raise typer.Exit(0 if document["healthy"] else 1)


def _asked(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_TIMEOUT_S) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:  # 503: it says why
        with error:
            return dict(json.load(error))
    except (OSError, ValueError) as error:
        return {"healthy": False, "error": f"nothing answers on port {port}: {error}"}
