"""The worker: one Celery task that runs steps, and what happens around a step."""

from flujo_worker.app import create_app
from flujo_worker.coordinator import StepCoordinator
from flujo_worker.registry import Registry

__all__ = ["Registry", "StepCoordinator", "create_app"]
