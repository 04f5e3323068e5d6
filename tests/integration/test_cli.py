"""The command line against a real fleet, by subprocess."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flujo_client import AsyncFlujoClient, UsageLimits
from tests.integration.conftest import ROOT, Fleet
from tests.integration.pipelines import wide

Finished = subprocess.CompletedProcess[str]


async def flujo(fleet: Fleet, *words: str, stdin: str = "", **environment: str) -> Finished:
    """Run a command to its end."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flujo_client.cli", *words],
        env=fleet.environment | environment,
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


async def document(fleet: Fleet, *words: str, code: int = 0, stdin: str = "") -> Any:
    """The JSON document that a command prints last."""
    done = await flujo(fleet, *words, "--json", stdin=stdin)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fresh() -> str:
    return f"cli-{uuid4().hex[:8]}"


async def published(fleet: Fleet, client: AsyncFlujoClient, pipeline: str = "digest") -> None:
    async def known() -> bool:
        return bool(await client.client.hexists(client.keyspace.shard("pipelines"), pipeline))

    await fleet.until(known, f"{pipeline} is published")


@pytest.mark.parametrize(("given", "stdin"), [('{"url": "abc"}', ""), ("-", '{"url": "abc"}')])
async def test_submit_waits_for_the_result(fleet: Fleet, given: str, stdin: str) -> None:
    done = await document(fleet, "submit", "digest", given, "--wait", stdin=stdin)

    assert done["status"] == "completed"
    assert done["step_history"][-1]["output"] == {"text": "ABC 3"}


async def test_submit_again_under_the_same_id_is_the_same_run(fleet: Fleet) -> None:
    run_id = fresh()

    first = await document(fleet, "submit", "chain", "1", "--run-id", run_id)
    again = await document(fleet, "submit", "chain", "1", "--run-id", run_id, "--wait")
    other = await document(fleet, "submit", "chain", "2", "--run-id", run_id, code=1)

    assert first == {"run_id": run_id}
    assert again["step_history"][-1]["output"] == 6
    assert other["error"]["type"] == "RunConflictError"


async def test_an_input_that_is_no_json_is_a_string(fleet: Fleet) -> None:
    fleet.open_gate("plain words")

    assert (await flujo(fleet, "submit", "holding", "plain words", "--wait")).stdout.startswith("after plain words\n")


async def test_a_run_that_its_budget_cannot_pay_is_one_error(fleet: Fleet) -> None:
    found = await document(fleet, "submit", "digest", '{"url": "abc"}', "--budget-tokens", "5", "--wait", code=1)

    assert found["error"]["type"] == "UsageLimitExceededError"


async def test_run_queues_where_there_is_a_url(fleet: Fleet) -> None:
    ran = await document(fleet, "run", "tests.integration.pipelines:chain", "1")

    assert ran["step_history"][-1]["output"] == 6


