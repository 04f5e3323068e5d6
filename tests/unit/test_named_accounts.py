"""What a worker does about named accounts: attempts that are delayed, calls that wait in place, providers that ask to be left alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from pydantic_ai import Agent, ModelHTTPError
from pydantic_ai.models.function import FunctionModel

from flujo_client import (
    Account,
    Flujo,
    FlujoClient,
    Settings,
    Step,
    StepRun,
    UnknownAccountError,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo_client.account_book import AccountBook, MeterStatus
from flujo_client.metering.model_agents import MeteredModel
from flujo_client.metering.refusals import read_retry_after
from flujo_client.metering.transport import MeteredTransport
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import now_utc
from flujo_client.protocol.replies import Blocked, Claim, Delayed, Reserved
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.unit.test_coordinator import Bench

TOKENS_100 = UsageLimits(total_tokens_limit=100)
REFUSING = Account(name="key", limits=TOKENS_100)
PATIENT = Account(name="key", limits=TOKENS_100, when_exhausted="wait")


@pytest.fixture
async def bench(redis_url: str, keyspace: Keyspace) -> AsyncIterator[Bench]:
    wire = Wire(redis_url)
    made = Bench(Scripts(ScriptCaller(wire), keyspace), redis_url)
    yield made
    made.bodies.close()
    await wire.close()


def calling(*amounts: int, **terms: Any) -> Step[Any, Any]:
    """A step that reserves and uses amounts of tokens, one after the other."""

    async def call(value: int, run: StepRun) -> int:
        for amount in amounts:
            await run.usage.reserve(tokens=amount)
            run.usage.add(tokens=amount)
        return value

    return Step.from_callable(call, max_retries=0, accounts=("key",), **terms)


async def test_an_attempt_that_is_delayed_used_no_attempt_and_runs_when_it_is_called(bench: Bench) -> None:
    book = AccountBook(bench.scripts)
    await book.define(Account(name="key", slots=1, when_exhausted="wait"))
    await bench.submit(Step.parallel("both", {"a": calling(1), "b": calling(1)}))
    (first, queue), (second, _) = bench.outbox.refs
    bench.outbox.refs.clear()
    claim = await hold_slot(bench, first.path, queue)

    delayed = await bench.coordinator.execute_step(second, queue)
    await bench.scripts.lose(claim, POOL, "handed_over", {})
    bench.manager.outbox.call_waiters("key")
    await bench.manager.settle()
    result = await bench.finish()

    assert delayed.outcome == "delayed"
    assert result["status"] == "completed"
    assert [part["attempts"] for part in result["step_history"][0]["step_history"]] == [1, 1]


async def hold_slot(bench: Bench, path: str, queue: str) -> Any:
    claim = Claim("r", path, 1, "n1", bench.incarnation.id, queue)
    assert isinstance(await bench.scripts.reserve(claim, POOL), Reserved)
    return claim


async def test_a_call_waits_in_place_until_the_account_has_room_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = AccountBook(bench.scripts)
    await book.define(PATIENT)
    waited, delays, told = asyncio.Event(), itertools.count(1), []
    ask = bench.scripts.extend

    async def extend(*asked: Any) -> Any:
        answer = await ask(*asked)
        if isinstance(answer, Delayed) and next(delays) == 3:
            waited.set()
        return answer

    monkeypatch.setattr(bench.scripts, "extend", extend)
    await bench.submit(calling(80, 80))
    monkeypatch.setattr(bench.coordinator._intake, "_delayed", lambda *delay: told.append(delay))

    running = asyncio.create_task(bench.finish())
    await waited.wait()
    await book.define(PATIENT.model_copy(update={"limits": UsageLimits(total_tokens_limit=200)}))
    result = await running

    assert result["status"] == "completed"
    assert (await book.status("key")).meters["tokens"] == MeterStatus(200, 0, 160, 0)
    assert [account for account, *_ in told] == ["key"]  # one delay, however often it asked


async def test_a_call_that_waits_is_booked_although_a_later_one_of_its_attempt_asks_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = AccountBook(bench.scripts)
    await book.define(PATIENT)
    waited, ask = asyncio.Event(), bench.scripts.extend

    async def extend(*asked: Any) -> Any:
        answer = await ask(*asked)
        if isinstance(answer, Delayed):
            waited.set()
        return answer

    async def call(value: int, run: StepRun) -> int:
        await asyncio.gather(run.usage.reserve(tokens=80), run.usage.reserve(tokens=50), run.usage.reserve(tokens=10))
        assert (await book.status("key")).meters["tokens"].reserved == 140
        return value

    monkeypatch.setattr(bench.scripts, "extend", extend)
    await bench.submit(Step.from_callable(call, max_retries=0, accounts=("key",)))

    running = asyncio.create_task(bench.finish())
    await waited.wait()
    await book.define(PATIENT.model_copy(update={"limits": UsageLimits(total_tokens_limit=200)}))
    result = await running

    assert result["status"] == "completed"


async def test_a_call_that_is_given_up_waits_in_its_place_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sibling holds its share of the limit for as long as the call waits."""
    waited, ask, sibling = asyncio.Event(), bench.scripts.extend, asyncio.Event()

    async def extend(*asked: Any) -> Any:
        answer = await ask(*asked)
        if isinstance(answer, Blocked):
            waited.set()
        return answer

    async def call(value: int, run: StepRun) -> int:
        asking = asyncio.create_task(run.usage.reserve(tokens=60))
        await waited.wait()
        asking.cancel()
        await asyncio.wait([asking])
        waiters = bench.scripts.keyspace.run("r").waiters
        assert await bench.scripts.commands.execute("EXISTS", waiters) == 0
        sibling.set()
        return value

    async def wait(value: int) -> int:
        await sibling.wait()
        return value

    monkeypatch.setattr(bench.scripts, "extend", extend)
    branches: dict[str, Step[Any, Any]] = {
        "a": Step.from_callable(call, max_retries=0),
        "b": Step.from_callable(wait, max_retries=0),
    }
    await bench.submit(Step.parallel("both", branches), limits=TOKENS_100)

    result = await bench.finish()

    assert result["status"] == "completed"


