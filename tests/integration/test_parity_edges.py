"""Sentences of docs/parity.md about what happens before, around and after steps, in process and on one fleet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from flujo_client import (
    ConfigurationError,
    FileBackend,
    Flujo,
    GranularResumeError,
    HitlPolicyError,
    InfiniteFallbackError,
    Pipeline,
    PipelineValidationError,
    PreStepPayload,
    RunStatus,
    StateBackend,
    StateUnavailableError,
    TaskClient,
    TaskNotFoundError,
    TaskStatus,
    TypeMismatchError,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo_client.protocol.accounts import AccountRow, read_accounts
from tests.integration import parity_edges as edges
from tests.integration import parity_pipelines as made
from tests.integration.conftest import ROOT, Fleet, Open, account_fields
from tests.integration.deeds import telling


async def root_of(runner: Flujo, run_id: str) -> dict[str, AccountRow]:
    """A run's own account, by meter."""
    rows = read_accounts(await account_fields(runner, run_id))
    return {row.meter: row for row in rows if row.account == "root"}


class TestComposing:
    @pytest.mark.parametrize(
        ("deed", "told"),
        [
            ("call_in_vain", "ImproperStepInvocationError: Step 'inc' is not called but composed"),
            ("call_alone", 5),
            ("join_with_a_number", "TypeError: Step 'inc' goes on with a step or a pipeline, not with int."),
            (
                "join_what_cannot_fit",
                "PipelineValidationError: Type mismatch between steps 'shout' (returns str) and 'half' (expects int)",
            ),
            ("fall_back_in_a_circle", "InfiniteFallbackError: Fallback loop detected for step 'one'"),
            ("validate_a_graph", 4),
            ("send_a_quota_away", "TypeError: a Quota stays in the process that holds it"),
            ("split_among_nobody", "ValueError: cannot split into 0 shares"),
            ("split_without_limits", [1073741824, 1073741823]),
            ("reserve_a_negative_amount", [1.0, 10]),
            ("use_more_than_is_left", "QuotaExceededError: Insufficient quota: 2.6 USD and 0 tokens over the estimate"),
            ("take_back", [0.5, 5]),
            ("fail_with_advice", "FlujoError: It broke. Mend it."),
        ],
    )
    async def test_wherever_it_is_done_it_ends_alike(self, flujo: Open, deed: str, told: Any) -> None:
        async with flujo(telling) as runner:
            output = (await runner.run_async(deed)).output

        assert output.startswith(told) if isinstance(told, str) else output == told

    async def test_named_steps_and_terms_beside_a_config(self, flujo: Open) -> None:
        async with flujo(edges.named_steps) as named, flujo(edges.beside) as beside:
            names = [part.name for part in (await named.run_async(1)).step_history]
            attempts = (await beside.run_async(1)).step_history[0].attempts

        assert (names, attempts) == (["solution", "review", "validate"], 3)


