"""A burst on a provider's key, on a virtual clock: managers, workers and scripts of the production code, a broker that errs."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from flujo_client import Account, Pipeline, Step, StepRun, UsageLimits
from flujo_client.account_book import AccountBook
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.submission import submit_run
from tests.simulation.world import CODEC, CURRENT, REDIS, REGISTRY, Fault, World

PER_MINUTE, STEPS = 60, 1_000
MINUTE_MS = 60_000
KEY = Account(
    name="key",
    limits=UsageLimits(meters={"requests": PER_MINUTE}),
    window=timedelta(minutes=1),
    when_exhausted="wait",
)


async def call_provider(value: int, run: StepRun) -> int:
    process = CURRENT.get()
    process.world.note("called", run, process.pid)
    await process.world.latency()
    await process.lives()
    return value


CALL: Any = Step.from_callable(call_provider, name="call", max_retries=0, accounts=("key",))
BURST = REGISTRY.add(Pipeline([Step.parallel("burst", {f"b{at}": CALL for at in range(STEPS)})], name="burst"))

#: Five hundred steps, for a run on each of two shards.
HALF = REGISTRY.add(Pipeline([Step.parallel("half", {f"b{at}": CALL for at in range(STEPS // 2)})], name="half"))
TWO_SHARDS = Keyspace("flujo", shards=2)
ON_EACH = [next(name for n in range(100) if TWO_SHARDS.shard_of(name := f"r{n}") == shard) for shard in range(2)]


TOKENS_A_MINUTE, MOST_TOKENS = 6_000, 500
TOKENS = Account(
    name="tokens",
    limits=UsageLimits(total_tokens_limit=TOKENS_A_MINUTE),
    window=timedelta(minutes=1),
    when_exhausted="wait",
)


async def call_model(value: int, run: StepRun) -> int:
    process = CURRENT.get()
    used = zlib.crc32(run.path.encode()) % (MOST_TOKENS + 1)
    process.world.note("called", run, process.pid, tokens=used)
    run.usage.add(tokens=used)
    await process.world.latency()
    await process.lives()
    return value


MODEL: Any = Step.from_callable(
    call_model, name="model", max_retries=0, accounts=("tokens",), expected_tokens=MOST_TOKENS
)
MODELS = REGISTRY.add(Pipeline([Step.parallel("models", {f"b{at}": MODEL for at in range(200)})], name="models"))


@dataclass
class Burst(World):
    """One run of many steps, all of which want to call at once."""

    account: Account = KEY
    spec: PipelineSpec = BURST
    run_ids: Sequence[str] = ("burst",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.runs = dict.fromkeys(self.run_ids, self.spec)

    async def _play(self) -> None:
        for name in ("w0", "w1", "m0", "m1"):
            self.replace(name)
        client = Scripts(ScriptCaller(REDIS), self.keyspace)
        await AccountBook(client).define(self.account)
        await client.publish_spec(self.spec.name, self.spec.content_hash, self.spec.model_dump_json().encode())
        for run_id in self.run_ids:
            await submit_run(client, CODEC, self.spec, 1, run_id=run_id, owner=POOL)
        while not all([await self._is_over(run_id) for run_id in self.run_ids]):
            await self.meanwhile(client)
            await asyncio.sleep(1)
        status = await AccountBook(client).status(self.account.name)
        if status.waiting or any(row.reserved for row in status.meters.values()):
            self.told.append(f"held at rest: {status}")

    async def meanwhile(self, client: Scripts) -> None:
        """Once a second."""

    async def answer(self, words: Sequence[str | bytes | int]) -> Any:
        return await (self._pop(str(words[1])) if words[0] == "BLPOP" else REDIS.execute(*words))

    @property
    def calls_ms(self) -> list[int]:
        return sorted(line["at_ms"] for line in self.ledger)


def most_in_a_minute(calls_ms: Sequence[int]) -> int:
    """The most calls in any sliding minute."""
    begin, most = 0, 0
    for end, at in enumerate(calls_ms):
        while calls_ms[begin] <= at - MINUTE_MS:
            begin += 1
        most = max(most, end - begin + 1)
    return most


@pytest.mark.timeout(600)
def test_a_burst_neither_exceeds_its_rate_in_any_sliding_minute_nor_leaves_a_twentieth_of_it_unused() -> None:
    world = Burst(7, [])

    assert world.play() == []

    calls = world.calls_ms
    allowed = PER_MINUTE * ((calls[-1] - calls[0]) / MINUTE_MS + 1)
    assert len(calls) == STEPS
    assert most_in_a_minute(calls) <= PER_MINUTE
    assert len(calls) >= 0.95 * allowed


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("spec", "run_ids"), [(HALF, ON_EACH), (BURST, ON_EACH[:1])], ids=["both shards", "one of two"]
)
def test_a_burst_over_two_shards_neither_exceeds_its_rate_nor_leaves_a_twentieth_of_it_unused(
    spec: PipelineSpec, run_ids: list[str]
) -> None:
    world = Burst(11, [], spec=spec, keyspace=TWO_SHARDS, run_ids=run_ids)

    assert world.play() == []

    calls = world.calls_ms
    allowed = PER_MINUTE * ((calls[-1] - calls[0]) / MINUTE_MS + 1)
    assert len(calls) == STEPS
    assert most_in_a_minute(calls) <= PER_MINUTE
    assert len(calls) >= 0.95 * allowed, (len(calls), allowed)


@pytest.mark.timeout(600)
def test_no_kill_and_no_lost_message_makes_a_burst_exceed_its_rate() -> None:
    faults = [Fault("kill", 0, 300, 1), Fault("kill", 2, 400, 1), Fault("lose", 0, 70, 1), Fault("copy", 0, 90, 5)]
    world = Burst(8, faults)

    assert world.play() == []

    calls = world.calls_ms
    assert len({line["path"] for line in world.ledger}) == STEPS
    assert most_in_a_minute(calls) <= PER_MINUTE


@dataclass
class Throttled(Burst):
    """The provider asks, in the third minute, to be left alone for two."""

    told_at_ms: int = 0

    async def meanwhile(self, client: Scripts) -> None:
        if not self.told_at_ms and len(self.ledger) > 2.5 * PER_MINUTE:
            await AccountBook(client).hold_back("key", timedelta(minutes=2))
            self.told_at_ms = int(self.loop.time() * 1000)


@pytest.mark.timeout(600)
def test_retry_after_holds_the_whole_fleet_back_and_the_rate_goes_on_after_it() -> None:
    world = Throttled(9, [])

    assert world.play() == []

    calls = world.calls_ms
    gaps = [(before, after) for before, after in itertools.pairwise(calls) if after - before >= 2 * MINUTE_MS - 1_000]
    assert len(calls) == STEPS
    assert most_in_a_minute(calls) <= PER_MINUTE
    assert len(gaps) == 1
    assert gaps[0][0] <= world.told_at_ms + 1_000


@pytest.mark.timeout(600)
def test_tokens_a_minute_are_kept_although_steps_use_less_than_they_expect_and_what_they_leave_is_used() -> None:
    world = Burst(10, [], account=TOKENS, spec=MODELS)

    assert world.play() == []

    calls = sorted((line["at_ms"], line["tokens"]) for line in world.ledger)
    used = sum(tokens for _, tokens in calls)
    busiest = max(sum(tokens for at, tokens in calls if start <= at < start + MINUTE_MS) for start, _ in calls)
    allowed = TOKENS_A_MINUTE * ((calls[-1][0] - calls[0][0]) / MINUTE_MS + 1)
    assert len(calls) == 200
    assert busiest <= TOKENS_A_MINUTE
    assert used >= 0.85 * allowed, (used, allowed)
