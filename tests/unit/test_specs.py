"""`SpecStore`: what is published is found, by hash and by name, and what is not is said."""

from __future__ import annotations

import pytest

from flujo_client.protocol.errors import SchemaMismatchError, UnknownPipelineError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec, SequenceSpec, StepSpec
from flujo_client.protocol.specs import SpecStore
from tests.conftest import ON_REAL_SERVERS


def _spec(name: str = "p", step: str = "a") -> PipelineSpec:
    return PipelineSpec(name=name, root=SequenceSpec(nodes=(StepSpec(name=step, function="m:f"),)))


async def _publish(scripts: Scripts, spec: PipelineSpec) -> None:
    await scripts.publish_spec(spec.name, spec.content_hash, spec.model_dump_json().encode())


@ON_REAL_SERVERS
async def test_a_kept_spec_is_found_by_its_hash_and_has_no_name(scripts: Scripts) -> None:
    spec, store = _spec(), SpecStore(scripts)
    await store.keep(spec, "r")
    await store.keep(spec, "r")

    assert await SpecStore(scripts).get(spec.content_hash, "r") == spec
    with pytest.raises(UnknownPipelineError, match="published: none"):
        await store.by_name("p")


async def test_a_published_spec_is_found_by_another_process(scripts: Scripts) -> None:
    spec = _spec()
    await _publish(scripts, spec)

    reader = SpecStore(scripts)

    assert await reader.by_name("p") == spec
    assert await reader.get(spec.content_hash, "r") == spec


async def test_a_name_leads_to_its_newest_spec_however_often_the_old_one_is_published(scripts: Scripts) -> None:
    store, old, new = SpecStore(scripts), _spec(step="old"), _spec(step="new")

    for spec in (old, new, old):
        await _publish(scripts, spec)
    await _publish(scripts, old)

    assert await store.by_name("p") == new
    assert await store.get(old.content_hash, "r") == old


async def test_a_spec_is_read_once(scripts: Scripts, keyspace: Keyspace) -> None:
    spec, store = _spec(), SpecStore(scripts)
    await _publish(scripts, spec)
    first = await store.get(spec.content_hash, "r")
    await scripts.commands.execute("DEL", keyspace.shard("specs"))

    assert await store.get(spec.content_hash, "r") is first


@ON_REAL_SERVERS
@pytest.mark.parametrize(("published", "known"), [((), "none"), (("q", "other"), "other, q")])
async def test_an_unknown_name_is_answered_with_the_known_ones(
    scripts: Scripts, published: tuple[str, ...], known: str
) -> None:
    store = SpecStore(scripts)
    for name in published:
        await _publish(scripts, _spec(name))

    with pytest.raises(UnknownPipelineError, match=f"named 'p'; published: {known}.* FLUJO_PIPELINES") as caught:
        await store.by_name("p")

    assert caught.value.data == {"pipeline": "p"}


async def test_an_unknown_hash_is_refused(scripts: Scripts) -> None:
    with pytest.raises(UnknownPipelineError, match=r"No spec abc is stored.*Start a worker"):
        await SpecStore(scripts).get("abc", "r")


async def test_a_spec_of_a_newer_release_is_refused_and_not_kept(scripts: Scripts) -> None:
    await scripts.publish_spec("p", "abc", b'{"version": 99}')
    store = SpecStore(scripts)

    for _ in range(2):
        with pytest.raises(SchemaMismatchError, match="upgrade"):
            await store.by_name("p")


async def test_what_workers_have_published_is_told_from_what_is_only_kept(scripts: Scripts) -> None:
    store, published, kept = SpecStore(scripts), _spec(step="a"), _spec(step="b")
    await _publish(scripts, published)
    await store.keep(kept, "r")

    assert await store.is_published(published)
    assert not await store.is_published(kept)


async def test_a_refused_submission_has_no_spec(scripts: Scripts) -> None:
    with pytest.raises(UnknownPipelineError, match="was refused"):
        await SpecStore(scripts).get("", "r")


async def test_a_thousand_specs_are_remembered_and_the_oldest_is_read_again(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flujo_client.protocol.specs.MOST_REMEMBERED", 2)
    store, kept = SpecStore(scripts), [_spec(step=name) for name in ("a", "b", "c")]
    for spec in kept:
        await store.keep(spec, "r")

    assert await store.get(kept[0].content_hash, "r") is not kept[0]
    assert await store.get(kept[2].content_hash, "r") is kept[2]


async def test_a_run_finds_its_spec_on_its_own_shard(scripts: Scripts, keyspace: Keyspace) -> None:
    spec, spread = _spec(), Keyspace(keyspace.namespace, shards=2)
    sharded = Scripts(scripts._caller, spread)
    here, there = (next(run for run in "abcdef" if spread.shard_of(run) == shard) for shard in (0, 1))
    await SpecStore(sharded).keep(spec, there)

    assert await SpecStore(sharded).get(spec.content_hash, there) == spec
    with pytest.raises(UnknownPipelineError, match="is stored"):
        await SpecStore(sharded).get(spec.content_hash, here)
