"""`StepCoordinator` on a real Redis: from a message to a commit, and everything that may come between."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
from pydantic import BaseModel

from flujo_client import Pipeline, PipelineContext, Step, StepRun, UsageLimits
from flujo_client.execution.manager import ExecutionManager
from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.connection import hash_reader
from flujo_client.protocol.errors import NonRetryableError, PausedException, PipelineAbortSignal, StateUnavailableError
from flujo_client.protocol.hooks import Hook
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import Prepared, StepMessage, StepRef
from flujo_client.protocol.payloads import JsonCodec, LiveCodec
from flujo_client.protocol.replies import Claim
from flujo_client.protocol.results import (
    HookPayload,
    OnPauseRequestedPayload,
    OnStepFailurePayload,
    PipelineResult,
    PostStepPayload,
    PreStepPayload,
    RunStatus,
)
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.submission import submit_run
from flujo_client.protocol.wire import Wire
from flujo_client.state import StateManager
from flujo_worker.attempt import AttemptEnd
from flujo_worker.bodies import SyncBodies
from flujo_worker.coordinator import StepCoordinator
from flujo_worker.hooks import worker_hooks
from flujo_worker.lease import Incarnation
from flujo_worker.registry import Registry


class Outbox:
    """A publisher that keeps what it is given, for the test to deliver."""

    def __init__(self) -> None:
        self.refs: list[tuple[StepRef, str]] = []

    beside_runs = False

    def prepare(self, message: StepMessage) -> Prepared:
        return Prepared(message.queue, message)

    async def publish(self, messages: Sequence[Prepared]) -> None:
        self.refs += [(ref, prepared.queue) for prepared in messages for ref in prepared.message.steps]

    async def depth(self, queue: str) -> int:
        return 0

    async def close(self) -> None:
        return None


class Bench:
    """A manager and a worker's coordinator that meet only in Redis; the test carries the messages."""

    def __init__(self, scripts: Scripts, url: str, *, max_bytes: int = 10_000) -> None:
        self.scripts = scripts
        self.read_now = hash_reader(url)
        self.registry = Registry()
        self.codec = JsonCodec(max_bytes)
        self.state = StateManager(scripts, self.codec)
        self.outbox = Outbox()
        self.manager = ExecutionManager(self.state, self.outbox, retention_ms=60_000)
        self.incarnation = Incarnation()
        self.exhausted = 0
        self.bodies = SyncBodies(1, self._count_exhausted)
        self.coordinator = self.make_coordinator()

    def _count_exhausted(self) -> None:
        self.exhausted += 1

    def make_coordinator(self, **options: Any) -> StepCoordinator:
        return StepCoordinator(
            self.scripts,
            self.registry,
            self.codec,
            self.incarnation,
            namespace="ns",
            hooks=worker_hooks(self.registry),
            bodies=self.bodies,
            read_now=self.read_now,
            **options,
        )

    async def submit(
        self,
        *steps: Step[Any, Any],
        value: Any = 1,
        limits: UsageLimits | None = None,
        context: dict[str, Any] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        """Submit run `r`, and publish its first steps."""
        self.registry.hooks += hooks
        spec = self.registry.add(Pipeline(steps, name="p"))
        self.coordinator = self.make_coordinator()
        await self.scripts.register("incarnations", self.incarnation.id, 600_000, 0)
        await self.state.specs.keep(spec, "r1")
        await submit_run(
            self.scripts,
            self.codec,
            spec,
            value,
            run_id="r",
            owner=POOL,
            limits=limits,
            context=None if context is None else {"set": context, "unset": []},
        )
        await self.advance()

    async def advance(self) -> None:
        self.manager.wake("r")
        await self.manager.settle()

    async def step(self, **options: Any) -> AttemptEnd:
        """Deliver the oldest message, and let the manager hear of the outcome."""
        ref, queue = self.outbox.refs.pop(0)
        end = await self.coordinator.execute_step(ref, queue, **options)
        await self.advance()
        return end

    async def finish(self) -> dict[str, Any]:
        """Deliver until nothing is left, and read the result."""
        while self.outbox.refs:
            await self.step()
        return await self.state.final_result("r")

    async def value(self, field: str) -> Any:
        stored = await self.scripts.commands.execute("HGET", self.scripts.keyspace.run("r").payloads, field)
        return self.codec.decode(stored)

    async def account(self, part: str, meter: str = "tokens") -> int:
        key = self.scripts.keyspace.run("r").accounts
        row = await self.scripts.commands.execute("HGET", key, f"root|{meter}")
        (account,) = read_accounts({f"root|{meter}": row.decode()})
        amount: int = getattr(account, part)
        return amount


@pytest.fixture
async def bench(redis_url: str, keyspace: Keyspace) -> AsyncIterator[Bench]:
    """A bench in a namespace of its own."""
    wire = Wire(redis_url)
    yield Bench(Scripts(ScriptCaller(wire), keyspace), redis_url)
    await wire.close()


def of(function: Callable[..., Any], **terms: Any) -> Step[Any, Any]:
    return Step.from_callable(function, **{"max_retries": 0, **terms})


def identity(value: Any) -> Any:
    return value


async def echo(value: Any) -> Any:
    return value


async def spend(value: Any, run: StepRun) -> Any:
    run.usage.add(tokens=7, cost_usd=0.5)
    return value


class Waiting:
    """A step that tells when it has started and then waits to be let go."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()

    def step(self, **terms: Any) -> Step[Any, Any]:
        async def wait(value: Any, run: StepRun) -> Any:
            run.usage.add(tokens=3)
            self.started.set()
            await self.go_on.wait()
            return value

        return of(wait, **terms)


async def test_an_attempt_is_claimed_run_and_committed_once(bench: Bench) -> None:
    await bench.submit(of(echo), value={"x": [1, None]})
    ref, queue = bench.outbox.refs[0]

    ends = [await bench.coordinator.execute_step(ref, queue) for _ in range(2)]

    assert [end.outcome for end in ends] == ["succeeded", "duplicate"]
    assert await bench.value("out:0") == {"x": [1, None]}
    assert (await bench.finish())["status"] == "completed"


async def test_a_sync_body_that_outlives_its_timeout_is_counted_until_it_ends(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    blocking = Blocking()
    await bench.submit(blocking.step(timeout_s=0.05, max_retries=0))

    end = await bench.step()

    assert isinstance(end.error, TimeoutError)
    assert (bench.bodies.abandoned, bench.exhausted) == (1, 1), "it has one slot"
    assert "hang as this process has slots" in caplog.text
    blocking.go_on.set()
    bench.bodies.close()
    await asyncio.wait_for(_until(lambda: bench.bodies.abandoned == 0), 30)


async def test_what_a_sync_body_uses_after_its_timeout_is_on_no_account(bench: Bench) -> None:
    go_on = threading.Event()

    def late(value: Any, run: StepRun) -> Any:
        assert go_on.wait(30)
        run.usage.add(tokens=7)

    await bench.submit(
        of(late, timeout_s=0.05, max_retries=0, expected_tokens=10), limits=UsageLimits(total_tokens_limit=100)
    )
    await bench.step()
    go_on.set()
    bench.bodies.close()
    await asyncio.wait_for(_until(lambda: bench.bodies.abandoned == 0), 30)

    assert [await bench.account(part) for part in ("spent", "reserved", "unknown", "free")] == [0, 0, 0, 100]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def test_a_sync_step_runs_in_a_thread_and_in_process_on_the_loop(bench: Bench) -> None:
    await bench.submit(of(identity), of(identity, name="again", timeout_s=30))

    assert (await bench.step()).outcome == "succeeded"
    bench.coordinator = bench.make_coordinator(live=True)
    assert (await bench.step()).output == 1


async def test_parallel_outputs_are_joined_without_being_read(bench: Bench) -> None:
    parallel = Step.parallel("both", {"a": of(echo, name="x"), "b": Step.parallel("in", {"c": of(echo, name="y")})})
    await bench.submit(parallel, of(echo, name="last"), value="v")

    await bench.finish()

    assert await bench.value("out:1") == {"a": "v", "b": {"c": "v"}}


async def test_an_estimate_is_refunded_when_nothing_was_used(bench: Bench) -> None:
    await bench.submit(of(echo, expected_tokens=30), limits=UsageLimits(total_tokens_limit=100))

    await bench.step()

    assert (await bench.account("reserved"), await bench.account("spent")) == (0, 0)


async def test_usage_is_settled_and_stands_in_the_result(bench: Bench) -> None:
    await bench.submit(of(spend, expected_tokens=30), limits=UsageLimits(total_tokens_limit=100))

    end = await bench.step()

    assert end.usage == {"tokens": 7, "cost_nanousd": 500_000_000}
    assert end.result is not None
    assert (end.result.token_counts, end.result.cost_usd) == (7, 0.5)
    assert (await bench.account("reserved"), await bench.account("spent")) == (0, 7)


async def test_what_the_budget_did_not_cover_is_logged_and_ends_the_run(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.submit(of(spend), of(echo), limits=UsageLimits(total_tokens_limit=5))

    end = await bench.step()

    assert end.outcome == "succeeded"
    assert "used more than its budget had" in caplog.text
    assert (await bench.finish())["error"]["message"] == "Token limit of 5 exceeded"


async def test_a_nested_runs_usage_counts(bench: Bench) -> None:
    async def nested(value: Any) -> PipelineResult:
        return PipelineResult(usage={"tokens": 11})

    await bench.submit(of(nested))

    assert (await bench.step()).usage == {"tokens": 11}


async def test_a_refused_step_is_not_run(bench: Bench) -> None:
    await bench.submit(of(spend, expected_tokens=101), limits=UsageLimits(total_tokens_limit=100))

    assert (await bench.step()).outcome == "refused"
    assert (await bench.finish())["error"]["type"] == "UsageLimitExceededError"


async def test_a_meter_of_the_users_own_is_reserved_before_each_call(bench: Bench) -> None:
    calls: list[int] = []

    async def search(value: Any, run: StepRun) -> Any:
        for number in range(9):
            await run.usage.reserve(searches=1)
            calls.append(number)
            run.usage.add(searches=1)

    await bench.submit(of(search), limits=UsageLimits(meters={"searches": 3}))

    await bench.step()

    assert calls == [0, 1, 2]
    assert await bench.account("spent", "searches") == 3
    assert "searches" in (await bench.finish())["error"]["message"]


async def test_a_reservation_is_used_up_before_it_is_extended(bench: Bench) -> None:
    reserved: list[int] = []

    async def work(value: Any, run: StepRun) -> Any:
        for _ in range(3):
            await run.usage.reserve(tokens=10)
            reserved.append(await bench.account("reserved"))

    await bench.submit(of(work, expected_tokens=20), limits=UsageLimits(total_tokens_limit=100))

    await bench.step()

    assert reserved == [20, 20, 30]


async def test_a_step_whose_lease_is_lost_cannot_reserve_more(bench: Bench) -> None:
    async def work(value: Any, run: StepRun) -> Any:
        await bench.scripts.lose(next(iter(_claims(bench, run))), POOL, "stranger", {})
        await run.usage.reserve(tokens=1)

    await bench.submit(of(work))

    end = await bench.step()

    assert end.outcome == "lost"
    assert isinstance(end.error, NonRetryableError)
    assert "is lost" in str(end.error)


def _claims(bench: Bench, run: StepRun) -> list[Any]:
    from flujo_client.protocol.replies import Claim

    return [Claim("r", run.path, run.attempt, run.nonce, bench.incarnation.id, "default")]


async def test_a_failed_attempt_says_what_was_raised(bench: Bench) -> None:
    async def broken(value: Any) -> Any:
        raise ValueError("no luck")

    await bench.submit(of(broken, max_retries=1))

    end = await bench.step()

    assert end.outcome == "failed"
    assert end.result is not None
    assert end.result.feedback == "Agent execution failed with ValueError: no luck"
    assert len(bench.outbox.refs) == 1  # the other attempt


class Textless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a file named \udcff"),
        ValueError("x" * 100_000),
        Textless(),
        NonRetryableError("with an object", culprit=object(), name="\udcff"),
        SystemExit(3),
    ],
    ids=["surrogate", "endless", "textless", "object", "exit"],
)
async def test_whatever_is_raised_fails_the_attempt_and_is_committed(
    bench: Bench, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        "CRITICAL"
    )  # what pytest captures of a log it also sends between processes, which no surrogate survives
    bench.codec = bench.state._codec = JsonCodec(30_000)

    async def broken(value: Any) -> Any:
        raise error

    await bench.submit(of(broken))

    assert (await bench.step()).outcome == "failed"
    assert (await bench.finish())["status"] == "failed"


async def test_errors_that_hold_themselves_lose_their_data(bench: Bench) -> None:
    async def broken(value: Any) -> Any:
        data: dict[str, Any] = {}
        data["self"] = data
        raise NonRetryableError("round", data=data)

    await bench.submit(of(broken))

    assert (await bench.step()).outcome == "failed"


@pytest.mark.parametrize("output", ["x" * 20_000, object()], ids=["large", "object"])
async def test_an_output_that_cannot_be_sent_fails_the_step_and_names_it(bench: Bench, output: Any) -> None:
    async def make(value: Any) -> Any:
        return output

    await bench.submit(of(make))

    end = await bench.step()

    assert end.outcome == "failed"
    assert str(end.error).startswith("Run r, step 'make' (0): A value of ")
    assert (await bench.finish())["step_history"][0]["feedback"] == str(end.error)


async def test_a_value_that_does_not_fit_ends_the_run_and_is_not_tried_again(bench: Bench) -> None:
    async def number(value: int) -> int:
        return value

    await bench.submit(of(echo), of(number, max_retries=3), value="text")
    await bench.step()

    assert (await bench.step()).outcome == "failed"
    assert bench.outbox.refs == []
    assert (await bench.finish())["error"]["type"] == "TypeMismatchError"


class Counter(PipelineContext):
    n: int = 0


async def count(value: Any, context: Counter) -> Any:
    context.n += 1
    return value


async def free_form(value: Any, context: Any) -> Any:
    context.word = "w"
    return value


async def test_contexts_are_kept_as_deltas_and_merged_by_a_control_step(bench: Bench) -> None:
    branches = {"a": of(count, name="a"), "b": of(count, name="b")}
    await bench.submit(
        of(free_form), of(count), Step.parallel("both", branches), of(count, name="last"), context={"n": 0}
    )

    result = await bench.finish()

    assert result["status"] == "completed"
    fields = result["final_pipeline_context"]["$context"]
    assert (await bench.value(fields[0]))["set"]["n"] == 3
    assert (await bench.value(fields[1]))["set"] == {"n": 4}


def _is_large(number: int, context: Counter) -> bool:
    context.n += 1
    return number >= 3


async def test_a_control_step_commits_its_verdict_and_what_it_changed_in_the_context(bench: Bench) -> None:
    grown: list[int] = []

    async def grow(number: int) -> int:
        grown.append(number)
        return number + 1

    await bench.submit(Step.loop_until("loop", Step.from_callable(grow), _is_large), context={"n": 0})

    result = await bench.finish()

    assert (result["status"], grown) == ("completed", [1, 2])
    assert result["step_history"][0]["metadata_"] == {"iterations": 2, "exit_reason": "condition"}
    assert (await bench.value("ctx:0!next.1"))["set"] == {"n": 2}
    assert result["usage"] == {}


async def test_a_merge_conflict_fails_the_run_and_reruns_nothing(bench: Bench) -> None:
    def writer(name: str) -> Step[Any, Any]:
        async def write(value: Any) -> dict[str, str]:
            return {"by": name}

        return of(write, name=name, updates_context=True)

    await bench.submit(Step.parallel("both", {"a": writer("a"), "b": writer("b")}), context={})

    result = await bench.finish()

    assert result["status"] == "failed"
    assert "Merge conflict for key 'by'" in result["step_history"][0]["feedback"]


async def test_a_step_that_this_worker_lacks_is_declined(bench: Bench) -> None:
    await bench.submit(of(echo))
    ref, queue = bench.outbox.refs[0]

    end = await bench.coordinator.execute_step(ref.model_copy(update={"function": "m:other"}), queue)

    assert end.outcome == "not_here"
    assert (await bench.step()).outcome == "succeeded"


async def test_an_unknown_run_is_inactive(bench: Bench) -> None:
    await bench.submit(of(echo))
    ref, queue = bench.outbox.refs[0]

    end = await bench.coordinator.execute_step(ref.model_copy(update={"run_id": "nobody"}), queue)

    assert end.outcome == "inactive"
    assert bench.incarnation.claims() == {}


async def test_a_worker_that_was_declared_dead_goes_on_under_a_new_name(bench: Bench) -> None:
    await bench.submit(of(echo))
    dead = bench.incarnation.id
    await bench.scripts.register("incarnations", dead, -1, 0)
    assert await bench.scripts.bury("incarnations", dead, 0)

    assert (await bench.step()).outcome == "succeeded"
    assert bench.incarnation.id != dead


async def test_attempts_that_hear_of_one_burial_one_by_one_take_one_new_name(bench: Bench) -> None:
    waiting, count = Waiting(), 4
    await bench.submit(Step.parallel("all", {f"b{number}": waiting.step() for number in range(count)}))
    dead, names = bench.incarnation.id, []
    await bench.scripts.register("incarnations", dead, -1, 0)
    assert await bench.scripts.bury("incarnations", dead, 0)
    all_refused, turn, reserve = asyncio.Barrier(count), asyncio.Semaphore(1), bench.scripts.reserve

    async def reserve_in_turns(claim: Claim, owner: str) -> Any:
        """Every attempt is told that the name is dead before the first of them takes another; then one by one."""
        answer = await reserve(claim, owner)
        names.append(claim.incarnation)
        if claim.incarnation == dead:
            await all_refused.wait()
            await turn.acquire()
        else:
            turn.release()
        return answer

    bench.scripts.reserve = reserve_in_turns  # type: ignore[method-assign]
    steps = [asyncio.create_task(bench.coordinator.execute_step(*delivery)) for delivery in bench.outbox.refs]
    await asyncio.wait_for(waiting.started.wait(), 30)
    waiting.go_on.set()
    ends = await asyncio.wait_for(asyncio.gather(*steps), 30)

    assert [end.outcome for end in ends] == ["succeeded"] * count
    assert set(names) == {dead, bench.incarnation.id}
    registered = await bench.scripts.commands.execute("ZRANGE", bench.scripts.keyspace.shard("incarnations"), 0, -1)
    assert registered == [bench.incarnation.id.encode()]


async def test_what_still_runs_is_handed_over_with_what_it_used(bench: Bench) -> None:
    waiting = Waiting()
    await bench.submit(waiting.step(expected_tokens=10), limits=UsageLimits(total_tokens_limit=100))
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(waiting.started.wait(), 30)

    assert await bench.coordinator.hand_over(), "nothing runs any more"

    assert (await delivered).outcome == "handed_over"
    assert (await bench.account("spent"), await bench.account("unknown")) == (3, 7)
    waiting.go_on.set()
    assert bench.outbox.refs[0][0].attempt == 2
    bench.coordinator = bench.make_coordinator()  # of another worker
    assert (await bench.step()).outcome == "succeeded"


async def test_who_blocks_a_loop_is_told_from_his_neighbours(bench: Bench) -> None:
    waiting = Waiting()
    await bench.submit(waiting.step())
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(waiting.started.wait(), 30)

    assert bench.coordinator.besides(delivered) == []
    assert bench.coordinator.besides(None) is None
    assert bench.coordinator.besides(asyncio.current_task()) is None
    waiting.go_on.set()
    assert (await delivered).outcome == "succeeded"


async def test_with_nothing_running_there_is_nothing_to_hand_over(bench: Bench) -> None:
    assert await bench.coordinator.hand_over()


class Blocking:
    """A sync step that a test holds up in its thread."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = threading.Event()
        self._loop = asyncio.get_running_loop()

    def step(self, **terms: Any) -> Step[Any, Any]:
        def block(value: Any, run: StepRun) -> Any:
            run.usage.add(tokens=3)
            self._loop.call_soon_threadsafe(self.started.set)
            assert self.go_on.wait(30)
            return value

        return of(block, **terms)


async def test_a_sync_body_keeps_its_lease_and_may_still_end(bench: Bench) -> None:
    blocking = Blocking()
    await bench.submit(blocking.step(expected_tokens=10), limits=UsageLimits(total_tokens_limit=100))
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(blocking.started.wait(), 30)

    assert not await bench.coordinator.hand_over(), "the process must end"

    assert await bench.account("reserved") == 10
    attempts = bench.scripts.keyspace.run("r").attempts
    left = [field for field in await bench.scripts.commands.execute("HKEYS", attempts) if field.endswith(b"|left")]
    assert len(left) == 1
    blocking.go_on.set()
    assert (await delivered).outcome == "succeeded"


async def test_a_body_that_takes_no_notice_holds_nobody_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_worker.running._STOP_S", 0)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def deaf(value: Any) -> Any:
        started.set()
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await go_on.wait()
        return value

    await bench.submit(of(deaf))
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(started.wait(), 30)

    assert not await bench.coordinator.hand_over()

    go_on.set()
    await delivered


async def test_a_redis_that_is_away_holds_up_no_process_that_leaves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> bool:
        raise StateUnavailableError("away")

    blocking = Blocking()
    await bench.submit(blocking.step())
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(blocking.started.wait(), 30)
    monkeypatch.setattr(bench.scripts, "leave", away)

    assert not await bench.coordinator.hand_over()

    blocking.go_on.set()
    await delivered


async def test_what_is_claimed_while_all_is_handed_over_is_given_back_unstarted(bench: Bench) -> None:
    waiting = Waiting()
    await bench.submit(waiting.step(expected_tokens=10), limits=UsageLimits(total_tokens_limit=100))
    await bench.coordinator.hand_over()

    assert (await bench.step()).outcome == "handed_over"

    assert not waiting.started.is_set()


async def test_a_step_of_a_run_that_ended_is_stopped_and_settled(bench: Bench) -> None:
    waiting = Waiting()
    await bench.submit(waiting.step(), limits=UsageLimits(total_tokens_limit=100))
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(waiting.started.wait(), 30)
    await bench.scripts.cancel("r", POOL, "enough")

    for stop in bench.incarnation.claims().values():
        stop("run ended")
        stop("run ended")  # twice is once

    end = await delivered
    assert end.outcome == "lost"
    assert "ended while the step was running" in str(end.error)
    assert await bench.account("spent") == 3


async def test_a_stop_that_comes_after_the_end_stops_nothing(bench: Bench) -> None:
    stops: list[Callable[[str], None]] = []

    async def grab(value: Any) -> Any:
        stops.extend(bench.incarnation.claims().values())
        return value

    await bench.submit(of(grab), of(echo))

    await bench.step()
    stops[0]("too late")

    assert (await bench.step()).outcome == "succeeded"


async def test_in_process_a_caller_that_is_cancelled_ends_the_step_without_a_commit(bench: Bench) -> None:
    waiting = Waiting()
    await bench.submit(waiting.step())
    bench.coordinator = bench.make_coordinator(live=True)
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(waiting.started.wait(), 30)

    delivered.cancel()

    with pytest.raises(asyncio.CancelledError):
        await delivered
    assert len(bench.incarnation.claims()) == 1, "what was started is not given back as if it had not been"


async def test_an_attempt_whose_reservation_was_never_answered_is_not_held(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any) -> Any:
        raise StateUnavailableError("away")

    await bench.submit(of(echo))
    monkeypatch.setattr(bench.scripts, "reserve", silent)

    with pytest.raises(StateUnavailableError):
        await bench.step()

    assert bench.incarnation.claims() == {}, "if Redis booked it all the same, it is given back"


async def _cancelled_inside(value: Any, run: StepRun) -> Any:
    run.usage.add(tokens=5)
    other = asyncio.ensure_future(asyncio.sleep(60))
    other.cancel()
    await other


async def _cancels_itself(value: Any, run: StepRun) -> Any:
    run.usage.add(tokens=5)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def _counts_in_floats(value: Any, run: StepRun) -> Any:
    run.usage.add(tokens=5)
    run.usage.add(tokens=2.25)  # type: ignore[arg-type]  # what user code does


async def _counts_too_far(value: Any, run: StepRun) -> Any:
    run.usage.add(tokens=5)
    run.usage.add(tokens=2**53)


async def _counts_what_has_no_name(value: Any, run: StepRun) -> Any:
    run.usage.add(tokens=5)
    run.usage.add(**{"web searches": 1})


class Costly:
    """An output that says what it cost."""

    def __init__(self, cost_usd: float, token_counts: int = 1) -> None:
        self.cost_usd, self.token_counts = cost_usd, token_counts


async def _costs_nan(value: Any) -> Any:
    return Costly(math.nan)


class _NoPrice:
    @property
    def cost_usd(self) -> float:
        raise ConnectionError("no price list")


async def _cannot_say(value: Any) -> Any:
    return _NoPrice()


@pytest.mark.parametrize("live", [False, True], ids=["queued", "live"])
@pytest.mark.parametrize(
    ("function", "says", "tokens"),
    [
        (_cancelled_inside, "CancelledError", 5),
        (_counts_in_floats, "tokens must be an integer, not 2.25", 5),
        (_counts_too_far, "more than can be counted", 5),
        (_counts_what_has_no_name, "A meter's name consists of letters, digits and '_', not 'web searches'", 5),
        (_costs_nan, "cost_usd must be a finite number, not nan", 0),
        (_cannot_say, "no price list", 0),
    ],
)
async def test_what_goes_wrong_around_a_step_fails_the_attempt(
    bench: Bench, function: Callable[..., Any], says: str, tokens: int, live: bool
) -> None:
    await bench.submit(of(function), limits=UsageLimits(total_tokens_limit=100))
    bench.coordinator = bench.make_coordinator(live=live)

    end = await bench.step()

    assert end.outcome == "failed"
    assert end.result is not None
    assert says in str(end.result.feedback)
    assert await bench.account("spent") == tokens
    assert bench.incarnation.claims() == {}
    assert (await bench.finish())["status"] == "failed"


async def test_a_step_that_cancels_itself_fails(bench: Bench) -> None:
    await bench.submit(of(_cancels_itself), limits=UsageLimits(total_tokens_limit=100))

    assert (await asyncio.create_task(bench.step())).outcome == "failed"
    assert await bench.account("spent") == 5


async def test_an_output_may_say_that_it_cost_nothing_or_less(bench: Bench) -> None:
    async def refunded(value: Any) -> Any:
        return Costly(-1.0, 3)

    await bench.submit(of(refunded), limits=UsageLimits(total_tokens_limit=100))
    bench.coordinator = bench.make_coordinator(live=True)
    bench.coordinator._committer._codec = LiveCodec()

    assert (await bench.step()).usage == {"tokens": 3, "requests": 1}


async def test_a_task_that_cannot_be_read_fails_the_attempt(bench: Bench) -> None:
    await bench.submit(of(echo))
    attempts = bench.scripts.keyspace.run("r").attempts
    await bench.scripts.commands.execute("HSET", attempts, "0|task", b'{"newer": true}')

    end = await bench.step()

    assert end.outcome == "failed"
    assert str(end.error).startswith("Run r, step 0: its task cannot be read: ")
    assert "upgrade this worker" in (await bench.finish())["step_history"][0]["feedback"]


async def test_a_verdict_that_cannot_be_sent_fails_the_control_step(bench: Bench) -> None:
    def choose(value: Any, context: Any) -> str:
        return "\udcff"

    await bench.submit(Step.branch_on("either", choose, {"a": of(echo)}, of(echo)))

    assert (await bench.step()).outcome == "failed"


async def test_a_claim_that_is_answered_after_its_lease_may_be_over_is_not_begun(bench: Bench) -> None:
    waiting = Waiting()
    await bench.submit(waiting.step(expected_tokens=10), limits=UsageLimits(total_tokens_limit=100))
    _age(bench.incarnation)

    end = await bench.step()

    assert (end.outcome, waiting.started.is_set()) == ("late", False)
    assert bench.incarnation.claims() == {}, "the keeper finds a lease that nobody claims, and gives it back"


def _age(incarnation: Incarnation) -> None:
    """As when the process was stopped since it renewed its lease."""
    incarnation.leased(incarnation.id, incarnation.clock() - 2 * incarnation.ttl_ms / 1000)


async def _waits(value: Any) -> Any:
    raise AssertionError("it was begun")


def _blocks(value: Any) -> Any:
    raise AssertionError("it was begun")


async def _streams(value: Any) -> Any:
    raise AssertionError("it was begun")
    yield


@pytest.mark.parametrize("body", [_waits, _blocks, _streams])
async def test_what_loses_its_lease_on_the_way_to_its_body_is_not_begun(bench: Bench, body: Any) -> None:
    async def stop(payload: PreStepPayload) -> None:
        _age(bench.incarnation)

    terms: Step[Any, Any] = Step.from_callable(body, name="s", expected_tokens=10)
    await bench.submit(terms, hooks=[stop], limits=UsageLimits(total_tokens_limit=100))

    end = await bench.step()

    assert end.outcome == "handed_over"
    assert await bench.account("unknown") == await bench.account("reserved") == 0, "it has used nothing"
    assert bench.outbox.refs[0][0].path == "0", "another worker gets it"
    assert bench.incarnation.claims() == {}


async def test_a_function_of_a_composite_is_not_begun_without_its_lease(bench: Bench) -> None:
    def choose(value: Any, context: Any) -> str:
        raise AssertionError("it was begun")

    await bench.submit(Step.branch_on("either", choose, {"a": of(echo)}, of(echo)))
    entered = bench.coordinator._running.entered

    def late(attempt: Any) -> Any:
        _age(bench.incarnation)
        return entered(attempt)

    bench.coordinator._running.entered = late  # type: ignore[method-assign]  # no user code runs between a claim and its control step

    assert (await bench.step()).outcome == "handed_over"


async def test_a_step_that_somebody_revokes_fails_and_is_not_tried_again(bench: Bench) -> None:
    waiting = Waiting()
    await bench.submit(waiting.step(max_retries=3), limits=UsageLimits(total_tokens_limit=100))
    ref = bench.outbox.refs[0][0]
    bench.coordinator.terminate(ref)  # not running yet: nothing happens
    delivered = asyncio.create_task(bench.step())
    await asyncio.wait_for(waiting.started.wait(), 30)

    bench.coordinator.terminate(ref.model_copy(update={"attempt": 2}))
    bench.coordinator.terminate(ref)

    end = await delivered
    assert (end.outcome, str(end.error)) == ("failed", "Run r step 0 was revoked.")
    assert await bench.account("spent") == 3
    assert bench.outbox.refs == []


async def test_chunks_are_emitted_in_order(bench: Bench) -> None:
    async def speak(value: Any, run: StepRun) -> Any:
        assert run.idempotency_key == "r:0"
        run.logger.info("speaking")
        for letter in "ab":
            await run.emit(letter)

    await bench.submit(of(speak))
    await bench.step()

    entries = await bench.scripts.commands.execute("XRANGE", bench.scripts.keyspace.run("r").events, "-", "+")
    chunks = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries if b"chunk" in fields]
    assert [(chunk[b"sequence"], chunk[b"data"]) for chunk in chunks] == [(b"1", b'"a"'), (b"2", b'"b"')]


