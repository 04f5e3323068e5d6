"""The control step of background nodes: its commit tells followers of the launch."""

from __future__ import annotations

import hashlib

from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["launch"]


async def launch(call: ControlCall) -> ControlEnd:
    """Name the task: the same name whichever attempt gives it."""
    place = f"{call.run_id} {call.store.path}"
    return ControlEnd(verdict={"task_id": f"bg_{hashlib.sha256(place.encode()).hexdigest()[:12]}"})
