"""What a new user does first: the README's example on this machine, mistakes in a call, Ctrl-C and kill."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.inspection import RunInspector
from flujo_client.protocol.errors import ResultTimeoutError
from flujo_client.protocol.results import RunStatus
from tests.integration.conftest import ROOT, Fleet
from tests.integration.test_cli import flujo

#: Start-up of a fleet under load.
START_S = 60


def _own_environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLUJO_", "OTEL_"))}
    return own | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"} | more


def _children(pid: int) -> dict[int, str]:
    """The living children of a process, with their command lines; children of children as well."""
    found: dict[int, str] = {}
    parents = {pid}
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            words = Path(f"/proc/{entry}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if int(stat[1]) in parents and stat[0] != "Z":
            parents.add(entry)
            found[entry] = words
    return found


def _alive(pid: int, words: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") == words
    except OSError:
        return False


def _until(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _up(folder: Path, *words: str, **environment: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """Start `flujo up` and wait until it is; its exports."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (folder / "first.py").write_text(example.group(1))
    log = folder / "up.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flujo_client.cli", "up", "first", "--no-flower", "--workers", "1", *words],
            cwd=folder,
            env=_own_environment(**environment),
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    _until(lambda: "Ctrl-C ends" in log.read_text() or process.poll() is not None, "flujo up is up", START_S)
    assert process.poll() is None, log.read_text()
    return process, dict(re.findall(r"export (\w+)=(\S+)", log.read_text()))


