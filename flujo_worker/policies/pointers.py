"""References in contexts: what they point to is loaded before a step, and saved after it."""

from __future__ import annotations

from typing import Any

from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.references import ContextReference, StateProvider
from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.registry import Registry

__all__ = ["ReferencePolicy"]


class ReferencePolicy:
    """Fills the references of an attempt's context, and saves those that a success has set.

    Args:
        registry: Has the providers.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps with a context."""
        return call.context is not None

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises `ConfigurationError` for a reference to a provider that is not here."""
        model = call.context_model
        values = (
            {} if model is None else vars(model)
        )  # to ask for each field would fetch what is lent, see `lend_outputs`
        found = [value for value in values.values() if isinstance(value, ContextReference)]
        for reference in found:
            await reference.load(self._provider(reference))
        output = await proceed(call)
        for reference in found:
            await reference.save(self._provider(reference))
        return output

    def _provider(self, reference: ContextReference) -> StateProvider:
        provider = self._registry.state_providers.get(reference.provider_id)
        if provider is None:
            known = ", ".join(self._registry.state_providers) or "none"
            raise ConfigurationError(
                f"The context refers to provider '{reference.provider_id}'; here there are: {known}.",
                suggestion="Give Flujo its state_providers, or set flujo_state_providers in the pipeline's module.",
            )
        return provider
