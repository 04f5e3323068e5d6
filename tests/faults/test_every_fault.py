"""Every fault once, on one fleet, against every invariant. Many seeds: `make faults F=F7 SEEDS=200`."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Collection, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from flujo_client import Flujo, Pipeline, RunStatus
from flujo_client.execution.kinds.table import KINDS
from flujo_client.protocol import failpoints
from flujo_client.protocol.failpoints import Failpoint
from tests.faults import kinds, workload
from tests.faults.arena import Arena
from tests.faults.brokers import rabbitmq_answers
from tests.faults.catalogue import FAULTS, ON_RABBITMQ
from tests.faults.failpoints import EFFECTS, SWEPT_KINDS, places
from tests.faults.rounds import play

SCRIPTS = Path(str(files("flujo_client.protocol"))) / "lua"

pytestmark = pytest.mark.timeout(200)

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One fleet for all of them; each round makes it whole again."""
    made = Arena(tmp_path_factory.mktemp("arena"))
    yield made
    made.stop()


@pytest.mark.parametrize("name", FAULTS)
async def test_every_invariant_holds_under(name: str, arena: Arena, record_testsuite_property: Record) -> None:
    outcome = await play(name, FAULTS[name][1], 1, arena)

    if outcome.recoveries_ms:
        record_testsuite_property(f"{name}_recovery_ms_max", max(outcome.recoveries_ms))
    assert outcome.violations == [], f"{FAULTS[name][0]}, {outcome.how}"


@pytest.fixture(scope="module")
def rabbit_arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The same, with RabbitMQ for the messages."""
    made = Arena(tmp_path_factory.mktemp("rabbit-arena"), "rabbitmq")
    yield made
    made.stop()


@pytest.mark.skipif(
    not rabbitmq_answers() and not os.environ.get("FLUJO_REQUIRE_RABBITMQ"),
    reason="no RabbitMQ answers on localhost:5672",
)
@pytest.mark.parametrize("name", ["F1", "F2", "F9", "F23"])
async def test_every_invariant_holds_on_rabbitmq_under(name: str, rabbit_arena: Arena) -> None:
    """A sample: the rest is `make faults BROKER=rabbitmq`."""
    outcome = await play(name, ON_RABBITMQ[name][1], 1, rabbit_arena)

    assert outcome.violations == [], f"{ON_RABBITMQ[name][0]}, {outcome.how}"


@pytest.mark.parametrize(
    "place",
    [
        ("worker", "after:reserve", "fork"),
        ("worker", "after:control", "lap"),
        ("manager", "after:advance", "fork"),
        ("manager", "before:finish", "choice"),
        ("seer", "after:look_ahead", "relay"),
        ("mender", "after:lose", "relay"),
        ("mover", "after:lend_slab", "drawing"),
        ("client", "after:create_run", "relay"),
        ("client", "before:resume", "asking"),
    ],
    ids=" ".join,
)
async def test_every_invariant_holds_when_a_process_dies_at(place: tuple[str, str, str], arena: Arena) -> None:
    """A sample: all places are `make faults F=F4 SEEDS=330`."""
    outcome = await play("F4", FAULTS["F4"][1], places().index(place), arena)

    assert outcome.violations == [], outcome.how


def test_every_place_in_the_code_is_in_the_sweep_and_every_place_of_the_sweep_in_the_code() -> None:
    swept = {effect for effects in EFFECTS.values() for effect in effects}

    assert set(_effects_in_the_code()) == swept


def _effects_in_the_code() -> Iterator[str]:
    """What calls of `failpoint` name, and what those functions are called with that hand a name on to it."""
    yield from (file.stem for file in SCRIPTS.glob("[a-z]*.lua"))
    for package in ("flujo_client", "flujo_worker"):
        for file in Path(str(files(package))).rglob("*.py"):
            yield from _named_in(ast.parse(file.read_text()))


def _named_in(module: ast.Module) -> Iterator[str]:
    handing_on = set()
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for effect in (call.args[1] for call in _calls_of({"failpoint"}, function)):
                if isinstance(effect, ast.Constant):
                    yield str(effect.value)
                else:
                    handing_on.add(function.name)
    for call in _calls_of(handing_on - {"_call"}, module):  # what is called so are the scripts
        assert isinstance(call.args[0], ast.Constant), f"no test can read which place line {call.lineno} passes"
        yield str(call.args[0].value)


def _calls_of(names: Collection[str], tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called in names:
                yield node


def test_every_kind_of_node_is_swept() -> None:
    kinds = {kind for name in SWEPT_KINDS for kind in _kinds_in(_pipeline(name).to_spec().model_dump(mode="json"))}

    assert kinds >= set(KINDS)


def _kinds_in(spec: Any) -> Iterator[str]:
    if isinstance(spec, dict):
        if isinstance(spec.get("kind"), str):
            yield spec["kind"]
        spec = list(spec.values())
    if isinstance(spec, list):
        for part in spec:
            yield from _kinds_in(part)


def _pipeline(name: str) -> Pipeline:
    found: Pipeline = vars(kinds).get(name) or vars(workload)[f"{name}_far"]
    return found


@pytest.mark.parametrize("name", SWEPT_KINDS)
async def test_each_kind_of_node_is_swept_at_every_place_that_it_passes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its places are seen in process, where managers and workers run the same code."""
    passed: set[str] = set()

    class Seen(Failpoint):
        def passed(self, place: str) -> None:
            passed.add(place.partition(":")[2])

    monkeypatch.setenv("TEST_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(failpoints, "_ARMED", Seen("", lambda: None))

    async with Flujo(_pipeline(name)) as runner:
        result = await runner.run_async({"pace_ms": 1})
        if result.status is RunStatus.PAUSED:
            result = await runner.resume_async(result, {"by": "somebody"})

    assert result.status is RunStatus.COMPLETED
    swept = {effect for role in ("worker", "manager") for effect, names in EFFECTS[role].items() if name in names}
    assert passed - _WHATEVER_THE_KIND == swept - _WHATEVER_THE_KIND - _NOT_IN_PROCESS


#: Effects of processes and clients; they are swept with one kind.
_WHATEVER_THE_KIND = {"publish_spec", "register", "renew", "sweep", "retire_specs", "create_run", "keep_spec", "resume"}

#: Where there is no broker and nobody else to die, nothing is taken, refused or published again.
_NOT_IN_PROCESS = {"message", "redispatch", "decline", "refuse_run"}
