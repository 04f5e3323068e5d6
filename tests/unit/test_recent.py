"""`RecentRuns` and `WakeUp`: an outcome that came with its wake-up is decided on without reading the run; any doubt reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from flujo_client import Flujo, Pipeline, Settings, Step, UsageLimits
from flujo_client.engine import QueuedEngine
from flujo_client.execution.decision import FRESH, Decision, NodeState, NodeStatus, RunView
from flujo_client.execution.manager import ExecutionManager
from flujo_client.execution.paths import lineage_of
from flujo_client.execution.recent import RecentRuns
from flujo_client.protocol.messages import Event, EventKind, Prepared, StepMessage, WakeUp
from flujo_client.protocol.payloads import JsonCodec
from flujo_client.protocol.replies import Advanced, LoadedRun
from flujo_client.protocol.results import PipelineContext, RunStatus
from flujo_client.protocol.scripts import Scripts
from flujo_client.state import StateManager
from tests.lua.runs import a_dispatch, advance_run, commit_claim, create_run, load_run, new_claim, started_run

SPEC = Pipeline([Step.from_callable(abs, name="one"), Step.from_callable(abs, name="two")], name="p").to_spec()


def _event(event_id: str = "2-0", path: str = "0") -> Event:
    return Event(id=event_id, kind=EventKind.SUCCEEDED, path=path, fields={"attempt": "1"})


def _kept(runs: RecentRuns, *, dirty: bool = False, **changes: Any) -> None:
    record = {"run_id": "r", "revision": "4", "operation": "before", "applied": "0-0", "status": "running"}
    run = RunView("r", SPEC, RunStatus.RUNNING, {"root": NodeState(status=NodeStatus.RUNNING)}, {"tokens": 5})
    decided = {"applied": "1-0", "status": RunStatus.RUNNING, "nodes": {"0": NodeState(attempt=1)}, **changes}
    runs.keep(LoadedRun(record, [], {}, {}), run, Decision(**decided), "now", Advanced(5, "now", dirty, 0))


def test_the_next_outcome_of_a_remembered_run_is_taken_once() -> None:
    runs = RecentRuns()
    _kept(runs)

    runs.hear(WakeUp("r", "1-0", _event()))
    taken = runs.take("r")

    assert taken is not None
    loaded, run = taken
    assert [event.id for event in loaded.events] == ["2-0"]
    assert (loaded.record["revision"], loaded.record["operation"], loaded.record["applied"]) == ("5", "now", "1-0")
    assert (set(run.nodes), run.free) == ({"root", "0"}, None)
    assert runs.take("r") is None


@pytest.mark.parametrize(
    ("changes", "wake_up"),
    [
        pytest.param({}, WakeUp("r"), id="nothing is carried"),
        pytest.param({}, WakeUp("r", "0-0", _event()), id="another came between"),
        pytest.param({}, WakeUp("r", "1-0", _event(path="1")), id="its node was not in view"),
        pytest.param({}, WakeUp("other", "1-0", _event()), id="another run"),
        pytest.param({"dirty": True}, WakeUp("r", "1-0", _event()), id="something came while it was stored"),
        pytest.param({"incomplete": True}, WakeUp("r", "1-0", _event()), id="half of a decision"),
        pytest.param({"status": RunStatus.FAILED}, WakeUp("r", "1-0", _event()), id="it has ended"),
        pytest.param({"nodes": {str(n): FRESH for n in range(300)}}, WakeUp("r", "1-0", _event()), id="it is large"),
    ],
)
def test_in_doubt_the_run_is_read(changes: dict[str, Any], wake_up: WakeUp) -> None:
    runs = RecentRuns()
    _kept(runs, **changes)

    runs.hear(wake_up)

    assert runs.take(wake_up.run_id) is None


def test_runs_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_client.execution.recent._MOST_RUNS", 1)
    runs = RecentRuns()
    _kept(runs)
    record = {"run_id": "next", "revision": "1", "operation": "", "applied": "0-0", "status": "running"}
    run = RunView("next", SPEC, RunStatus.RUNNING, {"root": FRESH}, {})

    runs.keep(LoadedRun(record, [], {}, {}), run, Decision("1-0", RunStatus.RUNNING), "op", Advanced(2, "op", False, 0))
    runs.hear(WakeUp("r", "1-0", _event()))

    assert runs.take("r") is None


@pytest.mark.parametrize(
    ("path", "places"),
    [
        ("root", ["root"]),
        ("0", ["0", "root"]),
        ("1.0.2", ["1.0.2", "1.0", "1", "root"]),
        ("1!next.3", ["1!next.3", "1!next", "1", "root"]),
    ],
)
def test_lineage_goes_up_to_the_root(path: str, places: list[str]) -> None:
    assert lineage_of(path) == places


async def test_a_commit_wakes_with_its_outcome_and_the_one_before(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))
    inbox = scripts.keyspace.inbox("pool", 0)
    created = WakeUp.parse((await scripts.commands.execute("LPOP", inbox, 1))[0])
    claim = new_claim()
    await scripts.reserve(claim, "pool")

    await commit_claim(scripts, claim, {"tokens": 3})

    wake_up = WakeUp.parse((await scripts.commands.execute("LPOP", inbox, 1))[0])
    assert created.event is not None
    assert (wake_up.run_id, wake_up.before) == ("r1", created.event.id)
    assert [wake_up.event] == (await load_run(scripts)).events


async def test_an_outcome_with_a_line_break_or_too_long_is_left_in_the_stream(scripts: Scripts) -> None:
    await create_run(scripts, "r1")
    await create_run(scripts, "r2")
    for run_id in ("r1", "r2"):
        await advance_run(scripts, await load_run(scripts, run_id))
    inbox = scripts.keyspace.inbox("pool", 0)
    await scripts.commands.execute("DEL", inbox)

    await scripts.cancel("r1", "pool", "two\nlines")
    await scripts.cancel("r2", "pool", "x" * 3_000)

    assert await scripts.commands.execute("LPOP", inbox, 9) == [b"r2", b"r1"]


@pytest.mark.parametrize("entry", [b"r1", b"r1\n1-0\n2-0\nkind\nsucceeded", b"r1\n1-0\n2-0\nkind\nfrom_2031\npath\n0"])
def test_a_wake_up_that_cannot_be_read_names_the_run(entry: bytes) -> None:
    assert WakeUp.parse(entry) == WakeUp("r1")


async def test_a_decision_on_a_run_that_was_adopted_meanwhile_is_refused(scripts: Scripts) -> None:
    await create_run(scripts, owner="gone")
    loaded = await load_run(scripts)

    assert await scripts.adopt("r1", "gone", "pool")

    assert not isinstance(await advance_run(scripts, loaded), Advanced)
    assert isinstance(await advance_run(scripts, await load_run(scripts)), Advanced)


async def test_whoever_finishes_a_run_last_takes_it_from_its_own_set(scripts: Scripts) -> None:
    await create_run(scripts, owner="gone")
    await scripts.adopt("r1", "gone", "pool")
    await advance_run(scripts, await load_run(scripts), status="completed")

    assert await scripts.finish("r1", "gone", b"{}", 60_000)
    assert not await scripts.finish("r1", "pool", b"{}", 60_000)

    assert not await scripts.commands.execute("EXISTS", scripts.keyspace.owned("pool", 0))


async def _double(number: int) -> int:
    return number * 2


def test_in_process_a_chain_is_read_once_and_its_split_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[str] = Counter()
    read = Scripts.load_run

    async def counted(self: Scripts, run_id: str, most_events: int, *, with_free: bool) -> LoadedRun | None:
        reads[run_id] += 1
        return await read(self, run_id, most_events, with_free=with_free)

    monkeypatch.setattr(Scripts, "load_run", counted)
    steps: list[Step[int, int]] = [Step.from_callable(_double, name=f"s{number}") for number in range(6)]
    limits = UsageLimits(total_tokens_limit=100)

    assert Flujo(Pipeline(steps, name="chain"), usage_limits=limits).run(1, run_id="chain").success
    branches = Step.parallel("both", {"a": steps[0], "b": steps[1]})
    assert Flujo(steps[2] >> branches, usage_limits=limits).run(1, run_id="split").success

    assert reads["chain"] == 1
    assert reads["split"] >= 2  # what there is to share out is read


async def test_the_hooks_of_a_caller_are_told_of_a_run_that_was_read(redis_url: str) -> None:
    async def hook(payload: Any) -> None: ...

    flujo = Flujo(Step.from_callable(_double, name="s"), hooks=[hook])
    plain = QueuedEngine(Settings(url=redis_url, namespace="told"), serves_pool=False)
    asking = QueuedEngine(Settings(url=redis_url, namespace="told"), serves_pool=False, observer=flujo._observer)
    for engine in (plain, asking):
        _kept(engine.state.recent)

        engine.manager.hear(b"r\n1-0\n2-0\nkind\nsucceeded\npath\n0\nattempt\n1")

    assert plain.state.recent.take("r") is not None
    assert asking.state.recent.take("r") is None
    for engine in (plain, asking):
        await engine.manager.settle()
        await engine.close()


CREATED = Event(
    id="1-0",
    kind=EventKind.CREATED,
    path="root",
    fields={"spec": "h", "owner": "pool", "limits": "tokens=5", "accounts": "", "metadata": "", "traceparent": ""},
)


async def test_a_new_run_is_known_from_its_wake_up_as_if_it_had_been_read(scripts: Scripts) -> None:
    state = StateManager(scripts, JsonCodec(1_000))
    await state.specs.keep(SPEC, "r1")
    await create_run(scripts, "r", {"tokens": 5}, spec_hash=SPEC.content_hash)
    (entry,) = await scripts.commands.execute("LPOP", scripts.keyspace.inbox("pool", 0), 9)

    state.recent.hear(WakeUp.parse(entry))
    heard, read = await state.load_workflow_state("r"), await state.load_workflow_state("r", with_free=True)

    assert heard is not None
    assert read is not None
    assert heard[1] == read[1]
    assert (heard[0].events, heard[0].remembered, read[0].remembered) == (read[0].events, True, False)
    assert {name: read[0].record[name] for name in heard[0].record if name in read[0].record} == {
        name: value for name, value in heard[0].record.items() if name in read[0].record
    }


def test_that_a_run_was_created_is_no_news_once_it_is_under_way() -> None:
    runs = RecentRuns()
    _kept(runs)

    runs.hear(WakeUp("r", "0-0", CREATED))

    assert runs.take("r") is None
    assert runs.take_new("r") is None


async def test_a_manager_that_finds_a_remembered_run_moved_on_reads_it_and_goes_on(scripts: Scripts) -> None:
    managers = [_manager(scripts) for _ in range(2)]
    await managers[0]._state.specs.keep(SPEC, "r1")
    await create_run(scripts, "r", spec_hash=SPEC.content_hash)
    (entry,) = await scripts.commands.execute("LPOP", scripts.keyspace.inbox("pool", 0), 9)
    for manager in managers:
        manager._state.recent.hear(WakeUp.parse(entry))

    statuses = [await manager.execute_steps(PipelineContext(run_id="r")) for manager in managers]

    assert statuses == [RunStatus.RUNNING, RunStatus.RUNNING]
    assert int((await load_run(scripts, "r")).record["revision"]) >= 1


async def test_an_outcome_that_redis_has_lost_is_not_decided_on(scripts: Scripts) -> None:
    manager, inbox, record = _manager(scripts), scripts.keyspace.inbox("pool", 0), scripts.keyspace.run("r1").run
    await manager._state.specs.keep(SPEC, "r1")
    await scripts.register("incarnations", "w1", 60_000, 0)
    await create_run(scripts, "r1", spec_hash=SPEC.content_hash)
    await manager.execute_steps(PipelineContext(run_id="r1"))
    await scripts.commands.execute("DEL", inbox)
    before = (await load_run(scripts)).record
    claim = new_claim()
    await scripts.reserve(claim, "pool")
    await commit_claim(scripts, claim)
    manager._state.recent.hear(WakeUp.parse((await scripts.commands.execute("LPOP", inbox, 1))[0]))

    await scripts.commands.execute("HSET", record, "last_event", before["applied"])  # its tail is gone
    await scripts.commands.execute("HDEL", record, f"next|{before['applied']}")
    status = await manager.execute_steps(PipelineContext(run_id="r1"))

    after = (await load_run(scripts)).record
    assert status is RunStatus.RUNNING
    assert after["applied"] == before["applied"]
    assert not await scripts.commands.execute("ZSCORE", scripts.keyspace.shard("dirty", 0), "r1")


async def test_a_run_that_redis_has_lost_is_unknown_to_a_manager_that_heard_of_it(scripts: Scripts) -> None:
    manager = _manager(scripts)
    await manager._state.specs.keep(SPEC, "r1")
    await create_run(scripts, "r1", spec_hash=SPEC.content_hash)
    entry = (await scripts.commands.execute("LPOP", scripts.keyspace.inbox("pool", 0), 1))[0]
    manager._state.recent.hear(WakeUp.parse(entry))

    await scripts.commands.execute("DEL", scripts.keyspace.run("r1").run)

    assert await manager.execute_steps(PipelineContext(run_id="r1")) is None


class _Nowhere:
    """Takes messages."""

    beside_runs = False

    def prepare(self, message: StepMessage) -> Prepared:
        return Prepared(message.queue, message)

    async def publish(self, messages: Sequence[Prepared]) -> None: ...

    async def depth(self, queue: str) -> int:
        return 0

    async def close(self) -> None: ...


def _manager(scripts: Scripts) -> ExecutionManager:
    return ExecutionManager(StateManager(scripts, JsonCodec(1_000)), _Nowhere(), retention_ms=60_000)