async def test_a_call_that_the_account_refuses_is_not_made_and_ends_the_run(bench: Bench) -> None:
    book = AccountBook(bench.scripts)
    await book.define(REFUSING)
    await bench.submit(calling(80, 80))

    result = await bench.finish()

    assert (result["status"], result["usage"]) == ("failed", {"tokens": 80})
    assert (await book.status("key")).meters["tokens"] == MeterStatus(100, 0, 80, 0)


async def test_requests_of_one_attempt_count_each_and_the_first_was_booked_with_it(bench: Bench) -> None:
    book = AccountBook(bench.scripts)
    await book.define(Account(name="key", limits=UsageLimits(meters={"requests": 10})))

    async def call(value: int, run: StepRun) -> int:
        for _ in range(3):
            async with run.usage.call(requests=1) as report:
                report(requests=1)
        assert (await book.status("key")).meters["requests"].reserved == 3
        return value

    await bench.submit(Step.from_callable(call, accounts=("key",)), calling())
    result = await bench.finish()

    assert result["status"] == "completed"
    assert (await book.status("key")).meters["requests"] == MeterStatus(10, 0, 4, 0)


async def test_a_step_on_an_account_that_nobody_has_defined_is_refused_at_submission(bench: Bench) -> None:
    with pytest.raises(UnknownAccountError, match="an account key"):
        await bench.submit(calling(1))

    assert await bench.scripts.load_run("r", 1) is None


async def test_a_provider_that_says_retry_after_holds_the_account_back(bench: Bench) -> None:
    book = AccountBook(bench.scripts)
    await book.define(REFUSING)
    transport: Any = MeteredTransport(
        httpx.MockTransport(lambda request: httpx.Response(429, headers={"Retry-After": "30"}))
    )

    async def call(value: int) -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://provider") as client:
            return (await client.post("/", json={"model": "gpt-4o"})).status_code

    await bench.submit(Step.from_callable(call, accounts=("key",)), calling(1))
    await bench.step()
    (ref, queue) = bench.outbox.refs[0]
    end = await bench.coordinator.execute_step(ref, queue)

    assert end.outcome == "delayed"
    left_ms = (await book.status("key")).held_back_ms - now_utc().timestamp() * 1000
    assert 20_000 < left_ms <= 30_000


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_a_models_refusal_that_says_retry_after_holds_the_account_back(bench: Bench, streams: bool) -> None:
    book = AccountBook(bench.scripts)
    await book.define(REFUSING)

    def refuse(messages: Any, info: Any) -> Any:
        raise ModelHTTPError(429, "gpt-4o", headers={"Retry-After": "30"})

    async def refuse_stream(messages: Any, info: Any) -> AsyncIterator[str]:
        raise ModelHTTPError(429, "gpt-4o", headers={"Retry-After": "30"})
        yield ""

    async def call(value: int) -> str:
        agent = Agent(MeteredModel(FunctionModel(refuse, stream_function=refuse_stream), account="key"))
        if streams:
            async with agent.run_stream("hi") as answer:
                return str(await answer.get_output())
        return str((await agent.run("hi")).output)

    await bench.submit(Step.from_callable(call))
    end = await bench.step()

    assert end.usage == {"requests": 1}
    left_ms = (await book.status("key")).held_back_ms - now_utc().timestamp() * 1000
    assert 20_000 < left_ms <= 30_000


