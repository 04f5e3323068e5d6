"""The shared cache: one makes what it lacks, the others wait, and what was made is there for a time."""

from __future__ import annotations

import asyncio

from flujo_client.protocol.scripts import Scripts


async def test_one_of_many_may_make_it_and_the_others_learn_how_long_that_takes(scripts: Scripts) -> None:
    answers = await asyncio.gather(*(scripts.cache_look("k", f"r{number} 0", 60_000) for number in range(5)))

    assert answers.count(None) == 1
    assert all(isinstance(answer, int) and 0 < answer <= 60_000 for answer in answers if answer is not None)


async def test_what_was_made_is_there_for_its_time(scripts: Scripts) -> None:
    assert await scripts.cache_look("k", "r1 0", 60_000) is None
    assert await scripts.cache_store("k", "r1 0", b"j1", b"j2", 60_000)
    assert await scripts.cache_look("k", "r2 0", 60_000) == (b"j1", b"j2")


async def test_after_its_time_somebody_makes_it_anew(scripts: Scripts) -> None:
    assert await scripts.cache_look("k", "r1 0", 60_000) is None
    assert await scripts.cache_store("k", "r1 0", b"j1", b"", 1)

    while await scripts.cache_look("k", "r2 0", 60_000) is not None:
        pass


async def test_the_same_node_asks_again_and_still_has_the_right(scripts: Scripts) -> None:
    assert await scripts.cache_look("k", "r1 0", 60_000) is None
    assert await scripts.cache_look("k", "r1 0", 60_000) is None


async def test_a_right_that_was_given_up_is_somebody_elses(scripts: Scripts) -> None:
    await scripts.cache_look("k", "r1 0", 60_000)

    assert await scripts.cache_store("k", "r1 0", b"", b"", 1)

    assert await scripts.cache_look("k", "r2 0", 60_000) is None
    assert not await scripts.cache_store("k", "r1 0", b"j1", b"", 1_000)
