"""Rounds of the sweep over deeds of clients and operators, which are done again; and over accounts that two shards share."""

from __future__ import annotations

import signal
import subprocess
from itertools import count

from flujo_client import AsyncFlujoClient, RunStatus
from flujo_client.account_audit import AccountAuditor
from tests.faults.deeds import DEEDS, PERSON, define_account, drop_account
from tests.faults.kinds import ACCOUNT
from tests.faults.oracle import Excuses, Given, judge_run, read_story
from tests.faults.rounds import Round
from tests.faults.workload import FAR, LIMIT

__all__ = ["die_over_a_slab", "do_a_deed"]

#: Runs of a round that two shards share.
_SHARED_RUNS = 6


async def do_a_deed(this: Round, place: str, kind: str) -> None:
    """A process dies over its deed; whoever does not know what became of it does it again."""
    _, _, name = place.partition(":")
    subject = ACCOUNT if kind == "drawing" else f"{this.name}-0"
    await _prepare(this, name, kind, subject)
    words = ["-m", "tests.faults.deeds", name, f"{kind}_{FAR}", subject]
    doomed = this.arena.fleet.start_process(*words, name="deed", FLUJO_FAILPOINT=place)
    await this.until(lambda: doomed.poll() is not None, f"the process dies at {place}")
    this.kills += 1
    if doomed.returncode != -signal.SIGKILL:
        this.violations.append(
            f"F4 {this.how}: it ended with {doomed.returncode}: {this.arena.fleet.log_of(doomed)[-300:]}"
        )
    await DEEDS[name](this.client, f"{kind}_{FAR}", subject)
    await _look_after(this, name, subject)


async def _prepare(this: Round, deed: str, kind: str, subject: str) -> None:
    if subject == ACCOUNT:
        await (drop_account if deed == "define_account" else define_account)(this.client, "", ACCOUNT)
        return
    this.inputs[subject] = (subject if deed == "keep_spec" else f"{kind}_{FAR}"), {}
    if deed == "cancel":
        this.ends = ("completed", "cancelled")
    elif deed in ("resume", "restore", "revive"):
        value = {"hold_at": 1, "billed_first": True} if deed == "revive" else {}
        this.inputs[subject] = f"{kind}_{FAR}", value
        run = await this.client.submit(f"{kind}_{FAR}", value, run_id=subject, usage_limits=LIMIT)
        if deed == "restore":
            await run.result(40)
        elif deed == "revive":
            await this.until(lambda: len(this.entries(kind="bill", run_id=subject)) == 3, "the background step is held")
        else:

            async def asked() -> bool:
                return bool(await run.pauses())

            await this.until(asked, "it asks")


async def _look_after(this: Round, deed: str, subject: str) -> None:
    """What the deed was for has happened, once."""
    if deed == "resume":
        this.given.append(Given(subject, PERSON, accepted=True))
    elif deed == "revive":
        this.open_gates()
        result = await this.client.run(subject).result(40)
        (task,) = await this.client.run(subject).background_tasks()
        if (result.status, task.status) != (RunStatus.COMPLETED, "cancelled"):
            this.violations.append(f"I1 {subject} is {result.status}, its background step {task.status}")
    elif deed == "restore":
        result = await this.client.run(f"{subject}-fork").result(40)
        first = [
            entry for entry in this.ledger.entries() if (entry["run_id"], entry["path"]) == (f"{subject}-fork", "0")
        ]
        if result.status is not RunStatus.COMPLETED or first:
            this.violations.append(f"I1 the fork is {result.status}, and ran what was paid for: {first}")
    elif deed in ("define_account", "drop_account", "hold_back"):
        known = await this.client.accounts.names()
        if (ACCOUNT in known) != (deed != "drop_account"):
            this.violations.append(f"I7 after {deed} there are the accounts {known}")
        if deed == "hold_back" and not (await this.client.accounts.status(ACCOUNT)).held_back_ms:
            this.violations.append("I7 the account is not held back")


async def die_over_a_slab(this: Round, place: str, kind: str) -> None:
    """A namespace of two shards: its manager dies over a transfer between them, and another goes on."""
    shared = {"FLUJO_NAMESPACE": "shared", "FLUJO_SHARDS": "2"}
    fleet = this.arena.fleet
    started = [this.arena.worker(FAR, **shared)]
    settings = fleet.settings().model_copy(update={"namespace": "shared", "shards": 2})
    async with AsyncFlujoClient(settings=settings) as client:
        try:
            await fleet.published(client, f"{kind}_{FAR}")
            await define_account(client, "", ACCOUNT)
            doomed = fleet.manager(FLUJO_FAILPOINT=place, **shared)
            started.append(doomed)
            names = [await _submit(client, f"{this.name}-{number}", number % 2, kind) for number in range(_SHARED_RUNS)]
            await this.until(lambda: doomed.poll() is not None, f"the manager dies at {place}")
            if doomed.returncode != -signal.SIGKILL:
                this.violations.append(f"F4 {this.how}: it ended with {doomed.returncode}")
            this.kills += 1
            started.append(fleet.manager(**shared))
            await _judge_shared(this, client, names)
        finally:
            _end(started)


async def _submit(client: AsyncFlujoClient, prefix: str, shard: int, kind: str) -> str:
    """A run on a shard."""
    run_id = next(name for n in count() if client.keyspace.shard_of(name := f"{prefix}-{n}") == shard)
    await client.submit(f"{kind}_{FAR}", {"pace_ms": 1}, run_id=run_id, usage_limits=LIMIT)
    return run_id


async def _judge_shared(this: Round, client: AsyncFlujoClient, names: list[str]) -> None:
    for run_id in names:
        await client.run(run_id).result(40)
        ledger = [entry for entry in this.ledger.entries() if entry["run_id"] == run_id]
        this.violations += judge_run(await read_story(client.client, client.keyspace, run_id), ledger, Excuses())

    async def free() -> bool:
        status = await client.accounts.status(ACCOUNT)
        return status.waiting == 0 and all(row.reserved == 0 for row in status.meters.values())

    await this.until(free, "the account holds nothing")
    this.violations += [f"I4 {told}" for told in await AccountAuditor(client.client, client.keyspace, 10**9).audit()]


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.kill()
        process.wait()