@pytest.mark.parametrize(
    ("pipeline", "options", "error", "words"),
    [
        (edges.faulty(), {}, PipelineValidationError, "both/x/deep"),
        (edges.circle(), {}, InfiniteFallbackError, "Fallback loop detected for step 'one'"),
        (made.asking, {}, HitlPolicyError, "ask"),
        (made.keeping, {"backend": edges.Outside()}, ConfigurationError, "Set flujo_resources, flujo_policies"),
    ],
    ids=["faulty", "circle", "asking", "backend"],
)
async def test_what_is_refused_is_refused_before_anything_is_queued(
    parity_fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: Pipeline,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setenv("FLUJO_ALLOW_HITL", "0")

    async with Flujo(pipeline, settings=parity_fleet.settings(), **options) as runner:
        with pytest.raises(error, match=words) as raised:
            await runner.run_async(1, run_id="refused")

    with redis.Redis.from_url(parity_fleet.url) as plain:
        assert plain.keys("*refused*") == []
    if pipeline.name == "faulty":  # everything at once
        assert len(raised.value.data["faults"]) == 7  # type: ignore[attr-defined]  # a FlujoError has its data


@pytest.mark.parametrize(
    ("pipeline", "output"), [(edges.deep, 1), (edges.broad, {f"b{n}": 1 for n in range(1000)})], ids=["deep", "broad"]
)
async def test_thirty_levels_and_a_thousand_nodes_run_on_workers(
    parity_fleet: Fleet, pipeline: Pipeline, output: Any
) -> None:
    async with Flujo(pipeline, settings=parity_fleet.settings()) as runner:
        result = await runner.run_async(0)

    assert (result.success, result.output) == (True, output)


class TestSteps:
    async def test_another_agent_does_not_go_on_with_the_turns_of_the_first(self, flujo: Open) -> None:
        async with flujo(edges.forgetful) as runner:
            with pytest.raises(GranularResumeError, match="first 1 turns") as raised:
                await runner.run_async("go")

        assert raised.value.data["irrecoverable"] is True

    async def test_a_backend_carries_out_the_steps(self, request: pytest.FixtureRequest, flujo: Open) -> None:
        """In process it is the runner's; workers have it among their module's policies."""
        here = "on a fleet" not in request.node.name
        async with flujo(edges.outsourced, **({"backend": edges.Outside()} if here else {})) as runner:
            result = await runner.run_async(4)

        assert (result.output, result.total_tokens) == (40, 7)

    async def test_what_does_not_fit_is_named_and_only_before_a_next_step(self, flujo: Open) -> None:
        async with flujo(edges.misfitting) as runner, flujo(edges.unchecked) as last:
            with pytest.raises(TypeMismatchError, match=r"^Type mismatch: Output of 'anything' \(returns \w+\)"):
                await runner.run_async("text")
            assert (await last.run_async("text")).output == "text"


class TestBackgroundSteps:
    async def test_those_of_a_run_are_retried_and_what_fails_again_may_be_tried_once_more(self, flujo: Open) -> None:
        async with flujo(edges.untiring) as runner:
            await runner.run_async(1, run_id="untiring")
            (failed,) = await runner.retry_failed_background_tasks("untiring", max_retries=0)
            (mended,) = await runner.retry_failed_background_tasks("untiring")

            assert failed.status is RunStatus.FAILED
            assert (mended.output, mended.run_id.endswith(".2")) == (100, True)
            assert await runner.retry_failed_background_tasks("untiring") == []

    async def test_stale_ones_are_cancelled(self, flujo: Open) -> None:
        launched = asyncio.Event()

        async def hear(payload: PreStepPayload) -> None:
            if payload.step.name == "inc":
                launched.set()

        async with flujo(edges.endless, hooks=[hear]) as runner:
            running = asyncio.ensure_future(runner.run_result_async(1, run_id="endless"))
            await launched.wait()

            assert await runner.cleanup_stale_background_tasks() == 0
            assert await runner.cleanup_stale_background_tasks(stale_hours=-1) == 1
            assert (await running).success


class TestBudgets:
    async def test_limits_become_integers_and_unlimited_is_absent(self, flujo: Open) -> None:
        async with flujo(edges.using, usage_limits=UsageLimits(total_cost_usd_limit=0.1)) as runner:
            await runner.run_async(1, run_id="integers")

            rows = await root_of(runner, "integers")

        assert {meter: row.granted for meter, row in rows.items()} == {"cost_nanousd": 100_000_000}

    async def test_equality_is_allowed_and_what_was_not_used_goes_back(self, flujo: Open) -> None:
        async with flujo(edges.using, usage_limits=UsageLimits(total_tokens_limit=50)) as runner:
            await runner.run_async(30, run_id="equal")

            row = (await root_of(runner, "equal"))["tokens"]

        assert (row.reserved, row.spent, row.free, row.overrun) == (0, 30, 20, 0)

    async def test_a_reservation_takes_all_or_nothing(self, flujo: Open) -> None:
        limits = UsageLimits(total_cost_usd_limit=1.0, total_tokens_limit=39)
        async with flujo(edges.of_its_agent, usage_limits=limits) as runner:
            with pytest.raises(UsageLimitExceededError, match="Token limit of 39 exceeded"):
                await runner.run_async(1, run_id="nothing")

            rows = await root_of(runner, "nothing")

        assert {meter: row.use for meter, row in rows.items()} == {"cost_nanousd": 0, "tokens": 0}

    async def test_an_overage_that_is_not_covered_empties_the_meter_and_raises(self, flujo: Open) -> None:
        async with flujo(edges.using, usage_limits=UsageLimits(total_tokens_limit=60)) as runner:
            with pytest.raises(UsageLimitExceededError) as raised:
                await runner.run_async(70, run_id="over")

            row = (await root_of(runner, "over"))["tokens"]

        assert raised.value.data["overrun"] == "tokens=10"
        assert (row.spent, row.free, row.overrun) == (60, 0, 10)

    async def test_a_split_hands_out_everything_with_the_remainder_to_the_lowest(self, flujo: Open) -> None:
        async with flujo(edges.three_ways, usage_limits=UsageLimits(total_tokens_limit=101)) as runner:
            await runner.run_async(1, run_id="shares")

            fields = await account_fields(runner, "shares")

        shares = read_accounts({name: value for name, value in fields.items() if name.startswith("split|")})
        assert [(row.account, row.meter, row.granted) for row in shares] == [
            ("0.0", "tokens", 34),
            ("0.1", "tokens", 34),
            ("0.2", "tokens", 33),
        ]

    @pytest.mark.parametrize(
        ("pipeline", "asked"), [(edges.declared, 3), (edges.of_its_agent, 40), (edges.of_its_price, 500)]
    )
    async def test_what_a_step_declares_comes_before_its_agent_and_that_before_prices(
        self, flujo: Open, pipeline: Pipeline, asked: int
    ) -> None:
        async with flujo(pipeline, usage_limits=UsageLimits(total_tokens_limit=2)) as runner:
            with pytest.raises(UsageLimitExceededError) as raised:
                await runner.run_async(1)

        assert raised.value.data["asked"] == asked


class Least(StateBackend):
    """The five methods that a backend needs."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        self.traces: dict[str, dict[str, Any]] = {}
        self.changed = asyncio.Condition()

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        self.states[run_id] = state
        async with self.changed:
            self.changed.notify_all()

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        return self.states.get(run_id)

    async def delete_state(self, run_id: str) -> None:
        self.states.pop(run_id, None)

    async def get_trace(self, run_id: str) -> dict[str, Any] | None:
        return self.traces.get(run_id)

    async def save_trace(self, run_id: str, trace: dict[str, Any]) -> None:
        self.traces[run_id] = trace

    async def until_ended(self, run_id: str) -> None:
        """Wait until a run is kept that has ended: on a fleet its caller does not wait for that."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.states.get(run_id, {}).get("status") == "completed")


class Listed(Least):
    """What `TaskClient` needs besides."""

    async def list_workflows(
        self, status: str | None = None, pipeline_id: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[dict[str, Any]]:
        return [state for state in self.states.values() if status in (None, state["status"])]


class Away(FileBackend):
    """Does not answer."""

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        raise StateUnavailableError("away")


class TestState:
    async def test_five_methods_keep_runs_each_alone_and_task_client_looks_at_them(self, flujo: Open) -> None:
        backend = Least()
        async with flujo(edges.remembering, state_backend=backend) as runner:
            for run_id in ("kept-one", "kept-two"):
                await runner.run_async(2, run_id=run_id)
                await backend.until_ended(run_id)
        await backend.delete_state("kept-one")

        listing = Listed()
        listing.states = backend.states
        async with TaskClient(listing) as client:
            listed = {task.run_id: task.status for task in await client.list_tasks()}
            detail = await client.get_task("kept-two")
            with pytest.raises(TaskNotFoundError):
                await client.get_task("kept-one")

        assert listed["kept-two"] is TaskStatus.COMPLETED
        assert (detail.pipeline_context["word"], detail.last_step_output) == ("a", 3)
        assert {"kept-one", "kept-two"} <= set(backend.traces)

    async def test_a_backend_that_is_away_stops_no_run(self, flujo: Open, tmp_path: Path) -> None:
        async with flujo(edges.remembering, state_backend=Away(tmp_path)) as runner:
            assert (await runner.run_async(1, run_id="away")).output == 2

    async def test_no_file_appears_that_nobody_asked_for(
        self, flujo: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # of the caller; workers are in the folder of the fleet
        before = set(ROOT.iterdir())
        async with flujo(edges.remembering) as runner:
            await runner.run_async(1, run_id="no-file")

        assert list(tmp_path.iterdir()) == []
        assert set(ROOT.iterdir()) <= before


async def test_a_reader_from_the_start_gets_everything_also_after_the_end(flujo: Open) -> None:
    async with flujo(edges.speaking) as runner:
        first = [item async for item in runner.stream_async("abc", run_id="spoken")]
        again = [item async for item in runner.stream_async("abc", run_id="spoken")]

    assert "".join(first[:-1]) == "".join(again[:-1]) == "abc"  # a fleet gathers chunks
    assert first[-1].output == again[-1].output