async def test_a_question_is_shown_and_answered_on_the_command_line(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await published(fleet, client, "approval")
    run_id = fresh()
    await document(fleet, "submit", "approval", "cats", "--run-id", run_id)

    async def asked() -> bool:
        return bool(await client.run(run_id).pauses())

    await fleet.until(asked, f"{run_id} asks")
    shown = await document(fleet, "show", run_id)
    listed = await flujo(fleet, "runs")
    assert shown["summary"]["questions"] == [{"token": "1", "step": "ask", "message": "Publish CATS?", "dead": False}]
    assert "ask asks: Publish CATS?  (--token 1)" in listed.stdout
    assert "? ask  paused" in (await flujo(fleet, "show", run_id)).stdout

    refused = await document(fleet, "resume", run_id, '{"approved": true}', code=1)
    unasked = await document(fleet, "resume", run_id, code=1)
    assert refused["error"]["type"] == "TypeMismatchError"
    assert "Publish CATS?" in unasked["error"]["message"]
    done = await document(fleet, "resume", run_id, '{"approved": true, "by": "ann"}', "--token", "1")

    assert done == {"run_id": run_id, "resumed": True, "token": "1"}
    assert (await client.run(run_id).result(timeout_s=60)).output == "ann: True, asked 1 times"
    again = (await document(fleet, "resume", run_id, "x", code=1))["error"]
    assert again["type"] == "ResumeError"
    assert "it is completed; 'ask' (token 1) was answered before, and the first answer counts" in again["message"]


@pytest.mark.parametrize(
    "command", [("show", "nobody"), ("watch", "nobody"), ("cancel", "nobody"), ("resume", "nobody", "x")]
)
async def test_a_run_that_nobody_knows_is_one_error(fleet: Fleet, command: tuple[str, ...]) -> None:
    assert (await document(fleet, *command, code=1))["error"]["type"] == "RunNotFoundError"


async def test_show_gives_every_node_and_account(fleet: Fleet) -> None:
    run_id = fresh()
    await flujo(fleet, "submit", "digest", '{"url": "abc"}', "--run-id", run_id, "--budget-tokens", "90", "--wait")

    shown = await document(fleet, "show", run_id)
    plain, budget = await flujo(fleet, "show", run_id), await flujo(fleet, "show", run_id, "--budget")

    assert [(node["name"], node["status"], node["tokens"]) for node in shown["nodes"]] == [
        ("fetch", "succeeded", 4),
        ("read", "succeeded", 5),
        ("combine", "succeeded", 0),
    ]
    assert [branch["name"] for branch in shown["nodes"][1]["children"]] == ["shout", "measure"]
    assert (shown["summary"]["steps"], shown["summary"]["steps_committed"], shown["summary"]["tokens"]) == (4, 4, 9)
    for row in shown["accounts"]:
        parts = ("free", "reserved", "spent", "unknown", "children")
        assert row["granted"] == sum(row[part] for part in parts)
    assert {row["account"]: row["spent"] for row in shown["accounts"]} == {"root": 4, "1.0": 3, "1.1": 2}
    assert "✓ fetch" in plain.stdout
    assert "root" in plain.stdout
    assert "1.0" not in plain.stdout
    assert "1.0" in budget.stdout


async def test_without_workers_branches_have_their_shares_and_the_doctor_says_why(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_own_fleet("idle")
    fleet.manager()
    run_id = fresh()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        spec = wide.to_spec()
        await client.scripts.publish_spec(spec.name, spec.content_hash, spec.model_dump_json().encode())
        await client.submit("wide", 1, run_id=run_id, usage_limits=UsageLimits(total_tokens_limit=100))

        async def split() -> Any:
            shown = await document(fleet, "show", run_id)
            return shown if len(shown["accounts"]) > 1 else None

        shown = await fleet.until(split, "the branches are open")
        plain, sick = await flujo(fleet, "show", run_id), await document(fleet, "doctor", code=1)

    root, *branches = shown["accounts"]
    assert (root["granted"], root["children"], root["free"]) == (100, 100, 0)
    assert [row["granted"] for row in branches] == [3] * 20 + [2] * 20
    assert [row["free"] for row in branches] == [3] * 20 + [2] * 20
    assert "◦ increment  queued" in plain.stdout
    faults = {finding["subject"] for finding in sick["findings"] if finding["verdict"] == "fault"}
    assert faults == {"workers", "queues"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("failing", "1"), "step 'hopeless': "),
        (("digest", '{"url": "abc"}', "--budget-tokens", "5"), "Token limit of 5"),
    ],
)
async def test_a_failed_run_says_why_wherever_it_is_looked_at(
    fleet: Fleet, words: tuple[str, ...], reason: str
) -> None:
    run_id = fresh()
    told = await document(fleet, "submit", *words, "--wait", "--run-id", run_id, code=1)

    shown, watched, every, *plain = await asyncio.gather(
        *(document(fleet, *command) for command in (("show", run_id), ("watch", run_id), ("runs",))),
        *(flujo(fleet, *command) for command in (("show", run_id), ("watch", run_id), ("runs",))),
    )
    listed = {row["run_id"]: row["error"] for row in every["runs"]}

    assert listed[run_id].startswith(reason)
    assert (
        listed[run_id] == told["error"]["message"]
    )  # whole: of a limit its name, what was asked and free, and how to raise it
    assert shown["summary"]["error"] == watched["summary"]["error"] == listed[run_id]
    assert all(" ".join(listed[run_id].split()) in " ".join(done.stdout.split()) for done in plain)


