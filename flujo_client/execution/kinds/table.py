"""The kinds of nodes, by the `kind` of their specs. A new kind is a file beside this one and a line here."""

from __future__ import annotations

from typing import Final

from flujo_client.execution.graph import Kinds
from flujo_client.execution.kinds.background import BackgroundKind
from flujo_client.execution.kinds.cache import CacheKind
from flujo_client.execution.kinds.conditional import ConditionalKind
from flujo_client.execution.kinds.hitl import HitlKind
from flujo_client.execution.kinds.loop import LoopKind
from flujo_client.execution.kinds.machine import MachineKind
from flujo_client.execution.kinds.mapping import MapKind
from flujo_client.execution.kinds.parallel import ParallelKind
from flujo_client.execution.kinds.pipeline import SubPipelineKind
from flujo_client.execution.kinds.router import RouterKind
from flujo_client.execution.kinds.sequence import SequenceKind
from flujo_client.execution.kinds.step import StepKind

__all__ = ["KINDS"]

KINDS: Final[Kinds] = {
    "step": StepKind(),
    "hitl": HitlKind(),
    "sequence": SequenceKind(),
    "parallel": ParallelKind(),
    "loop": LoopKind(),
    "conditional": ConditionalKind(),
    "machine": MachineKind(),
    "map": MapKind(),
    "router": RouterKind(),
    "background": BackgroundKind(),
    "cache": CacheKind(),
    "pipeline": SubPipelineKind(),
}
