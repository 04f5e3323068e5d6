"""The hooks of a worker's registry, called beside the step."""

from __future__ import annotations

from flujo_client.protocol.hooks import HookDispatcher, strict_hooks
from flujo_worker.registry import Registry

__all__ = ["worker_hooks"]


def worker_hooks(registry: Registry) -> HookDispatcher:
    """The dispatcher of the hooks that a registry names."""
    return HookDispatcher(registry.hooks, strict=strict_hooks())
