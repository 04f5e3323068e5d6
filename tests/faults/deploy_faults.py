"""F17: workers of two releases side by side, the old ones leave with runs under way, by SIGTERM or by SIGKILL."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

from tests.faults.releases import RELEASE_VARIABLE, STEPS
from tests.faults.rounds import Round
from tests.faults.workload import LIMIT

__all__ = ["DEPLOY_FAULTS"]


async def roll(this: Round) -> None:
    workers = [_worker(this, "1.0") for _ in range(2)]
    try:
        await this.arena.fleet.published(this.client, "released==1.0")
        await _submit(this, "1.0", held=3, free=3)
        workers += [_worker(this, "2.0") for _ in range(2)]
        await this.arena.fleet.published(this.client, "released==2.0")
        await _submit(this, "2.0", held=1, free=3)
        await this.until(lambda: all(this.entries(run_id=run_id) for run_id in this.held), "all that wait have begun")
        await _retire(this, workers[:2])
        this.open_gates()
        await this.until(lambda: _ended_or_named(this), "what goes on ends; the rest names what it lacks")
        workers.append(_worker(this, "1.0"))
        await this.all_end()
    finally:
        await _stop(workers)
    for run_id, version in this.versions.items():
        said = [entry["function"] for entry in this.entries(run_id=run_id, kind="started")]
        pinned = STEPS[version] if "retyped" not in run_id else ("weigh", "close")
        if not set(said) <= set(pinned):
            this.violations.append(f"I12 {run_id} began with {version} and ran {said}")


def _worker(this: Round, release: str) -> subprocess.Popen[bytes]:
    environment = {
        RELEASE_VARIABLE: release,
        "FLUJO_PIPELINES": "tests.faults.releases",
        "FLUJO_SHUTDOWN_GRACE_S": "0.5",
    }
    worker = this.arena.worker("released", **environment)
    this.excused.add(worker.pid)  # what it has in hand when it leaves runs again
    return worker


async def _submit(this: Round, version: str, *, held: int, free: int) -> None:
    for number in range(held + free):
        run_id = f"{this.name}-{version}-{number}"
        value: dict[str, Any] = {"pace_ms": this.chance.randrange(1, 40)}
        if number < held:
            value["hold_at"] = this.chance.randrange(0, 4)
        await _send(this, run_id, "released", version, value)
    for number in range(2):
        run_id = f"{this.name}-{version}-retyped-{number}"
        this.ends_of[run_id] = ("completed", "failed")
        await _send(this, run_id, "retyped", version, {"pace_ms": this.chance.randrange(1, 200)})


async def _send(this: Round, run_id: str, pipeline: str, version: str, value: dict[str, Any]) -> None:
    this.inputs[run_id], this.versions[run_id] = (pipeline, value), version
    await this.client.submit(pipeline, value, run_id=run_id, version=version, usage_limits=LIMIT)


async def _retire(this: Round, workers: list[subprocess.Popen[bytes]]) -> None:
    """The old workers leave one after the other."""
    this.how = how = this.chance.choice(("SIGTERM", "SIGKILL"))
    for worker in workers:
        await asyncio.sleep(this.chance.random() * 0.3)
        if how == "SIGKILL":
            this.kill(worker.pid)
        else:
            worker.terminate()
            await asyncio.to_thread(worker.wait)
    this.deaths.clear()  # what they had waits for a worker of their release: nothing to be timed


async def _ended_or_named(this: Round) -> bool:
    """Whether each run has ended, or waits for a function that its record names."""
    for run_id in this.inputs:
        keys = this.client.keyspace.run(run_id)
        if await this.client.client.hexists(keys.run, "final"):
            continue
        fields = await this.client.client.hgetall(keys.attempts)
        if not any(name.endswith(b"|declined") and b"releases:" in value for name, value in fields.items()):
            return False
    return True


async def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    for worker in workers:
        await asyncio.to_thread(worker.wait)


DEPLOY_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F17": ("old and new workers mixed; steps added, removed, renamed and retyped under runs", roll),
}
