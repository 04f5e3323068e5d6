"""The edges of the guarantee, made to happen: each stands in docs/budgets.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis

from flujo_client.audit import Auditor
from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.connection import connect
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.replies import Claim, Committed, Dispatch, Refusal, Reserved
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.lua.runs import a_dispatch, account_of, advance_run, commit_claim, load_run, new_claim, started_run
from tests.lua.test_waiting import split_run


class Provider:
    """Bills what it is asked for, and remembers it whatever Redis forgets."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self.billed = 0

    async def run(self, path: str, tokens: int) -> Claim:
        """An attempt from its claim to its commit."""
        claim = new_claim(path)
        assert isinstance(await self._scripts.reserve(claim, POOL), Reserved)
        self.billed += tokens
        assert await commit_claim(self._scripts, claim, {"tokens": tokens}) == Committed({})
        return claim


def append_only_file(folder: Path) -> Path:
    """What the server has written of its changes."""
    files = [*folder.glob("appendonlydir/*.incr.aof"), *folder.glob("appendonly.aof")]
    return max(files, key=lambda path: path.stat().st_mtime_ns)


async def test_what_a_redis_forgot_is_billed_again_and_no_more_and_the_books_still_balance(tmp_path: Path) -> None:
    """The cap is passed by what was billed in the second that is lost, at the most; what was on disk is not billed again."""
    keyspace = Keyspace("edge")
    server = RedisServer(tmp_path, options=("--appendfsync", "always")).start()
    wire = Wire(server.url)
    scripts = Scripts(ScriptCaller(wire), keyspace)
    provider = Provider(scripts)
    await started_run(scripts, *(a_dispatch(path, estimate="tokens=40") for path in "01"), limits={"tokens": 100})
    kept = await provider.run("0", 40)
    on_disk = append_only_file(tmp_path).stat().st_size
    await provider.run("1", 40)

    assert server.process is not None
    server.process.kill()
    server.process.wait()
    await wire.close()
    os.truncate(append_only_file(tmp_path), on_disk)
    server.start()
    wire = Wire(server.url)
    scripts = Scripts(ScriptCaller(wire), keyspace)
    again = Provider(scripts)
    await again.run("1", 40)
    assert await commit_claim(scripts, kept, {"tokens": 40}) == Committed({})  # says so once more: nothing changes
    client = connect(server.url)
    differences = await Auditor(client, keyspace).audit("r1")
    spent = await wire.execute("HGET", keyspace.run("r1").accounts, "total|tokens")
    await client.aclose()
    await wire.close()
    server.stop()

    assert differences == []
    assert int(spent) == 80
    assert provider.billed + again.billed - 100 <= 40


@pytest.mark.parametrize("used", [30, 75])
async def test_an_estimate_that_was_no_bound_is_paid_from_what_is_free_and_else_shown(
    scripts: Scripts, used: int
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=20"), limits={"tokens": 60})
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await commit_claim(scripts, claim, {"tokens": used}) == Committed({"tokens": 15} if used == 75 else {})


async def test_a_step_beside_a_split_in_the_background_draws_on_what_its_branches_have_free(scripts: Scripts) -> None:
    await split_run(scripts, [50, 30], 100, a_dispatch("2", chain="root"))
    step, branch = new_claim("2"), new_claim("1.0.0")
    for claim in (step, branch):
        assert isinstance(await scripts.reserve(claim, POOL), Reserved)

    assert await commit_claim(scripts, step, {"tokens": 51}) == Committed({"tokens": 1})  # nothing was reserved for it


async def test_what_a_lost_call_had_reserved_stays_charged_and_the_next_attempt_needs_its_own(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=60"), limits={"tokens": 100})
    claim = new_claim()
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    await scripts.register("incarnations", "w1", -1, 0)
    await scripts.lose(claim, POOL, "died", {})
    await scripts.register("incarnations", "w1", 60_000, 0)

    await advance_run(scripts, await load_run(scripts), Dispatch("0", 2, "q", "m:f", "l"))
    again = await scripts.reserve(new_claim(attempt=2), POOL)

    assert account_of(plain_redis, keyspace, "root")["unknown"] == 60
    assert again == Refusal("root", "tokens", 60, 40)


async def test_a_step_without_an_estimate_starts_whatever_is_left_and_is_settled_afterwards(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"), a_dispatch("1"), limits={"tokens": 10})
    first, second = new_claim("0"), new_claim("1")

    assert isinstance(await scripts.reserve(first, POOL), Reserved)
    assert await commit_claim(scripts, first, {"tokens": 10}) == Committed({})
    assert isinstance(await scripts.reserve(second, POOL), Reserved)  # although nothing is left
    assert await commit_claim(scripts, second, {"tokens": 5}) == Committed({"tokens": 5})


async def test_who_fails_before_it_reports_gives_back_its_reservation(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=60"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    assert account_of(plain_redis, keyspace, "root")["reserved"] == 60

    await commit_claim(scripts, claim, {}, kind="failed")

    root = account_of(plain_redis, keyspace, "root")
    assert (root["reserved"], root["spent"], root["unknown"]) == (0, 0, 0)
