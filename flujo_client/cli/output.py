"""What commands read and print: text for people, one JSON document for programs, one line for errors."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pydantic_core
import typer
from rich.console import Console
from rich.text import Text

from flujo_client.protocol.envelopes import describe_error
from flujo_client.protocol.errors import FlujoError, PayloadError

__all__ = ["JsonOption", "console", "counted_words", "execute", "parse_input", "print_json", "print_text"]

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


def counted_words(count: int, word: str) -> str:
    """How many there are of something: `1 run`, `2 runs`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def execute(work: Callable[[], Coroutine[Any, Any, T]], *, as_json: bool) -> T:
    """Run a command's coroutine. A Flujo error becomes one line on stderr (with --json also a document) and exit code 1.

    Ctrl-C and SIGTERM cancel it, so that it ends what it has started; then one line, and exit code 130 or 143.

    Args:
        work: Called outside of the event loop.
    """
    try:
        return asyncio.run(_cancelled_by_sigterm(work()))
    except (FlujoError, ValueError) as error:
        if as_json:
            print_json({"error": describe_error(error)})
        sys.stderr.write(f"flujo: {' '.join(str(error).split())}\n")
        raise typer.Exit(1) from error
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        sys.stderr.write("flujo: interrupted\n" if interrupted else "flujo: terminated\n")
        raise typer.Exit(128 + (signal.SIGINT if interrupted else signal.SIGTERM)) from error


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def parse_input(text: str) -> Any:
    """An input as given on the command line: JSON; what is no JSON is a string; `-` reads either from stdin.

    Raises:
        PayloadError: It begins with a brace, a bracket or a quote, and is no JSON all the same: more likely a slip than a text.
    """
    if text == "-":
        text = sys.stdin.read()
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] not in ("{", "[", '"') or not text.strip():
            return text
        why = (
            f"{error.msg}, line {error.lineno} column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else str(error)
        )
        raise PayloadError(
            f"The input begins like JSON and is none: {why}.",
            suggestion="Correct it; a text that begins so is given as a JSON string, in quotes.",
        ) from error


def _refuse_constant(word: str) -> None:
    """NaN and Infinity are words, not JSON."""
    raise ValueError(f"{word} is no JSON")
