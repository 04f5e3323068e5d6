"""The oracle: compares what Redis holds with a ledger that lies outside it, invariant by invariant.

It reads plain keys, not through the code under test, but for the rows of accounts, and returns what is wrong as lines that
begin with the invariant's name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.keys import POOL, Keyspace

#: Two clocks of one machine, read in whole ms by different processes.
_CLOCK_MS = 5

_PARTS = ("granted", "reserved", "spent", "unknown", "children")

#: A claim that was answered before a cancel may still be on its way to its body when the cancel is acknowledged.
_ON_ITS_WAY_MS = 2_000

#: What runs that have ended may have left on a shard: nothing, in each of these.
_EMPTY_WHEN_QUIET = ("dispatches", "published", "dirty", "active", "spec_runs")


@dataclass(frozen=True)
class Excuses:
    """What a fault may do to runs without breaking a promise.

    Attributes:
        pids: Processes that were killed, stopped or cut off: what they had started may run again.
        paused: Those among them that went on later, so that their bills may come after another's commit.
        tail_lost: Redis lost what it had not fsynced: whatever was in it may run, and be billed, again.
        failures: Attempts may fail by themselves.
    """

    pids: Collection[int] = ()
    paused: Collection[int] = ()
    tail_lost: bool = False
    failures: bool = False


@dataclass(frozen=True)
class Given:
    """What became of one person's answer to a question.

    Attributes:
        told: Why it was refused.
    """

    run_id: str
    by: str
    accepted: bool
    told: str = ""


@dataclass
class Story:
    """What Redis says of one run."""

    run_id: str
    record: dict[str, str]
    events: list[tuple[str, dict[str, str]]]
    accounts: dict[str, int]
    payloads: dict[str, bytes]
    attempts: dict[str, str] = field(default_factory=dict)
    commits: dict[str, tuple[str, int]] = field(default_factory=dict)


async def read_story(client: Any, keyspace: Keyspace, run_id: str) -> Story:
    """A run's records, all of one moment."""
    keys = keyspace.run(run_id)
    pipeline = client.pipeline(transaction=True)
    pipeline.hgetall(keys.run)
    pipeline.xrange(keys.events)
    pipeline.hgetall(keys.accounts)
    pipeline.hgetall(keys.payloads)
    pipeline.hgetall(keys.attempts)
    record, events, accounts, payloads, attempts = await pipeline.execute()
    return Story(
        run_id,
        _text(record),
        [(entry.decode(), _text(fields)) for entry, fields in events],
        parts_of(_text(accounts)),
        {name.decode(): payload for name, payload in payloads.items()},
        _text(attempts),
    )


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def parts_of(fields: Mapping[str, str]) -> dict[str, int]:
    """Every part of every account as `<account>|<meter>|<part>`, and what the run spent as `total|<meter>`."""
    found = {
        f"{row.account}|{row.meter}|{part}": int(getattr(row, part)) for row in read_accounts(fields) for part in _PARTS
    }
    return found | {name: int(value) for name, value in fields.items() if name.startswith("total|")}


def judge_run(
    story: Story, ledger: Sequence[dict[str, Any]], excuses: Excuses, *, ends: Collection[str] = ("completed",)
) -> list[str]:
    """What is wrong with a run that should have ended.

    Args:
        ledger: Of this run.
        ends: The statuses that it may end with.
    """
    told: list[str] = []
    if story.record.get("status") not in ends or "final" not in story.record:
        told.append(f"I1 {story.run_id} is {story.record.get('status', 'unknown')}, not one of {sorted(ends)}")
    told += _one_commit_a_step(story)
    told += _inputs_first(story, ledger, excuses)
    told += _no_run_without_reason(story, ledger, excuses)
    told += judge_accounts(story.accounts, story.run_id)
    told += _charged_what_was_billed(story, ledger, excuses)
    told += _stream_in_order(story)
    return told


def _one_commit_a_step(story: Story) -> Iterator[str]:
    story.commits.clear()
    for entry, fields in story.events:
        path = fields.get("path", "")
        if fields["kind"] != "succeeded":
            continue
        if path in story.commits:
            yield f"I2 {story.run_id} {path} was committed twice"
        story.commits[path] = fields["nonce"], int(entry.partition("-")[0])
    for path, (nonce, _) in story.commits.items():
        stored = story.payloads.get(f"out:{path}", b"")
        output = json.loads(stored[1:]) if "!" not in path and stored[:1] == b"j" else None
        if isinstance(output, dict) and output.get("maker") not in (None, [path, nonce]):
            yield f"I2 {story.run_id} {path} holds another attempt's output than the one committed"


def _inputs_first(story: Story, ledger: Sequence[dict[str, Any]], excuses: Excuses) -> Iterator[str]:
    for entry in ledger:
        if entry["kind"] != "started" or (excuses.tail_lost and not _is_committed(story, entry)):
            continue
        for path, nonce in entry.get("saw", ()):
            if not path:
                continue
            committed, at_ms = story.commits.get(path, ("", 0))
            if committed != nonce:
                yield f"I3 {story.run_id} {entry['path']} saw attempt {nonce} of {path}, which was not committed"
            elif at_ms > entry["at_ms"] + _CLOCK_MS:
                yield f"I3 {story.run_id} {entry['path']} started before {path} was committed"


