"""`flujo accounts`, and what `show` and `audit` say of named accounts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typer.testing import CliRunner

from flujo_client import Step, UsageLimits
from flujo_client.account_audit import AccountAuditor
from flujo_client.account_book import AccountBook, MeterStatus
from flujo_client.audit import Difference
from flujo_client.cli.accounts import statuses
from flujo_client.cli.main import app
from flujo_client.cli.tree import draw_named, draw_tree
from flujo_client.inspection import RunInspector
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.connection import connect
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import Account
from flujo_client.protocol.replies import Claim
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.unit.test_cli_tree import drawn
from tests.unit.test_coordinator import Bench
from tests.unit.test_named_accounts import calling


class Shell:
    """The command line on a namespace of its own."""

    def __init__(self, url: str, namespace: str) -> None:
        self.environment = {"FLUJO_URL": url, "FLUJO_NAMESPACE": namespace, "COLUMNS": "200"}

    def run(self, *words: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*words, "--json"], env=self.environment)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout.splitlines()[-1])

    def text(self, *words: str) -> str:
        result = CliRunner().invoke(app, list(words), env=self.environment)
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture
def shell(redis_url: str, keyspace: Keyspace) -> Shell:
    return Shell(redis_url, keyspace.namespace)


@pytest.fixture
async def bench(redis_url: str, keyspace: Keyspace) -> AsyncIterator[Bench]:
    wire = Wire(redis_url)
    made = Bench(Scripts(ScriptCaller(wire), keyspace), redis_url)
    yield made
    made.bodies.close()
    await wire.close()


def test_an_account_that_is_defined_anew_pays_for_what_it_paid_for(shell: Shell) -> None:
    shell.run("accounts", "set", "team", "--tokens", "10", "--pipeline", "desk", "--pipeline", "mail*")

    assert shell.run("accounts", "set", "team", "--tokens", "20")["rules"] == ["desk", "mail*"]
    assert "desk mail*" in shell.text("accounts")
    assert shell.run("accounts", "set", "team", "--tokens", "20", "--pipeline", "desk")["rules"] == ["desk"]
    assert shell.run("accounts", "set", "team", "--tokens", "20", "--no-pipelines")["rules"] == []


def test_accounts_are_defined_listed_held_back_and_dropped(shell: Shell) -> None:
    assert "no named accounts" in shell.text("accounts")

    shell.run(
        "accounts", "set", "openai", "--requests", "60", "--tokens", "90000", "--slots", "8", "--per", "60s", "--wait"
    )
    told = shell.run(
        "accounts",
        "set",
        "team",
        "--cost-usd",
        "100",
        "--meter",
        "pages=7",
        "--per",
        "day",
        "--tz",
        "Asia/Tokyo",
        "--pipeline",
        "a*",
    )
    shell.run("accounts", "hold", "openai", "30")
    listed = {account["name"]: account for account in shell.run("accounts")["accounts"]}

    assert told == listed["team"]
    assert (told["window"], told["waits"], told["rules"]) == ("day@Asia/Tokyo", False, ["a*"])
    assert told["meters"]["cost_nanousd"]["free"] == 100 * 10**9
    assert told["turns_at_ms"] % 86_400_000 == 15 * 3_600_000  # midnight in Tokyo
    assert {meter: row["limit"] for meter, row in listed["openai"]["meters"].items()} == {
        "requests": 60,
        "slots": 8,
        "tokens": 90_000,
    }
    assert (listed["openai"]["window"], listed["openai"]["waits"]) == ("60s", True)
    assert listed["openai"]["held_back_ms"] > 0
    assert "openai" in shell.text("accounts")
    assert shell.run("accounts", "drop", "openai") == {"account": "openai", "dropped": True}
    assert [account["name"] for account in shell.run("accounts")["accounts"]] == ["team"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "limits something"),
        (("--tokens", "5", "--per", "week"), "--per takes"),
        (("--meter", "pages"), "--meter takes"),
        (("--tokens", "5", "--per", "day", "--tz", "Mars"), "no time zone"),
        (("--tokens", "5", "--tz", "Europe/Berlin"), "give --per day or --per month"),
        (("--tokens", "5", "--per", "2h", "--tz", "UTC"), "give --per day or --per month"),
    ],
)
def test_options_that_make_no_account_are_told_in_a_line(shell: Shell, options: tuple[str, ...], told: str) -> None:
    assert told in json.dumps(shell.run("accounts", "set", "a", *options, code=1))


def test_an_account_that_nobody_has_defined_cannot_be_held_back(shell: Shell) -> None:
    assert "Nobody has defined an account a" in json.dumps(shell.run("accounts", "hold", "a", "1", code=1))


async def delayed_run(bench: Bench) -> Claim:
    """Run `r` with a step that holds the only slot of `key`, and one that waits for it."""
    await AccountBook(bench.scripts).define(
        Account(name="key", limits=UsageLimits(total_tokens_limit=100), window="day", slots=1, when_exhausted="wait")
    )
    await bench.submit(Step.parallel("both", {"a": calling(1, expected_tokens=30), "b": calling(1)}))
    (first, queue), (second, _) = bench.outbox.refs
    bench.outbox.refs.clear()
    claim = Claim("r", first.path, 1, "n1", bench.incarnation.id, queue)
    await bench.scripts.reserve(claim, POOL)
    await bench.coordinator.execute_step(second, queue)
    return claim


async def test_show_names_the_account_that_a_step_waits_for_and_what_the_run_drew_on_it(
    bench: Bench, shell: Shell
) -> None:
    await delayed_run(bench)
    client = connect(shell.environment["FLUJO_URL"])
    snapshot = await RunInspector(client, bench.scripts.keyspace, bench.state.specs).snapshot("r")
    named = await statuses(AccountBook(bench.scripts), [*snapshot.drawn])
    await client.aclose()

    tree, table = drawn(draw_tree(snapshot)), drawn(draw_named(named, snapshot.drawn))
    assert any("blocked  waiting for account key slots" in line for line in tree), tree
    assert table[0].split() == [
        *("named", "account", "meter", "window", "exhausted", "limit", "spent", "reserved", "unknown", "free"),
        *("this", "run", "waiting"),
    ]
    assert table[1].split() == ["key", "slots", "day@UTC", "waits", "1", "0", "1", "0", "0", "0", "1"]
    assert table[2].split() == ["key", "tokens", "day@UTC", "waits", "100", "0", "30", "0", "70", "0", "1"]


async def test_an_audit_derives_named_accounts_from_their_runs_and_finds_what_was_changed(
    bench: Bench, redis_url: str
) -> None:
    claim = await delayed_run(bench)
    client = connect(redis_url)
    auditor = AccountAuditor(client, bench.scripts.keyspace, 7 * 86_400_000)
    assert await auditor.audit() == []
    assert await bench.scripts.lose(claim, POOL, "handed_over", {})
    await bench.advance()
    bench.manager.outbox.call_waiters("key")
    await bench.manager.settle()
    assert await auditor.audit() == []
    await bench.finish()
    bench.manager.outbox.call_waiters("key")  # the second had the slot, and the first's other attempt waits for it
    await bench.manager.settle()
    assert (await bench.finish())["status"] == "completed"
    assert (await AccountBook(bench.scripts).status("key")).meters["tokens"] == MeterStatus(100, 0, 2, 30)
    assert await auditor.audit() == []

    key = bench.scripts.keyspace.shard("named")
    row = (await bench.scripts.commands.execute("HGET", key, "row|key")).decode()
    await bench.scripts.commands.execute("HSET", key, "row|key", row.replace("slots 0", "slots 1"))
    found = await auditor.audit()

    assert found == [Difference("named", "key", "slots", "reserved", 1, 0)]
    await AccountBook(bench.scripts).drop("key")
    await AccountBook(bench.scripts).define(Account(name="key", limits=UsageLimits(total_tokens_limit=100)))
    assert await auditor.audit() == []  # what an account of this name took before is none of its business
    await client.aclose()
