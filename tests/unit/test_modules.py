"""Modules that are imported for their pipelines, and must not run them meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.exceptions import RedisError

from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.modules import import_pipelines, refuse_while_importing
from flujo_worker.registry import Registry

DEFINES = """
from flujo_client import Flujo, Pipeline, step

@step
async def echo(text: str) -> str:
    return text

echoing = Pipeline([echo], name="echoing")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "runs",
    [
        "Flujo(echoing).run('x')",
        "import asyncio; asyncio.run(Flujo(echoing).run_async('x'))",
        """
from flujo_client import FlujoClient
with FlujoClient("redis://127.0.0.1:1/0") as client:
    client.submit("echoing", "x")
""",
    ],
    ids=["run", "run_async", "submit"],
)
def test_a_module_that_runs_something_while_it_is_imported_is_told_what_to_write(folder: Path, runs: str) -> None:
    (folder / "runs_at_import.py").write_text(DEFINES + runs)

    with pytest.raises(ConfigurationError, match=r"'runs_at_import' runs a pipeline .* `if __name__ == \"__main__\":`"):
        Registry.from_modules("runs_at_import")


def test_a_module_that_only_defines_is_imported_and_runs_are_free_again(folder: Path) -> None:
    (folder / "only_defines.py").write_text(DEFINES)

    assert import_pipelines("only_defines").echoing.name == "echoing"
    refuse_while_importing()


BROKEN = {
    "an import": ("import nothing_there", "No module named 'nothing_there' ({file}, line 1: import nothing_there)"),
    "a name": (
        "def helper():\n    return undefined + 1\n\nhelper()",
        "NameError: name 'undefined' is not defined ({file}, line 2: return undefined + 1)",
    ),
    "an option": (
        "from flujo_client import UsageLimits\nlimits = UsageLimits(total_cost=3)",
        "UsageLimits cannot be made: total_cost is no option of it (did you mean total_cost_usd_limit?) "
        "({file}, line 2: limits = UsageLimits(total_cost=3))",
    ),
    "syntax": ("x = (1,", "SyntaxError: '(' was never closed ({file}, line 1: x = (1,)"),
    "nothing said": ("raise RuntimeError", "RuntimeError ({file}, line 1: raise RuntimeError)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_module_that_cannot_be_imported_says_why_and_at_which_line_of_the_users(folder: Path, kind: str) -> None:
    text, told = BROKEN[kind]
    (folder / "needs_more.py").write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        import_pipelines("needs_more")

    where = str(folder / "needs_more.py")
    assert str(caught.value) == f"Module 'needs_more' cannot be imported: {told.format(file=where)}. Correct it there."


@pytest.mark.parametrize("name", ["no_such_module", "no_such.module"])
def test_a_module_that_there_is_not_is_a_name_to_correct(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"No module named '.*'\. Correct its name"):
        import_pipelines(name)


def test_what_only_a_library_raises_passes_as_it_is_and_the_import_is_over(folder: Path) -> None:
    (folder / "needs_redis.py").write_text("from redis.exceptions import RedisError\nraise RedisError('away')")

    with pytest.raises(RedisError, match="away"):
        import_pipelines("needs_redis")

    refuse_while_importing()
