"""State backends behind runs in process: what is kept, and what goes on from it in another process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flujo_client import (
    FileBackend,
    Flujo,
    InMemoryBackend,
    Pipeline,
    PipelineContext,
    ResumeError,
    RunConflictError,
    StateBackend,
    StateUnavailableError,
    Step,
    StepRun,
    UsageLimitExceededError,
    UsageLimits,
    WorkflowState,
    step,
)
from flujo_client.archive.sql import SQLiteBackend
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.traces import TraceSpan


class Counter(PipelineContext):
    n: int = 0


@step
async def double(number: int) -> int:
    return number * 2


@step
async def count(number: int, *, context: Counter) -> int:
    context.n += number
    return number


def crash_once(calls: list[int]) -> Step[Any, Any]:
    """A step during whose first call the caller's loop ends, as when a process is killed."""

    async def fragile(number: int, *, context: Counter) -> int:
        calls.append(context.n)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return number + 1

    return Step.from_callable(fragile, name="fragile")


def run_until_dead(flujo: Flujo, value: Any, run_id: str, calls: list[int]) -> None:
    """Start a run, and end the loop without a word when the fragile step is under way."""

    async def start() -> None:
        waiting = asyncio.ensure_future(flujo.run_result_async(value, run_id=run_id))
        while not calls:
            await asyncio.sleep(0.001)  # the step gives no other sign
        waiting.cancel()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def test_a_finished_run_is_kept_with_its_trace_its_steps_and_its_whole_context() -> None:
    backend = InMemoryBackend()
    async with Flujo((count >> double).named("counting"), context_model=Counter, state_backend=backend) as flujo:
        await flujo.run_async(3, run_id="a")

    state = WorkflowState.model_validate(await backend.load_state("a"))
    assert (state.status, state.pipeline_name, state.current_step_index) == ("completed", "counting", 2)
    assert state.pipeline_context["n"] == 3
    assert state.last_step_output == 6
    assert [part["name"] for part in state.step_history] == ["count", "double"]
    trace = TraceSpan.model_validate(await backend.get_trace("a"))
    assert [child.name for child in trace.children] == ["count", "double"]
    details = await backend.get_run_details("a")
    assert details is not None
    assert (details["status"], details["output"]) == ("completed", 6)
    assert [(row["step_run_id"], row["output"]) for row in await backend.list_run_steps("a")] == [
        ("a:0", 3),
        ("a:1", 6),
    ]


def test_a_finished_run_id_gives_its_stored_result_in_another_process(tmp_path: Path) -> None:
    calls: list[int] = []

    async def once(number: int) -> int:
        calls.append(number)
        return number * 2

    def runner() -> Flujo:
        return Flujo(Step.from_callable(once), state_backend=SQLiteBackend(tmp_path / "x.db"))

    first = runner().run(4, run_id="a")
    again = runner().run(4, run_id="a")

    assert (first.output, again.output, again.status, calls) == (8, 8, "completed", [4])


def test_a_run_whose_process_died_goes_on_with_its_context_in_the_next_one(tmp_path: Path) -> None:
    calls: list[int] = []
    before: list[int] = []

    async def first(number: int, *, context: Counter) -> int:
        before.append(number)
        context.n += 10
        return number

    pipeline = Step.from_callable(first) >> crash_once(calls) >> double

    def runner() -> Flujo:
        return Flujo(pipeline, context_model=Counter, state_backend=FileBackend(tmp_path))

    run_until_dead(runner(), 3, "a", calls)
    kept = WorkflowState.model_validate(asyncio.run(FileBackend(tmp_path).load_state("a")))
    assert (kept.status, kept.current_step_index, kept.last_step_output) == ("running", 1, 3)
    assert kept.pipeline_context["n"] == 10

    result = runner().run(3, run_id="a")

    assert result.output == 8
    assert before == [3]  # committed, so it is neither run nor paid again
    assert calls == [10, 10]  # the context was all there
    assert result.final_pipeline_context.n == 10
    assert [part.name for part in result.step_history] == ["first", "fragile", "double"]


