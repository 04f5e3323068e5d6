"""What the documents show, works: every Python block is run, every command line is one that there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from pytest_examples import CodeExample, EvalExample, find_examples

from flujo_client.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")]
)
BLOCKS = [example for example in find_examples(*PAGES) if example.prefix == "python"]
SHELL = [
    (page.name, line)
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]

#: Commands that stand in shell blocks beside flujo and make, and what is not theirs to check.
OTHER_COMMANDS = {"celery", "docker", "export", "pip", "redis-cli", "kubectl", "curl"}


def _block_id(example: CodeExample) -> str:
    return f"{example.path.name}:{example.start_line}"


@pytest.mark.parametrize("example", BLOCKS, ids=_block_id)
def test_a_block_runs_and_prints_what_it_says(
    example: CodeExample, eval_example: EvalExample, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a block prints stands in it as `# > ...`, below the print, if anything of it does."""
    told = re.findall(r"^ *# > (.*)$", example.source, re.MULTILINE)

    eval_example.run(example)

    printed = capsys.readouterr().out.splitlines()
    assert not told or printed == told


def test_every_page_is_looked_at() -> None:
    assert {page.name for page in PAGES} >= {
        "README.md",
        "quickstart.md",
        "concepts.md",
        "extending.md",
        "migration.md",
    }
    assert len(BLOCKS) > 15


@pytest.mark.parametrize(("page", "line"), SHELL)
def test_a_command_line_is_one_that_there_is(page: str, line: str) -> None:
    words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    if not words:
        return
    if words[0] == "make":
        target = next(word for word in words[1:] if "=" not in word)
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        return
    if words[0] != "flujo":
        assert words[0] in OTHER_COMMANDS or (ROOT / words[0]).exists(), f"{page}: {line}"
        return
    group: Any = typer.main.get_command(app)
    command: click.Command = group.commands[words[1]]
    command = getattr(command, "commands", {}).get(words[2], command) if len(words) > 2 else command
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words[2:]:
        assert not word.startswith("--") or word.partition("=")[0] in {*options, "--help"}, f"{page}: {line}"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The README's example, saved as the README says."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "first.py").write_text(found.group(1))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("first.py",), "{'words': 3, 'again': 3}\n"),
        (("-m", "flujo_client.cli", "run", "first", "a b c"), '{"words":3,"again":3}\n'),
        (("-m", "flujo_client.cli", "check", "first"), "digest: ok\n"),
    ],
    ids=["python", "run", "check"],
)
def test_the_readmes_example_does_what_the_readme_says(first: Path, command: tuple[str, ...], output: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("FLUJO_")}

    done = subprocess.run(
        [sys.executable, *command], cwd=first, env=own, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout.startswith(output), done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", ["README.md", "docs/budgets.md", "docs/reliability.md", "docs/security.md"])
def test_guarantees_and_their_edges_name_tests_that_exist(page: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", (ROOT / page).read_text())

    assert len(named) >= 5
    for file, names in named:
        text = (ROOT / file).read_text()
        for name in names.split("::")[1:]:  # a class, perhaps, and a test of it
            assert re.search(rf"^ *(?:async def|def|class) {name}\b", text, re.MULTILINE), f"{file}{names}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
