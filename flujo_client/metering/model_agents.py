"""pydantic-ai agents as agents of steps, and a model that meters its requests. Needs the extra `pydantic-ai`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from flujo_client.metering.bounds import call_bound
from flujo_client.metering.refusals import heed
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.pricing import price_usd
from flujo_client.protocol.step_run import ProviderCall, current_step_run, inside_call, metered_step_run

__all__ = ["MeteredModel", "ModelAgentCall", "make_agent_async", "options_of", "output_type", "prompt_of"]


class MeteredModel(WrapperModel):
    """A model whose requests are paid for by the step that makes them.

    Before each request its bound is reserved, after it what it used is reported; a budget that cannot pay stops the agent
    before the request. Outside of steps, and inside a call that is metered already, it changes nothing.

    Args:
        wrapped: A model of pydantic-ai, or its name.
        account: The named account of the provider's key, held back when the provider says `Retry-After`; default: those
            that the step names.
    """

    def __init__(self, wrapped: Model | str, *, account: str | None = None) -> None:
        super().__init__(wrapped)
        self._account = account

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """See `Model.request`. Raises `UsageLimitExceededError` if the budget cannot pay."""
        run = metered_step_run()
        if run is None:
            async with self._heeding(None):
                return await super().request(messages, model_settings, model_request_parameters)
        call = await run.usage.begin(requests=1, **self._bound(messages, model_settings, model_request_parameters))
        async with self._heeding(call):
            response = await super().request(messages, model_settings, model_request_parameters)
        self._report(call, response, strict=run.strict_pricing)
        await call.settle()
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """See `Model.request_stream`. Raises `UsageLimitExceededError` if the budget cannot pay."""
        run, call = metered_step_run(), None
        opened = super().request_stream(messages, model_settings, model_request_parameters, run_context)
        if run is not None:
            call = await run.usage.begin(requests=1, **self._bound(messages, model_settings, model_request_parameters))
        async with AsyncExitStack() as stack:
            async with self._heeding(call):  # what is called while the answer is read is not part of it
                stream = await stack.enter_async_context(opened)
            if run is None or call is None:
                yield stream
                return
            try:
                yield stream
            finally:
                self._report(call, stream.get(), strict=run.strict_pricing)
                excess = call.close()
            await run.usage.reserve_amounts(excess)

    @asynccontextmanager
    async def _heeding(self, call: ProviderCall | None) -> AsyncGenerator[None]:
        """While a request is made. One that the provider refuses costs nothing but a request; one that breaks off may be billed."""
        try:
            with inside_call():
                yield
        except BaseException as error:
            refusals = _refusals_in(error)
            if call is not None and refusals:
                call.report(requests=1)
            if call is not None:
                call.close()
            for refusal in refusals:
                await heed(current_step_run(), refusal.headers, self._account)
            raise

    def _bound(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> dict[str, Any]:
        terms: Mapping[str, Any] = {**(self.settings or {}), **(settings or {})}
        tools = [tool.parameters_json_schema for tool in (*parameters.function_tools, *parameters.output_tools)]
        dumped = ModelMessagesTypeAdapter.dump_json(messages)
        long_cache = b'"1h"' in dumped or "1h" in terms.values()
        size = len(dumped) + len(json_bytes(tools))
        return call_bound(self.model_name, self.system, size, terms.get("max_tokens"), long_cache=long_cache)

    def _report(self, call: ProviderCall, response: ModelResponse, *, strict: bool) -> None:
        """What a response says that it used. Of one that broke off it is noted: more may have been billed."""
        usage = response.usage
        used = {"tokens": usage.input_tokens + usage.output_tokens, "requests": 1}
        if response.state != "complete":
            call.note(**used, cost_usd=self._price(response, strict=False))
        elif used["tokens"]:  # else it says nothing of usage, and costs its bound
            call.report(**used, cost_usd=self._price(response, strict=strict))

    def _price(self, response: ModelResponse, *, strict: bool) -> float:
        usage = response.usage
        return price_usd(
            response.model_name or self.model_name,
            response.provider_name or self.system,
            usage.input_tokens,
            usage.output_tokens,
            strict=strict,
            usage=usage,
        )


def _refusals_in(error: BaseException) -> list[ModelHTTPError]:
    """The refusals of providers that an error consists of; none if anything else is in it, or if an answer had begun."""
    if isinstance(error, BaseExceptionGroup):
        parts = [_refusals_in(part) for part in error.exceptions]
        return [refusal for part in parts for refusal in part] if all(parts) else []
    return [error] if isinstance(error, ModelHTTPError) and not error.in_stream else []


@dataclass(frozen=True, slots=True)
class ModelAgentCall:
    """A pydantic-ai agent, called as a step's function is.

    Attributes:
        agent: Unchanged.
    """

    agent: Agent[Any, Any]

    async def __call__(
        self,
        value: Any,
        *,
        resources: Any = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Any:
        """Run the agent on a prompt; what is no prompt becomes one as JSON.

        Args:
            resources: Become its dependencies, if they are of the type that it declares.
        """
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return await self.agent.run(prompt_of(value), **options_of(self.agent, resources, settings))


def options_of(agent: Agent[Any, Any], resources: Any, settings: Mapping[str, float | None]) -> dict[str, Any]:
    """What an agent is run with besides its prompt: a metered model, its settings, and its dependencies."""
    given = {name: setting for name, setting in settings.items() if setting is not None}
    options: dict[str, Any] = {"model_settings": ModelSettings(**given)} if given else {}  # type: ignore[typeddict-item]  # names as it has them
    if agent.model is not None and not isinstance(agent.model, MeteredModel):  # twice would be charged twice
        options["model"] = MeteredModel(agent.model)
    wanted = agent.deps_type
    if resources is not None and wanted not in (object, type(None)) and isinstance(resources, wanted):
        options["deps"] = resources
    return options


def prompt_of(value: Any) -> Any:
    """A step's input as a prompt: as it is if it can be one, else as JSON."""
    contents = value if isinstance(value, list | tuple) else (value,)
    if value is None or all(isinstance(part, str) or _is_content(part) for part in contents):
        return value
    return json_bytes(value).decode()


def _is_content(part: Any) -> bool:
    return type(part).__module__.partition(".")[0] == "pydantic_ai"


def output_type(agent: Agent[Any, Any]) -> Any:
    """What an agent's runs give; `Any` where that is not one type."""
    declared = agent.output_type
    return declared if isinstance(declared, type) else Any


def make_agent_async(
    model: Model | str, system_prompt: str = "", output_type: Any = str, tools: Any = (), **options: Any
) -> Agent[Any, Any]:
    """An agent of pydantic-ai, as existing code asks for it.

    Args:
        options: Of `pydantic_ai.Agent`; and `max_retries`, and `timeout` of a request, seconds.
    """
    timeout_s = options.pop("timeout", None)
    if timeout_s is not None:
        options["model_settings"] = {"timeout": timeout_s, **options.get("model_settings", {})}
    retries = options.pop("max_retries", None)
    if retries is not None:
        options["retries"] = retries
    return Agent(model, system_prompt=system_prompt, output_type=output_type, tools=tools, **options)
