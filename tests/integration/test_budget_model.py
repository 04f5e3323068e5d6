"""The scripts against a reference: random operations by two clients at once, repeated and reordered; every row compared after each."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import astuple
from typing import cast
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flujo_client.protocol.keys import POOL
from flujo_client.protocol.quota import Share, share_by_weights, share_evenly
from flujo_client.protocol.replies import (
    Blocked,
    BranchEnd,
    Claim,
    Committed,
    Duplicate,
    LeaseLost,
    Refusal,
    Reserved,
    RunInactive,
    Split,
)
from tests.integration.budget_run import METERS, UNLIMITED, Attempt, BudgetRun, chain_of, limited, refusal
from tests.lua.reference import Account, Tree
from tests.lua.runs import commit_claim, create_run
from tests.storms import note_storm

#: Operations of one run of the model; `make storm` sets more.
EXAMPLES = int(os.environ.get("TEST_STORM_EXAMPLES", "250"))
STEPS = 120
#: A mutant is to be found, and nobody asks how short the way to it can be.
PHASES = [Phase.generate] if os.environ.get("TEST_MUTANT") else [Phase.generate, Phase.shrink]


def amounts(most: int) -> st.SearchStrategy[dict[str, int]]:
    """Of tokens, and perhaps of other meters."""
    number = st.integers(0, most)
    return st.fixed_dictionaries({"tokens": number}, optional=dict.fromkeys((*METERS[1:], UNLIMITED), number))


ASKED, USED, MORE = amounts(60), amounts(35), amounts(20)
#: None, or how far beyond what the account could get.
EDGE = st.sampled_from([None, None, None, 0, 1])
#: Most of each meter that a step may use, all attempts together; 0 for no such limit.
CAP = st.sampled_from([0, 0, 0, 20, 50, 90])


class BudgetMachine(BudgetRun):
    """What may happen to the accounts of a run, in any order."""

    @initialize(
        data=st.data(),
        caps=st.tuples(*(st.integers(100, 400) for _ in METERS)),
        count=st.integers(2, 5),
        cancelled_after=st.integers(20, STEPS),
        hasty=st.sampled_from([False, False, False, True]),
    )
    def start(self, data: st.DataObject, caps: tuple[int, ...], count: int, cancelled_after: int, hasty: bool) -> None:
        """A hasty run is cancelled when an estimate is reserved ahead of its lease, or soon after."""
        self.cancelled_after, self.hasty = cancelled_after, hasty
        self.caps = dict(zip(METERS, caps, strict=True))
        self.tree = Tree(self.caps)
        self.run(create_run(self.clients[0], limits=self.caps))
        self.run(self.clients[0].register("incarnations", "w1", 6_000_000, 0))
        self.open_branches(data, self.tree.accounts["root"], count, strict=False, weighted=False)

    @precondition(lambda self: self.threads())
    @rule(
        data=st.data(),
        asked=ASKED,
        lost_spend=st.sampled_from(["charge", "refund"]),
        overdue=st.booleans(),
        edge=EDGE,
        cap=CAP,
    )
    def dispatch(
        self, data: st.DataObject, asked: dict[str, int], lost_spend: str, overdue: bool, edge: int | None, cap: int
    ) -> None:
        account = data.draw(st.sampled_from(self.threads()))
        path, account = self.next_step(account, cap)
        asked = asked if edge is None else {**asked, "tokens": account.reach("tokens") + edge}
        lease_ms = -1000 if overdue else 60_000
        self.advance(self.dispatch_of(Attempt(path, account, asked, lost_spend, lease_ms)))

    @precondition(lambda self: any(len(a.upwards) < 4 for a in self.threads()) and len(self.tree.accounts) < 30)
    @rule(data=st.data(), count=st.integers(2, 5), strict=st.booleans(), weighted=st.booleans())
    def split(self, data: st.DataObject, count: int, strict: bool, weighted: bool) -> None:
        account = data.draw(st.sampled_from([a for a in self.threads() if len(a.upwards) < 4]))
        self.open_branches(data, account, count, strict=strict, weighted=weighted)

    def open_branches(self, data: st.DataObject, account: Account, count: int, *, strict: bool, weighted: bool) -> None:
        node, total = self.next_path(account), {meter: account.free(meter) for meter in METERS}
        shares: dict[str, Share] = {
            meter: share_by_weights(total[meter], range(1, count + 1))
            if weighted
            else share_evenly(total[meter], count)
            for meter in METERS
        }
        steps = []
        for index in range(count):
            granted = {meter: share.of(index) for meter, share in shares.items()}
            branch = Account(f"{node}.{index}", account, granted, strict=strict and index % 2 == 0)
            self.tree.accounts[branch.path] = branch
            path, payer = self.next_step(branch, data.draw(CAP))
            steps.append(self.dispatch_of(Attempt(path, payer, data.draw(ASKED), "charge", 60_000)))
        splits = tuple(Split(node, chain_of(account), meter, share) for meter, share in shares.items())
        self.advance(*steps, splits=splits)

    @precondition(lambda self: self.dispatched)
    @rule(data=st.data())
    def reserve(self, data: st.DataObject) -> None:
        self.race_for(data.draw(st.sampled_from(self.dispatched)))

    def race_for(self, attempt: Attempt) -> None:
        """Two workers race for an attempt: one gets an answer, and the other what that leaves it."""
        claims = [Claim("r1", attempt.path, attempt.number, uuid4().hex, "w1", "q") for _ in self.clients]
        answers = self.together(
            *(client.reserve(claim, POOL) for client, claim in zip(self.clients, claims, strict=True))
        )
        if self.cancelled:
            assert answers == [RunInactive("running")] * 2
            return
        expected = [self.claim(attempt), self.claim(attempt)]
        for claim, answer in zip(claims, answers, strict=True):
            if isinstance(answer, Reserved):
                attempt.claim = claim
            if not isinstance(answer, Duplicate):
                self.said.append(lambda claim=claim: self.clients[1].reserve(claim, POOL))  # type: ignore[misc]  # bound now
        kinds = [answer if isinstance(answer, Refusal) else type(answer) for answer in answers]
        assert kinds in (expected, expected[::-1])

    def claim(self, attempt: Attempt) -> type | Refusal:
        """What the reference says to a worker that claims an attempt."""
        if attempt not in self.dispatched:
            return Duplicate
        self.dispatched.remove(attempt)
        account, asked = attempt.account, limited(attempt.asked)
        if attempt.paid or not self.tree.lack(attempt.path, account, asked):
            if not attempt.paid:
                self.tree.reserve(account, asked)
            attempt.paid, attempt.reserved = True, dict(attempt.asked)
            self.held.append(attempt)
            return Reserved
        short = self.tree.lack(attempt.path, account, asked)
        if self.own_limit(account, short, asked):
            self.tree.decided.append((attempt.path, short))
            return refusal(account, short, asked[short])
        ran = self.tree.running()
        self.tree.waiting[attempt.path] = (account, asked, self.tree.draws)
        account.thread.rests = True
        self.tree.stopped(ran)
        refused = [meter for path, meter in self.settle_waiters() if path == attempt.path and meter]
        return refusal(account, refused[0], asked[refused[0]]) if refused else Blocked

    @precondition(lambda self: self.held)
    @rule(data=st.data(), more=MORE, edge=EDGE, patient=st.sampled_from([True, True, True, False]))
    def extend(self, data: st.DataObject, more: dict[str, int], edge: int | None, patient: bool) -> None:
        """A running step asks for more; what it waits for is asked again, is asked for the last time, or for something else."""
        attempt = data.draw(st.sampled_from(self.held))
        waits = attempt.path in self.tree.waiting and data.draw(st.booleans())
        if not waits:
            attempt.more = more if edge is None else {**more, "tokens": attempt.account.reach("tokens") + edge}
            attempt.extensions += 1
        waited_ms = 10_000 if waits and not patient else 0
        claim, counter, more = cast("Claim", attempt.claim), attempt.extensions, attempt.more
        answer = self.run(self.clients[0].extend(claim, POOL, counter, more, waited_ms))
        expected = self.top_up(attempt, limited(more), waits=waits, patient=waited_ms == 0)
        assert answer == expected
        if not isinstance(answer, Blocked):
            self.said.append(lambda: self.clients[1].extend(claim, POOL, counter, more, waited_ms))

    def top_up(self, attempt: Attempt, more: dict[str, int], *, waits: bool, patient: bool) -> Refusal | Blocked | None:
        """What the reference says to a running step that asks for more."""
        path, account = attempt.path, attempt.account
        short = self.tree.lack(path, account, more)
        blocked = Blocked(*astuple(refusal(account, short, more[short]))) if short else None
        if waits and patient and not self.cancelled:
            assert blocked
            return blocked
        self.stand_up(attempt)
        if short and not patient:
            for meter, asked in more.items():
                account.borrow(meter, asked)
            short = self.tree.lack(path, account, more, kept=False)
        elif short and not self.cancelled and not self.own_limit(account, short, more):
            ran = self.tree.running()
            self.tree.waiting[path] = (account, more, self.tree.draws)
            account.thread.rests = True
            self.tree.stopped(ran)
            refused = [meter for told, meter in self.settle_waiters() if told == path and meter]
            if refused:
                return refusal(account, refused[0], more[refused[0]])
            return blocked if path in self.tree.waiting else None
        if short:
            refused_now = refusal(account, short, more[short])
            self.tree.serve(self.tree.accounts["root"])
            return refused_now
        self.tree.reserve(account, more)
        self.tree.serve(self.tree.accounts["root"])
        attempt.reserved = dict(Counter(attempt.reserved) + Counter(attempt.more))
        return None

    def own_limit(self, account: Account, short: str, asked: dict[str, int]) -> bool:
        """What is short is its step's own limit, which no sibling can widen."""
        return bool(account.caps) and account.caps[short] - account.use(short) < asked[short]

    @precondition(lambda self: self.tree.waiting and self.threads())
    @rule(data=st.data(), times=st.sampled_from([1, 15, 16, 17]))
    def pass_over(self, data: st.DataObject, times: int) -> None:
        """A step whose limit of its own makes each attempt draw on what is shared fails again and again: who waits is passed over."""
        path, payer = self.next_step(data.draw(st.sampled_from(self.threads())), 1)
        attempt = Attempt(path, payer, {"tokens": 1}, "charge", 60_000)
        self.advance(self.dispatch_of(attempt))
        for _ in range(times):
            self.race_for(attempt)
            if attempt not in self.held:
                return
            self.held.remove(attempt)
            self.settle(attempt, {}, "failed")
            self.again(attempt)
            self.dispatched.append(attempt)
        for account in self.threads()[:2]:
            self.ask_for_all_that_is_left(account)

    def ask_for_all_that_is_left(self, account: Account) -> None:
        """A step asks for all that its account could get, unless that is kept for somebody."""
        most = {meter: account.reach(meter) for meter in METERS[:1]}
        attempt = Attempt(self.next_path(account), account, most, "charge", 60_000)
        self.advance(self.dispatch_of(attempt))
        self.race_for(attempt)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), used=USED, kind=st.sampled_from(["succeeded", "failed", "paused"]))
    def commit(self, data: st.DataObject, used: dict[str, int], kind: str) -> None:
        self.settle(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))), used, kind)

    def settle(self, attempt: Attempt, used: dict[str, int], kind: str) -> None:
        self.stand_up(attempt)
        claim, ran = cast("Claim", attempt.claim), self.tree.running()
        answer = self.twice(lambda client: commit_claim(client, claim, used, kind))
        pauses = kind == "paused" and not self.cancelled
        if pauses:
            attempt.account.thread.rests = True
            self.paused.append(attempt)
        over = self.tree.settle(attempt.account, attempt.account.reserved, attempt.reserved, used)
        self.totals.update(used)
        if pauses:
            self.tree.stopped(ran)
        assert answer == (RunInactive("running") if self.cancelled else Committed(dict(over)))

    @precondition(lambda self: len(self.held) > 1 and not self.tree.waiting)
    @rule(data=st.data())
    def commit_two_at_once(self, data: st.DataObject) -> None:
        """Two clients settle different attempts at once; they use no more than they reserved, so that the order is all one."""
        pair = [self.held.pop(data.draw(st.integers(0, len(self.held) - 1))) for _ in self.clients]
        used = [{meter: data.draw(st.integers(0, most)) for meter, most in at.reserved.items()} for at in pair]
        both = zip(self.clients, pair, used, strict=True)
        self.together(*(commit_claim(client, cast("Claim", at.claim), amounts) for client, at, amounts in both))
        for attempt, spent in zip(pair, used, strict=True):
            self.stand_up(attempt)
            self.tree.settle(attempt.account, attempt.account.reserved, attempt.reserved, spent)
            self.totals.update(spent)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=st.sampled_from(["died", "overdue", "handed_over", "stranger"]), known=USED)
    def lose(self, data: st.DataObject, reason: str, known: dict[str, int]) -> None:
        attempt = data.draw(st.sampled_from(self.held))
        claim, account, held = cast("Claim", attempt.claim), attempt.account, attempt.reserved
        if reason == "died":
            self.redis.zadd(self.keyspace.shard("incarnations"), {"w1": 1})
        usage = known if reason == "handed_over" else {}
        lost = self.run(self.clients[0].lose(claim, POOL, reason, usage))
        self.run(self.clients[0].register("incarnations", "w1", 6_000_000, 0))
        assert lost == (reason != "overdue" or attempt.lease_ms < 0)
        if not lost:
            return
        self.held.remove(attempt)
        self.stand_up(attempt)
        charged = reason != "stranger" and attempt.lost_spend == "charge"
        keeps = {meter: max(0, held[meter] - usage.get(meter, 0)) for meter in held} if charged else {}
        for meter, amount in limited(keeps).items():
            account.reserved[meter] -= amount
            account.unknown[meter] += amount
        if reason in ("died", "overdue"):
            self.lost.append((claim, account, keeps))
        freed = {meter: held[meter] - keeps.get(meter, 0) for meter in held}
        self.tree.settle(account, account.reserved, freed, usage)
        self.totals.update(usage)
        self.said.append(lambda: self.clients[1].lose(claim, POOL, reason, usage))

    @precondition(lambda self: self.lost)
    @rule(used=USED)
    def bill_late(self, used: dict[str, int]) -> None:
        claim, account, unknown = self.lost.pop()
        assert self.twice(lambda client: commit_claim(client, claim, used)) == LeaseLost()
        self.tree.settle(account, account.unknown, unknown, used)
        self.totals.update(used)

    @precondition(lambda self: self.paused and not self.cancelled)
    @rule(data=st.data())
    def somebody_answers(self, data: st.DataObject) -> None:
        attempt = self.paused.pop(data.draw(st.integers(0, len(self.paused) - 1)))
        self.again(attempt)
        attempt.account.thread.rests = False
        self.dispatched.append(attempt)

    @precondition(lambda self: self.threads() and self.named)
    @rule(data=st.data())
    def retry_later(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from(self.threads()))
        last = f"{account.path}." if account.path != "root" else ""
        attempt = self.named.get(f"{last}{self.steps.get(account.path, 0) - 1}")
        if attempt is None:
            return
        ran = self.tree.running()
        self.delayed.append(attempt)
        account.rests = True
        self.again(attempt, delay_ms=60_000)
        self.tree.stopped(ran)

    @precondition(lambda self: self.delayed and not self.cancelled)
    @rule()
    def its_time_comes(self) -> None:
        attempt = self.delayed.pop(0)
        assert self.run(self.clients[0].redispatch(f"r1 {attempt.path} {attempt.number} q", 0, 2000))
        attempt.account.thread.rests = False
        self.dispatched.append(attempt)

    @precondition(lambda self: any(account.above for account in self.threads()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from([account for account in self.threads() if account.above]))
        chain, ran = chain_of(account), self.tree.running()
        self.advance(ends=(BranchEnd(chain),))
        account.open = False
        self.tree.give_back(account)
        self.tree.stopped(ran)

    def may_be_cancelled(self) -> bool:
        ahead = self.hasty and any(attempt.paid for attempt in self.dispatched)
        return not self.cancelled and (ahead or self.done > self.cancelled_after)

    @precondition(may_be_cancelled)
    @rule()
    def cancel(self) -> None:
        """Nobody waits any more, and what was reserved ahead of its lease is free again."""
        assert self.twice(lambda client: client.cancel("r1", POOL, "enough")) is None
        self.cancelled = True
        self.in_place = {attempt.path for attempt in self.held if attempt.path in self.tree.waiting}
        self.tree.waiting.clear()
        for attempt in self.dispatched:
            if attempt.paid:
                self.tree.settle(attempt.account, attempt.account.reserved, attempt.asked, {})

    @precondition(lambda self: self.said)
    @rule(data=st.data(), stranger=st.booleans())
    def repeat(self, data: st.DataObject, stranger: bool) -> None:
        """What was said before is said again, or an attempt is reported by somebody who never had it: nothing may change."""
        before = self.redis.hgetall(self.keyspace.run("r1").accounts)
        if stranger and self.named:
            attempt = data.draw(st.sampled_from(list(self.named.values())))
            claim = Claim("r1", attempt.path, attempt.number, uuid4().hex, "w1", "q")
            assert self.run(commit_claim(self.clients[0], claim, {"tokens": 5})) == LeaseLost()
            assert self.run(self.clients[0].extend(claim, POOL, 1, {"tokens": 5})) == LeaseLost()
        else:
            self.run(data.draw(st.sampled_from(self.said[-20:]))())
        assert self.redis.hgetall(self.keyspace.run("r1").accounts) == before


@pytest.mark.timeout(3600)
def test_every_row_is_what_the_reference_says(redis_url: str) -> None:
    BudgetRun.url, BudgetRun.operations, BudgetRun.decided_for = redis_url, 0, {}

    run_state_machine_as_test(
        BudgetMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
        ),
    )

    note_storm("model", {"operations": BudgetRun.operations, **BudgetRun.decided_for})
    assert BudgetRun.operations >= 80 * EXAMPLES  # 20,000 as it stands here
    assert BudgetRun.decided_for["granted"] > EXAMPLES / 4, BudgetRun.decided_for
    assert BudgetRun.decided_for["refused"] > EXAMPLES / 4, BudgetRun.decided_for
