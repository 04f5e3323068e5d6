"""What budgets cost in commands of Redis: a reservation and a settlement touch one path, however wide the tree is."""

from __future__ import annotations

from typing import Any

import redis

from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.quota import share_by_weights, share_evenly
from flujo_client.protocol.replies import Reserved, Split
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.lua.runs import (
    a_dispatch,
    accounts_of,
    advance_run,
    check_accounts,
    commit_claim,
    create_run,
    load_run,
    new_claim,
)
from tests.lua.test_waiting import end_branch, split_run, woken_paths

SLICE = 500

#: The newest publication that a queue has seen is only written by a reservation in a later millisecond than the last.
NOISE = 1
#: Reading and writing an account's row, in both scripts.
MOST_PER_LEVEL = 5


async def open_branches(scripts: Scripts, count: int, depth: int, *, weighted: bool = False) -> str:
    """A run with so many branches, the first of them split again and again; the path of a step at the bottom."""
    cap = 128 * count
    await create_run(scripts, limits={"tokens": cap})
    await scripts.register("incarnations", "w1", 600_000, 0)
    shares = share_by_weights(cap, [1 + index % 2 for index in range(count)]) if weighted else share_evenly(cap, count)
    split = Split("1", ("root",), "tokens", shares)
    for begin in range(0, count, SLICE):
        branches = range(begin, min(begin + SLICE, count))
        steps = [a_dispatch(f"1.{branch}.0", estimate="tokens=9", chain=f"1.{branch} root") for branch in branches]
        opening = branches.stop < count
        await advance_run(
            scripts, await load_run(scripts), *steps, splits=(split,) if begin == 0 else (), opening=opening
        )
    chain, free = ["1.0", "root"], 128
    for _ in range(depth):
        node = f"{chain[0]}.1"
        inner = Split(node, tuple(chain), "tokens", share_evenly(free, 2))
        chain, free = [f"{node}.0", *chain], free // 2
        step = a_dispatch(f"{chain[0]}.0", estimate="tokens=3", chain=" ".join(chain))
        await advance_run(scripts, await load_run(scripts), step, splits=(inner,))
    return f"{chain[0]}.0"


def commands(client: redis.Redis) -> int:
    """How many commands the server has run, those inside scripts among them."""
    stats = client.info("commandstats")
    assert isinstance(stats, dict)
    return sum(row["calls"] for name, row in stats.items() if name not in ("cmdstat_info", "cmdstat_evalsha"))


async def pair(scripts: Scripts, path: str) -> None:
    claim = new_claim(path)
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    await commit_claim(scripts, claim, {"tokens": 2})


async def cost_of_a_pair(url: str, siblings: int, depth: int) -> int:
    """Commands that a reservation and a settlement take in such a run."""
    wire, client = Wire(url), redis.Redis.from_url(url)
    keyspace = Keyspace(f"cost{siblings}.{depth}")
    scripts = Scripts(ScriptCaller(wire), keyspace)
    path = await open_branches(scripts, siblings, depth)
    await pair(scripts, "1.1.0")  # the server knows the scripts now
    before = commands(client)
    await pair(scripts, path)
    spent = commands(client) - before
    check_accounts(accounts_of(client, keyspace), {"tokens": 128 * siblings})
    for key in client.scan_iter(match=f"{{{keyspace.namespace}:*", count=1000):
        client.delete(key)
    client.close()
    await wire.close()
    return spent


async def test_a_pair_costs_the_same_beside_ten_siblings_and_beside_ten_thousand(redis_url: str) -> None:
    costs = {siblings: await cost_of_a_pair(redis_url, siblings, 0) for siblings in (10, 10_000)}

    assert abs(costs[10] - costs[10_000]) <= NOISE


async def test_each_level_of_the_tree_costs_the_same(redis_url: str) -> None:
    costs = [await cost_of_a_pair(redis_url, 4, depth) for depth in range(1, 5)]

    assert costs == sorted(costs)
    assert costs[-1] - costs[0] <= 3 * MOST_PER_LEVEL + NOISE


async def shares_read_by_a_touch(url: str, siblings: int) -> int:
    """How much of a weighted split the first reservation in a branch reads; what it finds is the branch's share."""
    wire, keyspace = Wire(url), Keyspace(f"weights{siblings}")
    scripts, client = Scripts(ScriptCaller(wire), keyspace), redis.Redis.from_url(url)
    await open_branches(scripts, siblings, 0, weighted=True)
    path = f"1.{siblings - 1}.0"
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        assert isinstance(await scripts.reserve(new_claim(path), POOL), Reserved)
        client.echo("done")
        seen: list[str] = []
        while "ECHO done" not in seen:
            seen.append(monitor.next_command()["command"])
    rows = {row.account: row for row in accounts_of(client, keyspace)}
    expected = share_by_weights(128 * siblings, [1 + index % 2 for index in range(siblings)])
    assert rows[f"1.{siblings - 1}"].granted == expected.of(siblings - 1)
    fields = [word for command in seen for word in command.split() if word.startswith("split|")]
    values = [client.hget(keyspace.run("r1").accounts, field) for field in fields]
    read = sum(len(value) for value in values if isinstance(value, bytes))
    client.flushdb()
    client.close()
    await wire.close()
    return read


async def test_a_first_touch_reads_as_little_of_the_weights_beside_ten_siblings_as_beside_ten_thousand(
    redis_url: str,
) -> None:
    few, many = [await shares_read_by_a_touch(redis_url, siblings) for siblings in (64, 10_000)]

    assert few > 0
    assert many <= few + 64  # digits


async def test_weights_that_were_stored_in_one_field_are_read_as_well(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    """As runs have them that were split before weights had pages."""
    await open_branches(scripts, 3, 0, weighted=True)
    store: Any = plain_redis
    key, field = keyspace.run("r1").accounts, "split|1|tokens"
    shares = store.hget(key, f"{field}|0").decode()
    store.hset(key, field, f"0 w {shares}")
    store.hdel(key, f"{field}|0")

    assert isinstance(await scripts.reserve(new_claim("1.1.0"), POOL), Reserved)
    rows = {row.account: row for row in accounts_of(store, keyspace)}
    assert rows["1.1"].granted == int(shares.split()[1])


async def costs_of_freeing(url: str, waiters: int) -> tuple[int, int]:
    """Commands for a branch's end that frees too little for anybody, and for the next, which lets one of the waiters go on."""
    wire, client = Wire(url), redis.Redis.from_url(url)
    scripts = Scripts(ScriptCaller(wire), Keyspace(f"waiters{waiters}"))
    await split_run(scripts, [3, 3, *[20] * waiters], 10 * (waiters + 2))
    claims = [new_claim(f"1.{index}.0") for index in range(waiters + 2)]
    for claim in claims:
        await scripts.reserve(claim, POOL)
    costs = []
    for claim in claims[:2]:
        await commit_claim(scripts, claim, {"tokens": 3})
        while (loaded := await load_run(scripts)).events:
            await advance_run(scripts, loaded)
        before = commands(client)
        await end_branch(scripts, claim.path.removesuffix(".0"))
        costs.append(commands(client) - before)
    assert await woken_paths(scripts) == ["1.2.0"]
    client.close()
    await wire.close()
    return costs[0], costs[1]


async def test_budget_that_comes_free_costs_the_same_beside_ten_waiters_and_beside_five_hundred(redis_url: str) -> None:
    """Nobody is looked at for whom it cannot suffice: an account's floor says how much the least of those below lacks."""
    few, many = await costs_of_freeing(redis_url, 10), await costs_of_freeing(redis_url, 500)

    assert few == many
