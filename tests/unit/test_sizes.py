"""The proportions of the code: each exception is listed with its reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("flujo_client", "flujo_worker") for path in (ROOT / folder).rglob("*.py"))

#: Files over 400 lines.
LONG_FILES = {
    "flujo_client/protocol/errors.py": "one tree, a class each",
}

_WRAPPER = "a script's wrapper: a line for each key and value"

#: Functions over 50 lines.
LONG_FUNCTIONS = {
    "flujo_client/protocol/scripts/attempts.py: commit": _WRAPPER,
    "flujo_client/protocol/scripts/attempts.py: reserve": _WRAPPER,
    "flujo_client/protocol/scripts/decisions.py: advance": _WRAPPER,
    "flujo_client/protocol/scripts/fleet.py: sweep": _WRAPPER,
    "flujo_client/protocol/scripts/runs.py: create_run": _WRAPPER,
    "flujo_client/protocol/submission.py: submit_run": "what a submission may say, and each refusal, in its docstring",
}

#: Where a user's step, or a user's hook, may raise anything.
BROAD_EXCEPTS = {"flujo_client/protocol/hooks.py: dispatch", "flujo_worker/coordinator.py: _run_guarded"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_its_proportions(path: Path) -> None:
    name, text = str(path.relative_to(ROOT)), path.read_text()
    tree = ast.parse(text)

    assert text.count("\n") <= 400 or name in LONG_FILES
    assert path.stem not in ("utils", "helpers", "common", "core")
    assert not path.stem.startswith("base_")
    assert ast.get_docstring(tree), "a module says its one reason to change"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 50 or f"{name}: {node.name}" in LONG_FUNCTIONS, node.name
    assert not re.search(r"\b(pickle|cloudpickle|eval|exec)\s*[.(]", text)


def _functions() -> Iterator[tuple[str, ast.AST]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}: {node.name}", node


def _handlers(function: ast.AST, *names: str) -> list[ast.ExceptHandler]:
    """Of one of these exceptions, alone or among others; with `BaseException` those that name none."""
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(("BaseException" if name is None else ast.unparse(name)) in names for name in caught):
                found.append(node)
    return found


def test_two_functions_alone_catch_whatever_a_users_code_raises() -> None:
    assert {name for name, function in _functions() if _handlers(function, "Exception")} == BROAD_EXCEPTS


def test_whoever_catches_what_ends_a_process_raises_it_again() -> None:
    for name, function in _functions():
        for handler in _handlers(function, "BaseException"):
            last = handler.body[-1]
            assert isinstance(last, ast.Raise), name
            assert last.exc is None, name


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=lambda path: path.stem)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    exported = {
        element.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for element in getattr(node.value, "elts", [])
    }

    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in exported:
            assert ast.get_docstring(node) or _overloaded(node), node.name


def _overloaded(node: ast.stmt) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in getattr(node, "decorator_list", []))
