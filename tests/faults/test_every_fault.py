"""Every fault once, on one fleet, against every invariant. Many seeds: `make faults F=F7 SEEDS=200`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.arena import Arena, play
from tests.faults.catalogue import FAULTS

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
