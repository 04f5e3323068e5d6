"""The control steps, by kind of node and name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from flujo_client.protocol.leaves import HANDLERS
from flujo_client.protocol.messages import ANY_NODE, LAUNCH
from flujo_worker.policies.background import launch
from flujo_worker.policies.cache import give_up_lookup, look_up, store_result
from flujo_worker.policies.conditional import choose_branch, map_output
from flujo_worker.policies.control import ControlCall, ControlEnd
from flujo_worker.policies.failure_handlers import call_handlers
from flujo_worker.policies.hitl import ask, take_answer
from flujo_worker.policies.loop import judge_iteration, map_first_input
from flujo_worker.policies.machine import choose_state
from flujo_worker.policies.mapping import gather_items, list_items
from flujo_worker.policies.parallel import merge_branches, narrow_context
from flujo_worker.policies.pipeline import make_result, open_context
from flujo_worker.policies.router import pick_branches

__all__ = ["CONTROLS"]

CONTROLS: Final[Mapping[tuple[str, str], Callable[[ControlCall], Awaitable[ControlEnd]]]] = {
    ("parallel", "enter"): narrow_context,
    ("parallel", "merge"): merge_branches,
    ("loop", "enter"): map_first_input,
    ("loop", "next"): judge_iteration,
    ("conditional", "choose"): choose_branch,
    ("conditional", "output"): map_output,
    ("machine", "next"): choose_state,
    ("machine", "paused"): choose_state,
    ("hitl", "ask"): ask,
    ("hitl", "answer"): take_answer,
    ("map", "items"): list_items,
    ("map", "gather"): gather_items,
    ("router", "pick"): pick_branches,
    ("background", LAUNCH): launch,
    ("cache", "lookup"): look_up,
    ("cache", "store"): store_result,
    ("cache", "release"): give_up_lookup,
    ("pipeline", "enter"): open_context,
    ("pipeline", "result"): make_result,
    (ANY_NODE, HANDLERS): call_handlers,
}