def test_a_run_that_goes_on_keeps_its_budget(tmp_path: Path) -> None:
    calls: list[int] = []

    async def spend(number: int, run: StepRun) -> int:
        run.usage.add(tokens=60)
        return number

    pipeline = Step.from_callable(spend) >> crash_once(calls) >> Step.from_callable(spend)

    def runner() -> Flujo:
        limits = UsageLimits(total_tokens_limit=100)
        return Flujo(pipeline, context_model=Counter, usage_limits=limits, state_backend=FileBackend(tmp_path))

    run_until_dead(runner(), 3, "a", calls)

    with pytest.raises(UsageLimitExceededError) as caught:
        runner().run(3, run_id="a")
    assert caught.value.result.usage == {"tokens": 120}


def test_a_pause_is_answered_in_another_process(tmp_path: Path) -> None:
    pipeline = (
        double
        >> Step.human_in_the_loop("ask", message_for_user="go on?")
        >> Step.from_callable(lambda answer: f"told {answer}", name="tell")
    )

    def runner() -> Flujo:
        return Flujo(pipeline, state_backend=FileBackend(tmp_path))

    paused = runner().run(2, run_id="a")
    assert paused.status == "paused"
    assert WorkflowState.model_validate(asyncio.run(FileBackend(tmp_path).load_state("a"))).status == "paused"

    async def answer() -> Any:
        async with runner() as flujo:
            return await flujo.resume_async(paused, "yes")

    assert asyncio.run(answer()).output == "told yes"


_PAUSING = """
import asyncio, sys
from flujo_client import Flujo, Pipeline, PipelineResult, ResumeError, SQLiteBackend, Step, step

@step
async def double(number: int) -> int:
    return 2 * number

@step
async def done(answer: str) -> str:
    return f"done: {answer}"

ask = Step.human_in_the_loop("ask", "Go on with {{ previous_step }}?")
asking = Step.loop_until("again", ask >> done, lambda output, context: True)
pipeline = Pipeline([double, Step.parallel("both", {"asks": asking, "works": double})])

async def main():
    async with Flujo(pipeline, state_backend=SQLiteBackend("runs.db")) as flujo:
        if sys.argv[1] == "start":
            result = await flujo.run_async(2)
            open("paused.json", "w").write(result.model_dump_json())
        else:
            paused = PipelineResult.model_validate_json(open("paused.json").read())
            try:
                result = await flujo.resume_async(paused, "yes")
            except ResumeError as error:
                return print(f"refused: {error.message}")
    print(result.status.value, result.output, result.total_tokens)

asyncio.run(main())
"""


def test_a_run_that_nobody_named_is_answered_by_a_process_that_never_saw_it_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text(_PAUSING)

    def process(what: str) -> str:
        root = str(Path(__file__).parents[2])
        command = [sys.executable, "asking.py", what]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert process("start").startswith("paused")
    assert process("answer") == "completed {'asks': 'done: yes', 'works': 8} 1"
    assert "takes no answer any more: it is completed" in process("answer")


