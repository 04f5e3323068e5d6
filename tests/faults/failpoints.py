"""F4: a process dies at every place between two effects. A round is one role, one place and one kind of node."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.rounds import LIMIT, Round
from tests.faults.workload import FAR, KINDS, now_ms

__all__ = ["PLACES", "die_at_a_place", "places", "round_of"]


def _both(*effects: str) -> list[str]:
    return [f"{moment}:{effect}" for effect in effects for moment in ("before", "after")]


#: The places that each role passes on the way of a run, and while it mends what others left.
PLACES: dict[str, list[str]] = {
    "worker": _both("publish_spec", "register", "renew", "message", "reserve", "body", "commit"),
    "talker": _both("extend", "emit"),
    "stranger": _both("decline"),
    "manager": _both("register", "load_run", "advance", "publish", "finish", "sweep", "redispatch"),
    "seer": _both("look_ahead"),
    "loser": _both("note_messages", "note_empty", "look_later"),
    "mender": _both("lose", "bury", "adopt", "forget_manager", "wake_owner", "bound_inbox"),
    "late": _both("forget_deadline"),
    "client": _both("create_run", "cancel"),
}

#: Scripts without a place in the sweep, and why.
UNSWEPT = {
    "cache_look": "a right to make a result that its lease ends, or nothing; a retry finds its own",
    "cache_store": "a result that may be made again; the commit after it is swept",
    "call_waiters": "what it calls stands in the journal as any dispatch does, and the next sweep calls the others",
    "define_account": "one command of an operator; sent again it defines the same",
    "drop_account": "one command of an operator; sent again it finds nothing",
    "hold_back": "a provider's word, which its next answer says again",
    "lend_slab": "a transfer between shards, which the next look goes on with; tests/lua/test_slabs.py dies at each place of it",
    "offer_slab": "as lend_slab",
    "take_slab": "as lend_slab",
    "refuse_run": "the end of a submission that came to nothing; its message is given back until it is stored",
    "ring": "one alarm, rung again by the next sweep if this one dies before it",
    "keep_spec": "a spec without a run, which goes after an hour; the script after it is swept",
    "retire_specs": "what nobody needs, found again by the next look",
    "learn": "one example of many from which estimates are learned; one more or less changes little",
    "leave": "the process is about to end by itself; the tests of shutdown end it",
    "restore": "one command of somebody who forks a run; sent again it finds the new run",
    "revive": "one command of an operator, stored once by whoever sends it again",
    "stash": "items that lie unread until the commit after it, which is swept; a retry writes them again",
    "resume": "one command of a client, stored once by whoever sends it again; the tests of pauses race it",
}

#: Places that only the start of a process passes: whatever the run.
_AT_START = {*_both("publish_spec", "register")}

SUBMIT = """
import asyncio, sys
from flujo_client import AsyncFlujoClient, UsageLimits

async def main():
    async with AsyncFlujoClient() as client:
        limit = UsageLimits(total_tokens_limit=int(sys.argv[3]))
        run = await client.submit(sys.argv[1], {}, run_id=sys.argv[2], usage_limits=limit)
        await run.cancel()

asyncio.run(main())
"""


def places() -> list[tuple[str, str, str]]:
    """Every round of the sweep: role, place and kind. Nothing is decided ahead of branches that run at once."""
    found = []
    for role, names in PLACES.items():
        for place in names:
            any_kind = place in _AT_START or role not in ("worker", "manager", "seer")
            kinds = KINDS[:1] if any_kind else KINDS
            found += [(role, place, kind) for kind in kinds if (role, kind) != ("seer", "fork")]
    return found


def round_of(seed: int) -> tuple[str, str, str]:
    """The round that a seed stands for; all of them are in the first `len(places())` seeds."""
    rounds = places()
    return rounds[seed % len(rounds)]


async def die_at_a_place(this: Round) -> None:
    role, place, kind = round_of(this.seed)
    this.how = f"{role} {place} {kind}"
    roles = {"manager": _manager, "seer": _seer, "loser": _loser, "mender": _mender, "late": _late, "client": _client}
    await roles.get(role, _worker)(this, place, {"talker": "talk"}.get(role, kind))


async def _worker(this: Round, place: str, kind: str) -> None:
    lacks_the_step = {"FLUJO_PIPELINES": "examples.digest"} if "decline" in place else {}
    doomed = this.arena.worker(FAR, FLUJO_FAILPOINT=place, **lacks_the_step)
    this.excused.add(doomed.pid)
    await this.until(
        lambda: doomed.poll() is not None or " ready." in this.arena.fleet.log_of(doomed), "the worker takes messages"
    )
    await _feed_until_dead(this, doomed, f"{kind}_{FAR}")
    this.deaths[doomed.pid] = now_ms()
    this.kills += 1


async def _manager(this: Round, place: str, kind: str) -> None:
    """The doomed one is alone, so that it comes by; the others start again once it is dead."""
    await _alone(this)
    before = await _managers(this)
    with _doomed_manager(this, place) as doomed:
        if "register" in place:  # a manager announces itself with its sweep, and registers only to leave

            async def announced() -> bool:
                return bool(await _managers(this) - before)

            await this.until(announced, "the manager is at work")
            doomed.terminate()
        elif "redispatch" in place:
            await _lose_dispatches(this, f"{kind}_{FAR}")
        await _feed_until_dead(this, doomed, f"{kind}_{FAR}")
    await this.arena.make_whole(this.client)


async def _mender(this: Round, place: str, kind: str) -> None:
    """A worker, or a calling manager, dies; and then the manager that mends what it left."""
    await this.load(held=3, free=0)
    await _alone(this)
    deaf = "wake_owner" in place or "bound_inbox" in place
    if deaf:  # the owner lives, but hears nothing
        await _owned_by_caller(this, now_ms() + 60_000)
        this.open_gates()
    elif "adopt" in place:
        await _owned_by_caller(this, 1)
    else:
        this.kill(this.victim())
    await _until_it_dies(this, place)
    if deaf:
        await _owned_by_caller(this, 1)
    await this.arena.make_whole(this.client)


async def _owned_by_caller(this: Round, alive_until_ms: int) -> None:
    """Runs as a caller's manager has them, or as it leaves them when it is killed."""
    key = this.client.keyspace
    for run_id in this.inputs:
        await this.client.client.hset(key.run(run_id).run, "owner", "caller")
        await this.client.client.smove(key.owned("pool", 0), key.owned("caller", 0), run_id)
    await this.client.client.zadd(key.shard("managers"), {"caller": alive_until_ms})


