"""The account tree as it is meant, in exact integers and without any of the scripts' shortcuts; see docs/budgets.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

MOST_PASSED = 16


class Account:
    """One account; it `rests` while its own thread is blocked, paused or waits. With `caps`, a step's own limits, it has no thread."""

    def __init__(
        self, path: str, above: Account | None, granted: Mapping[str, int], *, strict: bool = False, caps: bool = False
    ) -> None:
        self.path, self.above, self.strict, self.caps = path, above, strict, dict(granted) if caps else {}
        self.granted, self.open, self.rests = Counter({} if caps else granted), not caps, False
        self.reserved, self.spent, self.unknown, self.overrun = (Counter[str]() for _ in range(4))
        self.children: list[Account] = []
        self.upwards: list[Account] = [self, *(above.upwards if above else [])]
        self.payers: list[Account] = (
            [self] if strict or above is None else [self, *above.payers]
        )  # up to a strict share
        self.thread = above if caps and above else self
        if above:
            above.children.append(self)

    def use(self, meter: str) -> int:
        own = self.reserved[meter] + self.spent[meter] + self.unknown[meter]
        return own + sum(child.use(meter) for child in self.children)

    def free(self, meter: str) -> int:
        granted = self.granted[meter] - sum(child.granted[meter] for child in self.children)
        return granted - self.reserved[meter] - self.spent[meter] - self.unknown[meter]

    def reach(self, meter: str) -> int:
        most = sum(payer.free(meter) for payer in self.payers)
        return max(0, min(most, self.caps[meter] - self.use(meter))) if self.caps else most

    @property
    def runs(self) -> bool:
        live = [child for child in self.children if child.open]
        return any(child.runs for child in live) if live else self.open and not self.rests

    def take(self, part: Counter[str], meter: str, amount: int) -> None:
        for level, payer in enumerate(self.payers):
            drawn = min(amount - self.free(meter), payer.free(meter)) if level else 0
            for below in self.upwards[:level] if drawn > 0 else []:
                below.granted[meter] += drawn
        part[meter] += amount

    def pool(self, meter: str) -> None:
        for child in self.children:
            child.pool(meter)
            child.granted[meter] = child.use(meter)

    def borrow(self, meter: str, asked: int) -> None:
        """What cannot wait draws on what branches have free, the nearest split first."""
        most = min(asked, self.caps[meter] - self.use(meter)) if self.caps else asked
        for payer in self.payers:
            if self.reach(meter) < most:
                payer.pool(meter)


class Tree:
    """A run's accounts, and who waits, for its start or in its place: {path: (account, estimate, shared draws when it came)}."""

    def __init__(self, caps: Mapping[str, int]) -> None:
        self.accounts = {"root": Account("root", None, caps)}
        self.waiting: dict[str, tuple[Account, Mapping[str, int], int]] = {}
        self.draws = 0
        self.decided: list[tuple[str, str]] = []  # (path, '' if granted, else the meter that was short), in order

    def below(self, account: Account) -> list[str]:
        found = [path for path, (at, _, _) in self.waiting.items() if account in at.upwards]
        return sorted(found, key=lambda path: [int(index) for index in path.split(".")])

    def first_claim(self, account: Account) -> str | None:
        """Who was passed over too often: what is free here is kept for it."""
        oldest = min(self.below(account), key=lambda path: self.waiting[path][2], default=None)
        return oldest if oldest and self.draws - self.waiting[oldest][2] >= MOST_PASSED else None

    def lack(self, path: str, account: Account, asked: Mapping[str, int], kept: bool = True) -> str:
        """The meter that an estimate is short of, cost before the others; '' if it can be paid."""
        for meter in sorted(asked, key=lambda name: (name != "cost_nanousd", name)):
            missing, payers = asked[meter] - account.free(meter), account.payers[1:] if kept else []
            for payer in payers:
                if missing > 0 and self.first_claim(payer) not in (None, path):
                    return meter
                missing -= payer.free(meter)
            if account.reach(meter) < asked[meter]:
                return meter
        return ""

    def reserve(self, account: Account, asked: Mapping[str, int]) -> None:
        self.draws += any(amount > account.free(meter) for meter, amount in asked.items())
        for meter, amount in asked.items():
            account.take(account.reserved, meter, amount)

    def leave(self, path: str) -> None:
        """It waits no more, also one that was in its place."""
        if path in self.waiting:
            self.waiting.pop(path)[0].thread.rests = False

    def decide(self, path: str, short: str) -> None:
        account, asked, _ = self.waiting[path]
        self.leave(path)
        self.decided.append((path, short))
        if not short:
            self.reserve(account, asked)

    def serve(self, account: Account, kept: bool = True) -> None:
        """Whoever can go on does, the first in declared order before the others."""
        while able := [path for path in self.below(account) if not self.lack(path, *self.waiting[path][:2], kept)]:
            self.decide(able[0], "")

    def settle(self, at: Account, part: Counter[str], held: Mapping[str, int], used: Mapping[str, int]) -> Counter[str]:
        """Turn what is held of a part into what was used; gives what nobody covered."""
        over: Counter[str] = Counter()
        for meter in self.accounts["root"].granted:
            part[meter] -= held.get(meter, 0)
            at.borrow(meter, used.get(meter, 0))
            covered = min(used.get(meter, 0), at.reach(meter))
            at.take(at.spent, meter, covered)
            over[meter] = used.get(meter, 0) - covered
        at.overrun += over
        self.give_back(at)
        return +over

    def give_back(self, account: Account) -> None:
        """What closed accounts have free goes to the nearest open one; then whoever can go on does."""
        for closed in account.upwards:
            if closed.open or not closed.above:
                break
            for meter in self.accounts["root"].granted:
                closed.granted[meter] -= closed.free(meter)
        self.serve(self.accounts["root"])

    def running(self) -> set[str]:
        return {path for path, account in self.accounts.items() if account.runs}

    def stopped(self, ran: set[str]) -> None:
        """Those of `ran` run no more: innermost first, pool what is below, serve, refuse the first whom nobody can pay."""
        for account in sorted(self.accounts.values(), key=lambda at: -len(at.upwards)):
            if account.path in ran and not account.runs and account.open and self.below(account):
                for meter in self.accounts["root"].granted:
                    account.pool(meter)
                self.serve(account)
                if not account.runs and (account.above is None or account.strict):
                    self.serve(account, kept=False)
                    if not account.runs:
                        path = self.below(account)[0]
                        self.decide(path, self.lack(path, *self.waiting[path][:2], kept=False))
        self.serve(self.accounts["root"])