async def test_show_says_which_step_a_fallback_saved(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await published(fleet, client, "backed")
    run_id = fresh()
    await document(fleet, "submit", "backed", "1", "--run-id", run_id, "--wait")

    shown, plain = await document(fleet, "show", run_id), (await flujo(fleet, "show", run_id)).stdout

    assert shown["nodes"][0]["fallback"] == "plan_b"
    assert "fell back on plan_b: Agent execution failed with " in plain


async def test_a_version_that_nobody_has_published_is_named(fleet: Fleet) -> None:
    wrong = await document(fleet, "submit", "chain", "1", "--version", "9.9", code=1)

    assert wrong["error"]["type"] == "UnknownPipelineError"
    assert "9.9" in wrong["error"]["message"]


async def test_watch_follows_a_run_to_its_end(fleet: Fleet, client: AsyncFlujoClient) -> None:
    run_id = fresh()
    await client.submit("holding", run_id, run_id=run_id)
    await fleet.until(lambda: fleet.entries(run_id=run_id, kind="started"), "the first step runs")

    watching = asyncio.create_task(document(fleet, "watch", run_id))
    running = await document(fleet, "show", run_id)
    fleet.open_gate(run_id)
    ended = await watching

    assert running["summary"]["status"] == "running"
    assert running["nodes"][0]["status"] == "dispatched"
    assert 0 <= running["now_ms"] - running["nodes"][0]["started_ms"] < 60_000
    assert ended["summary"]["status"] == "completed"
    assert ended["nodes"][0]["started_ms"] is None
    assert ended["nodes"][0]["latency_ms"] > 0


async def test_watch_into_a_pipe_tells_each_change_as_it_comes(fleet: Fleet, client: AsyncFlujoClient) -> None:
    run_id = fresh()
    await client.submit("holding", run_id, run_id=run_id)
    watching = subprocess.Popen(
        [sys.executable, "-m", "flujo_client.cli", "watch", run_id],
        env={name: value for name, value in fleet.environment.items() if name != "PYTHONUNBUFFERED"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    fleet.processes[watching.pid] = watching
    assert watching.stdout is not None

    lines = [""]
    while "running" not in lines[-1]:
        lines.append((await asyncio.to_thread(watching.stdout.readline)).decode())
        assert lines[-1], lines
    fleet.open_gate(run_id)
    rest = (await asyncio.to_thread(watching.stdout.read)).decode()
    watching.stdout.close()

    assert lines[-1].startswith("0  ▸ held  running")
    assert re.search(r"^0  ✓ held ", rest, re.MULTILINE)
    assert f"{run_id}  holding  completed" in rest
    assert await asyncio.to_thread(watching.wait, 30) == 0


async def test_watch_draws_on_a_terminal_while_the_run_goes_on(fleet: Fleet, client: AsyncFlujoClient) -> None:
    run_id = fresh()
    await client.submit("holding", run_id, run_id=run_id)
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "flujo_client.cli", "watch", run_id],
        env=fleet.environment | {"TERM": "xterm", "COLUMNS": "100"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    fleet.processes[watching.pid] = watching
    os.close(theirs)

    screen = ""
    while "running" not in screen:
        screen += (await asyncio.to_thread(os.read, ours, 4096)).decode(errors="replace")
    fleet.open_gate(run_id)
    while "completed" not in screen:
        screen += (await asyncio.to_thread(os.read, ours, 4096)).decode(errors="replace")
    code = await asyncio.to_thread(watching.wait, 30)
    os.close(ours)

    assert code == 0
    assert "held" in screen


async def test_cancel_ends_a_run_once(fleet: Fleet, client: AsyncFlujoClient) -> None:
    run_id = fresh()
    await client.submit("holding", run_id, run_id=run_id)
    await fleet.until(lambda: fleet.entries(run_id=run_id, kind="started"), "the first step runs")

    cancelled = await document(fleet, "cancel", run_id)
    await document(fleet, "watch", run_id)
    again, shown = await document(fleet, "cancel", run_id), await flujo(fleet, "show", run_id)

    assert cancelled == {"run_id": run_id, "cancelled": True}
    assert again == {"run_id": run_id, "cancelled": False}
    assert "cancelled" in shown.stdout
    assert "– held  stopped" in shown.stdout


async def test_runs_lists_those_under_way_first(fleet: Fleet, client: AsyncFlujoClient) -> None:
    ended, held = fresh(), fresh()
    await (await client.submit("digest", {"url": "abc"}, run_id=ended)).result(60)
    await client.submit("holding", held, run_id=held)

    rows = (await document(fleet, "runs"))["runs"]
    plain = (await flujo(fleet, "runs")).stdout
    fleet.open_gate(held)

    by_id = {row["run_id"]: row for row in rows}
    places = [row["run_id"] for row in rows]
    assert places.index(held) < places.index(ended)
    assert (by_id[ended]["steps_committed"], by_id[ended]["steps"], by_id[ended]["tokens"]) == (4, 4, 9)
    assert (by_id[held]["status"], by_id[held]["steps"], by_id[held]["unmanaged"]) == ("running", 2, False)
    assert ended in plain
    assert "4/4" in plain


async def test_doctor_finds_a_whole_fleet_healthy(fleet: Fleet) -> None:
    found = await document(fleet, "doctor")

    assert found["healthy"] is True
    assert {finding["subject"] for finding in found["findings"]} >= {"redis", "broker", "managers", "workers"}


async def test_a_killed_manager_leaves_its_runs_unmanaged_until_another_comes(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_own_fleet("unmanaged")
    manager = fleet.manager()
    fleet.worker()
    await fleet.ready(1)
    run_id = fresh()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await published(fleet, client)
        await client.submit("holding", run_id, run_id=run_id)
        await fleet.until(lambda: fleet.entries(run_id=run_id, kind="started"), "the first step runs")
        manager.kill()
        await asyncio.to_thread(manager.wait)

        async def unmanaged() -> bool:
            return bool((await document(fleet, "show", run_id))["summary"]["unmanaged"])

        await fleet.until(unmanaged, "the run is unmanaged")
        listed, sick = await flujo(fleet, "runs"), await document(fleet, "doctor", code=1)
        fleet.manager()
        fleet.open_gate(run_id)
        result = await client.run(run_id).result(60)

    assert "unmanaged" in listed.stdout
    assert next(f for f in sick["findings"] if f["subject"] == "managers")["verdict"] == "fault"
    assert result.output == f"after {run_id}"


async def test_doctor_says_which_step_no_worker_has(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("missing")
    fleet.manager()
    worker = fleet.worker()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await published(fleet, client)
        worker.terminate()
        await asyncio.to_thread(worker.wait, 30)
        fleet.worker(FLUJO_PIPELINES="examples.digest")
        await client.submit("chain", 1, run_id=(run_id := fresh()))

        async def missing() -> list[str]:
            done = await flujo(fleet, "doctor", "--json")
            findings = json.loads(done.stdout.splitlines()[-1])["findings"]
            return [finding["text"] for finding in findings if finding["subject"] == "steps"]

        texts = await fleet.until(missing, "the doctor misses the step")
        shown = await flujo(fleet, "show", run_id)

    assert "increment" in texts[0]
    assert "waiting: no worker has" in shown.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_manager_that_is_told_to_stop_leaves_at_once(make_own_fleet: Callable[..., Fleet], number: int) -> None:
    fleet = make_own_fleet(f"stopping{number}")
    manager = fleet.manager()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        key = client.keyspace.shard("managers")

        async def alive() -> bool:
            return bool(await client.client.zcard(key))

        await fleet.until(alive, "the manager is announced")
        manager.send_signal(number)
        code = await asyncio.to_thread(manager.wait, 30)

        assert code == 0
        assert not await client.client.zcard(key)
    assert "Traceback" not in fleet.logs()


async def test_a_worker_is_celery_itself_and_ends_on_sigterm(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("worker")
    worker = fleet.worker("--pipelines", "tests.integration.pipelines", "--concurrency", "3", FLUJO_PIPELINES="")
    await fleet.ready(1)

    worker.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(worker.wait, 30)

    assert code == 0
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        assert not await client.client.zcard(client.keyspace.shard("incarnations"))


@pytest.mark.parametrize("command", ["manager", "worker"])
async def test_a_service_without_redis_says_so_in_one_line(fleet: Fleet, command: str) -> None:
    done = await flujo(fleet, command, FLUJO_URL="redis://127.0.0.1:1/0")

    assert done.returncode == 1
    assert "redis://127.0.0.1:1/0 does not answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_a_worker_without_its_module_says_so_in_one_line(fleet: Fleet) -> None:
    done = await flujo(fleet, "worker", "--pipelines", "tests.integration.pipelines,no_package.no_module")

    assert done.returncode == 1
    assert "no_package.no_module" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_a_worker_whose_module_is_broken_does_not_serve_without_it(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_there")

    done = await flujo(fleet, "worker", "--pipelines", "broken", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")

    assert done.returncode == 1
    assert "Module 'broken' cannot be imported: No module named 'nothing_there'" in done.stderr.splitlines()[-1]


async def test_a_worker_does_not_serve_without_a_module_in_which_a_library_raises_its_own(
    fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text("class Odd(Exception): pass\nraise Odd('by a library')")

    worker = fleet.worker("--pipelines", "odd", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")

    assert await asyncio.to_thread(worker.wait, 60) == 1
    assert fleet.log_of(worker).splitlines()[-1] == "odd.Odd: by a library"


async def test_up_ends_with_the_reason_where_its_workers_cannot_start(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_there")
    path = f"{tmp_path}{os.pathsep}{ROOT}"

    done = await flujo(fleet, "up", "broken", "--no-flower", "--data-dir", str(tmp_path / "data"), PYTHONPATH=path)

    assert done.returncode == 1
    assert "Module 'broken' cannot be imported: No module named 'nothing_there'" in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) < 12


async def test_celerys_own_command_refuses_a_redis_that_evicts(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("evicting", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "celery", "-A", "flujo_worker.app", "worker"],
        env=fleet.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "Set maxmemory-policy noeviction." in done.stderr.splitlines()[-1]