async def test_an_outcome_is_committed_when_redis_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flujo_worker.committer._COMMIT_RETRY_S", 0)
    await bench.submit(of(spend), limits=UsageLimits(total_tokens_limit=100))
    commit, away = bench.scripts.commit, [StateUnavailableError("away")] * 2

    async def flickering(*args: Any, **kwargs: Any) -> Any:
        answer = await commit(*args, **kwargs)
        if away:
            raise away.pop()  # the answer is lost, not the call
        return answer

    monkeypatch.setattr(bench.scripts, "commit", flickering)

    assert (await bench.step()).outcome == "succeeded"
    assert caplog.text.count("not committed yet") == 2
    assert await bench.account("spent") == 7


async def test_hooks_of_the_worker_are_told_before_and_after(bench: Bench) -> None:
    seen: list[HookPayload] = []

    async def broken(value: Any) -> Any:
        raise ValueError

    async def watch(payload: HookPayload) -> None:
        seen.append(payload)

    await bench.submit(
        of(echo, expected_tokens=5), of(broken), value=4, limits=UsageLimits(total_tokens_limit=50), hooks=[watch]
    )
    await bench.finish()

    before = cast("PreStepPayload", seen[0])
    assert [type(payload) for payload in seen] == [
        PreStepPayload,
        PostStepPayload,
        PreStepPayload,
        OnStepFailurePayload,
    ]
    assert (before.run_id, before.path, before.step_input, before.quota_before_tokens) == ("r", "0", 4, 50)


