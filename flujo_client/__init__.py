"""Flujo: typed pipelines, run in process or as queued tasks on a fleet of Celery workers."""

from flujo_client.client import AsyncFlujoClient, FlujoClient
from flujo_client.dsl.conditional import ConditionalStep
from flujo_client.dsl.config import BranchFailureStrategy, MergeStrategy, StepConfig
from flujo_client.dsl.loop import LoopStep
from flujo_client.dsl.machine import StateMachineStep, Transition
from flujo_client.dsl.parallel import ParallelStep
from flujo_client.dsl.pipeline import Pipeline, Step, step
from flujo_client.dsl.refine import RefinementCheck
from flujo_client.protocol.quota import Quota, UsageEstimate, UsageLimits
from flujo_client.protocol.results import PipelineContext, PipelineResult, RunStatus, StepResult
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.step_run import StepRun
from flujo_client.runner import Flujo

__all__ = [
    "AsyncFlujoClient",
    "BranchFailureStrategy",
    "ConditionalStep",
    "Flujo",
    "FlujoClient",
    "LoopStep",
    "MergeStrategy",
    "ParallelStep",
    "Pipeline",
    "PipelineContext",
    "PipelineResult",
    "Quota",
    "RefinementCheck",
    "RunStatus",
    "Settings",
    "StateMachineStep",
    "Step",
    "StepConfig",
    "StepResult",
    "StepRun",
    "Transition",
    "UsageEstimate",
    "UsageLimits",
    "step",
]