def _is_committed(story: Story, entry: Mapping[str, Any]) -> bool:
    return bool(story.commits.get(entry["path"], ("", 0))[0] == entry["nonce"])


def _no_run_without_reason(story: Story, ledger: Sequence[dict[str, Any]], excuses: Excuses) -> Iterator[str]:
    started = {entry["nonce"]: entry["at_ms"] for entry in ledger if entry["kind"] == "started"}
    failed = {fields["nonce"] for _, fields in story.events if fields["kind"] == "failed"}
    if excuses.tail_lost:
        return
    for entry in ledger:
        if _is_committed(story, entry) or entry["path"] not in story.commits:
            continue
        committed_ms = story.commits[entry["path"]][1] + _CLOCK_MS
        if not (entry["pid"] in excuses.pids or (excuses.failures and entry["nonce"] in failed)):
            yield f"I2 {story.run_id} {entry['path']} ran again although its worker lived: {entry}"
        late = entry["at_ms"] > committed_ms
        begun = started.get(entry["nonce"], entry["at_ms"])
        if late and not (entry["kind"] == "bill" and begun <= committed_ms and entry["pid"] in excuses.paused):
            yield f"I6 {story.run_id} {entry['path']}: {entry['kind']} after its commit: {entry}"


def judge_accounts(accounts: Mapping[str, int], run_id: str) -> list[str]:
    """What is wrong with a run's accounts at one moment; every moment must pass."""
    told = []
    names = {name.rsplit("|", 1)[0] for name in accounts if name.endswith("|granted")}
    inside: Counter[str] = Counter()
    for name in sorted(names):
        parts = {part: accounts.get(f"{name}|{part}", 0) for part in _PARTS}
        free = parts["granted"] - sum(parts[part] for part in _PARTS[1:])
        if free < 0 or min(parts.values()) < 0:
            told.append(f"I4 {run_id} {name} does not add up: {parts}, free {free}")
        inside[_above(name, names)] += parts["granted"]
    for name in names:
        if inside[name] != accounts.get(f"{name}|children", 0):
            told.append(
                f"I4 {run_id} {name} has {accounts.get(f'{name}|children', 0)} for its children, not {inside[name]}"
            )
    return told


def _above(name: str, names: Collection[str]) -> str:
    """The account that granted one what it has: the nearest one above it that limits the meter."""
    account, _, meter = name.partition("|")
    while account not in ("root", ""):
        account = account.rpartition(".")[0] or "root"
        if f"{account}|{meter}" in names:
            return f"{account}|{meter}"
    return ""


def _charged_what_was_billed(story: Story, ledger: Sequence[dict[str, Any]], excuses: Excuses) -> Iterator[str]:
    billed = sum(entry["tokens"] for entry in ledger if entry["kind"] == "bill")
    total = story.accounts.get("total|tokens", 0)
    spent, unknown = (_sum(story.accounts, part) for part in ("spent", "unknown"))
    limit = story.accounts.get("root|tokens|granted")
    if "tokens=" in story.record.get("limits", "") and limit is None:
        yield f"I5 {story.run_id} has a limit and no account"
    if total > billed:
        yield f"I5 {story.run_id} is charged {total} tokens, more than the {billed} that were billed"
    if limit is None:
        return
    if spent > limit or spent != total:
        yield f"I5 {story.run_id} spent {total}, its accounts say {spent}, its cap is {limit}"
    if not excuses.tail_lost and billed > spent + unknown:
        yield f"I5 {story.run_id} was billed {billed} tokens, and knows of {spent} and {unknown} unknown"


def _sum(accounts: Mapping[str, int], part: str) -> int:
    return sum(amount for name, amount in accounts.items() if name.endswith(f"|tokens|{part}"))


def _stream_in_order(story: Story) -> Iterator[str]:
    ids = [tuple(map(int, entry.split("-"))) for entry, _ in story.events]
    if ids != sorted(set(ids)):
        yield f"I9 {story.run_id}: its events are out of order"
    if story.events and story.events[-1][1]["kind"] != "finished":
        yield f"I9 {story.run_id}: its last event is {story.events[-1][1]['kind']}"
    ends = Counter(fields["nonce"] for _, fields in story.events if fields["kind"] in ("succeeded", "failed", "lost"))
    yield from (f"I9 {story.run_id}: attempt {nonce} ended {times} times" for nonce, times in ends.items() if times > 1)


def judge_cancel(
    story: Story, ledger: Sequence[dict[str, Any]], acknowledged_ms: int, excuses: Excuses
) -> Iterator[str]:
    """A cancel is final: the run ends so, and nothing of it starts any more, but what had its claim already."""
    if story.record.get("status") not in ("cancelled", None):
        yield f"I8 {story.run_id} was cancelled, and is {story.record['status']}"
    for entry in ledger:
        late_ms = entry["at_ms"] - acknowledged_ms
        if entry["kind"] == "started" and late_ms > _ON_ITS_WAY_MS and entry["pid"] not in excuses.paused:
            yield f"I8 {story.run_id} {entry['path']} started {late_ms} ms after the cancel"
    if any(
        fields["kind"] == "succeeded" and int(entry.partition("-")[0]) > acknowledged_ms + _CLOCK_MS
        for entry, fields in story.events
    ):
        yield f"I8 {story.run_id}: a step was committed after the cancel"


