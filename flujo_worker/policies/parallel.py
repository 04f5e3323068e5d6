"""Control steps of parallel nodes: the merge of their branches' contexts."""

from __future__ import annotations

from flujo_client.protocol.context import merge_contexts
from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["merge_branches"]


async def merge_branches(call: ControlCall) -> ControlEnd:
    """Merge the contexts of the branches that succeeded, in declared order.

    Raises:
        ContextMergeError: Two branches set different values.
    """
    return ControlEnd(context=merge_contexts(call.base, call.branches, call.task.merge))
