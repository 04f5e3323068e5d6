"""In which order runs with background steps are looked through."""

from __future__ import annotations

from flujo_client.background_admin import _MOST_RUNS, _begun_before, _newest
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire


async def test_runs_of_all_shards_come_newest_first(each_redis_url: str, keyspace: Keyspace) -> None:
    wire = Wire(each_redis_url)
    scripts = Scripts(ScriptCaller(wire), Keyspace(keyspace.namespace, 2))
    active = [scripts.keyspace.shard("active", shard) for shard in range(2)]
    await wire.execute("ZADD", active[0], 1, "first", 4, "last")
    await wire.execute("ZADD", active[1], 2, "second", 3, "third")

    found = await _newest(scripts, "active")

    await wire.execute("DEL", *active)
    await wire.close()
    assert found == ["last", "third", "second", "first"]


async def test_stale_runs_are_found_however_many_are_newer(scripts: Scripts) -> None:
    key, late = scripts.keyspace.shard("active"), range(1_000, 1_000 + 2 * _MOST_RUNS)
    await scripts.commands.execute("ZADD", key, 1, "stale", 2, "as-stale")
    await scripts.commands.execute("ZADD", key, *(word for at in late for word in (at, f"r{at}")))

    found = await _begun_before(scripts, 999.5), await _begun_before(scripts, 5_000)

    await scripts.commands.execute("DEL", key)
    assert found[0] == ["stale", "as-stale"]
    assert (len(found[1]), len(set(found[1]))) == (2 + len(late), 2 + len(late))
