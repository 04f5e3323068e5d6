"""`Flujo` in process: what users of the single-process library write, and what it gives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_client import (
    Flujo,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    RunStatus,
    Step,
    StepRun,
    UsageLimits,
    step,
)
from flujo_client.protocol.errors import (
    ConfigurationError,
    ImproperStepInvocationError,
    MissingAgentError,
    NonRetryableError,
    PipelineAbortSignal,
    PipelineContextInitializationError,
    RunConflictError,
    TypeMismatchError,
    UnqueueableError,
    UsageLimitExceededError,
)
from flujo_client.protocol.outcomes import Chunk
from flujo_client.protocol.results import PipelineResult, PostStepPayload, PreStepPayload
from flujo_client.validation import check_pipeline
from flujo_worker.embedded import EmbeddedEngine


@step
async def double(number: int) -> int:
    return number * 2


@step
async def show(number: int) -> str:
    return f"<{number}>"


class Counter(PipelineContext):
    n: int = 0


def test_a_sequence_gives_its_last_output_and_its_history() -> None:
    result = Flujo(double >> double >> show).run(2)

    assert result.output == "<8>"
    assert result.success
    assert result.status is RunStatus.COMPLETED
    assert [part.name for part in result.step_history] == ["double", "double", "show"]


def test_lambdas_closures_and_sync_functions_run_in_process() -> None:
    offset = 10

    async def shift(number: int) -> int:
        return number + offset

    pipeline = Step.from_callable(lambda number: number + 1, name="inc") >> Step.from_callable(shift)

    assert Flujo(pipeline).run(1).output == 12


def test_parallel_output_is_in_declared_order_however_it_ends() -> None:
    first_may_end = asyncio.Event

    async def run() -> PipelineResult:
        second_ended = first_may_end()

        async def slow(number: int) -> str:
            await second_ended.wait()
            return "slow"

        async def fast(number: int) -> str:
            second_ended.set()
            return "fast"

        pipeline = Pipeline.from_step(
            Step.parallel("both", {"a": Step.from_callable(slow), "b": Step.from_callable(fast)})
        )
        return await Flujo(pipeline).run_async(1)

    result = asyncio.run(run())

    assert list(result.output.items()) == [("a", "slow"), ("b", "fast")]
    assert result.step_history[0].metadata["executed_branches"] == ["a", "b"]


def test_a_failed_step_returns_a_result_with_its_feedback() -> None:
    calls: list[int] = []

    async def broken(number: int) -> int:
        calls.append(number)
        raise ValueError("no luck")

    result = Flujo(double >> Step.from_callable(broken) >> show).run(1)

    assert not result.success
    assert result.status is RunStatus.FAILED
    assert len(calls) == 2
    failed = result.step_history[-1]
    assert (failed.name, failed.attempts) == ("broken", 2)
    assert failed.feedback == "Agent execution failed with ValueError: no luck"


def test_non_retryable_errors_are_not_retried() -> None:
    calls: list[int] = []

    async def broken(number: int) -> int:
        calls.append(number)
        raise NonRetryableError("never")

    assert not Flujo(Step.from_callable(broken, max_retries=5)).run(1).success
    assert len(calls) == 1


def test_a_retried_step_succeeds_with_its_attempts_counted() -> None:
    attempts: list[int] = []

    async def flaky(number: int, run: StepRun) -> int:
        attempts.append(run.attempt)
        if run.attempt < 3:
            raise ValueError
        return number

    result = Flujo(Step.from_callable(flaky, max_retries=2, backoff_s=0.01)).run(7)

    assert (result.output, attempts, result.step_history[0].attempts) == (7, [1, 2, 3], 3)


def test_a_timeout_fails_the_attempt() -> None:
    async def endless(number: int) -> None:
        await asyncio.Event().wait()

    result = Flujo(Step.from_callable(endless, timeout_s=0.05, max_retries=0)).run(1)

    assert "TimeoutError" in str(result.step_history[0].feedback)


def test_system_exit_in_a_step_fails_the_step_only() -> None:
    def leave(number: int) -> None:
        raise SystemExit(3)

    assert not Flujo(Step.from_callable(leave, max_retries=0)).run(1).success


def test_context_flows_through_the_steps() -> None:
    async def count(number: int, *, context: Counter) -> int:
        context.n += number
        return number

    result = Flujo(
        Pipeline([Step.from_callable(count)] * 12), context_model=Counter, initial_context_data={"n": 5}
    ).run(1)

    assert isinstance(result.final_pipeline_context, Counter)
    assert result.final_pipeline_context.n == 17
    assert result.final_pipeline_context.status == "completed"


def test_branch_contexts_are_merged_by_summing_what_each_added() -> None:
    async def count(number: int, *, context: Counter) -> int:
        context.n += number
        return number

    branches: dict[str, Step[Any, Any]] = {"a": Step.from_callable(count), "b": Step.from_callable(count)}
    pipeline = Pipeline([Step.parallel("both", branches), Step.from_callable(lambda data: 1, name="one")])

    result = Flujo(pipeline, context_model=Counter).run(3)

    assert result.final_pipeline_context.n == 6


@pytest.mark.parametrize(
    ("strategy", "value"),
    [(MergeStrategy.OVERWRITE, "b"), (MergeStrategy.KEEP_FIRST, "a"), (MergeStrategy.NO_MERGE, None)],
)
def test_merge_strategies(strategy: MergeStrategy, value: str | None) -> None:
    def mark(name: str) -> Step[Any, Any]:
        async def write(number: int) -> dict[str, str]:
            return {"by": name}

        return Step.from_callable(write, updates_context=True)

    pipeline = Pipeline([Step.parallel("both", {"a": mark("a"), "b": mark("b")}, merge_strategy=strategy)])

    result = Flujo(pipeline, context_model=PipelineContext).run(1)

    assert getattr(result.final_pipeline_context, "by", None) == value


def test_a_merge_conflict_fails_the_parallel_step() -> None:
    def mark(name: str) -> Step[Any, Any]:
        async def write(number: int) -> dict[str, str]:
            return {"by": name}

        return Step.from_callable(write, updates_context=True)

    result = Flujo(
        Pipeline([Step.parallel("both", {"a": mark("a"), "b": mark("b")})]), context_model=PipelineContext
    ).run(1)

    assert not result.success
    assert "Merge conflict for key 'by'. Branches 'a' and 'b'" in str(result.step_history[0].feedback)


def test_sink_to_and_updates_context_of_the_wrong_type() -> None:
    sunk = Flujo(Step.from_callable(lambda x: x, name="s", sink_to="n"), context_model=Counter).run(4)
    assert sunk.final_pipeline_context.n == 4

    wrong: Step[Any, Any] = Step.from_callable(lambda x: {"n": "notint"}, name="w", updates_context=True, max_retries=0)
    result = Flujo(wrong, context_model=Counter).run(1)
    assert "Context validation failed: Field 'n' expects int but got str: notint" in str(
        result.step_history[0].feedback
    )


def test_a_context_that_does_not_fit_is_refused_before_anything_runs() -> None:
    with pytest.raises(PipelineContextInitializationError):
        Flujo(double, context_model=Counter, initial_context_data={"n": "x"}).run(1)


def test_resources_are_injected() -> None:
    async def use(number: int, *, resources: dict[str, int]) -> int:
        return resources["base"] + number

    assert Flujo(Step.from_callable(use), resources={"base": 40}).run(2).output == 42


def test_hooks_are_called_in_order() -> None:
    seen: list[str] = []

    async def watch(payload: Any) -> None:
        seen.append(payload.event_name)

    async def only_steps(payload: PreStepPayload | PostStepPayload) -> None:
        seen.append("step")

    Flujo(double >> show, hooks=[watch, only_steps]).run(1)

    assert [name for name in seen if name != "step"] == [
        "pre_run",
        "pre_step",
        "post_step",
        "pre_step",
        "post_step",
        "post_run",
    ]
    assert seen.count("step") == 4


def test_run_inside_a_running_loop_is_refused_with_advice() -> None:
    async def inside() -> None:
        with pytest.raises(TypeError, match="run_async"):
            Flujo(double).run(1)

    asyncio.run(inside())


async def test_a_run_id_is_idempotent() -> None:
    calls: list[int] = []

    async def once(number: int) -> int:
        calls.append(number)
        return number

    async with Flujo(Step.from_callable(once)) as flujo:
        first = await flujo.run_async(1, run_id="order-1")
        again = await flujo.run_async(1, run_id="order-1")

        assert (first.output, again.output, calls) == (1, 1, [1])
        with pytest.raises(RunConflictError):
            await flujo.run_async(1, run_id="order-1", initial_context_data={"x": 1})


def test_a_budget_that_cannot_pay_raises_with_the_result() -> None:
    async def spend(number: int, run: StepRun) -> int:
        run.usage.add(tokens=60)
        return number

    pipeline = Pipeline([Step.from_callable(spend)] * 3)

    with pytest.raises(UsageLimitExceededError, match="Token limit of 100 exceeded") as caught:
        Flujo(pipeline, usage_limits=UsageLimits(total_tokens_limit=100)).run(1)

    assert isinstance(caught.value.result, PipelineResult)
    assert len(caught.value.result.step_history) == 2
    assert caught.value.result.usage == {"tokens": 120}


def test_an_estimate_the_budget_cannot_pay_is_refused_before_the_call() -> None:
    calls: list[int] = []

    with pytest.raises(UsageLimitExceededError, match="exceeded"):
        Flujo(
            Step.from_callable(lambda x: calls.append(x), name="s", expected_tokens=11),
            usage_limits=UsageLimits(total_tokens_limit=10),
        ).run(1)

    assert calls == []


def test_reserving_before_each_call_stops_before_the_cap_is_broken() -> None:
    calls: list[int] = []

    async def agent(number: int, run: StepRun) -> int:
        for _ in range(20):
            await run.usage.reserve(tokens=30)
            calls.append(1)
            run.usage.add(tokens=30)
        return number

    with pytest.raises(UsageLimitExceededError) as caught:
        Flujo(Step.from_callable(agent, expected_tokens=30), usage_limits=UsageLimits(total_tokens_limit=100)).run(1)

    assert len(calls) == 3
    assert caught.value.result.usage == {"tokens": 90}


async def test_chunks_arrive_in_order_and_repeated_ones_too() -> None:
    async def speak(text: str, run: StepRun) -> str:
        for letter in text:
            await run.emit(letter)
        return text

    items = [item async for item in Flujo(Step.from_callable(speak)).stream_async("hello")]
    outcomes = [item async for item in Flujo(Step.from_callable(speak)).run_outcomes_async("hello")]

    assert items[:-1] == list("hello")
    assert items[-1].output == "hello"
    assert [item.sequence for item in outcomes if isinstance(item, Chunk)] == [1, 2, 3, 4, 5]
    assert outcomes[-1].kind == "success"


def test_a_value_that_does_not_fit_the_next_step_raises_and_names_both() -> None:
    async def untyped(number: int):  # type: ignore[no-untyped-def]
        return {"x": 1}

    with pytest.raises(TypeMismatchError, match=r"'untyped'.*'double'"):
        Flujo(Step.from_callable(untyped) >> double).run(1)


def test_declared_types_that_cannot_fit_are_refused_when_composed() -> None:
    with pytest.raises(
        ValueError, match="Type mismatch between steps 'show' \\(returns str\\) and 'double' \\(expects int\\)"
    ):
        show >> double


def test_a_step_is_not_called_and_needs_an_agent() -> None:
    with pytest.raises(ImproperStepInvocationError):
        double(1)
    with pytest.raises(MissingAgentError):
        Flujo(Step(name="empty")).run(1)
    with pytest.raises(ConfigurationError, match="no steps"):
        Flujo(Pipeline()).run(1)
    with pytest.raises(TypeError):
        double >> 5  # type: ignore[operator]
    assert asyncio.run(double.arun(4)) == 8


def test_what_cannot_be_queued_is_listed_all_at_once() -> None:
    def local(x: int) -> int:
        return x

    pipeline = Pipeline([Step.from_callable(lambda x: x, name="one"), Step.from_callable(local)], name="p")

    with pytest.raises(UnqueueableError) as caught:
        check_pipeline(pipeline, queued=True)

    assert len(caught.value.data["faults"]) == 2
    assert "p/one: a lambda has no name" in str(caught.value)
    with pytest.raises(ConfigurationError, match="without a name"):
        check_pipeline(Pipeline([double]), queued=True)


def test_specs_are_data_with_a_stable_hash() -> None:
    one = (double >> Step.parallel("p", {"a": show, "b": double})).named("x").to_spec()
    other = (double >> Step.parallel("p", {"a": show, "b": double})).named("x").to_spec()

    assert one.content_hash == other.content_hash
    assert one.content_hash != (double >> double).named("x").to_spec().content_hash
    assert one.steps()[0].function == "tests.unit.test_runner:double"


def test_agents_may_be_objects_with_run() -> None:
    class Agent:
        async def run(self, text: str) -> str:
            return text.upper()

    assert Flujo(Step(name="agent", agent=Agent())).run("x").output == "X"


class Model(BaseModel):
    x: int


def test_models_and_none_flow_between_steps() -> None:
    async def make(number: int) -> Model | None:
        return Model(x=number) if number else None

    async def read(model: Model | None) -> int:
        return -1 if model is None else model.x

    pipeline = Step.from_callable(make) >> Step.from_callable(read)

    assert (Flujo(pipeline).run(3).output, Flujo(pipeline).run(0).output) == (3, -1)


async def test_any_number_of_runs_share_a_loop() -> None:
    async with Flujo(double >> show) as flujo:
        results = await asyncio.gather(*(flujo.run_async(number) for number in range(300)))

    assert [result.output for result in results] == [f"<{2 * number}>" for number in range(300)]


async def test_runs_that_nobody_named_leave_nothing_in_memory() -> None:
    async with Flujo(double >> show) as flujo:
        for number in range(3):
            await flujo.run_async(number)
        engine = await flujo._opened()
        assert isinstance(engine, EmbeddedEngine)
        kept = {key.decode().partition("}:")[2] for key in engine.redis.store.live_keys()}

        assert kept == {"specs", "spec_uses", "incarnations", "intake"}  # none that grows with the runs
        await flujo.run_async(1, run_id="named")
        assert (await flujo.run_async(1, run_id="named")).output == "<2>"


@pytest.mark.parametrize("event", ["pre_run", "pre_step", "post_step"])
def test_a_hook_that_aborts_ends_the_run_and_starts_nothing_more(event: str) -> None:
    calls: list[int] = []

    async def count(number: int) -> int:
        calls.append(number)
        return number

    def abort(payload: Any) -> None:
        if payload.event_name == event:
            raise PipelineAbortSignal("enough")

    result = Flujo(Pipeline([Step.from_callable(count)] * 3), hooks=[abort]).run(1)

    assert (result.status, result.success) == (RunStatus.ABORTED, False)
    assert len(calls) == len(result.step_history) == (1 if event == "post_step" else 0)


def test_a_post_run_hook_cannot_undo_the_end() -> None:
    def abort(payload: Any) -> None:
        if payload.event_name == "post_run":
            raise PipelineAbortSignal("too late")

    assert Flujo(double, hooks=[abort]).run(1).output == 2


class TestRunsAsCoroutines:
    """What `run_async` returns may stand where a coroutine does, and can be iterated over."""

    @staticmethod
    async def _doubled(value: int) -> int:
        return 2 * value

    def _flujo(self) -> Flujo:
        return Flujo(Step.from_callable(self._doubled, name="double"))

    async def test_it_may_stand_wherever_a_coroutine_does(self) -> None:
        async with self._flujo() as flujo:
            task = asyncio.create_task(flujo.run_async(1), name="one")
            gathered = await asyncio.gather(flujo.run_async(2), flujo.run_async(3))
            waited = await asyncio.wait_for(flujo.run_async(4), 20)
            async with asyncio.TaskGroup() as group:
                grouped = group.create_task(flujo.run_async(5))

            assert [(await task).output, *(one.output for one in gathered)] == [2, 4, 6]
            assert (waited.output, grouped.result().output) == (8, 10)
            assert [type(item) async for item in flujo.run_async(6)] == [PipelineResult]

    def test_a_loop_may_run_it(self) -> None:
        assert asyncio.run(self._flujo().run_async(1)).output == 2

    async def test_its_task_can_be_cancelled(self) -> None:
        began = asyncio.Event()

        async def hang(value: int) -> None:
            began.set()
            await asyncio.Event().wait()

        async with Flujo(Step.from_callable(hang, name="hang")) as flujo:
            task = asyncio.create_task(flujo.run_async(1))
            await began.wait()
            task.cancel()

            with pytest.raises(asyncio.CancelledError):
                await task

    def test_one_that_was_never_started_is_closed_in_silence(self) -> None:
        self._flujo().run_async(1).close()


class TestErrorsSayWhatToDo:
    """Each names the run, the step and a remedy."""

    async def test_a_timeout_says_its_limit(self) -> None:
        async def hang(value: int) -> None:
            await asyncio.Event().wait()

        result = await Flujo(Step.from_callable(hang, name="hang", timeout_s=0.02, max_retries=0)).run_result_async(1)

        expected = "Agent execution failed with TimeoutError: no result within 0.02 s, the step's timeout_s"
        assert result.step_history[0].feedback == expected

    async def test_a_timeout_of_the_bodys_own_keeps_its_words(self) -> None:
        async def late(value: int) -> None:
            raise TimeoutError("the provider took too long")

        result = await Flujo(Step.from_callable(late, name="late", timeout_s=30, max_retries=0)).run_result_async(1)

        assert (result.step_history[0].feedback or "").endswith("TimeoutError: the provider took too long")

    async def test_a_wrong_output_names_the_run_and_the_step(self) -> None:
        async def lie(value: int) -> int:
            return "one"  # type: ignore[return-value]  # the mistake

        with pytest.raises(
            TypeMismatchError, match=r"\(run order-1, step 'lie' at 0\) Return what is declared"
        ) as caught:
            await Flujo(Step.from_callable(lie, name="lie")).run_async(1, run_id="order-1")

        assert str(caught.value).count("Return what is declared") == 1

    async def test_a_wrong_input_is_not_called_a_steps_output(self) -> None:
        async def take(value: int) -> int:
            return value

        with pytest.raises(TypeMismatchError, match=r"The run's input is not the input that 'take' expects \(int\)"):
            await Flujo(Step.from_callable(take, name="take")).run_async("one")

    async def test_a_budget_says_what_can_be_raised(self) -> None:
        async def greedy(value: int) -> int:
            return value

        flujo = Flujo(
            Step.from_callable(greedy, name="greedy", expected_tokens=50),
            usage_limits=UsageLimits(total_tokens_limit=10),
        )

        with pytest.raises(
            UsageLimitExceededError,
            match=r"^Token limit of 10 exceeded .*step 'greedy'.* Raise total_tokens_limit of the run's usage_limits",
        ):
            await flujo.run_async(1)

    @pytest.mark.parametrize(
        ("options", "fault"),
        [
            ({"max_retries": -1}, "max_retries: Input should be greater"),
            ({"retries": 3}, r"retries is no option of it \(did you mean max_retries\?\)"),
        ],
        ids=str,
    )
    def test_an_option_that_cannot_be_is_named_with_its_step(self, options: dict[str, Any], fault: str) -> None:
        with pytest.raises(ConfigurationError, match=f"Step 'shy' cannot be made: {fault}") as caught:
            Step.from_callable(lambda value: value, name="shy", **options)

        assert "https://" not in str(caught.value)


def test_factories_of_executors_may_be_left_out_by_name_and_are_refused_with_what_there_is_instead() -> None:
    assert Flujo(double, executor_factory=None, backend_factory=None, hooks=None).run(2).output == 4
    factories: dict[str, Any] = {"executor_factory": object}

    with pytest.raises(ConfigurationError, match="no executor_factory") as caught:
        Flujo(double, **factories)

    assert "policies=" in str(caught.value.suggestion)


@pytest.mark.parametrize("model", [dict, "Notes", {}])
def test_a_context_model_that_is_none_is_refused_at_once(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no pydantic model"):
        Flujo(Pipeline([Step.from_callable(_echo)]), context_model=model)


@pytest.mark.parametrize("hooks", [["x"], "x", [None]])
def test_a_hook_that_cannot_be_called_is_refused_at_once(hooks: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Hook .* cannot be called"):
        Flujo(Pipeline([Step.from_callable(_echo)]), hooks=hooks)


@pytest.mark.parametrize(
    "compose",
    [
        lambda parts: Step.parallel("x", parts),
        lambda parts: Step.dynamic_parallel_branch("x", _echo, parts),
        lambda parts: Step.branch_on("x", _which, parts),
    ],
)
def test_branches_without_names_are_refused_with_what_they_should_be(compose: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Step 'x' cannot be made: branches: branches have names"):
        compose([Step.from_callable(_echo)])


async def _echo(value: Any) -> Any:
    return value


def _which(value: Any, context: Any) -> Any:
    return value
