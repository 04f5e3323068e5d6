"""`make docs`: the reference is made of docstrings, without a warning, and has every public name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flujo_client
import flujo_worker
from tests.unit.test_sizes import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference, by the command of `make docs`."""
    (command,) = re.findall(r"^docs:.*\n\t\$\(BIN\)/python (.*) site$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, *command.split(), str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_every_public_name_stands_in_the_reference(site: Path) -> None:
    for module, described_elsewhere in ((flujo_client, {"BaseModel"}), (flujo_worker, set[str]())):
        page = (site / f"{module.__name__}.html").read_text()
        shown = set(re.findall(r'<section id="(\w+)"', page))
        assert set(module.__all__) - shown == described_elsewhere
    assert 'id="SqlBackend"' in (site / "flujo_client/archive/sql.html").read_text()


def test_arguments_are_lists_and_not_the_text_that_they_are_written_as(site: Path) -> None:
    page = (site / "flujo_client.html").read_text()

    assert "<h6" in page
    assert not re.search(r"<p>(Args|Returns|Raises):", page)
