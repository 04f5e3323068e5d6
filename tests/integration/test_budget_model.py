"""The scripts against a reference: random operations, sent twice at once and repeated later, and every row compared after each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, ClassVar, cast
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flujo_client.audit import audit_accounts
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.quota import Share, share_by_weights, share_evenly
from flujo_client.protocol.replies import Advanced, BranchEnd, Claim, Committed, Dispatch, Refusal, Reserved, Split
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.lua.reference import Account, Tree
from tests.lua.runs import accounts_of, advance_run, check_accounts, commit_claim, create_run, load_run
from tests.soak import note_soak

#: Operations of one run of the model; `make soak` sets more.
EXAMPLES = int(os.environ.get("FLUJO_SOAK_EXAMPLES", "250"))
STEPS = 120

AMOUNTS = st.integers(0, 60)
USED = st.integers(0, 35)


class Attempt:
    """One step of an account's thread, as the test keeps it."""

    def __init__(self, path: str, account: Account, asked: int, lost_spend: str) -> None:
        self.path, self.account, self.asked, self.lost_spend = path, account, asked, lost_spend
        self.number = 1
        self.reserved = 0
        self.extensions = 0
        self.claim: Claim | None = None

    def __repr__(self) -> str:
        return self.path


class BudgetMachine(RuleBasedStateMachine):
    """Drives one run's accounts by the scripts and by the reference."""

    url: ClassVar[str]
    operations: ClassVar[int] = 0
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
        self.lost: list[tuple[Claim, Account, int]] = []
        self.said: list[Callable[[], Any]] = []
        self.named: dict[str, Attempt] = {}

    def run(self, work: Any) -> Any:
        BudgetMachine.operations += 1
        return self.loop.run_until_complete(work)

    def twice(self, call: Callable[[Scripts], Any]) -> Any:
        """Send one call by two clients at once: the answers are those of one."""

        async def both() -> list[Any]:
            return list(await asyncio.gather(*(call(client) for client in self.clients)))

        first, second = self.run(both())
        assert first == second
        self.said.append(lambda: call(self.clients[0]))
        return first

    def advance(self, *dispatches: Dispatch, **options: Any) -> None:
        async def decide() -> Any:
            return await advance_run(self.clients[0], await load_run(self.clients[0]), *dispatches, **options)

        assert isinstance(self.run(decide()), Advanced)

    @initialize(cap=st.integers(80, 500))
    def start(self, cap: int) -> None:
        self.tree = Tree(cap)
        self.cap = cap
        self.run(create_run(self.clients[0], limits={"tokens": cap}))
        self.run(self.clients[0].register("incarnations", "w1", 6_000_000, 0))

    def threads(self) -> list[Account]:
        """Accounts whose thread is between two steps."""
        busy = {id(attempt.account) for attempt in (*self.dispatched, *self.held, *self.delayed)}
        busy |= {id(account) for account, _, _ in self.tree.waiting.values()}
        accounts = self.tree.accounts.values()
        return [a for a in accounts if a.open and id(a) not in busy and not any(child.open for child in a.children)]

    def next_path(self, account: Account) -> str:
        number = self.steps.get(account.path, 0)
        self.steps[account.path] = number + 1
        return str(number) if account.path == "root" else f"{account.path}.{number}"

    def dispatch_of(self, account: Account, path: str, asked: int, lost_spend: str) -> Dispatch:
        words = " ".join(chain_of(account))
        attempt = Attempt(path, account, asked, lost_spend)
        self.named[path] = attempt
        self.dispatched.append(attempt)
        terms = f"60000;{lost_spend};{words};tokens={asked};input"
        return Dispatch(path, 1, "q", "m:f", "l", terms=terms, task=b"{}")

    @precondition(lambda self: self.threads())
    @rule(data=st.data(), asked=AMOUNTS, lost_spend=st.sampled_from(["charge", "refund"]))
    def dispatch(self, data: st.DataObject, asked: int, lost_spend: str) -> None:
        account = data.draw(st.sampled_from(self.threads()))
        self.advance(self.dispatch_of(account, self.next_path(account), asked, lost_spend))

    @precondition(lambda self: any(len(a.upwards()) < 4 for a in self.threads()) and len(self.tree.accounts) < 30)
    @rule(data=st.data(), count=st.integers(1, 4), strict=st.booleans(), weighted=st.booleans())
    def split(self, data: st.DataObject, count: int, strict: bool, weighted: bool) -> None:
        account = data.draw(st.sampled_from([a for a in self.threads() if len(a.upwards()) < 4]))
        node, total = self.next_path(account), account.free
        share: Share = share_by_weights(total, range(1, count + 1)) if weighted else share_evenly(total, count)
        steps = []
        for index in range(count):
            branch = Account(f"{node}.{index}", account, share.of(index), strict=strict and index % 2 == 0)
            account.children.append(branch)
            self.tree.accounts[branch.path] = branch
            asked = data.draw(AMOUNTS)
            steps.append(self.dispatch_of(branch, self.next_path(branch), asked, "charge"))
        self.advance(*steps, splits=(Split(node, chain_of(account), "tokens", share),))

    @precondition(lambda self: self.dispatched)
    @rule(data=st.data())
    def reserve(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.dispatched))
        self.dispatched.remove(attempt)
        attempt.claim = Claim("r1", attempt.path, attempt.number, uuid4().hex, "w1", "q")
        answer = self.run(self.clients[0].reserve(attempt.claim, POOL))
        account, asked = attempt.account, attempt.asked
        if attempt.reserved or self.tree.can_pay(attempt.path, account, asked):
            if not attempt.reserved:
                self.tree.reserve(account, asked)
            attempt.reserved = asked
            self.held.append(attempt)
            assert isinstance(answer, Reserved), answer
        else:
            ran = self.tree.running()
            self.tree.waiting[attempt.path] = (account, asked, self.tree.draws)
            account.rests = True
            self.tree.stopped(ran)
            assert isinstance(answer, Refusal) == (("refused", attempt.path) in self.settle_waiters()), answer
        claim = attempt.claim
        self.said.append(lambda: self.clients[1].reserve(claim, POOL))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), amount=AMOUNTS)
    def extend(self, data: st.DataObject, amount: int) -> None:
        attempt = data.draw(st.sampled_from(self.held))
        attempt.extensions += 1
        claim, counter = cast("Claim", attempt.claim), attempt.extensions
        fits = self.tree.reach(attempt.account) >= amount
        answer = self.run(self.clients[0].extend(claim, counter, {"tokens": amount}))
        assert (answer is None) == fits
        if fits:
            attempt.account.take("reserved", amount)
            attempt.reserved += amount
            self.said.append(lambda: self.clients[1].extend(claim, counter, {"tokens": amount}))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), used=USED)
    def commit(self, data: st.DataObject, used: int) -> None:
        attempt = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        claim = cast("Claim", attempt.claim)
        answer = self.twice(lambda client: commit_claim(client, claim, {"tokens": used}))
        over = self.tree.settle(attempt.account, "reserved", attempt.reserved, used)
        assert answer == Committed({"tokens": over} if over else {})

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=st.sampled_from(["died", "handed_over", "stranger"]), known=AMOUNTS)
    def lose(self, data: st.DataObject, reason: str, known: int) -> None:
        attempt = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        claim, account, held = cast("Claim", attempt.claim), attempt.account, attempt.reserved
        if reason == "died":
            self.redis.zadd(self.keyspace.shard("incarnations"), {"w1": 1})
        usage = {"tokens": known} if reason == "handed_over" else {}
        assert self.run(self.clients[0].lose(claim, POOL, reason, usage))
        self.run(self.clients[0].register("incarnations", "w1", 6_000_000, 0))
        spent = usage.get("tokens", 0)
        keeps = max(0, held - spent) if reason != "stranger" and attempt.lost_spend == "charge" else 0
        account.reserved, account.unknown = account.reserved - keeps, account.unknown + keeps
        if reason == "died":
            self.lost.append((claim, account, keeps))
        self.tree.settle(account, "reserved", held - keeps, spent)
        self.said.append(lambda: self.clients[1].lose(claim, POOL, reason, usage))

    @precondition(lambda self: self.lost)
    @rule(used=USED)
    def bill_late(self, used: int) -> None:
        claim, account, unknown = self.lost.pop()
        self.twice(lambda client: commit_claim(client, claim, {"tokens": used}))
        self.tree.settle(account, "unknown", unknown, used)

    @precondition(lambda self: self.threads() and self.named)
    @rule(data=st.data())
    def retry_later(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from(self.threads()))
        last = f"{account.path}." if account.path != "root" else ""
        attempt = self.named.get(f"{last}{self.steps.get(account.path, 0) - 1}")
        if attempt is None:
            return
        attempt.number, attempt.reserved, ran = attempt.number + 1, 0, self.tree.running()
        self.delayed.append(attempt)
        account.rests = True
        self.advance(Dispatch(attempt.path, attempt.number, "q", "m:f", "l", delay_ms=60_000))
        self.tree.stopped(ran)

    @precondition(lambda self: self.delayed)
    @rule()
    def its_time_comes(self) -> None:
        attempt = self.delayed.pop(0)
        assert self.run(self.clients[0].redispatch(f"r1 {attempt.path} {attempt.number} q", 0, 2000))
        attempt.account.rests = False
        self.dispatched.append(attempt)

    @precondition(lambda self: any(account.above for account in self.threads()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from([account for account in self.threads() if account.above]))
        chain, ran = chain_of(account), self.tree.running()
        self.advance(ends=(BranchEnd(chain),))
        account.open = False
        self.tree.give_back(account, [])
        self.tree.stopped(ran)

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """What was said before is said again: nothing may change."""
        before = self.redis.hgetall(self.keyspace.run("r1").accounts)
        self.run(data.draw(st.sampled_from(self.said[-20:]))())
        assert self.redis.hgetall(self.keyspace.run("r1").accounts) == before

    def settle_waiters(self) -> list[tuple[str, str]]:
        """Take over what the reference decided about waiters, which the run's state must say as well."""
        decided, self.tree.outcomes = self.tree.outcomes, []
        for path, outcome in decided:
            attempt = self.named[path]
            if outcome == "granted":
                attempt.reserved = attempt.asked
                self.dispatched.append(attempt)
            BudgetMachine.decided_for[outcome] = BudgetMachine.decided_for.get(outcome, 0) + 1
        return [(outcome, path) for path, outcome in decided]

    @invariant()
    def rows_are_those_of_the_reference(self) -> None:
        if not hasattr(self, "tree"):
            return
        self.settle_waiters()
        stored = accounts_of(self.redis, self.keyspace)
        check_accounts(stored, {"tokens": self.cap})
        rows = {row.account: row for row in stored}
        fields = cast("dict[bytes, bytes]", self.redis.hgetall(self.keyspace.run("r1").accounts))
        for path, account in self.tree.accounts.items():
            row, parts = rows[path], ("granted", "free", "reserved", "spent", "unknown", "overrun")
            assert [getattr(row, part) for part in parts] == [getattr(account, part) for part in parts], self.told(
                path, row
            )
            if account.open:
                running = int(fields[f"life|{path}".encode()].split()[0])
                assert (running > 0) == account.runs, path
        states = cast("dict[bytes, bytes]", self.redis.hgetall(self.keyspace.run("r1").attempts))
        blocked = {
            name.decode().partition("|")[0]
            for name, state in states.items()
            if state == b"blocked" and name.endswith(b"|state")
        }
        assert blocked == set(self.tree.waiting)

    def told(self, path: str, row: object) -> str:
        """The reference's tree, for a failure's message."""
        lines = [f"{path}: {row}", f"waiting: {[(p, a, d) for p, (_, a, d) in self.tree.waiting.items()]}"]
        for at in self.tree.accounts.values():
            facts = f"granted {at.granted} free {at.free} use {at.use} runs {at.runs} open {at.open} strict {at.strict}"
            lines.append(f"{at.path}: {facts}")
        return "\n".join(lines)

    def teardown(self) -> None:
        found = cast("list[bytes]", self.redis.zrange(self.keyspace.run("r1").waiters, 0, -1))
        ahead = [member.decode()[1:] for member in found if member.startswith(b"p")]
        keys = self.keyspace.run("r1")
        hashes = [cast("dict[bytes, bytes]", self.redis.hgetall(key)) for key in (keys.accounts, keys.attempts)]
        accounts, attempts = ({name.decode(): value.decode() for name, value in fields.items()} for fields in hashes)
        assert list(audit_accounts("r1", {"tokens": self.cap}, accounts, attempts, ahead)) == []
        for wire in self.wires:
            self.loop.run_until_complete(wire.close())
        for key in self.redis.scan_iter(match=f"{{{self.keyspace.namespace}:*", count=1000):
            self.redis.delete(key)
        self.redis.close()
        self.loop.close()


def chain_of(account: Account) -> tuple[str, ...]:
    return tuple(at.path + ("=" if at.strict else "") for at in account.upwards())


@pytest.mark.timeout(3600)
def test_every_row_is_what_the_reference_says(redis_url: str) -> None:
    BudgetMachine.url, BudgetMachine.operations, BudgetMachine.decided_for = redis_url, 0, {}

    run_state_machine_as_test(
        BudgetMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )

    note_soak("model", {"operations": BudgetMachine.operations, **BudgetMachine.decided_for})
    assert BudgetMachine.operations >= 80 * EXAMPLES  # 20,000 as it stands here
    assert BudgetMachine.decided_for["granted"] > EXAMPLES / 4, BudgetMachine.decided_for
    assert BudgetMachine.decided_for["refused"] > EXAMPLES / 4, BudgetMachine.decided_for