async def _seer(this: Round, place: str, kind: str) -> None:
    """A manager decides ahead only where a commit can publish what follows."""
    if this.arena.broker.kind != "beside":
        this.violations.append(f"F4 {this.how}: play this round with messages beside the runs")
        return
    await _manager(this, place, kind)


async def _loser(this: Round, place: str, kind: str) -> None:
    """The sweep looks at dispatches that nobody leases: their messages lie in the queue, or are lost."""
    await _alone(this)
    with _doomed_manager(this, place) as doomed, _workers_stopped(this):
        for _ in range(10):
            await _feed(this, f"{kind}_{FAR}")
        await this.until(lambda: this.arena.broker.waiting(FAR), "messages wait for the stopped workers")
        if "note_messages" not in place:
            await this.lose_messages()
        await this.until(lambda: doomed.poll() is not None, f"the manager dies at {place}")
    await this.arena.make_whole(this.client)


async def _late(this: Round, place: str, kind: str) -> None:
    """A run is held past its deadline."""
    run_id, pipeline, value = f"{this.name}-0", f"{kind}_{FAR}", {"hold_at": 1, "billed_first": True}
    this.inputs[run_id] = pipeline, value
    this.ends = ("cancelled",)
    await this.client.submit(pipeline, value, run_id=run_id, usage_limits=LIMIT, deadline_s=5)
    await this.until(lambda: this.holders(run_id), "the run is held")
    await _alone(this)
    await _until_it_dies(this, place)
    await this.arena.make_whole(this.client)


async def _until_it_dies(this: Round, place: str) -> None:
    with _doomed_manager(this, place) as doomed:
        await this.until(lambda: doomed.poll() is not None, f"the manager dies at {place}")


async def _client(this: Round, place: str, kind: str) -> None:
    """The caller submits again what it does not know the fate of."""
    run_id = f"{this.name}-0"
    this.inputs[run_id] = f"{kind}_{FAR}", {}
    words = ["-c", SUBMIT, f"{kind}_{FAR}", run_id, str(LIMIT.total_tokens_limit)]
    doomed = this.arena.fleet.start_process(*words, name="client", FLUJO_FAILPOINT=place)
    await this.until(lambda: doomed.poll() is not None, f"the client dies at {place}")
    this.submit_again = True
    this.ends = ("completed", "cancelled")
    if doomed.returncode != -9:
        this.violations.append(f"F4 the client did not come by {place}")


@contextmanager
def _doomed_manager(this: Round, place: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that does not die is no part of the next round: it would do what the manager of that round is to die at."""
    doomed = this.arena.fleet.manager(FLUJO_FAILPOINT=place)
    try:
        yield doomed
        this.kills += 1
    finally:
        if doomed.poll() is None:
            doomed.kill()
            doomed.wait()


async def _managers(this: Round) -> set[bytes]:
    """All that are announced; the dead as well, until they are buried."""
    return set(await this.client.client.zrange(this.client.keyspace.shard("managers"), 0, -1))


async def _lose_dispatches(this: Round, pipeline: str) -> None:
    """Lose messages for certain: while no worker runs they lie in their queue, but for those whose delivery was asked for."""
    with _workers_stopped(this):
        for _ in range(10):
            await _feed(this, pipeline)
        await this.until(lambda: this.arena.broker.waiting(FAR), "messages wait for the stopped workers")
        await this.lose_messages()


@contextmanager
def _workers_stopped(this: Round) -> Iterator[None]:
    stopped = [worker.pid for worker in this.arena.workers]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    this.paused.update(stopped)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


async def _alone(this: Round) -> None:
    this.unmanaged = True
    for manager in this.arena.managers:
        manager.kill()
        await asyncio.to_thread(manager.wait)


async def _feed_until_dead(this: Round, doomed: subprocess.Popen[bytes], pipeline: str) -> None:
    """Submit runs until the process has come by its place."""

    async def dead() -> bool:
        if doomed.poll() is None and len(this.inputs) < 40:
            await _feed(this, pipeline)
        await asyncio.sleep(0.1)
        return doomed.poll() is not None

    await this.until(dead, f"F4 a process comes by {this.how}")
    if doomed.returncode != -9:
        this.violations.append(f"F4 {this.how}: it ended with {doomed.returncode}")


async def _feed(this: Round, pipeline: str) -> None:
    run_id = f"{this.name}-{len(this.inputs)}"
    this.inputs[run_id] = pipeline, {"pace_ms": 1}
    await this.client.submit(pipeline, {"pace_ms": 1}, run_id=run_id, usage_limits=LIMIT)
