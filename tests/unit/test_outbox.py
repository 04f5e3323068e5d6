"""`Outbox`: how far it looks ahead, and that nothing leaves where nobody has what follows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from flujo_client import Pipeline, Step
from flujo_client.execution.fleet import Fleet, Lacking
from flujo_client.execution.manager import ExecutionManager
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.messages import Prepared, StepMessage
from flujo_client.protocol.payloads import JsonCodec
from flujo_client.protocol.replies import Committed, Reserved
from flujo_client.protocol.results import PipelineContext
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.state import StateManager
from tests.lua.runs import commit_claim, create_run, load_run, new_claim

SPEC = Pipeline([Step.from_callable(abs, name=f"s{number}") for number in range(9)], name="p").to_spec()


class _List:
    """A broker beside the runs, that only counts."""

    beside_runs = True

    def __init__(self) -> None:
        self.taken: list[str] = []

    def prepare(self, message: StepMessage) -> Prepared:
        return Prepared(message.queue, message, "text")

    async def publish(self, messages: Sequence[Prepared]) -> None:
        self.taken += [ref.path for prepared in messages for ref in prepared.message.steps]

    async def depth(self, queue: str) -> int:
        return 0

    async def close(self) -> None: ...


class _WithoutLast(Fleet):
    """A fleet whose only worker with the last step is gone."""

    async def lacking(self, spec: PipelineSpec, path: str = "0") -> Lacking:
        return (("s8", "builtins:abs"),)


async def _driven(scripts: Scripts, fleet: Fleet | None = None) -> tuple[ExecutionManager, _List]:
    """A manager that has decided on a new run, and its broker."""
    broker = _List()
    manager = ExecutionManager(StateManager(scripts, JsonCodec(1_000)), broker, retention_ms=60_000, fleet=fleet)
    await StateManager(scripts, JsonCodec(1_000)).specs.keep(SPEC, "r1")
    await create_run(scripts, spec_hash=SPEC.content_hash)
    await _decide(manager)
    return manager, broker


async def _decide(manager: ExecutionManager) -> None:
    await manager.execute_steps(PipelineContext(run_id="r1"))
    await manager.settle()


async def _end(scripts: Scripts, path: str) -> None:
    """A step ends, as where commits may not publish."""
    await scripts.register("incarnations", "w1", 60_000, 0)
    claim = new_claim(path)
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    assert isinstance(await commit_claim(scripts, claim), Committed)


async def _ahead(scripts: Scripts) -> list[str]:
    """The steps whose followers are decided, by the run as it stands."""
    revision = (await load_run(scripts)).record["revision"].encode()
    words = await scripts.commands.execute("HGETALL", scripts.keyspace.run("r1").attempts)
    fields = zip(words[::2], words[1::2], strict=True)
    return sorted(
        name.decode().removesuffix("|then")
        for name, value in fields
        if name.endswith(b"|then") and value.split()[0] == revision
    )


async def test_of_a_new_run_all_is_decided_ahead(scripts: Scripts) -> None:
    await _driven(scripts)

    assert await _ahead(scripts) == [str(number) for number in range(8)]


async def test_where_outcomes_come_one_by_one_only_the_next_steps_are(scripts: Scripts) -> None:
    manager, _ = await _driven(scripts)
    await _end(scripts, "0")

    await _decide(manager)

    assert await _ahead(scripts) == ["1", "2", "3"]


async def test_where_a_later_step_is_nobodys_nothing_leaves_and_nothing_is_decided_ahead(scripts: Scripts) -> None:
    _, broker = await _driven(scripts, _WithoutLast(scripts.commands, scripts.keyspace))

    assert (await _ahead(scripts), broker.taken) == ([], [])
    held: Sequence[bytes] = await scripts.commands.execute("ZRANGE", scripts.keyspace.shard("dispatches"), 0, -1)
    assert [member.split()[1] for member in held] == [b"0"]


async def test_a_chain_that_goes_ahead_is_held_once_a_later_step_is_nobodys(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, _ = await _driven(scripts, everything := Fleet(scripts.commands, scripts.keyspace))
    await _end(scripts, "0")

    monkeypatch.setattr(everything, "lacking", _WithoutLast(scripts.commands, scripts.keyspace).lacking)
    await _decide(manager)

    assert await _ahead(scripts) == []


async def test_a_retry_whose_run_cannot_be_read_when_it_is_due_is_left_to_the_sweep(
    scripts: Scripts, caplog: pytest.LogCaptureFixture
) -> None:
    manager, broker = await _driven(scripts)
    (member,) = await scripts.commands.execute("ZRANGE", scripts.keyspace.shard("dispatches"), 0, -1)
    await scripts.decline(member.decode(), "0", 1, "s0", 5_000)
    await scripts.commands.execute("HSET", scripts.keyspace.run("r1").run, "schema", "9")
    broker.taken.clear()

    manager.outbox._publish_due(member.decode())
    await asyncio.gather(*manager.outbox.tasks)

    assert broker.taken == []
    assert [record.message for record in caplog.records] == ["not published, the sweep tries again"]
