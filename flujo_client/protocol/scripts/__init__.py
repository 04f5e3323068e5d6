"""One typed method per Lua file. The scripts are the only writers of the records; this is the only way to call them.

Every script refuses before its first write and answers a repeated call as it answered the first, so that a call whose
reply was lost may be made again. Refusals are return values.
"""

from __future__ import annotations

from flujo_client.protocol.scripts.accounts import AccountScripts
from flujo_client.protocol.scripts.attempts import SETTLES_KEPT, SETTLES_TTL_MS, AttemptScripts
from flujo_client.protocol.scripts.decisions import DecisionScripts
from flujo_client.protocol.scripts.fleet import FleetScripts
from flujo_client.protocol.scripts.runs import LATE_MS, SPEC_KEPT_MS, RunScripts

__all__ = ["LATE_MS", "SETTLES_KEPT", "SETTLES_TTL_MS", "SPEC_KEPT_MS", "Scripts"]


class Scripts(RunScripts, DecisionScripts, AttemptScripts, FleetScripts, AccountScripts):
    """The scripts, bound to a Redis and a namespace.

    Args:
        caller: Sends the calls.
        keyspace: Makes the keys.
    """
