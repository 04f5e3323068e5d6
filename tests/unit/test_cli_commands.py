"""The command line in process: what it reads, what it prints, how it fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flujo_client.cli.main import app
from flujo_client.cli.output import parse_input
from flujo_client.protocol.errors import PayloadError

MODULE = """
from typing import Any
from flujo_client import Pipeline, PipelineContext, Step, StepRun, step

class Tally(PipelineContext):
    total: int = 5

flujo_context_model = Tally
flujo_resources = {"suffix": "!"}

@step
async def echo(value: Any) -> Any:
    return value

@step(max_retries=0)
async def fail(value: Any) -> Any:
    raise ValueError("no [/such] page")

@step
async def count(value: Any, *, context: Tally, resources: Any) -> str:
    return f"{context.total}{resources['suffix']}"

@step
async def thing(value: Any) -> Any:
    return object()

@step
async def number(value: Any) -> int:
    return 1

@step
async def text(value: str) -> str:
    return value

echoing = Pipeline([echo], name="echo")
again = echoing
failing = Pipeline([fail], name="failing")
counting = Pipeline([count], name="counting")
asking = Pipeline([Step.human_in_the_loop("ask", message_for_user="Go?")], name="asking")
things = Pipeline([thing], name="things")

@step(expected_meters={"pages": 3})
async def read(value: Any, run: StepRun) -> Any:
    run.usage.add(pages=3)
    return value

reading = Pipeline([read, read], name="reading")
"""

FAULTY = """
from functools import partial
from flujo_client import Pipeline, Step
from cli_module import number

def pad(width: int, value: str) -> str:
    return value

shy = Step.from_callable(lambda value: value, name="shy")
mixed = Pipeline([number, shy, Step.parallel("both", {"one": Step.from_callable(partial(pad, 1), name="part")})], name="mixed")
unnamed = Pipeline([number])
fine = Pipeline([number], name="fine")
"""

MISFITS = """
from flujo_client import Pipeline, Step
from cli_module import number, text

shy = Step.from_callable(lambda value: value, name="shy")
misfits = Pipeline([number, text, number, text, shy], name="misfits")
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pipelines to run, and no settings of the machine's own."""
    (tmp_path / "cli_module.py").write_text(MODULE)
    (tmp_path / "cli_faulty.py").write_text(FAULTY)
    (tmp_path / "cli_misfits.py").write_text(MISFITS)
    (tmp_path / "cli_empty.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("FLUJO_URL", raising=False)
    yield
    for name in ("cli_module", "cli_faulty", "cli_misfits", "cli_empty"):
        sys.modules.pop(name, None)


def flujo(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, words, input=stdin)


def last_document(result: Result) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"url": "x"}', {"url": "x"}),
        ("[1, 2]", [1, 2]),
        ("12", 12),
        ("null", None),
        ('"12"', "12"),
        ("plain words", "plain words"),
        ("", ""),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("9" * 5_000, "9" * 5_000),
    ],
)
def test_an_input_is_json_or_else_the_string_itself(text: str, value: Any) -> None:
    assert parse_input(text) == value


@pytest.mark.parametrize(("stdin", "value"), [('{"a": 1}\n', {"a": 1}), ("two\nlines\n", "two\nlines\n")])
def test_a_dash_reads_the_input_from_stdin(stdin: str, value: Any) -> None:
    result = flujo("run", "cli_module:echo", "-", "--json", stdin=stdin)

    assert last_document(result)["step_history"][-1]["output"] == value


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ('"[/b] and [red]"', "[/b] and [red]"),
        ("word " * 60, "word " * 60),
        ('{"a": "[/x]"}', '{"a":"[/x]"}'),
        ("null", "null"),
    ],
)
def test_an_output_is_printed_as_it_is(given: str, printed: str) -> None:
    result = flujo("run", "cli_module:echo", given)

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].rstrip() == printed.rstrip()


