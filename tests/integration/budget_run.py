"""One run's accounts driven by the scripts and by the reference, for the model to make rules of."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast
from uuid import uuid4

import redis
from hypothesis.stateful import RuleBasedStateMachine, invariant

from flujo_client.audit import audit_accounts
from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.quota import amounts_text
from flujo_client.protocol.replies import Advanced, Claim, Dispatch, Refusal
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.lua.reference import Account, Tree
from tests.lua.runs import advance_run, check_accounts, load_run

#: The limited meters; and one without a limit, of which only the total is kept.
METERS = ("tokens", "cost_nanousd", "searches")
UNLIMITED = "pages"


class Attempt:
    """One step of an account's thread, as the test keeps it."""

    def __init__(self, path: str, account: Account, asked: dict[str, int], lost_spend: str, lease_ms: int) -> None:
        self.path, self.account, self.asked, self.lost_spend, self.lease_ms = path, account, asked, lost_spend, lease_ms
        self.number = 1
        self.reserved: dict[str, int] = {}
        self.paid = False  # its estimate is reserved
        self.extensions = 0
        self.more: dict[str, int] = {}  # what it asked for last while it ran
        self.claim: Claim | None = None

    def __repr__(self) -> str:
        return self.path


class BudgetRun(RuleBasedStateMachine):
    """The run, what has been dispatched, claimed and said of it, and what must hold after every script."""

    url: ClassVar[str]
    operations: ClassVar[int] = 0
    tree: Tree
    caps: dict[str, int]
    cancelled_after: int
    hasty: bool
    decided_for: ClassVar[dict[str, int]] = {}  # how many waiters were granted, and refused

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.keyspace = Keyspace(f"t{uuid4().hex[:10]}")
        self.wires = [Wire(self.url), Wire(self.url)]
        self.clients = [Scripts(ScriptCaller(wire), self.keyspace) for wire in self.wires]
        self.redis = redis.Redis.from_url(self.url)
        self.steps: dict[str, int] = {}
        self.dispatched: list[Attempt] = []
        self.held: list[Attempt] = []
        self.delayed: list[Attempt] = []
        self.paused: list[Attempt] = []
        self.lost: list[tuple[Claim, Account, dict[str, int]]] = []
        self.said: list[Callable[[], Any]] = []
        self.named: dict[str, Attempt] = {}
        self.totals: Counter[str] = Counter()
        self.done = 0
        self.cancelled = False
        self.in_place: set[str] = set()  # who waited in its place when the run was cancelled

    def run(self, work: Any) -> Any:
        BudgetRun.operations += 1
        self.done += 1
        return self.loop.run_until_complete(work)

    def together(self, *calls: Awaitable[Any]) -> list[Any]:
        """Send calls by the two clients at once."""

        async def all_of() -> list[Any]:
            return list(await asyncio.gather(*calls))

        BudgetRun.operations += len(calls) - 1
        return cast("list[Any]", self.run(all_of()))

    def twice(self, call: Callable[[Scripts], Awaitable[Any]]) -> Any:
        """Send one call by both clients: the answers are those of one."""
        first, second = self.together(*map(call, self.clients))
        assert first == second
        self.said.append(lambda: call(self.clients[0]))
        return first

    def advance(self, *dispatches: Dispatch, **options: Any) -> None:
        async def decide() -> Any:
            return await advance_run(self.clients[0], await load_run(self.clients[0]), *dispatches, **options)

        assert isinstance(self.run(decide()), Advanced)

    def threads(self) -> list[Account]:
        """Accounts whose thread is between two steps."""
        if self.cancelled:
            return []
        busy = {id(attempt.account.thread) for attempt in (*self.dispatched, *self.held, *self.delayed, *self.paused)}
        busy |= {id(account.thread) for account, _, _ in self.tree.waiting.values()}
        accounts = self.tree.accounts.values()
        return [a for a in accounts if a.open and id(a) not in busy and not any(child.open for child in a.children)]

    def next_path(self, account: Account) -> str:
        number = self.steps.get(account.path, 0)
        self.steps[account.path] = number + 1
        return str(number) if account.path == "root" else f"{account.path}.{number}"

    def next_step(self, account: Account, cap: int) -> tuple[str, Account]:
        """The next step of an account's thread, and who pays for it: an account of its own, if it has a limit of its own."""
        path = self.next_path(account)
        if cap:
            account = self.tree.accounts[path] = Account(path, account, dict.fromkeys(METERS, cap), caps=True)
        return path, account

    def dispatch_of(self, attempt: Attempt) -> Dispatch:
        chain, estimate = " ".join(chain_of(attempt.account)), amounts_text(attempt.asked)
        self.named[attempt.path] = attempt
        self.dispatched.append(attempt)
        terms = f"{attempt.lease_ms};{attempt.lost_spend};{chain};{estimate};input"
        return Dispatch(attempt.path, 1, "q", "m:f", "l", terms=terms, task=b"{}")

    def again(self, attempt: Attempt, delay_ms: int = 0) -> None:
        attempt.number, attempt.paid = attempt.number + 1, False
        self.advance(Dispatch(attempt.path, attempt.number, "q", "m:f", "l", delay_ms=delay_ms))

    def stand_up(self, attempt: Attempt) -> None:
        """An attempt that may have waited in its place does so no more."""
        self.tree.leave(attempt.path)
        if attempt.path in self.in_place:
            attempt.account.thread.rests = False

    def settle_waiters(self) -> list[tuple[str, str]]:
        """Take over what the reference decided about waiters, which the run's state must say as well."""
        decided, self.tree.decided = self.tree.decided, []
        for path, short in decided:
            attempt, outcome = self.named[path], "refused" if short else "granted"
            if attempt in self.held:  # in its place
                attempt.reserved = dict(Counter(attempt.reserved) + Counter({} if short else attempt.more))
            elif not short:
                attempt.paid = True
                self.dispatched.append(attempt)
            BudgetRun.decided_for[outcome] = BudgetRun.decided_for.get(outcome, 0) + 1
        return decided

    @invariant()
    def rows_are_those_of_the_reference(self) -> None:
        if not hasattr(self, "tree"):
            return
        self.settle_waiters()
        keys = self.keyspace.run("r1")
        fields = self.texts(keys.accounts)
        stored = read_accounts(fields)
        check_accounts(stored, self.caps)
        rows = {(row.account, row.meter): row for row in stored}
        for path, account in self.tree.accounts.items():
            for meter in METERS:
                if account.caps and (path, meter) not in rows:  # nobody has touched it
                    assert account.use(meter) == 0
                    continue
                row = rows[path, meter]
                parts = (account.reserved, account.spent, account.unknown, account.overrun)
                meant = [account.granted[meter], account.free(meter), *(part[meter] for part in parts)]
                found = [row.granted, row.free, row.reserved, row.spent, row.unknown, row.overrun]
                assert found == meant, self.told(path, meter, row)
            if account.open:
                assert (int(fields[f"life|{path}"].split()[0]) > 0) == account.runs, path
        totals = {name.removeprefix("total|"): int(value) for name, value in fields.items() if name[:6] == "total|"}
        assert +Counter(totals) == +self.totals
        states = self.texts(keys.attempts)
        blocked = {name.removesuffix("|blocked") for name in states if name.endswith("|blocked")}
        assert blocked == set(self.tree.waiting) or (self.cancelled and not self.redis.exists(keys.waiters))

    def texts(self, key: str) -> dict[str, str]:
        fields = cast("dict[bytes, bytes]", self.redis.hgetall(key))
        return {name.decode(): value.decode() for name, value in fields.items()}

    def told(self, path: str, meter: str, row: object) -> str:
        """The reference's tree, for a failure's message."""
        lines = [f"{path}: {row}", f"waiting: {self.tree.waiting}"]
        for at in self.tree.accounts.values():
            facts = (
                f"granted {at.granted[meter]} free {at.free(meter)} use {at.use(meter)} runs {at.runs} open {at.open}"
            )
            lines.append(f"{at.path}: {facts} strict {at.strict}")
        return "\n".join(lines)

    def teardown(self) -> None:
        try:
            self.judge_end()
        finally:  # an example may be given up anywhere
            for wire in self.wires:
                self.loop.run_until_complete(wire.close())
            self.redis.close()
            self.loop.close()

    def judge_end(self) -> None:
        """The audit of the run finds nothing; its keys are dropped."""
        keys = self.keyspace.run("r1")
        found = cast("list[bytes]", self.redis.zrange(keys.waiters, 0, -1))
        ahead = [member.decode()[1:] for member in found if member.startswith(b"p")]
        accounts, attempts = self.texts(keys.accounts), self.texts(keys.attempts)
        assert list(audit_accounts("r1", self.caps, accounts, attempts, ahead)) == []
        for key in self.redis.scan_iter(match=f"{{{self.keyspace.namespace}:*", count=1000):
            self.redis.delete(key)


def chain_of(account: Account) -> tuple[str, ...]:
    mark = {True: "=", False: ""}
    caps = ",".join(f"{meter}={most}" for meter, most in account.caps.items())
    own = f"{account.path}~{caps}" if caps else account.path + mark[account.strict]
    return own, *(at.path + mark[at.strict] for at in account.upwards[1:])


def refusal(account: Account, meter: str, asked: int) -> Refusal:
    """How the scripts say that an account cannot have so much."""
    drawn_on = sum(payer.free(meter) for payer in account.payers)
    limited = account.caps and account.caps[meter] - account.use(meter) < drawn_on
    return Refusal((account if limited else account.thread).path, meter, asked, account.reach(meter))


def limited(asked: dict[str, int]) -> dict[str, int]:
    return {meter: amount for meter, amount in asked.items() if meter in METERS}
