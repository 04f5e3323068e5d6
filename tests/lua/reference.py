"""The account tree as it is meant, in exact integers and without any of the scripts' shortcuts; see docs/budgets.md."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_PASSED, PAGE = 16, 16


@dataclass(repr=False)
class Account:
    path: str
    above: Account | None
    granted: int
    strict: bool = False
    open: bool = True
    rests: bool = False  # its own thread is blocked, paused or waits for its time
    reserved: int = 0
    spent: int = 0
    unknown: int = 0
    overrun: int = 0
    children: list[Account] = field(default_factory=list)

    def __repr__(self) -> str:
        return self.path

    @property
    def free(self) -> int:
        return self.granted - self.reserved - self.spent - self.unknown - sum(child.granted for child in self.children)

    @property
    def use(self) -> int:
        return self.reserved + self.spent + self.unknown + sum(child.use for child in self.children)

    @property
    def runs(self) -> bool:
        live = [child for child in self.children if child.open]
        return any(child.runs for child in live) if live else self.open and not self.rests

    def upwards(self) -> list[Account]:
        return [self, *(self.above.upwards() if self.above else [])]

    def payers(self) -> list[Account]:
        """Who pays for it: itself and all above, up to a strict share."""
        return [self] if self.strict or self.above is None else [self, *self.above.payers()]

    def take(self, part: str, amount: int) -> None:
        for level, payer in enumerate(self.payers()):
            drawn = min(amount - self.free, payer.free) if level else 0
            for below in self.upwards()[:level] if drawn > 0 else []:
                below.granted += drawn
        setattr(self, part, getattr(self, part) + amount)

    def pool(self) -> None:
        for child in self.children:
            child.pool()
            child.granted = child.use


class Tree:
    """One meter of a run: its accounts, and who waits as {path: (account, asked, shared draws when it came)}."""

    def __init__(self, cap: int) -> None:
        self.accounts = {"root": Account("root", None, cap)}
        self.waiting: dict[str, tuple[Account, int, int]] = {}
        self.draws = 0
        self.outcomes: list[tuple[str, str]] = []  # (path, granted or refused), in order

    def reach(self, account: Account) -> int:
        return sum(payer.free for payer in account.payers())

    def can_pay(self, path: str, account: Account, asked: int, kept: bool = True) -> bool:
        missing = asked - account.free
        for payer in account.payers()[1:] if kept else []:
            first = self.first_claim(payer)
            if missing > 0 and first not in (None, path):
                return False
            missing -= payer.free
        return self.reach(account) >= asked

    def below(self, account: Account) -> list[str]:
        found = [path for path, (at, _, _) in self.waiting.items() if account in at.upwards()]
        return sorted(found, key=lambda path: [int(index) for index in path.split(".")])

    def first_claim(self, account: Account) -> str | None:
        found = self.below(account)
        oldest = min(found, key=lambda path: (self.waiting[path][2], found.index(path)), default=None)
        return oldest if oldest and self.draws - self.waiting[oldest][2] >= MOST_PASSED else None

    def reserve(self, account: Account, asked: int) -> None:
        self.draws += asked > account.free
        account.take("reserved", asked)

    def serve(self, account: Account, kept: bool = True) -> None:
        granted = True
        while granted:
            granted = False
            for path in self.below(account)[:PAGE]:
                first = self.first_claim(account)
                at, asked, _ = self.waiting.get(first or path, (account, 0, 0))
                if (first or path) in self.waiting and self.can_pay(first or path, at, asked, kept):
                    del self.waiting[first or path]
                    self.reserve(at, asked)
                    at.rests, granted = False, True
                    self.outcomes.append((first or path, "granted"))
                elif first and kept:
                    return

    def settle(self, account: Account, part: str, held: int, actual: int) -> int:
        setattr(account, part, getattr(account, part) - held)
        covered = min(actual, self.reach(account))
        account.take("spent", covered)
        account.overrun += actual - covered
        self.give_back(account, [account] if held else [])
        return actual - covered

    def give_back(self, account: Account, freed: list[Account]) -> None:
        while not account.open and account.above:
            rest, account.granted = account.free, account.granted - account.free
            account = account.above
            freed += [account] if rest else []
        for at in freed:
            self.serve(at)

    def stopped(self, ran: set[str]) -> None:
        """Those of `ran` that run no more: innermost first, pool what is below, serve, refuse what nobody can pay."""
        for account in sorted(self.accounts.values(), key=lambda at: -len(at.upwards())):
            if account.path not in ran or account.runs or not account.open or not self.below(account):
                continue
            account.pool()
            self.serve(account)
            top = account.above is None or account.strict
            if top and not account.runs:
                self.serve(account, kept=False)
            if top and not account.runs:
                path = self.below(account)[0]
                self.waiting.pop(path)[0].rests = False
                self.outcomes.append((path, "refused"))

    def running(self) -> set[str]:
        return {path for path, account in self.accounts.items() if account.runs}