async def reserved_by_nobody(client: Any, keyspace: Keyspace, run_id: str) -> list[str]:
    """What is wrong with the money of a run that was cancelled just now: only leased attempts may hold any."""
    keys = keyspace.run(run_id)
    pipeline = client.pipeline(transaction=True)
    pipeline.hgetall(keys.accounts)
    pipeline.hgetall(keys.attempts)
    pipeline.zcard(keys.waiters)
    accounts, attempts, waiting = await pipeline.execute()
    reserved = _sum(parts_of(_text(accounts)), "reserved")
    claims = _text(attempts)
    held = sum(
        int(claims[name.removesuffix("phase") + "reserved"].removeprefix("tokens=") or 0)
        for name, phase in claims.items()
        if name.startswith("claim|") and name.endswith("|phase") and phase == "held"
    )
    told = [] if reserved == held else [f"I8 {run_id}: {reserved} tokens are reserved, and leases hold {held}"]
    return told + ([f"I8 {run_id}: {waiting} steps wait for budget"] if waiting else [])


def judge_answers(story: Story, ledger: Sequence[dict[str, Any]], given: Sequence[Given]) -> Iterator[str]:
    """Of all who answered a question one is accepted, the others are told so, and the next step sees the winner's answer."""
    if not given:
        return
    winners = [answer.by for answer in given if answer.accepted]
    stored = [fields for _, fields in story.events if fields["kind"] == "answered"]
    if len(winners) > 1 or len(stored) != len(winners):
        yield f"I10 {story.run_id}: {winners} were accepted, {len(stored)} answers are stored"
    if not winners and story.record.get("status") != "cancelled":
        yield f"I10 {story.run_id} is {story.record.get('status')}, and nobody's answer was accepted"
    seen = {entry["answer"] for entry in ledger if "answer" in entry}
    if not seen <= set(winners):
        yield f"I10 {story.run_id} went on with the answer of {sorted(seen)}; accepted was {winners}"
    if story.record.get("status") == "completed" and not seen:
        yield f"I10 {story.run_id} went on without an answer"
    yield from (f"I10 {answer.by} was not told why" for answer in given if not (answer.accepted or answer.told))


async def left_over(client: Any, keyspace: Keyspace, run_ids: Collection[str]) -> list[str]:
    """What is left when nothing runs any more: open reservations, leases, work that nobody waits for, keys for ever."""
    told = [
        f"I7 {name} holds {size}" for name in _EMPTY_WHEN_QUIET if (size := await _size(client, keyspace.shard(name)))
    ]
    if size := await client.scard(keyspace.owned(POOL, 0)):
        told.append(f"I7 the pool owns {size} runs")
    async for key in client.scan_iter(match=f"{{{keyspace.namespace}:*:held:*"):
        if await client.zcard(key):
            told.append(f"I7 leases are left in {key.decode()}")
    for run_id in run_ids:
        keys = keyspace.run(run_id)
        for key in (keys.run, keys.nodes, keys.attempts, keys.accounts, keys.payloads, keys.events):
            if await client.ttl(key) == -1:
                told.append(f"I7 {key} would stay for ever")
        parts = parts_of(_text(await client.hgetall(keys.accounts)))
        told += [
            f"I7 {run_id}: {part} is {left}" for part, left in parts.items() if part.endswith("|reserved") and left
        ]
    return told


async def _size(client: Any, key: str) -> int:
    readers: dict[bytes, Callable[[str], Any]] = {b"zset": client.zcard, b"hash": client.hlen}
    kind = await client.type(key)
    return int(await readers[kind](key)) if kind in readers else 0


def goes_on_ms(ledger: Sequence[dict[str, Any]], died_ms: int) -> list[int]:
    """From the death of a manager to the next start of a step in each run that had not come to its end, ms."""
    later: dict[str, list[int]] = {}
    for entry in ledger:
        if entry["kind"] == "started" and entry["at_ms"] > died_ms:
            later.setdefault(entry["run_id"], []).append(entry["at_ms"] - died_ms)
    return [min(starts) for starts in later.values()]


def recoveries_ms(ledger: Sequence[dict[str, Any]], deaths: Mapping[int, int]) -> list[int]:
    """From the death of a process to the next start of each step that it had in hand, ms.

    Args:
        deaths: When each process died, by pid.
    """
    starts = [entry for entry in ledger if entry["kind"] == "started"]
    found = []
    for entry in starts:
        died_ms = deaths.get(entry["pid"])
        if died_ms is None:
            continue
        again = [
            other["at_ms"] - died_ms
            for other in starts
            if (other["run_id"], other["path"]) == (entry["run_id"], entry["path"])
            and other["attempt"] > entry["attempt"]
        ]
        found += [min(again)] if again else []
    return found
