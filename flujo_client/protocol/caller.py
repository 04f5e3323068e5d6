"""Calls scripts by the hash of their content, and loads them into a Redis that does not know them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from flujo_client.protocol.errors import ScriptRefusedError, StateUnavailableError
from flujo_client.protocol.wire import Commands, RedisReplyError

__all__ = ["Script", "ScriptCaller", "load_script"]


#: Words in the errors of a Redis that takes nothing for now, and what to do about each.
_PASSING: Final = {
    "OOM command": "Free memory or raise maxmemory: nothing was changed.",
    "MISCONF": "Redis cannot write to its disk; free some.",
    "NOREPLICAS": "Redis wants more replicas than it has.",
    "BUSY ": "A script of somebody else blocks Redis.",
    "CLUSTERDOWN": "The cluster has lost a part of its slots.",
    "TRYAGAIN": "The cluster moves slots.",
}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua file, the parts before it, and the hash by which Redis knows both."""

    name: str
    text: str
    sha: str


#: What the scripts that move budget share, in the order in which it builds on itself.
_BUDGET = (
    "_prelude",
    "_splits",
    "_accounts",
    "_moves",
    "_borrowing",
    "_threads",
    "_waiters",
    "_in_place",
    "_floors",
    "_hints",
    "_serve",
    "_stuck",
    "_slabs",
    "_named",
    "_charges",
    "_settling",
    "_places",
    "_ahead",
)

#: The scripts that move, or read, budget.
_WITH_BUDGET = (
    "advance",
    "call_waiters",
    "cancel",
    "commit",
    "decline",
    "extend",
    "lend_slab",
    "load_run",
    "lose",
    "offer_slab",
    "redispatch",
    "reserve",
    "take_slab",
)


@functools.cache
def load_script(name: str) -> Script:
    """Read a Lua file of this package, once, with the parts that it builds on before it."""
    folder = files("flujo_client.protocol") / "lua"
    parts = _BUDGET if name in _WITH_BUDGET else _BUDGET[:1]
    text = "".join((folder / f"{part}.lua").read_text() for part in (*parts, name))
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())


class ScriptCaller:
    """Calls scripts on one Redis.

    Args:
        commands: Owned by the caller.
    """

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script at least once: after a lost reply it is sent again, so every script is idempotent.

        Raises:
            StateUnavailableError: Redis did not answer, or takes nothing for now; whether the script ran is unknown.
            ScriptRefusedError: It will not run this call however often it is asked.
        """
        try:
            return await self._evaluate(script, keys, args)
        except RedisReplyError as error:
            fault = f"Redis did not run {script.name}: {error}."
            passing = next((remedy for word, remedy in _PASSING.items() if word in str(error)), None)
            if passing is not None:
                raise StateUnavailableError(fault, suggestion=passing) from error
            raise ScriptRefusedError(
                fault, suggestion="Check the server's version (6.2 or newer) and this user's rights."
            ) from error

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return await self.commands.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except RedisReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        await self.commands.execute("SCRIPT", "LOAD", script.text)
        return await self.commands.execute("EVALSHA", script.sha, len(keys), *keys, *args)
