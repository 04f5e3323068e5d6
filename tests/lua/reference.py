"""The account tree as it is meant, in exact integers and without any of the scripts' shortcuts; see docs/budgets.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

MOST_PASSED, PAGE = 16, 16


class Account:
    """One account, with every limited meter; it `rests` while its own thread is blocked, paused or waits for its time.

    That of a step with limits of its own has caps and no thread: it is granted what it takes, and keeps nothing free.
    """

    def __init__(self, path: str, above: Account | None, granted: Mapping[str, int], *, strict: bool = False) -> None:
        self.path, self.above, self.strict, self.granted = path, above, strict, dict(granted)
        self.open, self.rests, self.caps = True, False, dict[str, int]()
        self.reserved, self.spent, self.unknown, self.overrun = (Counter[str]() for _ in range(4))
        self.children: list[Account] = []

    def __repr__(self) -> str:
        return self.path

    def free(self, meter: str) -> int:
        granted = self.granted[meter] - sum(child.granted[meter] for child in self.children)
        return granted - self.reserved[meter] - self.spent[meter] - self.unknown[meter]

    def use(self, meter: str) -> int:
        own = self.reserved[meter] + self.spent[meter] + self.unknown[meter]
        return own + sum(child.use(meter) for child in self.children)

    def limit_step(self, path: str, caps: Mapping[str, int]) -> Account:
        step = Account(path, self, dict.fromkeys(caps, 0))
        step.open, step.caps = False, dict(caps)
        self.children.append(step)
        return step

    @property
    def thread(self) -> Account:
        return self.above if self.caps and self.above else self

    @property
    def runs(self) -> bool:
        live = [child for child in self.children if child.open]
        return any(child.runs for child in live) if live else self.open and not self.rests

    def upwards(self) -> list[Account]:
        return [self, *(self.above.upwards() if self.above else [])]

    def payers(self) -> list[Account]:
        """Who pays for it: itself and all above, up to a strict share."""
        return [self] if self.strict or self.above is None else [self, *self.above.payers()]

    def left(self, meter: str) -> int | None:
        """What its caps leave it; None without them."""
        return self.caps[meter] - self.use(meter) if self.caps else None

    def reach(self, meter: str) -> int:
        most, left = sum(payer.free(meter) for payer in self.payers()), self.left(meter)
        return most if left is None else max(0, min(most, left))

    def take(self, part: Counter[str], meter: str, amount: int) -> None:
        for level, payer in enumerate(self.payers()):
            drawn = min(amount - self.free(meter), payer.free(meter)) if level else 0
            for below in self.upwards()[:level] if drawn > 0 else []:
                below.granted[meter] += drawn
        part[meter] += amount

    def pool(self) -> None:
        for child in self.children:
            child.pool()
            child.granted = {meter: child.use(meter) for meter in child.granted}


class Tree:
    """A run's accounts, and who waits as {path: (account, estimate, shared draws when it came)}."""

    def __init__(self, caps: Mapping[str, int]) -> None:
        self.accounts = {"root": Account("root", None, caps)}
        self.waiting: dict[str, tuple[Account, dict[str, int], int]] = {}
        self.draws = 0
        self.decided: list[tuple[str, str]] = []  # (path, '' if granted, else the meter that was short), in order

    def lack(self, path: str, account: Account, asked: Mapping[str, int], kept: bool = True) -> str:
        """The meter that an estimate is short of, cost before the others; '' if it can be paid."""
        for meter in sorted(asked, key=lambda name: (name != "cost_nanousd", name)):
            missing = asked[meter] - account.free(meter)
            for payer in account.payers()[1:] if kept else []:
                if missing > 0 and self.first_claim(payer) not in (None, path):
                    return meter
                missing -= payer.free(meter)
            if account.reach(meter) < asked[meter]:
                return meter
        return ""

    def below(self, account: Account) -> list[str]:
        found = [path for path, (at, _, _) in self.waiting.items() if account in at.upwards()]
        return sorted(found, key=lambda path: [int(index) for index in path.split(".")])

    def first_claim(self, account: Account) -> str | None:
        found = self.below(account)
        oldest = min(found, key=lambda path: (self.waiting[path][2], found.index(path)), default=None)
        return oldest if oldest and self.draws - self.waiting[oldest][2] >= MOST_PASSED else None

    def reserve(self, account: Account, asked: Mapping[str, int]) -> None:
        self.draws += any(amount > account.free(meter) for meter, amount in asked.items())
        for meter, amount in asked.items():
            account.take(account.reserved, meter, amount)

    def serve(self, account: Account, kept: bool = True) -> None:
        granted = True
        while granted:
            granted = False
            for listed in self.below(account)[:PAGE]:
                first = self.first_claim(account)
                path = first or listed
                if path in self.waiting and not self.lack(path, *self.waiting[path][:2], kept):
                    at, asked, _ = self.waiting.pop(path)
                    self.reserve(at, asked)
                    at.thread.rests, granted = False, True
                    self.decided.append((path, ""))
                elif first and kept:
                    return

    def settle(self, at: Account, part: Counter[str], held: Mapping[str, int], used: Mapping[str, int]) -> Counter[str]:
        """Turn what is held of a part into what was used; gives what nobody covered."""
        over: Counter[str] = Counter()
        for meter in at.granted:
            part[meter] -= held.get(meter, 0)
            covered = min(used.get(meter, 0), at.reach(meter))
            at.take(at.spent, meter, covered)
            over[meter] = used.get(meter, 0) - covered
        at.overrun += over
        self.give_back(at, [at] if any(held.get(meter) for meter in at.granted) else [])
        return +over

    def give_back(self, account: Account, freed: list[Account]) -> None:
        while not account.open and account.above:
            rest = {meter: account.free(meter) for meter in account.granted}
            account.granted = {meter: account.granted[meter] - rest[meter] for meter in rest}
            account = account.above
            freed += [account] if any(rest.values()) else []
        for at in freed:
            self.serve(at)

    def stopped(self, ran: set[str]) -> None:
        """Those of `ran` that run no more: innermost first, pool what is below, serve, refuse what nobody can pay."""
        for account in sorted(self.accounts.values(), key=lambda at: -len(at.upwards())):
            if account.path not in ran or account.runs or not account.open or not self.below(account):
                continue
            account.pool()
            self.serve(account)
            if (account.above is None or account.strict) and not account.runs:
                self.serve(account, kept=False)
                if not account.runs:
                    path = self.below(account)[0]
                    at, asked, _ = self.waiting[path]
                    short = self.lack(path, at, asked, kept=False)
                    del self.waiting[path]
                    at.thread.rests = False
                    self.decided.append((path, short))

    def running(self) -> set[str]:
        return {path for path, account in self.accounts.items() if account.runs}
