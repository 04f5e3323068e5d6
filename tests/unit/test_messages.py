"""Messages and events, as they travel."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_client.protocol.errors import (
    MessageError,
)
from flujo_client.protocol.messages import Event, EventKind, StepMessage, StepRef, TaskRecord, parse_step_message
from flujo_client.protocol.spec import StepSpec


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_garbage_in_a_message_is_one_error(garbage: Any) -> None:
    body = garbage if isinstance(garbage, dict) else {"steps": garbage, "queue": "q", "version": 1}

    with pytest.raises(MessageError):
        parse_step_message(body, ())


def test_a_message_round_trip_and_a_newer_version() -> None:
    ref = StepRef(run_id="r", path="0", attempt=1, function="m:f", owner="pool")
    body = StepMessage(queue="q", steps=(ref,)).model_dump(mode="json")

    assert parse_step_message(body, ()).steps == (ref,)
    with pytest.raises(MessageError):
        parse_step_message({**body, "version": 2}, ())


VALID = {
    "version": 1,
    "queue": "q",
    "traceparent": "",
    "steps": [{"run_id": "r", "path": "0", "attempt": 1, "function": "m:f", "label": "", "owner": "pool"}],
}


@given(st.data())
def test_one_fault_in_a_good_message_is_one_error_or_none(data: st.DataObject) -> None:
    body: dict[str, Any] = {**VALID, "steps": [dict(VALID["steps"][0])]}  # type: ignore[index]
    place = data.draw(st.sampled_from([body, body["steps"][0]]))
    field = data.draw(st.sampled_from(sorted(place)) | st.text(max_size=5))
    place[field] = data.draw(st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2))

    try:
        message = parse_step_message(body, ())
    except MessageError:
        return
    assert message.steps[0].attempt >= 1


@pytest.mark.parametrize(
    "change",
    [
        {"steps": []},
        {"steps": [VALID["steps"][0]] * 101},  # type: ignore[index]
        {"more": 1},
        {"steps": [{**VALID["steps"][0], "attempt": 0}]},  # type: ignore[index]
        {"steps": [{**VALID["steps"][0], "path": "0" * 401}]},  # type: ignore[index]
    ],
    ids=["none", "many", "extra", "attempt", "path"],
)
def test_what_no_release_sends_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError, match="upgrade this worker"):
        parse_step_message({**VALID, **change}, ())


def test_events_are_read_as_redis_gives_them() -> None:
    flat = [b"kind", b"failed", b"path", b"1.0", b"attempt", b"2", b"data", b'{"latency_ms":5}']

    event = Event.parse(b"7-0", flat)

    assert (event.id, event.kind, event.path, event.attempt) == ("7-0", EventKind.FAILED, "1.0", 2)
    assert event.data == {"latency_ms": 5}
    assert Event.parse(b"7-0", dict(zip(flat[::2], flat[1::2], strict=True))) == event
    assert Event(id="1-0", kind=EventKind.CREATED, path="root").attempt == 0


def test_a_task_record_is_small_and_complete() -> None:
    record = TaskRecord(pipeline="p", step=StepSpec(name="a", function="m:a"), expression={"x": "out:0"})

    text = record.model_dump_json(exclude_defaults=True)

    assert TaskRecord.model_validate_json(text) == record
    assert len(text) < 120


def test_an_event_that_is_no_chunk_has_none() -> None:
    chunk = Event(id="1-0", kind=EventKind.CHUNK, path="0", fields={"data": '"one"'})
    succeeded = Event(id="2-0", kind=EventKind.SUCCEEDED, path="0", fields={"attempt": "1"})

    assert (chunk.chunk, succeeded.chunk) == ("one", None)
