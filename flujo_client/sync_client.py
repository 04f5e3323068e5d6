"""`FlujoClient`: `AsyncFlujoClient` for code that is not async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, Self, TypeVar

from flujo_client.account_book import AccountStatus
from flujo_client.background import BackgroundTask
from flujo_client.client import AsyncFlujoClient, AsyncRun
from flujo_client.protocol.messages import Event
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.results import Pause, PipelineResult, RunStatus
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.spec import LATEST
from flujo_client.protocol.traces import TraceSpan

__all__ = ["FlujoClient", "Run"]

T = TypeVar("T")


class FlujoClient:
    """`AsyncFlujoClient` for code that is not async; not to be used from more than one thread at once.

    Args:
        url: Redis that holds the runs; default: FLUJO_URL.
        settings: Instead of the FLUJO_* variables.

    Raises:
        TypeError: There is a running event loop, here or in any method: use `AsyncFlujoClient`.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        _refuse_running_loop()
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(url, settings))

    async def _connect(self, url: str | None, settings: Settings | None) -> AsyncFlujoClient:
        return AsyncFlujoClient(url, settings=settings)

    def submit(
        self,
        pipeline: str,
        value: Any = None,
        *,
        run_id: str | None = None,
        version: str = LATEST,
        usage_limits: UsageLimits | None = None,
        deadline_s: float | None = None,
        accounts: Sequence[str] = (),
    ) -> Run:
        """See `AsyncFlujoClient.submit`."""
        run = self.wait_for(
            self._client.submit(
                pipeline,
                value,
                run_id=run_id,
                version=version,
                usage_limits=usage_limits,
                deadline_s=deadline_s,
                accounts=accounts,
            )
        )
        return Run(self, run)

    def define_account(self, account: Account) -> None:
        """See `AccountBook.define`."""
        self.wait_for(self._client.accounts.define(account))

    def account_status(self, name: str) -> AccountStatus:
        """See `AccountBook.status`."""
        return self.wait_for(self._client.accounts.status(name))

    def fork(
        self,
        run_id: str,
        from_step: str,
        *,
        pipeline: str | None = None,
        version: str = LATEST,
        new_run_id: str | None = None,
    ) -> Run:
        """See `AsyncFlujoClient.fork`."""
        fork = self._client.fork(run_id, from_step, pipeline=pipeline, version=version, new_run_id=new_run_id)
        return Run(self, self.wait_for(fork))

    def run(self, run_id: str) -> Run:
        """See `AsyncFlujoClient.run`."""
        return Run(self, self._client.run(run_id))

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the async client to its end. Raises `TypeError` where an event loop is running."""
        try:
            _refuse_running_loop()
        except TypeError:
            work.close()  # else it warns that nobody awaited it
            raise
        return self._runner.run(work)

    def close(self) -> None:
        """See `AsyncFlujoClient.close`."""
        self.wait_for(self._client.close())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise TypeError("FlujoClient cannot be used in a running event loop; use AsyncFlujoClient, and await its methods.")


class Run:
    """`AsyncRun` for code that is not async."""

    def __init__(self, client: FlujoClient, run: AsyncRun) -> None:
        self._client = client
        self._run = run

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    def status(self) -> RunStatus:
        """See `AsyncRun.status`."""
        return self._client.wait_for(self._run.status())

    def result(self, timeout_s: float | None = None) -> PipelineResult:
        """See `AsyncRun.result`."""
        return self._client.wait_for(self._run.result(timeout_s))

    def events(self, after: str = "0-0") -> Iterator[Event]:
        """See `AsyncRun.events`."""
        events = self._run.events(after)
        while True:
            event = self._client.wait_for(_next(events))
            if event is None:
                return
            yield event

    def trace(self) -> TraceSpan:
        """See `AsyncRun.trace`."""
        return self._client.wait_for(self._run.trace())

    def cancel(self, reason: str = "cancelled by the client") -> bool:
        """See `AsyncRun.cancel`."""
        return self._client.wait_for(self._run.cancel(reason))

    def pauses(self) -> list[Pause]:
        """See `AsyncRun.pauses`."""
        return self._client.wait_for(self._run.pauses())

    def background_tasks(self) -> list[BackgroundTask]:
        """See `AsyncRun.background_tasks`."""
        return self._client.wait_for(self._run.background_tasks())

    def cancel_background(self, task_id: str) -> bool:
        """See `AsyncRun.cancel_background`."""
        return self._client.wait_for(self._run.cancel_background(task_id))

    def resume(self, answer: Any, token: str | None = None) -> None:
        """See `AsyncRun.resume`."""
        self._client.wait_for(self._run.resume(answer, token))


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)
