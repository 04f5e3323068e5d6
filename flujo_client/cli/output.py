"""What commands read and print: text for people, one JSON document for programs, one line for errors."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pydantic_core
import typer
from rich.console import Console
from rich.text import Text

from flujo_client.protocol.envelopes import describe_error
from flujo_client.protocol.errors import FlujoError

__all__ = ["JsonOption", "console", "execute", "parse_input", "print_json", "print_text"]

T = TypeVar("T")

#: Option of every command that prints.
JsonOption = typer.Option(False, "--json", help="Print one JSON document as the last line of stdout.")

console = Console()


def print_json(document: Any) -> None:
    """Print one JSON document on one line. What is no JSON, as a run in process may give, stands as its repr."""
    sys.stdout.write(pydantic_core.to_json(document, inf_nan_mode="constants", fallback=repr).decode() + "\n")
    sys.stdout.flush()


def print_text(text: str, style: str | None = None) -> None:
    """Print text as it is: brackets are no markup, and long lines stay whole for those who pipe them on."""
    console.print(Text(text, style or ""), soft_wrap=True)


def execute(work: Callable[[], Coroutine[Any, Any, T]], *, as_json: bool) -> T:
    """Run a command's coroutine. A Flujo error becomes one line on stderr (with --json also a document) and exit code 1."""
    try:
        return asyncio.run(work())
    except (FlujoError, ValueError) as error:
        if as_json:
            print_json({"error": describe_error(error)})
        sys.stderr.write(f"flujo: {' '.join(str(error).split())}\n")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error


def parse_input(text: str) -> Any:
    """An input as given on the command line: JSON; what is no JSON is a string; `-` reads either from stdin."""
    if text == "-":
        text = sys.stdin.read()
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(word: str) -> None:
    """NaN and Infinity are words, not JSON."""
    raise ValueError(word)