async def test_hooks_of_the_worker_are_told_what_a_step_asks(bench: Bench) -> None:
    seen: list[OnPauseRequestedPayload] = []

    async def asks(value: Any) -> Any:
        raise PausedException("May I?")

    async def watch(payload: OnPauseRequestedPayload) -> None:
        seen.append(payload)

    await bench.submit(of(asks), hooks=[watch])
    await bench.step()

    assert [(payload.path, payload.pause_message) for payload in seen] == [("0", "May I?")]


async def test_a_strict_hook_that_fails_after_the_commit_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FLUJO_STRICT_HOOKS", "1")

    async def faulty(payload: PostStepPayload) -> None:
        raise ValueError("too late")

    await bench.submit(of(echo), hooks=[faulty])

    assert (await bench.step()).outcome == "succeeded"
    assert "the outcome stands" in caplog.text
    assert (await bench.finish())["status"] == "completed"


async def test_a_hook_that_aborts_after_the_step_ends_the_run_and_keeps_the_step(bench: Bench) -> None:
    async def abort(payload: PostStepPayload) -> None:
        raise PipelineAbortSignal("enough")

    await bench.submit(of(echo), of(echo, name="never"), hooks=[abort])
    assert (await bench.step()).outcome == "succeeded"

    result = await bench.finish()

    assert (result["status"], [part["name"] for part in result["step_history"]]) == ("aborted", ["echo"])


