"""`flujo check`: everything that is wrong with a module's pipelines, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer

from flujo_client.cli.modules import pipelines_of
from flujo_client.cli.output import JsonOption, counted_words, execute, print_json, print_text
from flujo_client.dsl.findings import ValidationReport
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.validation import report_on

__all__ = ["register"]

_STRICT = "FLUJO_STRICT_DSL"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(check)


def check(
    module: str = typer.Argument(help="Module whose pipelines are checked for queueing."),
    strict: bool = typer.Option(False, "--strict", help="Exit code 1 for warnings as well."),
    as_json: bool = JsonOption,
) -> None:
    """Check every pipeline of a module: types, branches, agents, pauses, names; all findings at once."""

    reports = execute(lambda: _reports(_imported(module)), as_json=as_json)
    if as_json:
        print_json(
            {
                "pipelines": {name: [str(error) for error in report.errors] for name, report in reports.items()},
                "findings": {name: report.findings for name, report in reports.items()},
            }
        )
    else:
        for name, report in reports.items():
            _print(name, report)
    if any(report.errors or (strict and report.warnings) for report in reports.values()):
        raise typer.Exit(1)


async def _reports(pipelines: Mapping[str, Pipeline]) -> dict[str, ValidationReport]:
    return {name: report_on(pipeline) for name, pipeline in pipelines.items()}


def _imported(module: str) -> dict[str, Pipeline]:
    """A module's pipelines. The first step that does not fit would end the import, and hide everything else that is wrong."""
    with _misfits_allowed():
        return pipelines_of(module)


@contextmanager
def _misfits_allowed() -> Iterator[None]:
    before = os.environ.get(_STRICT)
    os.environ[_STRICT] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_STRICT]
        else:
            os.environ[_STRICT] = before


def _print(name: str, report: ValidationReport) -> None:
    counts = [counted_words(len(report.errors), "fault")] if report.errors else []
    counts += [counted_words(len(report.warnings), "warning")] if report.warnings else []
    print_text(f"{name}: {', '.join(counts) or 'ok'}")
    for finding in report.findings:
        print_text(f"  {finding.severity}: {finding}", "red" if finding.severity == "error" else "yellow")
        if finding.suggestion:
            print_text(f"    {finding.suggestion}", "dim")