def test_the_readmes_example_comes_up_in_its_namespace_and_ends_with_sigterm(tmp_path: Path) -> None:
    process, exports = _up(tmp_path, FLUJO_NAMESPACE="mine")
    children = _children(process.pid)

    done = subprocess.run(
        [sys.executable, "-m", "flujo_client.cli", "submit", "digest", "a b c", "--wait"],
        env=_own_environment(**exports),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    script = subprocess.run(
        [sys.executable, "first.py"],
        cwd=tmp_path,
        env=_own_environment(**exports),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    process.terminate()

    assert script.stdout == "{'words': 3, 'again': 3}\n", script.stderr
    assert done.stdout.startswith('{"words":3,"again":3}'), done.stderr
    assert exports["FLUJO_NAMESPACE"] == "mine"
    assert process.wait(30) == 0, (tmp_path / "up.log").read_text()
    assert len(children) >= 3
    assert not [words for pid, words in children.items() if _alive(pid, words)]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death")
def test_a_killed_up_leaves_no_process_beyond_two_seconds(tmp_path: Path) -> None:
    process, _ = _up(tmp_path)
    children = _children(process.pid)

    process.kill()
    process.wait()

    _until(lambda: not any(_alive(*child) for child in children.items()), f"they end: {children}", 2)


def _mind_interrupts() -> None:
    """A test run in the background of a shell ignores them, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_to_the_demo_ends_all_of_it_with_one_line(
    tmp_path: Path, number: signal.Signals, code: int, line: str
) -> None:
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flujo_client.cli", "demo", "--out", str(tmp_path / "out")],
            cwd=ROOT,
            env=_own_environment(),
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
            preexec_fn=_mind_interrupts,
        )
    _until(lambda: "Flower http" in log.read_text() or process.poll() is not None, "the demo runs", START_S)
    children = _children(process.pid)

    os.killpg(process.pid, number)

    assert process.wait(40) == code, log.read_text()
    assert log.read_text().splitlines()[-1] == f"flujo: {line}"
    assert "Traceback" not in log.read_text()
    assert not [words for pid, words in children.items() if _alive(pid, words)]


CALLS = {
    "wrong input": ("Flujo(chain).run('abc')", "TypeMismatchError"),
    "no id": ("Flujo(chain).run(1, run_id='a b')", "ValueError"),
    "no JSON": ("Flujo(chain).run(object())", "PayloadError"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_submission_that_is_refused_is_one_error_at_once(fleet: Fleet, call: str) -> None:
    code, error = CALLS[call]
    script = f"""
from flujo_client import Flujo
from tests.integration.pipelines import chain
try:
    {code}
except Exception as error:
    print(type(error).__name__)
"""

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (done.stdout, done.stderr) == (f"{error}\n", "")


async def test_a_wrong_input_on_the_command_line_is_one_line(fleet: Fleet) -> None:
    done = await flujo(fleet, "run", "tests.integration.pipelines:chain", '"abc"')

    assert done.returncode == 1
    assert "does not fit pipeline 'chain'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("pipeline", "text"), [("lost", "No branch found for key 'right'"), ("doubtful", "nobody knows")]
)
async def test_a_failed_run_tells_the_same_error_everywhere(
    fleet: Fleet, client: AsyncFlujoClient, pipeline: str, text: str
) -> None:
    await fleet.published(client, pipeline)
    run = await client.submit(pipeline, {"text": "right"})

    result = await run.result(60)
    inspector = RunInspector(client.client, client.keyspace, client.specs)
    listed = next(one for one in await inspector.runs() if one.run_id == run.run_id)
    shown = await inspector.snapshot(run.run_id)

    assert result.error is not None
    assert text in result.error["message"]
    assert result.error["data"]["run_id"] == run.run_id
    assert listed.error == shown.summary.error == result.error["message"]


async def test_a_script_whose_steps_no_worker_has_is_refused_at_once(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(
        """
from flujo_client import Flujo, Pipeline, step
from flujo_client.protocol.errors import UnqueueableError

@step
async def echo(value: int) -> int:
    return value

try:
    Flujo(Pipeline([echo], name="alone")).run(1)
except UnqueueableError as error:
    print(error)
"""
    )

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(tmp_path / "alone.py")],
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.startswith("Pipeline 'alone' cannot be queued: alone/echo: defined in the script"), done.stderr
    assert "FLUJO_URL" in done.stdout


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("fleet", "no worker has echo (stray:echo); start one with `flujo worker --pipelines stray`"),
        ("empty", "no worker is alive; start one with `flujo worker --pipelines MODULE`"),
    ],
)
def test_a_run_that_no_worker_can_serve_says_so_while_it_waits(
    fleet: Fleet, redis_url: str, tmp_path: Path, url: str, words: str
) -> None:
    (tmp_path / "stray.py").write_text(
        """
from flujo_client import Pipeline, step

@step
async def echo(text: str) -> str:
    return text

stray = Pipeline([echo], name="stray")
"""
    )
    log = tmp_path / "run.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flujo_client.cli", "run", "stray", "x", "--run-id", "stray-1"],
            cwd=tmp_path,
            env=_own_environment(FLUJO_URL=fleet.url if url == "fleet" else redis_url),
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        _until(log.read_text, "it says what it waits for", 30)
        assert log.read_text() == f"run stray-1 waits: {words}\n"
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)


async def test_submit_wait_on_a_run_that_asks_says_what_and_how_to_answer(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "approval")
    command = ("submit", "approval", "cats", "--run-id", "asked-1", "--wait")

    plain, again = await flujo(fleet, *command), await flujo(fleet, *command, "--json")

    assert (plain.returncode, again.returncode) == (3, 3), plain.stderr + again.stderr
    assert plain.stdout.splitlines() == [
        "paused: step 'ask' asks: Publish CATS?",
        "  flujo resume asked-1 ANSWER --token 1",
        "asked-1  paused",
    ]
    question = {"token": "1", "step": "ask", "message": "Publish CATS?", "dead_letter": False}
    assert json.loads(again.stdout) == {"run_id": "asked-1", "status": "paused", "questions": [question]}


async def test_a_caller_of_result_is_told_of_a_pause_and_of_a_timeout(
    fleet: Fleet, client: AsyncFlujoClient, caplog: pytest.LogCaptureFixture
) -> None:
    await fleet.published(client, "approval")
    run = await client.submit("approval", "cats", run_id="asked-2")
    assert await run.rest(60) is RunStatus.PAUSED
    waiting = asyncio.create_task(run.result(60))

    await fleet.until(lambda: caplog.messages, "it says what it waits for")
    await run.resume({"approved": True, "by": "ann"})

    assert (await waiting).success
    told = "step 'ask' asks: Publish CATS?; answer with `flujo resume asked-2 ANSWER --token 1`"
    assert caplog.messages == [f"run asked-2 waits: {told}"]


async def test_a_rest_that_does_not_come_in_time_is_an_error_and_the_run_goes_on(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "holding")
    run = await client.submit("holding", "rest-1", run_id="rest-1")

    with pytest.raises(ResultTimeoutError, match=r"rest-1 is running after 0.01 s"):
        await run.rest(0.01)
    fleet.open_gate("rest-1")

    assert await run.rest(60) is RunStatus.COMPLETED