_RACING = """
import asyncio, sys
from flujo_client import FileBackend, Flujo, Pipeline, PipelineResult, ResumeError, SQLiteBackend, Step, step

@step
async def pay(answer: str) -> str:
    with open("bills", "a") as bills:
        print(answer, file=bills)
    return answer

pipeline = Pipeline([Step.human_in_the_loop("ask", "Go on?"), pay])
kind, place = {"sqlite": (SQLiteBackend, "runs.db"), "file": (FileBackend, "runs")}[sys.argv[1]]

class Meeting(kind):
    met = sys.argv[2] == "start"

    async def swap_state(self, run_id, expected, state):
        if not self.met:
            self.met = True
            print("answered", flush=True)
            sys.stdin.readline()
        return await super().swap_state(run_id, expected, state)

async def main():
    async with Flujo(pipeline, state_backend=Meeting(place)) as flujo:
        if sys.argv[2] == "start":
            result = await flujo.run_async("x", run_id="a")
            return open("paused.json", "w").write(result.model_dump_json())
        paused = PipelineResult.model_validate_json(open("paused.json").read())
        try:
            print((await flujo.resume_async(paused, sys.argv[2])).output)
        except ResumeError as error:
            print(f"refused: {error.message}")

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_of_two_processes_that_answer_a_kept_pause_at_once_one_goes_on_and_the_other_is_told(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "racing.py").write_text(_RACING)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def process(what: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "racing.py", kind, what]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True)

    assert process("start").communicate()[1] is None
    both = [process("yes"), process("no")]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "answered\n"  # each has the run, paused, and an answer in it
    told = [one.communicate("go\n")[0].strip() for one in both]

    (refused,) = [words for words in told if words.startswith("refused: ")]
    (won,) = [words for words in told if words in ("yes", "no")]
    assert "the answer came too late, another process was first" in refused
    assert (tmp_path / "bills").read_text() == f"{won}\n"


class _Plain(InMemoryBackend):
    """One that has no `swap_state`."""

    swap_state = StateBackend.swap_state


async def test_a_backend_that_cannot_swap_states_keeps_pauses_all_the_same() -> None:
    pipeline = Step.human_in_the_loop("ask", "Go on?") >> double
    async with Flujo(pipeline, state_backend=_Plain()) as flujo:
        paused = await flujo.run_async("x", run_id="a")

        assert (await flujo.resume_async(paused, 4)).output == 8


class _Away(InMemoryBackend):
    """One that is away when an answer comes."""

    away = False

    async def swap_state(self, run_id: str, expected: dict[str, Any], state: dict[str, Any]) -> bool:
        if self.away:
            raise StateUnavailableError("away")
        return await super().swap_state(run_id, expected, state)


async def test_an_answer_that_the_backend_cannot_take_starts_nothing_and_may_be_given_again() -> None:
    backend, pipeline = _Away(), Step.human_in_the_loop("ask", "Go on?") >> double
    async with Flujo(pipeline, state_backend=backend) as flujo:
        paused = await flujo.run_async("x", run_id="a")
        backend.away = True
        with pytest.raises(StateUnavailableError):
            await flujo.resume_async(paused, 4)
        backend.away = False

        assert (await flujo.resume_async(paused, 5)).output == 10


def test_a_run_of_another_pipeline_is_not_taken_for_this_one(tmp_path: Path) -> None:
    calls: list[int] = []
    run_until_dead(Flujo(crash_once(calls), context_model=Counter, state_backend=FileBackend(tmp_path)), 3, "a", calls)

    with pytest.raises(RunConflictError, match="another pipeline"):
        Flujo(double, state_backend=FileBackend(tmp_path)).run(3, run_id="a")


def test_functions_that_have_no_name_are_found_again_by_their_place(tmp_path: Path) -> None:
    calls: list[int] = []

    def runner() -> Flujo:
        pipeline = Step.from_callable(lambda number: number + 1, name="inc") >> crash_once(calls)
        return Flujo(pipeline, context_model=Counter, state_backend=FileBackend(tmp_path))

    run_until_dead(runner(), 3, "a", calls)

    assert runner().run(3, run_id="a").output == 5


async def test_completed_runs_may_be_forgotten_and_others_stay() -> None:
    backend = InMemoryBackend()
    async with Flujo(double, state_backend=backend) as flujo:
        await flujo.run_async(1, run_id="kept")
    async with Flujo(double, state_backend=backend, delete_on_completion=True) as flujo:
        await flujo.run_async(1, run_id="gone")

    assert await backend.load_state("gone") is None
    assert await backend.load_state("kept") is not None


async def test_state_is_not_kept_where_it_is_not_wanted(tmp_path: Path) -> None:
    backend, settings = InMemoryBackend(), Settings(state_uri=f"sqlite:///{tmp_path}/x.db")
    async with Flujo(double, state_backend=backend, persist_state=False, settings=settings) as flujo:
        await flujo.run_async(1, run_id="a")

    assert await backend.list_runs() == []
    assert not (tmp_path / "x.db").exists()


async def test_the_state_uri_of_the_settings_is_the_default(tmp_path: Path) -> None:
    settings = Settings(state_uri=f"sqlite:///{tmp_path}/x.db")
    async with Flujo(double, settings=settings) as flujo:
        await flujo.run_async(1, run_id="a")

    backend = SQLiteBackend(tmp_path / "x.db")
    assert [run["run_id"] for run in await backend.list_runs()] == ["a"]
    await backend.shutdown()


async def test_values_that_no_backend_can_keep_stop_no_run() -> None:
    async def opaque(number: int) -> Any:
        return object()

    backend = InMemoryBackend()
    anything: Step[Any, Any] = Step.from_callable(lambda value: "done", name="any")
    async with Flujo(Step.from_callable(opaque) >> anything, state_backend=backend) as flujo:
        result = await flujo.run_async(1, run_id="a")

    assert result.output == "done"
    state = WorkflowState.model_validate(await backend.load_state("a"))
    assert state.status == "completed"
    assert "flujo" not in state.metadata


async def test_a_backend_that_is_away_stops_no_run(tmp_path: Path) -> None:
    class Broken(FileBackend):
        async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
            raise StateUnavailableError("away")

    async with Flujo(double, state_backend=Broken(tmp_path)) as flujo:
        assert (await flujo.run_async(1, run_id="a")).output == 2


async def test_an_archiver_that_is_stopped_ends_whatever_it_is_doing() -> None:
    backend = InMemoryBackend()
    async with Flujo(double, state_backend=backend) as flujo:
        await flujo.run_async(1, run_id="a")
        archiver = flujo._driver.archiver
        assert archiver is not None
        archiver.stop()

        await asyncio.wait_for(archiver.serve("manager"), 5)


class _Gate:
    """Holds a step of the first runner back."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self.calls: list[str] = []

    def runner(self, name: str, backend: StateBackend) -> Flujo:
        async def first(number: int) -> int:
            return number + 1

        async def second(number: int) -> int:
            self.calls.append(f"{name} second")
            if name == "slow":
                self.reached.set()
                await self.opened.wait()
            return number + 1

        async def third(number: int) -> int:
            self.calls.append(f"{name} third")
            return number + 1

        steps: list[Step[Any, Any]] = [Step.from_callable(part) for part in (first, second, third)]
        return Flujo(Pipeline(steps), state_backend=backend)


