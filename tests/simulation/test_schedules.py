"""Every invariant on many schedules of the production code; one that fails is shrunk to the faults that matter."""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.simulation.world import Fault, World

pytestmark = pytest.mark.timeout(3600)

SCHEDULES = int(os.environ.get("TEST_SCHEDULES", "1000"))

FAULTS = st.one_of(
    st.builds(
        Fault, st.sampled_from(["kill", "stall", "repeat"]), st.integers(0, 3), st.integers(1, 60), st.integers(1, 9)
    ),
    st.builds(Fault, st.sampled_from(["lose", "copy", "delay"]), st.just(0), st.integers(1, 15), st.integers(1, 9)),
    st.builds(Fault, st.just("cancel"), st.integers(0, 1), st.integers(0, 40), st.just(0)),
)


def test_a_schedule_without_faults_ends_and_bills_every_step_once() -> None:
    world = World(7, [])

    assert world.play() == []
    assert world.ledger
    assert world.excused == set()


def told_by(world: World) -> list[str]:
    """What is wrong once a world was played, without its logs; its history stands beside a failure."""
    logging.disable(logging.CRITICAL)
    try:
        told = world.play()
    finally:
        logging.disable(logging.NOTSET)

    for line in world.history:
        note(line)
    return told


@settings(
    max_examples=SCHEDULES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
@given(seed=st.integers(0, 2**32), faults=st.lists(FAULTS, max_size=6))
def test_every_invariant_holds_on_every_schedule(seed: int, faults: list[Fault]) -> None:
    assert told_by(World(seed, faults)) == []
