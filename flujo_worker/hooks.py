"""The hooks of a worker's registry, called beside the step."""

from __future__ import annotations

import os

from flujo_client.protocol.hooks import HookDispatcher
from flujo_worker.registry import Registry

__all__ = ["worker_hooks"]


def worker_hooks(registry: Registry) -> HookDispatcher:
    """The dispatcher of the hooks that a registry names."""
    return HookDispatcher(registry.hooks, strict=os.environ.get("FLUJO_STRICT_HOOKS") == "1")
