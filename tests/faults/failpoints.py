"""F4: a process dies at every place between two effects. A round is one role, one place and one kind of node."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from celery import Celery

from flujo_client.protocol.queues import SUBMIT_QUEUE, broker_queue
from flujo_client.protocol.results import RunStatus
from tests.faults.deed_rounds import die_over_a_slab, do_a_deed
from tests.faults.deeds import PERSON, define_account
from tests.faults.kinds import ACCOUNT, MORE_KINDS
from tests.faults.oracle import Given
from tests.faults.rounds import Round
from tests.faults.workload import FAR, KINDS, LIMIT, now_ms

__all__ = ["EFFECTS", "SWEPT_KINDS", "die_at_a_place", "places", "round_of"]

#: Pipelines that have, together, every kind of node.
SWEPT_KINDS = (*KINDS, *MORE_KINDS)

#: Kinds with functions of their own, that a worker calls in a control step.
_CONTROLLED = ("lap", "choice", "hopping")

_PLAIN = ("relay",)

#: What each role does on the way of a run, and while it mends what others left: the effects before and after which it dies, and
#: the pipelines with which.
EFFECTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "worker": {
        **dict.fromkeys(("publish_spec", "register", "renew"), _PLAIN),
        **dict.fromkeys(("message", "reserve", "body", "commit"), SWEPT_KINDS),
        "control": _CONTROLLED,
        "stash": ("spread",),
        **dict.fromkeys(("cache_look", "cache_store"), ("keeping",)),
        **dict.fromkeys(("extend", "emit"), ("talk",)),
        "learn": ("learning",),
        "hold_back": ("drawing",),
        "decline": _PLAIN,
        "leave": ("clinging",),
        "refuse_run": _PLAIN,
    },
    "manager": {
        **dict.fromkeys(("register", "sweep", "retire_specs"), _PLAIN),
        **dict.fromkeys(("load_run", "advance", "publish", "finish", "redispatch"), SWEPT_KINDS),
        "ring": ("expiring",),
        "call_waiters": ("drawing",),
    },
    # Nothing is decided ahead of branches that run at once.
    "seer": {"look_ahead": ("relay", "lap", "choice")},
    "loser": dict.fromkeys(("note_messages", "note_empty", "look_later"), _PLAIN),
    "mender": dict.fromkeys(("lose", "bury", "adopt", "forget_manager", "wake_owner", "bound_inbox"), _PLAIN),
    "late": {"forget_deadline": _PLAIN},
    "mover": dict.fromkeys(("offer_slab", "lend_slab", "take_slab"), ("drawing",)),
    "client": {
        **dict.fromkeys(("create_run", "cancel", "restore"), _PLAIN),
        "resume": ("asking",),
        "revive": ("behind",),
        "keep_spec": _PLAIN,
    },
    "operator": dict.fromkeys(("define_account", "drop_account", "hold_back"), ("drawing",)),
}

#: Effects that a process has once, whatever the run.
_ONCE = ("publish_spec", "register", "retire_specs", "leave", "refuse_run")


def places() -> list[tuple[str, str, str]]:
    """Every round of the sweep: role, place and pipeline."""
    return [
        (role, f"{moment}:{effect}", kind)
        for role, effects in EFFECTS.items()
        for effect, kinds in effects.items()
        for moment in ("before", "after")
        for kind in kinds
    ]


def round_of(seed: int) -> tuple[str, str, str]:
    """The round that a seed stands for; all of them are in the first `len(places())` seeds."""
    rounds = places()
    return rounds[seed % len(rounds)]


async def die_at_a_place(this: Round) -> None:
    """A worker or a manager dies when it passes its place for a seeded time, so at any of a run's nodes."""
    role, place, kind = round_of(this.seed)
    effect = place.partition(":")[2]
    if role in ("worker", "manager") and effect not in _ONCE:
        place = f"{place}#{this.chance.randrange(1, 5)}"
    this.how = f"{role} {place} {kind}"
    if "drawing" in kind and role in ("worker", "manager"):
        await define_account(this.client, "", ACCOUNT)
    await _ROLES[role](this, place, kind)


async def _worker(this: Round, place: str, kind: str) -> None:
    spoilt = {"FLUJO_PIPELINES": "examples.digest"} if "decline" in place else {}
    if "leave" in place:
        spoilt["FLUJO_SHUTDOWN_GRACE_S"] = "0.2"
    doomed = this.arena.worker(FAR, FLUJO_FAILPOINT=place, **spoilt)
    this.excused.add(doomed.pid)
    await this.until(
        lambda: doomed.poll() is not None or " ready." in this.arena.fleet.log_of(doomed), "the worker takes messages"
    )
    if "leave" in place:
        await _cling(this, doomed)
    elif "refuse_run" in place:
        await _submit_in_vain(this, doomed)
    else:
        await _feed_until_dead(this, doomed, kind)
    this.deaths[doomed.pid] = now_ms()
    this.kills += 1


