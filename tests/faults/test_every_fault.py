"""Every fault once, on one fleet, against every invariant. Many seeds: `make faults F=F7 SEEDS=200`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.faults.arena import Arena
from tests.faults.brokers import rabbitmq_answers
from tests.faults.catalogue import FAULTS, ON_RABBITMQ
from tests.faults.failpoints import PLACES, UNSWEPT, places
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
        ("worker", "after:commit", "lap"),
        ("manager", "after:advance", "fork"),
        ("manager", "before:finish", "choice"),
        ("seer", "after:look_ahead", "relay"),
        ("mender", "after:lose", "relay"),
        ("client", "after:create_run", "relay"),
    ],
    ids=" ".join,
)
async def test_every_invariant_holds_when_a_process_dies_at(place: tuple[str, str, str], arena: Arena) -> None:
    """A sample: all places are `make faults F=F4 SEEDS=130`."""
    outcome = await play("F4", FAULTS["F4"][1], places().index(place), arena)

    assert outcome.violations == [], outcome.how


def test_every_script_has_a_place_in_the_sweep_or_a_reason_to_have_none() -> None:
    swept = {place.partition(":")[2] for names in PLACES.values() for place in names}
    scripts = {file.stem for file in SCRIPTS.glob("[a-z]*.lua")}

    assert scripts - swept == set(UNSWEPT)
    assert swept - scripts == {"message", "publish", "body", *_plain_writes()}


def _plain_writes() -> set[str]:
    """What the sweep names its plain writes."""
    return set(re.findall(r'self\._write\("(\w+)"', (SCRIPTS.parents[1] / "execution" / "sweep.py").read_text()))