async def test_a_hook_that_aborts_before_the_step_ends_the_run(bench: Bench) -> None:
    async def abort(payload: PreStepPayload) -> None:
        raise PipelineAbortSignal("stop here")

    await bench.submit(of(echo), hooks=[abort])

    assert (await bench.step()).outcome == "aborted"
    assert (await bench.finish())["status"] == "aborted"


async def test_a_packed_message_is_linked_not_followed(bench: Bench) -> None:
    await bench.submit(of(echo))
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    assert (await bench.step(traceparent=traceparent, alone=False)).outcome == "succeeded"


async def test_more_outcomes_than_one_load_reads_do_not_hide_a_cancel(bench: Bench) -> None:
    """600 branches end while no manager listens, then the run is cancelled: the cancel must be reached."""
    wide = Step.parallel("wide", {f"b{number}": of(echo, name=f"s{number}") for number in range(600)})
    await bench.submit(wide, of(echo, name="last"))
    refs, bench.outbox.refs = bench.outbox.refs, []
    for ref, queue in refs:
        await bench.coordinator.execute_step(ref, queue)
    await bench.scripts.cancel("r", POOL, "enough")

    async with asyncio.timeout(30):
        await bench.advance()

    status = await bench.scripts.commands.execute("HGET", bench.scripts.keyspace.run("r").run, "status")
    assert status == RunStatus.CANCELLED.value.encode()


class Plain(BaseModel):
    x: int


async def test_contexts_that_do_not_fit_the_steps_model_fail_it(bench: Bench) -> None:
    async def wants(value: Any, context: Plain) -> Any:
        return value

    await bench.submit(of(wants), context={"x": "no number"})

    end = await bench.step()

    assert end.outcome == "failed"
    assert "does not fit Plain" in str(end.error)


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO)
    yield
    gc.collect()  # a task that nobody awaited shows here, as an error