async def test_a_process_that_was_thought_dead_stops_where_another_has_taken_its_run_over() -> None:
    gate, backend = _Gate(), InMemoryBackend()
    async with gate.runner("slow", backend) as slow, gate.runner("next", backend) as following:
        first = asyncio.ensure_future(slow.run_result_async(1, run_id="a"))
        await gate.reached.wait()

        assert (await following.run_async(1, run_id="a")).output == 4
        gate.opened.set()
        with pytest.raises(ResumeError, match="another process goes on with it"):
            await first

    assert gate.calls == ["slow second", "next second", "next third"]
    kept = await backend.load_state("a")
    assert kept is not None
    assert kept["status"] == "completed"


async def test_of_two_that_bring_back_a_run_at_once_one_goes_on() -> None:
    gate, backend = _Gate(), InMemoryBackend()
    async with gate.runner("slow", backend) as slow:
        first = asyncio.ensure_future(slow.run_result_async(1, run_id="a"))
        await gate.reached.wait()
        async with gate.runner("b", backend) as b, gate.runner("c", backend) as c:
            both = await asyncio.gather(
                b.run_result_async(1, run_id="a"), c.run_result_async(1, run_id="a"), return_exceptions=True
            )
        first.cancel()

    assert sorted(type(one).__name__ for one in both) == ["PipelineResult", "ResumeError"]
    assert len([call for call in gate.calls if call.endswith("third")]) == 1


class _Flickering(InMemoryBackend):
    """One that keeps a state and does not say so, once."""

    lost = 0

    async def swap_state(self, run_id: str, expected: dict[str, Any], state: dict[str, Any]) -> bool:
        kept = await super().swap_state(run_id, expected, state)
        if kept and not self.lost:
            self.lost = 1
            raise StateUnavailableError("the answer was lost")
        return kept


async def test_a_snapshot_whose_answer_was_lost_is_replaced_like_one_that_was_not_kept() -> None:
    backend = _Flickering()
    steps: list[Step[Any, Any]] = [Step.from_callable(double.agent, name=name) for name in "abc"]
    async with Flujo(Pipeline(steps), state_backend=backend) as flujo:
        assert (await flujo.run_async(1, run_id="a")).output == 8

    kept = await backend.load_state("a")
    assert backend.lost == 1
    assert kept is not None
    assert kept["status"] == "completed"


def test_an_answer_after_the_end_of_the_wait_is_refused_though_no_loop_was_running(tmp_path: Path) -> None:
    asked = Step.human_in_the_loop("ask", "Go on?", expires_in_s=0.01) >> double
    paused = Flujo(asked, state_backend=FileBackend(tmp_path)).run(1, run_id="a")
    over = time.monotonic() + 0.02
    while time.monotonic() < over:
        pass  # a wait that is shorter than any event could tell

    with pytest.raises(ResumeError):
        asyncio.run(Flujo(asked, state_backend=FileBackend(tmp_path)).resume_async(paused, 4))
