"""What the scripts are told and what they answer, typed. An expected refusal is one of these, never an exception."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flujo_client.protocol.messages import Event
from flujo_client.protocol.quota import Amounts, Share

__all__ = [
    "Advanced",
    "Alarm",
    "Answered",
    "AnsweredBefore",
    "Blocked",
    "BranchEnd",
    "Claim",
    "Committed",
    "Delayed",
    "Dispatch",
    "Duplicate",
    "Emission",
    "Forbidden",
    "LeaseLost",
    "LoadedRun",
    "Overtaken",
    "Refusal",
    "Renewal",
    "Reserved",
    "RunInactive",
    "SlabLoan",
    "SlabOffer",
    "Split",
    "SplitStale",
    "SweepPage",
    "UnknownAccount",
    "WorkerDead",
]


@dataclass(frozen=True, slots=True)
class Claim:
    """One intake of one attempt. The nonce is its attempt token, its lease and its operation id."""

    run_id: str
    path: str
    attempt: int
    nonce: str
    incarnation: str
    queue: str

    @property
    def member(self) -> str:
        """How the held set names the lease."""
        return f"{self.run_id} {self.path} {self.attempt} {self.nonce}"


@dataclass(frozen=True, slots=True)
class Reserved:
    """The attempt is ours. `remaining` is what its account could still pay, by limited meter, after the reservation."""

    task: bytes
    owner: str
    traceparent: str
    deadline_ms: int
    remaining: Amounts
    payloads: list[bytes]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Somebody else has the attempt, or it is over."""


@dataclass(frozen=True, slots=True)
class RunInactive:
    """The run has ended, was cancelled, or is unknown."""

    status: str


@dataclass(frozen=True, slots=True)
class WorkerDead:
    """The sweep has buried this incarnation; take a new one."""


@dataclass(frozen=True, slots=True)
class SlabOffer:
    """A transfer under way between a shard and the home of a named account.

    Attributes:
        transfer: Its number; those of one shard rise.
        window: The one that the amounts are of, by its start, ms; 0 where windows do not turn.
        holds: What the shard holds, whatever comes of the transfer.
        least: What it needs for the first that waits there; nothing if nobody waits in vain.
        needs: What it needs for the first few.
    """

    transfer: int
    window: int
    holds: Amounts
    least: Amounts
    needs: Amounts


@dataclass(frozen=True, slots=True)
class SlabLoan:
    """What a home grants in a transfer.

    Attributes:
        granted: All that the shard needed at least, or nothing.
        lenders: The other shards that hold something of the account.
        short: The meters for want of which nothing was granted.
        repeated: It was granted when the home first heard of the transfer, and says nothing of what is asked now.
    """

    granted: Amounts
    lenders: tuple[int, ...]
    short: tuple[str, ...] = ()
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class UnknownAccount:
    """A run, or a step of it, names an account that nobody has defined."""

    name: str


@dataclass(frozen=True, slots=True)
class SpecNotKept:
    """The run's shard has not got its spec (any more): keep it there, and call again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The budget cannot pay."""

    account: str
    meter: str
    asked: int
    free: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """The budget cannot pay yet: the attempt waits for what others give back, and is dispatched again when it suffices."""

    account: str
    meter: str
    asked: int
    free: int


@dataclass(frozen=True, slots=True)
class Delayed:
    """A named account cannot pay yet. An attempt waits among others and is dispatched again when its turn comes; what a
    running one asks besides has to be asked again. `wait_ms` from now, None where only others can make room."""

    account: str
    meter: str
    wait_ms: int | None


@dataclass(frozen=True, slots=True)
class Committed:
    """The outcome is stored. `overrun` is what no account covered, by meter."""

    overrun: Amounts


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The attempt was given to somebody else; what this one spent is settled."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What Redis thinks the incarnation holds, and which of it to cancel; members as in `Claim.member`."""

    now_ms: int
    held: frozenset[str]
    cancelled: frozenset[str]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One attempt to journal. `terms` and `task` None: those of the attempt before."""

    path: str
    attempt: int
    queue: str
    function: str
    label: str
    delay_ms: int = 0
    terms: str | None = None
    task: bytes | None = None
    is_async: bool = True
    ahead: bool = False  # the commit before it has journalled and published it


@dataclass(frozen=True, slots=True)
class Follower:
    """What commit.lua dispatches itself when an attempt of `after` simply succeeds: decided ahead of the outcome.

    Attributes:
        message: As it goes into the broker's list.
    """

    after: str
    dispatch: Dispatch
    message: str


@dataclass(frozen=True, slots=True)
class Split:
    """Open a parallel node's split: `share` of what `chain[0]` has free, which must still be `share.total`."""

    path: str
    chain: tuple[str, ...]
    meter: str
    share: Share


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that is due for a pause: `expired`, or `reminded:<number>`. `at_ms` in Redis time; None drops it."""

    path: str
    what: str
    at_ms: int | None


@dataclass(frozen=True, slots=True)
class BranchEnd:
    """Close a branch's account and give back what it did not use. `chain[0]` is the account."""

    chain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run as a manager needs it: its record, new events, and the nodes and free budget on their paths."""

    record: dict[str, str]
    events: list[Event]
    nodes: dict[str, bytes]
    free: dict[str, Amounts]
    remembered: bool = False  # not read: it may be that somebody else has gone on since


@dataclass(frozen=True, slots=True)
class Advanced:
    """The decision is stored, by an operation of this id."""

    revision: int
    operation: str
    dirty: bool
    now_ms: int


class Emission(StrEnum):
    """What became of a chunk."""

    APPENDED = "appended"  # followers see it; by this call or by one before
    LOST = "lost"  # the lease is lost, or the run ends: no more are taken
    AGAIN = "again"  # room is being made: call again
    GAP = "gap"  # the run keeps no more chunks: a gap stands for this one and those after it


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is stored; `event_id` is its place in the run's stream."""

    event_id: str


@dataclass(frozen=True, slots=True)
class AnsweredBefore:
    """Another answer was first: `how` is `given`, or `expired` where time was up."""

    how: str


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Another manager advanced the run; load it again."""


@dataclass(frozen=True, slots=True)
class SplitStale:
    """The account moved between load and advance; load the run again."""

    path: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The run's gate does not allow it: `cancelled`, or `closed` when it has ended."""

    gate: str


@dataclass(frozen=True, slots=True)
class SweepPage:
    """Candidates for mending; each is checked again by the script that mends it.

    Attributes:
        dispatches: Member, published_ms, copies.
        alarms: Of pauses: run, path, what.
        accounts: Named ones that those who wait for them are to be called for.
    """

    now_ms: int
    dead_incarnations: list[str]
    dead_managers: list[str]
    dispatches: list[tuple[str, int, int]]
    stale_runs: list[str]
    intake: dict[str, int]
    alarms: list[tuple[str, str, str]]
    accounts: list[str]
