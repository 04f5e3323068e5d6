"""`AccountBook`: named accounts of an installation: defined, looked at, held back and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from flujo_client.execution.slabs import SlabMover
from flujo_client.protocol.errors import UnknownAccountError
from flujo_client.protocol.named import Account, now_utc
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec

__all__ = ["AccountBook", "AccountStatus", "MeterStatus"]


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """One meter of a named account in its window of today. `spent` passes the limit where estimates were no upper bounds."""

    limit: int
    reserved: int
    spent: int
    unknown: int

    @property
    def free(self) -> int:
        """What may still be reserved."""
        return max(0, self.limit - self.reserved - self.spent - self.unknown)


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """How a named account stands.

    Attributes:
        waits: Steps wait for it when it is exhausted; if not, their runs are refused.
        window: `day@UTC` or the like, `60s` for one that slides, `ever`.
        meters: By name.
        turns_at_ms: When a window of a calendar ends, ms since 1970; 0 if there is none.
        held_back_ms: Until when its provider asked to be left alone; 0 if it never did.
        waiting: Steps that wait for it.
        rules: Pipelines whose runs it pays for.
    """

    name: str
    waits: bool
    window: str
    meters: dict[str, MeterStatus] = field(default_factory=dict)
    turns_at_ms: int = 0
    held_back_ms: int = 0
    waiting: int = 0
    rules: tuple[str, ...] = ()


_PARTS = ("reserved", "spent", "unknown")

#: Waiters that a status counts.
_MOST_WAITING = 100_000


class AccountBook:
    """The named accounts of an installation.

    Args:
        scripts: On the Redis that holds the runs.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._commands = scripts.commands
        self._keyspace = scripts.keyspace
        self._slabs = SlabMover(scripts)

    async def define(self, account: Account) -> None:
        """Define an account, or define it anew: what it has taken stays taken, unless its window is another.

        Of several shards its home hears of it first, so that nobody is lent more than a lower limit allows, and what the
        others have free goes back to it at the end.

        Raises:
            StateUnavailableError: Redis does not answer; call again, as some shards may know of it and others not.
        """
        calendar = account.calendar(now_utc())
        for shard in self._home_first(account.name):
            await self._scripts.define_account(account.name, account.definition, calendar, account.pipelines, shard)
        await self._slabs.gather_in(account.name)

    def _home_first(self, name: str) -> list[int]:
        home = self._keyspace.home_of(name)
        return sorted(range(self._keyspace.shards), key=lambda shard: shard != home)

    async def define_for(self, spec: PipelineSpec, accounts: Sequence[Account]) -> list[str]:
        """Define what a pipeline's runs draw on; returns those that pay for every step: those that no step names."""
        for account in accounts:
            await self.define(account)
        of_steps = {name for step in spec.steps() for name in step.accounts}
        return [account.name for account in accounts if account.name not in of_steps]

    async def drop(self, name: str) -> None:
        """Forget an account: it limits nobody any more, and those who wait for it go on.

        Raises:
            UnknownAccountError: There is none of this name.
            StateUnavailableError: Redis does not answer; call again.
        """
        shards = reversed(self._home_first(name))  # the home knows what it lent until nobody has it any more
        if not any([await self._scripts.drop_account(name, shard) for shard in shards]):
            raise _unknown(name)

    async def hold_back(self, name: str, delay: timedelta) -> None:
        """Let nobody in for a while, as the provider asks (`Retry-After`). The longer of two delays counts.

        Raises:
            UnknownAccountError: There is none of this name.
            StateUnavailableError: Redis does not answer; call again.
        """
        if await self._scripts.hold_back_everywhere(name, delay // timedelta(milliseconds=1)) is None:
            raise _unknown(name)

    async def names(self) -> list[str]:
        """Of all accounts. Raises `StateUnavailableError`."""
        stored = await self._commands.execute("HGET", self._keyspace.shard("named"), "names")
        return [] if stored is None else sorted(stored.decode().split())

    async def status(self, name: str) -> AccountStatus:
        """How an account stands, on all shards together.

        Raises:
            UnknownAccountError: There is none of this name.
            StateUnavailableError: Redis does not answer.
        """
        first, *others = [await self._on_shard(name, shard) for shard in range(self._keyspace.shards)]
        meters = {
            meter: MeterStatus(
                row.limit, *(sum(getattr(one.meters[meter], part) for one in (first, *others)) for part in _PARTS)
            )
            for meter, row in first.meters.items()
        }
        return replace(
            first,
            meters=meters,
            held_back_ms=max(one.held_back_ms for one in (first, *others)),
            waiting=sum(one.waiting for one in (first, *others)),
        )

    async def _on_shard(self, name: str, shard: int) -> AccountStatus:
        await self._scripts.call_waiters(name, 0, shard)  # brings it up to date
        key, queue = self._keyspace.shard("named", shard), self._keyspace.shard("named_queue", shard)
        fields = (f"def|{name}", f"row|{name}", f"closed|{name}", "rules")
        stored = await self._commands.execute("HMGET", key, *fields)
        definition, row, closed, rules = (b"" if value is None else value for value in stored)
        if not definition:
            raise _unknown(name)
        start_and_end, parts = row.decode().split()[:2], row.decode().split()[2:]
        used = {meter: tuple(map(int, parts[at + 1 : at + 4])) for at, meter in enumerate(parts) if at % 4 == 0}
        when, _, _, _, span, *limits = definition.decode().split()
        waiting = await self._commands.execute(
            "ZRANGEBYLEX", queue, f"[w{name} ", f"(w{name}!", "LIMIT", 0, _MOST_WAITING
        )
        pairs = rules.decode().split()
        return AccountStatus(
            name,
            when == "wait",
            span,
            {
                meter: MeterStatus(int(limit), *used.get(meter, (0, 0, 0)))
                for meter, _, limit in (word.partition("=") for word in sorted(limits))
            },
            int(start_and_end[1]) if start_and_end else 0,
            int(closed or 0),
            len(waiting),
            tuple(pattern for pattern, account in zip(pairs[::2], pairs[1::2], strict=True) if account == name),
        )


def _unknown(name: str) -> UnknownAccountError:
    return UnknownAccountError(
        f"Nobody has defined an account {name}.", suggestion="`flujo accounts` lists them.", account=name
    )