async def _cling(this: Round, doomed: subprocess.Popen[bytes]) -> None:
    """Told to end under a body that nothing stops."""

    async def holds() -> bool:
        if not this.entries(kind="started", pid=doomed.pid):
            await _feed(this, "clinging")
            await asyncio.sleep(0.1)
        return bool(this.entries(kind="started", pid=doomed.pid))

    await this.until(holds, "the worker has a step")
    doomed.terminate()
    await _until_dead(this, doomed)
    for run_id in this.inputs:
        this.arena.fleet.open_gate(run_id)


async def _submit_in_vain(this: Round, doomed: subprocess.Popen[bytes]) -> None:
    """By bare Celery, which on Redis is sent again if nobody answers: the refusal is stored, once."""
    name, sent = broker_queue(this.arena.broker.namespace, SUBMIT_QUEUE), list[str]()

    def send(task_id: str) -> None:
        with Celery(broker=this.arena.broker.url) as app:
            kwargs = {"pipeline": "nobody has it", "run_id": task_id}
            app.send_task("flujo.submit", kwargs=kwargs, task_id=task_id, queue=name, ignore_result=True)

    async def dead() -> bool:
        if doomed.poll() is None:
            sent.append(f"{this.name}-{len(sent)}")
            await asyncio.to_thread(send, sent[-1])
        await asyncio.sleep(0.1)
        return doomed.poll() is not None

    await this.until(dead, f"F4 a process comes by {this.how}")
    for task_id in sent:
        await asyncio.to_thread(send, task_id)

    async def refused() -> bool:
        return all([await this.client.client.exists(this.client.keyspace.run(task_id).run) for task_id in sent])

    await this.until(refused, "every refusal is stored")
    for task_id in sent:
        if await this.client.run(task_id).status() is not RunStatus.FAILED:
            this.violations.append(f"I1 {task_id} was refused, and has not failed")


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
            await _lose_dispatches(this, kind)
        await _feed_until_dead(this, doomed, kind)
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
            await _feed(this, kind)
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


async def _lose_dispatches(this: Round, kind: str) -> None:
    """Lose messages for certain: while no worker runs they lie in their queue, but for those whose delivery was asked for."""
    with _workers_stopped(this):
        for _ in range(10):
            await _feed(this, kind)
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


async def _feed_until_dead(this: Round, doomed: subprocess.Popen[bytes], kind: str) -> None:
    """Submit runs until the process has come by its place; then answer what is asked."""

    async def dead() -> bool:
        if doomed.poll() is None and len(this.inputs) < 40:
            await _feed(this, kind)
        await asyncio.sleep(0.1)
        return doomed.poll() is not None

    await this.until(dead, f"F4 a process comes by {this.how}")
    _check_end(this, doomed)
    for run_id in list(this.inputs)[1::2] if kind == "asking" else ():
        await _answer(this, run_id)


async def _until_dead(this: Round, doomed: subprocess.Popen[bytes]) -> None:
    await this.until(lambda: doomed.poll() is not None, f"F4 a process comes by {this.how}")
    _check_end(this, doomed)


def _check_end(this: Round, doomed: subprocess.Popen[bytes]) -> None:
    if doomed.returncode != -signal.SIGKILL:
        this.violations.append(f"F4 {this.how}: it ended with {doomed.returncode}")


async def _feed(this: Round, kind: str) -> None:
    """Submit a run; every second question is answered at once, even before it is asked."""
    number = len(this.inputs)
    run_id, pipeline, value = f"{this.name}-{number}", f"{kind}_{FAR}", {"pace_ms": 1 + number % 3}
    this.inputs[run_id] = pipeline, value
    await this.client.submit(pipeline, value, run_id=run_id, usage_limits=LIMIT)
    if kind == "asking" and number % 2 == 0:
        await _answer(this, run_id)


async def _answer(this: Round, run_id: str) -> None:
    await this.client.run(run_id).resume({"by": PERSON}, token="1")
    this.given.append(Given(run_id, PERSON, accepted=True))


_ROLES: Mapping[str, Callable[[Round, str, str], Awaitable[None]]] = {
    "worker": _worker,
    "manager": _manager,
    "seer": _seer,
    "loser": _loser,
    "mender": _mender,
    "late": _late,
    "mover": die_over_a_slab,
    "client": do_a_deed,
    "operator": do_a_deed,
}
