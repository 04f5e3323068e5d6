"""`submit_run`: what is stored, what is the same again, and what is refused before anything is stored."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from pydantic import BaseModel

from flujo_client.protocol.errors import PayloadError, RunConflictError, TypeMismatchError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import WakeUp
from flujo_client.protocol.payloads import JsonCodec, LiveCodec, PayloadCodec
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec, SequenceSpec, StepSpec
from flujo_client.protocol.submission import submit_run
from tests.conftest import ON_REAL_SERVERS, dump


class Page(BaseModel):
    url: str
    words: int = 0


def _spec(schema: dict[str, object] | None = None, function: str = "m:f") -> PipelineSpec:
    step = StepSpec(name="fetch", function=function, input_type="Page")
    return PipelineSpec(name="p", root=SequenceSpec(nodes=(step,)), input_schema=schema or {})


async def _submit(scripts: Scripts, value: Any = 1, *, codec: PayloadCodec | None = None, **given: Any) -> str | None:
    spec = given.pop("spec", _spec())
    return await submit_run(scripts, codec or JsonCodec(1000), spec, value, **{"run_id": "r1", "owner": POOL, **given})


@ON_REAL_SERVERS
async def test_a_new_run_is_stored_with_input_context_limits_and_wakes_its_owner(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    assert await _submit(scripts, {"x": 1}, context={"c": 2}, limits=UsageLimits(total_tokens_limit=5)) is None

    keys = keyspace.run("r1")
    assert plain_redis.hgetall(keys.payloads) == {b"input": b'j{"x":1}', b"ctx:root": b'j{"c":2}'}
    assert plain_redis.hget(keys.accounts, "root|tokens") == b"5 0 0 0 0 0 0 0 0 0"
    (entry,) = plain_redis.lrange(keyspace.inbox(POOL, 0), 0, -1)
    wake_up = WakeUp.parse(entry if isinstance(entry, bytes) else entry.encode())
    assert wake_up.event is not None
    assert (wake_up.run_id, wake_up.event.fields["limits"]) == ("r1", "tokens=5")


SAME: dict[str, dict[str, Any]] = {
    "plain": {},
    "limits": {"limits": UsageLimits(total_tokens_limit=5)},
    "context": {"context": {"c": 1}},
    "live": {"codec": LiveCodec(), "context": {"c": 1}},
}


@pytest.mark.parametrize("case", SAME)
async def test_the_same_submission_again_gives_the_status_of_the_stored_run(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, case: str
) -> None:
    await _submit(scripts, **SAME[case])
    before = dump(plain_redis, keyspace)

    assert await _submit(scripts, **SAME[case]) == "running"
    assert dump(plain_redis, keyspace) == before


OTHER: dict[str, dict[str, Any]] = {
    "pipeline": {"spec": _spec(function="m:g")},
    "input": {"value": 2},
    "limits": {"limits": UsageLimits(total_tokens_limit=5)},
    "context": {"context": {}},
    "another context": {"context": {"c": 1}},
}


@pytest.mark.parametrize("case", OTHER)
async def test_the_id_of_another_run_is_a_conflict(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, case: str
) -> None:
    await _submit(scripts)
    before = dump(plain_redis, keyspace)

    with pytest.raises(RunConflictError, match=r"Run id r1 belongs to a run of another.*Use another run_id") as caught:
        await _submit(scripts, **OTHER[case])

    assert caught.value.data["run_id"] == "r1"
    assert dump(plain_redis, keyspace) == before


SCHEMA = Page.model_json_schema()


@pytest.mark.parametrize("value", [{"url": "u"}, {"url": "u", "words": 3}, Page(url="u")], ids=repr)
async def test_an_input_that_fits_the_schema_is_accepted(scripts: Scripts, value: Any) -> None:
    assert await _submit(scripts, value, spec=_spec(SCHEMA)) is None


@pytest.mark.parametrize(
    ("value", "place"),
    [("u", "$"), ({}, "$"), ({"url": 1}, "$.url"), ({"url": "u", "words": "x"}, "$.words")],
    ids=repr,
)
async def test_an_input_that_does_not_fit_names_run_step_type_and_place_and_stores_nothing(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, value: Any, place: str
) -> None:
    message = f"input of run r1 does not fit pipeline 'p': its first step 'fetch' expects Page; {place}: "

    with pytest.raises(TypeMismatchError, match=re.escape(message)) as caught:
        await _submit(scripts, value, spec=_spec(SCHEMA))

    assert caught.value.data == {"run_id": "r1", "step": "fetch"}
    assert dump(plain_redis, keyspace) == {}


async def test_a_live_input_is_not_held_against_a_schema(scripts: Scripts) -> None:
    assert await _submit(scripts, object(), codec=LiveCodec(), spec=_spec(SCHEMA)) is None


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"run_id": "no blanks"}, ValueError),
        ({"run_id": ""}, ValueError),
        ({"deadline_s": -1.0}, ValueError),
        ({"deadline_s": 0.0}, ValueError),
        ({"deadline_s": float("inf")}, ValueError),
        ({"value": object()}, PayloadError),
        ({"value": "x" * 1001}, PayloadError),
    ],
    ids=["bad id", "no id", "past deadline", "no time", "no deadline", "no JSON", "too large"],
)
async def test_what_cannot_be_stored_is_refused_before_anything_is(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, given: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await _submit(scripts, **given)

    assert dump(plain_redis, keyspace) == {}


async def test_a_deadline_is_kept_by_the_clock_of_redis(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    server: Any = plain_redis
    before_s, _ = server.time()

    await _submit(scripts, deadline_s=60.0)

    ((member, at_ms),) = server.zrange(keyspace.shard("deadlines"), 0, -1, withscores=True)
    assert member == b"r1"
    assert before_s * 1000 + 60_000 <= at_ms <= (server.time()[0] + 61) * 1000
