"""How a script is called: its keys, its place for a fault, and the words of its reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flujo_client.protocol.caller import Script, ScriptCaller, load_script
from flujo_client.protocol.errors import SchemaMismatchError
from flujo_client.protocol.failpoints import failpoint
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.messages import SCHEMA_VERSION

__all__ = ["ScriptCalls", "fields_of", "pairs_of", "schema_mismatch", "text_of"]

_NAMES = (
    "adopt advance bury cache_look cache_store call_waiters cancel commit create_run decline define_account drop_account "
    "emit extend finish hold_back keep_spec learn leave lend_slab load_run look_ahead look_later lose offer_slab "
    "publish_spec redispatch refuse_run register renew reserve restore "
    "resume retire_specs revive ring stash sweep take_slab"
)


class ScriptCalls:
    """The scripts, bound to a Redis and a namespace.

    Args:
        caller: Sends the calls.
        keyspace: Makes the keys.
    """

    def __init__(self, caller: ScriptCaller, keyspace: Keyspace) -> None:
        self._caller = caller
        self.commands = caller.commands
        self.keyspace = keyspace
        self._scripts: dict[str, Script] = {name: load_script(name) for name in _NAMES.split()}

    async def _call(self, name: str, keys: Sequence[str], *args: Any) -> list[Any]:
        failpoint("before", name)
        reply: list[Any] = await self._caller.call(self._scripts[name], keys, args)
        failpoint("after", name)
        return reply

    def _named(self, shard: int) -> list[str]:
        return [self.keyspace.shard(name, shard) for name in ("named", "named_queue", "named_due")]


def text_of(value: bytes | str) -> str:
    """A word of a reply."""
    return value.decode() if isinstance(value, bytes) else value


def pairs_of(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """The fields of a flat reply, two by two."""
    return zip(flat[::2], flat[1::2], strict=True)


def fields_of(flat: Sequence[bytes]) -> dict[str, str]:
    """The fields of a hash of texts, as HGETALL replies it."""
    return {field.decode(): value.decode() for field, value in pairs_of(flat)}


def schema_mismatch(run_id: str, schema: bytes) -> SchemaMismatchError:
    """The error of a run that a newer release wrote."""
    return SchemaMismatchError(
        f"Run {run_id} was written with schema {text_of(schema)}; this release knows {SCHEMA_VERSION}.",
        suggestion="Upgrade this process before it serves the run; the run waits.",
    )