def test_an_output_that_is_no_json_is_printed_as_its_repr() -> None:
    plain, document = flujo("run", "cli_module:things", "1"), flujo("run", "cli_module:things", "1", "--json")

    assert plain.stdout.startswith('"<object object at')
    assert last_document(document)["step_history"][-1]["output"].startswith("<object object at")


def test_a_run_gets_what_its_module_offers_to_workers() -> None:
    assert flujo("run", "cli_module:counting", "1").stdout.startswith("5!\n")


@pytest.mark.parametrize("text", ["{not json", "[" * 100_000, '{"a": NaN}', '"a" or "b"', ' {"a"}'])
def test_what_begins_like_json_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(PayloadError, match="begins like JSON and is none"):
        parse_input(text)


def test_a_run_that_asks_says_what_and_has_an_exit_code_of_its_own() -> None:
    plain = flujo("run", "cli_module:asking", "1", "--run-id", "r")

    assert plain.exit_code == 3
    assert plain.stdout.splitlines()[0].startswith("paused: Go?  (it ran in this process and ended with it")


def test_a_run_that_fails_gives_its_reason_and_exit_code_1() -> None:
    plain, document = flujo("run", "cli_module:failing", "1"), flujo("run", "cli_module:failing", "1", "--json")

    assert (plain.exit_code, document.exit_code) == (1, 1)
    assert "no [/such] page" in plain.stdout
    assert last_document(document)["success"] is False


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (("run", "no_such_module", "1"), "ConfigurationError", "no_such_module"),
        (("run", "cli_empty", "1"), "ConfigurationError", "no pipeline"),
        (("run", "cli_module", "1"), "ConfigurationError", "has 6 pipelines: echoing, "),
        (("run", "cli_module:echo", '{"a": '), "PayloadError", "begins like JSON and is none: Expecting value, line 1"),
        (
            ("run", "cli_module:nobody", "1"),
            "ConfigurationError",
            "Module 'cli_module' has no pipeline 'nobody' (it has echoing, ",
        ),
        (("check", "no_such_module"), "ConfigurationError", "no_such_module"),
        (("runs",), "SettingsError", "FLUJO_URL"),
        (("show", "one"), "SettingsError", "FLUJO_URL"),
        (("watch", "one"), "SettingsError", "FLUJO_URL"),
        (("cancel", "one"), "SettingsError", "FLUJO_URL"),
        (("submit", "one", "1"), "SettingsError", "FLUJO_URL"),
        (("doctor",), "SettingsError", "FLUJO_URL"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_a_document_on_stdout(words: tuple[str, ...], error: str, text: str) -> None:
    result = flujo(*words, "--json")

    assert result.exit_code == 1
    assert last_document(result)["error"]["type"] == error
    assert text in last_document(result)["error"]["message"]
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("flujo: ")


def test_redis_being_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_URL", "redis://127.0.0.1:1/0")

    result = flujo("runs")

    assert result.exit_code == 1
    assert "redis://127.0.0.1:1/0 does not answer" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_setting_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_COLOUR", "red")

    assert "FLUJO_COLOUR is not a setting" in flujo("runs").stderr


def test_check_lists_all_faults_of_all_pipelines_at_once() -> None:
    result = flujo("check", "cli_faulty", "--json")

    pipelines = last_document(result)["pipelines"]
    assert result.exit_code == 1
    assert pipelines["fine"] == []
    assert "without a name" in pipelines["unnamed"][0]
    assert len(pipelines["mixed"]) == 2
    assert "/shy: a lambda" in pipelines["mixed"][0]
    assert "/part: a partial" in pipelines["mixed"][1]


@pytest.mark.parametrize("strict", ["1", None])
def test_check_names_every_misfit_beside_all_other_faults(monkeypatch: pytest.MonkeyPatch, strict: str | None) -> None:
    """Though a module that has one cannot be imported otherwise."""
    if strict is not None:
        monkeypatch.setenv("FLUJO_STRICT_DSL", strict)
    result = flujo("check", "cli_misfits", "--json")

    first, second, third = last_document(result)["pipelines"]["misfits"]
    assert result.exit_code == 1
    assert "'number' (returns int) and 'text' (expects str)" in first
    assert "'number' (returns int) and 'text' (expects str)" in second
    assert "/shy: a lambda" in third
    assert os.environ.get("FLUJO_STRICT_DSL") == strict


def test_check_passes_a_module_whose_pipelines_can_be_queued() -> None:
    result = flujo("check", "cli_module")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "echoing: ok",
        "failing: ok",
        "counting: ok",
        "asking: ok",
        "things: ok",
        "reading: ok",
    ]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("no_such_module", "There is no module 'no_such_module'"),
        ("no_such.module", "There is no module 'no_such.module'"),
        ("..", "There is no module '..'"),
        ("cli_broken", "cli_broken.py, line 2"),
    ],
)
@pytest.mark.parametrize("command", [("up", "--data-dir", "data"), ("worker", "--pipelines")])
def test_a_module_that_cannot_be_imported_is_refused_before_anything_starts(
    module: str, text: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_broken.py").write_text("x = 1\ndef (\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUJO_URL", "redis://127.0.0.1:1/0")

    result = flujo(*command, module)

    assert result.exit_code == 1
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "option", [("--budget-usd", "-1"), ("--budget-tokens", "-1"), ("--budget", "pages"), ("--budget", "a b=1")]
)
def test_a_budget_below_zero_is_refused(option: tuple[str, str]) -> None:
    assert flujo("run", "cli_module:echo", "1", *option).exit_code == 2


def test_a_limit_of_any_meter_is_a_name_on_the_command_line() -> None:
    enough = flujo("run", "cli_module:reading", "1", "--budget", "pages=6", "--json")
    short = flujo("run", "cli_module:reading", "1", "--budget", "pages=5", "--json")

    assert last_document(enough)["usage"] == {"pages": 6}
    assert short.exit_code == 1
    assert last_document(short)["error"]["message"].startswith("Limit of 5 pages exceeded")


def test_strict_estimates_are_asked_for_on_the_command_line() -> None:
    refused = flujo("run", "cli_module:reading", "1", "--budget-tokens", "5", "--strict-estimates", "--json")

    assert refused.exit_code == 1
    assert "Steps have no estimate under a limit: 'read' (tokens)" in last_document(refused)["error"]["message"]


@pytest.mark.parametrize("command", [("run", "cli_eager", "1"), ("check", "cli_eager")])
def test_a_module_that_runs_its_pipeline_at_import_is_one_line_and_one_document(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_eager.py").write_text(f"{MODULE}\nfrom flujo_client import Flujo\nFlujo(echoing).run(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    result = flujo(*command, "--json")

    assert result.exit_code == 1
    assert last_document(result)["error"]["type"] == "ConfigurationError"
    assert "Module 'cli_eager' runs a pipeline while it is imported" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_version_is_told() -> None:
    assert flujo("--version").stdout == f"flujo-distributed {metadata.version('flujo-distributed')}\n"


def test_a_worker_without_pipelines_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_URL", "redis://127.0.0.1:1/0")

    assert flujo("worker").stderr.startswith("flujo: this worker has no pipelines")


def test_a_url_that_is_none_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_URL", "http://foo")

    result = flujo("runs", "--json")

    assert result.exit_code == 1
    assert last_document(result)["error"]["type"] == "SettingsError"
    assert "FLUJO_URL: it must begin with redis://" in result.stderr


@pytest.mark.parametrize("uri", ["sqlite:///{folder}/kept/runs.db", "file:///{folder}/kept"])
@pytest.mark.parametrize("command", [("history",), ("history", "r"), ("costs",)])
def test_a_look_at_a_backend_that_there_is_not_says_so_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("FLUJO_STATE_URI", uri.format(folder=tmp_path))

    result = flujo(*command)

    assert result.exit_code == 1
    assert "which there is not: no run was kept there yet" in result.stderr
    assert not (tmp_path / "kept").exists()
