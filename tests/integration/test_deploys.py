"""Deploys: runs pinned to what they started with, workers of several releases, and forks of what was paid."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from flujo_client import AsyncFlujoClient, RunNotFoundError, RunStatus, UnknownPipelineError, UsageLimits
from flujo_client.audit import Auditor
from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.submission import submit_run
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.integration.test_cli import flujo

MODULE = "tests.integration.deploys"

#: Of each release, so that each worker is sent what only the other one has.
RUNS_EACH = 10


@pytest.fixture(scope="module")
def deploys(make_fleet: Callable[..., Fleet]) -> Fleet:
    """A manager, and both releases published; the workers come and go."""
    made = make_fleet("deploys", FLUJO_PIPELINES=MODULE)
    made.manager()
    return made


async def only(fleet: Fleet, client: AsyncFlujoClient, release: str) -> subprocess.Popen[bytes]:
    """Have one worker alive, of this release."""
    for process in list(fleet.processes.values())[1:]:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)
    await fleet.until(lambda: _gone(client), "the old workers are gone")
    worker = fleet.worker(DEPLOY=release)
    await fleet.until(lambda: _advertised(client), "the new worker says what it has")
    return worker


async def _gone(client: AsyncFlujoClient) -> bool:
    return not await client.client.zcard(client.keyspace.shard("incarnations"))


async def _advertised(client: AsyncFlujoClient) -> bool:
    alive = await client.client.zrange(client.keyspace.shard("incarnations"), 0, -1)
    said = await client.client.hkeys(client.keyspace.shard("capabilities"))
    return bool(alive) and set(alive) <= set(said)


async def json_of(fleet: Fleet, *words: str, code: int) -> Any:
    done = await flujo(fleet, *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


async def test_a_run_whose_steps_nobody_has_any_more_waits_unpaid_and_says_for_what(deploys: Fleet) -> None:
    async with AsyncFlujoClient(settings=deploys.settings()) as client:
        await only(deploys, client, "old")
        await deploys.published(client, "deployed==1.0")
        old = await client.specs.by_name("deployed", "1.0")
        await only(deploys, client, "new")
        run_id = f"pinned-{uuid4().hex[:6]}"
        await submit_run(client.scripts, client.codec, old, "x", run_id=run_id, owner=POOL)
        key = client.keyspace.run(run_id).attempts
        await deploys.until(lambda: client.client.hget(key, "0|declined"), "the run is held")

        report = await json_of(deploys, "doctor", code=1)
        told = [finding["text"] for finding in report["findings"] if finding["subject"] == "steps"]
        assert told
        assert "score (tests.integration.deploys:score)" in told[0]
        shown = await json_of(deploys, "show", run_id, code=0)
        assert "tests.integration.deploys:score" in shown["nodes"][0]["declined"]
        assert deploys.entries(run_id=run_id) == []  # it did not pay for the step that it could still run

        await only(deploys, client, "old")
        result = await client.run(run_id).result(TIMEOUT_S)
        assert result.output == "x+collected+scored"


async def test_of_two_workers_only_the_one_that_has_a_step_runs_it_and_the_other_spends_nothing(deploys: Fleet) -> None:
    limits = UsageLimits(total_tokens_limit=100)
    async with AsyncFlujoClient(settings=deploys.settings()) as client:
        old = await only(deploys, client, "old")
        await deploys.published(client, "deployed==1.0")
        new = deploys.worker(DEPLOY="new")
        await deploys.published(client, "deployed==2.0")

        runs = {
            await client.submit("deployed", "x", version=version, usage_limits=limits): version
            for version in ("1.0", "2.0") * RUNS_EACH
        }
        results = {run.run_id: await run.result(TIMEOUT_S) for run in runs}
        declined = [await client.client.hget(client.keyspace.run(run.run_id).attempts, "1|declined") for run in runs]
        differences = [await Auditor(client.client, client.keyspace).audit(run_id) for run_id in results]

        old.kill()  # the pinned runs of the other release have nobody any more
        old.wait(30)
        await deploys.until(lambda: _alone(client), "its lease is over")
        held = await client.submit("deployed", "x", version="1.0", usage_limits=limits)
        key = client.keyspace.run(held.run_id).attempts
        await deploys.until(lambda: client.client.hget(key, "0|declined"), "the run is held")
        waits = await client.inspector.waits(held.run_id)
        shown = await client.inspector.snapshot(held.run_id)

    owners = {"1.0": old.pid, "2.0": new.pid}
    for run, version in runs.items():
        (second,) = deploys.entries(run_id=run.run_id, kind="bill", path="1")
        assert owners[version] in (second["pid"], second["parent"])
        assert [part.attempts for part in results[run.run_id].step_history] == [1, 1]
        assert results[run.run_id].usage == {"tokens": 4}  # 3 for what it says, 1 for the last text
    assert any(declined)  # some dispatches came to the worker that could not run them
    assert differences == [[]] * len(runs)
    assert [step.declined for step in waits.queued] == ["score (tests.integration.deploys:score)"]
    assert (shown.summary.status, shown.totals, deploys.entries(run_id=held.run_id)) == (RunStatus.RUNNING, {}, [])


async def _alone(client: AsyncFlujoClient) -> bool:
    return bool(await client.client.zcard(client.keyspace.shard("incarnations")) == 1)


async def test_a_run_under_way_keeps_its_release_and_new_ones_get_the_new(deploys: Fleet) -> None:
    async with AsyncFlujoClient(settings=deploys.settings()) as client:
        await only(deploys, client, "old")
        await deploys.published(client, "deployed==1.0")
        deploys.worker(DEPLOY="new")
        await deploys.published(client, "deployed==2.0")

        results = {
            version: await (await client.submit("deployed", "x", version=version)).result(TIMEOUT_S)
            for version in ("1.0", "2.0")
        }
        newest = await (await client.submit("deployed", "x")).result(TIMEOUT_S)
        with pytest.raises(UnknownPipelineError, match=r"deployed==3\.0"):
            await client.submit("deployed", "x", version="3.0")

    assert {version: result.output for version, result in results.items()} == {
        "1.0": "x+collected+scored",
        "2.0": "x+collected+ranked",
    }
    assert newest.output == "x+collected+ranked"


async def test_a_fork_uses_what_was_paid_and_goes_on_with_another_release(deploys: Fleet) -> None:
    limits = UsageLimits(total_tokens_limit=100)
    async with AsyncFlujoClient(settings=deploys.settings()) as client:
        await only(deploys, client, "old")
        await deploys.published(client, "deployed==1.0")
        deploys.worker(DEPLOY="new")
        await deploys.published(client, "deployed==2.0")
        first = await client.submit("deployed", "x", run_id="first", version="1.0", usage_limits=limits)
        await first.result(TIMEOUT_S)

        forked = await json_of(
            deploys,
            "fork",
            "first",
            "--from",
            "rank",
            "--pipeline",
            "deployed",
            "--version",
            "2.0",
            "--run-id",
            "second",
            code=0,
        )
        result = await client.run("second").result(TIMEOUT_S)
        again = await client.fork("first", "1", pipeline="deployed", version="2.0", new_run_id="second")
        accounts = await client.client.hgetall(client.keyspace.run("second").accounts)
        kinds = [event.kind async for event in client.run("second").events()]
        differences = await Auditor(client.client, client.keyspace).audit("second")
        with pytest.raises(RunNotFoundError):
            await client.fork("nobody", "0")

    assert forked == {"run_id": "second", "forked_from": "first"}
    assert (result.status, result.output) == (RunStatus.COMPLETED, "x+collected+ranked")
    assert [part.name for part in result.step_history] == ["collect", "rank"]
    assert again.run_id == "second"
    assert [entry["path"] for entry in deploys.entries(run_id="second", kind="bill")] == ["1"]
    assert [entry["path"] for entry in deploys.entries(run_id="first", kind="policy")] == ["0", "1"]
    assert result.usage == {"tokens": 4}  # 3 of the step that is used again, 1 for the text that the new one gave
    (account,) = read_accounts({name.decode(): value.decode() for name, value in accounts.items()})
    assert (account.granted, account.spent, account.reserved) == (100, 4, 0)
    assert differences == []
    assert (kinds.count(EventKind.CREATED), kinds.count(EventKind.SUCCEEDED)) == (1, 1)


async def test_a_fork_begins_inside_a_sub_pipeline(deploys: Fleet) -> None:
    async with AsyncFlujoClient(settings=deploys.settings()) as client:
        await only(deploys, client, "old")
        await deploys.published(client, "nested")
        first = await (await client.submit("nested", "x", run_id="whole")).result(TIMEOUT_S)

        fork = await client.fork("whole", "deepen_again", new_run_id="half")
        result = await fork.result(TIMEOUT_S)

    assert result.output == first.output == "x+collected+deepened 1+deepened 2+collected"
    assert [entry["path"] for entry in deploys.entries(run_id="half", kind="bill")] == ["1.0.1", "1.0.2"]
    assert result.usage == first.usage == {"tokens": 12}


async def test_workers_that_left_are_forgotten(deploys: Fleet) -> None:
    async with AsyncFlujoClient(settings=deploys.settings()) as client:
        await client.client.hset(client.keyspace.shard("capabilities"), "wdead", "digest")
        await only(deploys, client, "old")
        await deploys.published(client, "deployed==1.0")
        await (await client.submit("deployed", "x", version="1.0")).result(TIMEOUT_S)

        async def forgotten() -> bool:
            await (await client.submit("deployed", "x", version="1.0")).result(TIMEOUT_S)
            return not await client.client.hexists(client.keyspace.shard("capabilities"), "wdead")

        await deploys.until(forgotten, "the dead worker's field is gone")
