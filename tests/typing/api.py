"""The public signatures, as a type checker sees them. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from flujo_client import (
    Account,
    AccountStatus,
    Flujo,
    FlujoClient,
    Pipeline,
    PipelineResult,
    RunStatus,
    Step,
    UsageLimits,
    step,
)
from flujo_client.awaitable import RunAwaitable
from flujo_client.protocol.messages import Event
from flujo_client.sync_client import Run

KEY = Account(name="key", slots=1)


@step
async def decorated(number: int) -> int:
    return number


@step(name="named", max_retries=2)
async def with_terms(number: int) -> int:
    return number


def check(client: FlujoClient) -> None:
    assert_type(decorated, Step[Any, Any])
    assert_type(with_terms, Step[Any, Any])
    assert_type(decorated >> with_terms, Pipeline)
    flujo = Flujo(decorated >> with_terms, usage_limits=UsageLimits(total_tokens_limit=1), accounts=[KEY])
    assert_type(flujo.run(1), PipelineResult)
    assert_type(flujo.run_async(1), RunAwaitable)
    assert_type(flujo.stream_async(1), AsyncIterator[Any])
    client.define_account(KEY)
    assert_type(client.account_status("key"), AccountStatus)
    run = client.submit("digest", {"url": "x"}, run_id="order-42", accounts=["key"])
    assert_type(run, Run)
    assert_type(run.status(), RunStatus)
    assert_type(run.result(timeout_s=60), PipelineResult)
    assert_type(run.events(), Iterator[Event])
    assert_type(run.cancel(), bool)
