"""Ctrl-C while the command line is being imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flujo_client.starting import is_command_line

#: Stands in for a library that takes long to import.
_SLOW = "import sys\nprint('importing', flush=True)\nsys.stdin.read()\n"


def _mind_interrupts() -> None:
    """A test run in the background of a shell ignores them, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("command", [["-m", "flujo_client.cli"], ["flujo"]], ids=["module", "script"])
def test_an_interrupt_while_the_command_line_is_imported_is_one_line(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "typer.py").write_text(_SLOW)
    (tmp_path / "flujo").write_text("from flujo_client.cli.main import main\nmain()\n")
    with subprocess.Popen(
        [sys.executable, *command, "runs"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_mind_interrupts,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"

        process.send_signal(signal.SIGINT)

        _, told = process.communicate(timeout=30)
    assert told == "flujo: interrupted\n"
    assert process.returncode in (-signal.SIGINT, 130)


@pytest.mark.parametrize(
    ("words", "is_ours"),
    [
        (["/usr/bin/python", "-m", "flujo_client.cli", "runs"], True),
        (["/usr/bin/python", "/opt/bin/flujo", "runs"], True),
        (["C:\\python.exe", "flujo.exe"], True),
        (["/usr/bin/python", "service.py", "flujo"], False),
        (["/usr/bin/python", "-m", "celery", "-A", "flujo_worker.app"], False),
        (["python"], False),
    ],
)
def test_only_the_command_line_is_told_in_one_line(words: list[str], is_ours: bool) -> None:
    assert is_command_line(words) is is_ours