async def test_who_holds_back_an_account_that_is_not_defined_is_told(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def call(value: int, run: StepRun) -> int:
        await run.retry_after(1, "nobody")
        return value

    await bench.submit(Step.from_callable(call))
    await bench.step()

    assert "nobody has defined the account" in caplog.text
    with pytest.raises(UnknownAccountError):
        await AccountBook(bench.scripts).hold_back("nobody", timedelta(seconds=1))
    with pytest.raises(UnknownAccountError):
        await AccountBook(bench.scripts).drop("nobody")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"Retry-After": "soon"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "inf"}, 3_600.0),
        ({"Retry-After": "31536000"}, 3_600.0),
        ({"Retry-After": format_datetime(now_utc() - timedelta(hours=1))}, 0.0),
    ],
)
def test_how_providers_say_when_to_come_again(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"limits": UsageLimits()}, "limits something"),
        ({"window": timedelta(milliseconds=5)}, "lasts from a second"),
        ({"window": "day", "time_zone": "Mars/Olympus"}, "is no time zone"),
        ({"pipelines": ("a*b",)}, "a pattern is"),
        ({"name": "a b"}, "match pattern"),
        ({"limits": UsageLimits(total_tokens_limit=1, strict_estimates=True)}, "asked of a run"),
    ],
)
def test_what_cannot_be_an_account(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Account(**{"name": "a", "limits": TOKENS_100, **fields})


async def test_who_is_refused_is_told_of_the_account(bench: Bench) -> None:
    await AccountBook(bench.scripts).define(REFUSING)
    await bench.submit(calling(expected_tokens=120))
    await bench.finish()

    loaded = await bench.scripts.load_run("r", 10)
    assert loaded is not None
    assert '"account":"key"' in loaded.record["error"]
    assert UsageLimitExceededError.__name__ in loaded.record["error"]


class TestInProcess:
    async def test_slots_keep_steps_apart(self) -> None:
        running, most = 0, 0

        async def occupy(value: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return value

        step: Step[Any, Any] = Step.from_callable(occupy, accounts=("key",))
        many = Step.parallel("many", {f"b{index}": step for index in range(7)})
        account = Account(name="key", slots=2, when_exhausted="wait")

        result = await Flujo(many, accounts=[account]).run_async(1)

        assert (result.success, most) == (True, 2)

    async def test_a_window_that_slides_lets_steps_go_on_when_there_is_room(self) -> None:
        called: list[float] = []

        async def call(value: int) -> int:
            called.append(asyncio.get_running_loop().time())
            return value

        many = Step.parallel("many", {f"b{index}": Step.from_callable(call) for index in range(3)})
        limits = UsageLimits(meters={"requests": 2})
        account = Account(name="key", limits=limits, window=timedelta(seconds=1), when_exhausted="wait")

        result = await Flujo(many, accounts=[account]).run_async(1)

        assert result.success
        assert 0.5 <= called[2] - called[0] < 5.0  # the window counts reservations; a call may follow its own late

    async def test_runs_of_one_runner_share_its_account_and_the_last_is_refused(self) -> None:
        async def spend(value: int, run: StepRun) -> int:
            run.usage.add(tokens=60)
            return value

        step: Step[Any, Any] = Step.from_callable(spend, expected_tokens=60, max_retries=0)
        flujo = Flujo(step, accounts=[Account(name="day", limits=TOKENS_100, window="day")])

        assert (await flujo.run_async(1)).success
        with pytest.raises(UsageLimitExceededError, match="Token limit of 100 exceeded") as caught:
            await flujo.run_async(2)

        assert (caught.value.data["account"], caught.value.data["free"]) == ("day", 40)

    async def test_a_run_whose_caller_goes_away_waits_for_nothing_any_more(self) -> None:
        account = Account(name="key", limits=UsageLimits(meters={"requests": 1}), window="day", when_exhausted="wait")
        flujo = Flujo(
            Step.parallel("two", {"a": Step.from_callable(_one), "b": Step.from_callable(_one)}), accounts=[account]
        )

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flujo.run_async(1), 0.3)
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))

        store = flujo._memory.redis.store
        fields: Any = store.value(b"{flujo:0}:named")
        assert [field for field in fields if field.startswith(b"place|")] == []


async def _one(value: int) -> int:
    return 1


def test_code_that_is_not_async_defines_accounts_and_looks_at_them(redis_url: str, keyspace: Keyspace) -> None:
    settings = Settings.from_env({"FLUJO_URL": redis_url, "FLUJO_NAMESPACE": keyspace.namespace})

    with FlujoClient(settings=settings) as client:
        client.define_account(PATIENT)
        status = client.account_status("key")

    assert (status.waits, status.window, status.meters["tokens"].free) == (True, "ever", 100)
