"""Hooks get what they declare."""

from __future__ import annotations

import functools
from typing import Any, Union

import pytest

from flujo_client.protocol.errors import HookFailedError, PipelineAbortSignal
from flujo_client.protocol.hooks import HookDispatcher
from flujo_client.protocol.results import HookPayload, PostRunPayload, PreRunPayload, PreStepPayload


async def test_hooks_get_what_they_declare_and_a_faulty_one_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def only_pre_run(payload: PreRunPayload) -> None:
        seen.append(f"one {payload.event_name}")

    async def either(payload: PreRunPayload | PreStepPayload) -> None:
        seen.append(f"two {payload.event_name}")

    def everything(payload: HookPayload) -> None:
        seen.append(f"all {payload.event_name}")

    def faulty(payload: Any) -> None:
        raise ValueError("hook")

    dispatcher = HookDispatcher([faulty, only_pre_run, either, everything])
    await dispatcher.dispatch(PreRunPayload())
    await dispatcher.dispatch(PreStepPayload())

    assert seen == ["one pre_run", "two pre_run", "all pre_run", "two pre_step", "all pre_step"]
    assert "Error in hook 'faulty'" in caplog.text
    with pytest.raises(HookFailedError, match="Error in hook 'faulty': ValueError: hook"):
        await HookDispatcher([faulty], strict=True).dispatch(PreRunPayload())


def test_hook_payload_classes_have_their_event_names() -> None:
    assert PostRunPayload.event_name == "post_run"


async def _seen_by(hook: Any) -> list[str]:
    seen: list[str] = []
    hook.seen = seen
    for payload in (PreRunPayload(), PreStepPayload()):
        await HookDispatcher([hook]).dispatch(payload)
    return seen


async def test_a_union_of_the_older_spelling_filters_too() -> None:
    async def hook(payload: Union[PreStepPayload, PostRunPayload]) -> None:  # noqa: UP007
        hook.seen.append(payload.event_name)  # type: ignore[attr-defined]

    assert await _seen_by(hook) == ["pre_step"]


async def test_a_hook_without_annotation_gets_everything() -> None:
    async def hook(payload):  # type: ignore[no-untyped-def]
        hook.seen.append(payload.event_name)  # type: ignore[attr-defined]

    assert await _seen_by(hook) == ["pre_run", "pre_step"]


async def test_an_object_and_a_partial_may_be_hooks() -> None:
    class Collector:
        def __init__(self) -> None:
            self.names: list[str] = []

        async def __call__(self, payload: PreStepPayload) -> None:
            self.names.append(payload.event_name)

    collector, names = Collector(), list[str]()

    def note(names: list[str], payload: HookPayload) -> None:
        names.append(payload.event_name)

    dispatcher = HookDispatcher([collector, functools.partial(note, names)])
    await dispatcher.dispatch(PreRunPayload())
    await dispatcher.dispatch(PreStepPayload())

    assert (collector.names, names) == (["pre_step"], ["pre_run", "pre_step"])


async def test_a_hook_whose_annotation_cannot_be_resolved_gets_everything() -> None:
    def hook(payload: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821, UP037 - meant
        hook.seen.append(payload.event_name)  # type: ignore[attr-defined]

    assert await _seen_by(hook) == ["pre_run", "pre_step"]


async def test_a_signal_is_raised_and_hides_the_event_from_later_hooks() -> None:
    later: list[HookPayload] = []

    async def abort(payload: HookPayload) -> None:
        raise PipelineAbortSignal("stop")

    with pytest.raises(PipelineAbortSignal):
        await HookDispatcher([abort, later.append]).dispatch(PreRunPayload())

    assert later == []
