"""Locks on files, and that nothing else of the packages needs a module that Windows lacks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from flujo_client.archive.locking import lock_file, try_lock_file

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("flujo_client", "flujo_worker") for path in (ROOT / folder).rglob("*.py"))

#: Modules of Python that only POSIX systems have.
POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def test_one_holds_a_file_until_it_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as second:
        with (tmp_path / "lock").open("w") as first:
            lock_file(first)

            assert not try_lock_file(second)
        assert try_lock_file(second)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_needs_posix_to_be_imported(path: Path) -> None:
    top_level = ast.parse(path.read_text()).body  # what stands under `if sys.platform` is no import at the top level

    imported = {name.name for node in top_level if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in top_level if isinstance(node, ast.ImportFrom)}

    assert not imported & POSIX_ONLY
