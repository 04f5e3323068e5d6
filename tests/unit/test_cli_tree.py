"""What `flujo show`, `watch` and `runs` draw."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from flujo_client.cli.runs import snapshot_document
from flujo_client.cli.tree import (
    changed_lines,
    draw_budget,
    draw_run,
    draw_runs,
    format_amount,
    format_ms,
    node_line,
    state_of,
)
from flujo_client.execution.decision import NodeStatus
from flujo_client.protocol.accounts import AccountRow
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.quota import COST, TOKENS
from flujo_client.protocol.results import RunStatus
from flujo_client.snapshots import NodeRow, Question, RunSnapshot, RunSummary, Waiter, graph_of, rows_of
from tests.unit.replay import Replay, parallel, step

SUMMARY = RunSummary("order-42", "digest", RunStatus.RUNNING, "pool", 1_000, unmanaged=False, duration_ms=2_500)
NODE = NodeRow("0", "fetch", "step", NodeStatus.WAITING, 0, 0, 0, 0, None, None)
ACCOUNT = AccountRow("root", TOKENS, granted=90, reserved=0, spent=4, unknown=0, children=0, overrun=0)


def snapshot(*nodes: NodeRow, accounts: tuple[AccountRow, ...] = (), **summary: Any) -> RunSnapshot:
    return RunSnapshot(replace(SUMMARY, **summary), nodes, accounts, now_ms=10_000)


def drawn(picture: RenderableType, width: int = 120) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(picture, crop=False)
    return [line.rstrip() for line in out.getvalue().splitlines()]


DISPATCHED = replace(NODE, status=NodeStatus.DISPATCHED, attempts=1)


@pytest.mark.parametrize(
    ("node", "line"),
    [
        (NODE, "· fetch"),
        (DISPATCHED, "◦ fetch  queued"),
        (replace(DISPATCHED, started_ms=8_800), "▸ fetch  running, 1.2 s"),
        (replace(DISPATCHED, started_ms=10_007), "▸ fetch  running, 0 ms"),
        (replace(DISPATCHED, started_ms=9_000, attempts=3), "▸ fetch  running, 3 attempts, 1.0 s"),
        (replace(DISPATCHED, declined="digest.fetch"), "◦ fetch  queued  waiting: no worker has digest.fetch"),
        (replace(NODE, status=NodeStatus.RUNNING), "▸ fetch  running"),
        (
            replace(NODE, status=NodeStatus.PAUSED, question="Is it\nso?", latency_ms=12),
            "? fetch  paused, 12 ms  Is it so?  (--token 0)",
        ),
        (
            replace(NODE, status=NodeStatus.PAUSED, question="it died: `flujo dead retry r`", dead=True),
            "? fetch  paused  it died: `flujo dead retry r`",
        ),
        (
            replace(NODE, status=NodeStatus.SUCCEEDED, attempts=1, latency_ms=12, tokens=7, cost_nanousd=2_500_000),
            "✓ fetch  12 ms, 7 tokens, $0.0025",
        ),
        (
            replace(NODE, status=NodeStatus.FAILED, attempts=2, error="no [/such] page"),
            "✗ fetch  2 attempts  no [/such] page",
        ),
    ],
)
def test_a_node_is_one_line_with_state_attempts_time_tokens_and_money(node: NodeRow, line: str) -> None:
    assert node_line(node, snapshot()).plain == line


@pytest.mark.parametrize(
    "node", [DISPATCHED, replace(DISPATCHED, started_ms=5), replace(NODE, status=NodeStatus.RUNNING)]
)
def test_what_had_not_ended_when_the_run_did_is_stopped(node: NodeRow) -> None:
    run = snapshot(node, status=RunStatus.CANCELLED)

    assert state_of(node, run) == "stopped"
    assert node_line(node, run).plain.startswith("– fetch  stopped")


def test_the_tree_nests_branches_under_their_parallel_node() -> None:
    branch = replace(NODE, name="left", kind="sequence", children=(replace(NODE, name="shout"),))
    parallel = replace(NODE, name="read", kind="parallel", children=(branch,))

    lines = drawn(draw_run(snapshot(parallel, steps=1, tokens=9, cost_nanousd=10**9)))

    assert lines == [
        "order-42  digest  running  0 of 1 steps, 2.5 s, 9 tokens, $1",
        "└── · read",
        "    └── · left",
        "        └── · shout",
    ]


def test_a_branch_of_one_step_that_is_called_by_it_is_one_line() -> None:
    branch = replace(NODE, name="left", kind="sequence", children=(replace(NODE, name="left"),))

    lines = drawn(draw_run(snapshot(replace(NODE, name="read", kind="parallel", children=(branch,)))))

    assert lines[1:] == ["└── · read", "    └── · left"]


def test_programs_are_told_that_a_node_was_stopped() -> None:
    inner = replace(DISPATCHED, path="0.0")
    run = snapshot(replace(NODE, status=NodeStatus.RUNNING, children=(inner,)), status=RunStatus.FAILED)

    (node,) = snapshot_document(run)["nodes"]

    assert (node["status"], node["children"][0]["status"]) == ("stopped", "stopped")


def _parallel_rows(attempts: dict[str, str]) -> NodeRow:
    run = Replay(parallel(step("x"), step("y")))
    run.happen(EventKind.SUCCEEDED, "0.0.0", usage="tokens=7", data='{"latency_ms":30}')
    nodes = {path: state.model_dump_json() for path, state in run.nodes.items()}
    (row,) = rows_of(graph_of(run.spec, nodes), attempts)
    return row


def test_what_a_stopped_step_billed_is_shown_at_it() -> None:
    stopped = {"0.1.0|state": "closed", "0.1.0|nonce": "n", "claim|n|used": f"tokens=210 {COST}=300"}

    row, alone = _parallel_rows(stopped), _parallel_rows({})

    assert [leaf.tokens for leaf in row.leaves()] == [7, 210]
    assert (row.tokens, row.cost_nanousd, alone.tokens) == (217, 300, 7)


def test_branches_take_as_long_as_the_longest() -> None:
    run = Replay(parallel(step("x"), step("y")))
    for path, latency_ms in (("0.0.0", 30), ("0.1.0", 50)):
        run.happen(EventKind.SUCCEEDED, path, data=f'{{"latency_ms":{latency_ms}}}')

    (row,) = rows_of(graph_of(run.spec, {path: state.model_dump_json() for path, state in run.nodes.items()}), {})

    assert row.latency_ms == 50


def test_an_unmanaged_run_says_so() -> None:
    assert "unmanaged: no manager serves the pool" in drawn(draw_run(snapshot(unmanaged=True)))[0]
    assert "unmanaged" in drawn(draw_runs([replace(SUMMARY, unmanaged=True)]))[1]


def test_a_failed_run_says_why_on_a_line_below_it() -> None:
    failed = replace(SUMMARY, status=RunStatus.FAILED, error="The budget\ncannot pay [/for] it." + " Why?" * 40)
    reason = "The budget cannot pay [/for] it." + " Why?" * 40

    listed = drawn(draw_runs([failed, replace(SUMMARY, run_id="next"), failed]), width=60)

    assert [line.split()[0] for line in listed] == ["run", "order-42", "The", "next", "order-42", "The"]
    assert listed[2] == f"  {reason}"
    assert listed[1].index("digest") == listed[3].index("digest") == listed[0].index("pipeline")
    assert drawn(draw_run(snapshot(status=RunStatus.FAILED, error=failed.error)), width=400)[1] == reason


def test_a_dead_letter_that_waits_is_no_question_in_the_list() -> None:
    asked = (Question("0", "fetch", "Go\non?"), Question("1", "fragile", "it died: `flujo dead retry r`", dead=True))

    listed = drawn(draw_runs([replace(SUMMARY, status=RunStatus.PAUSED, questions=asked)]))

    assert listed[2:] == ["  fetch asks: Go on?  (--token 0)", "  it died: `flujo dead retry r`"]


def test_the_budget_has_a_line_and_a_bar_per_account() -> None:
    branch = replace(ACCOUNT, account="1.0", granted=40, spent=40)

    lines = drawn(draw_budget(snapshot(), (ACCOUNT, branch)))

    assert lines[0].split() == ["account", "meter", "granted", "spent", "reserved", "unknown", "free"]
    assert lines[1].split()[:7] == ["root", "tokens", "90", "4", "0", "0", "86"]
    assert lines[2].split()[:7] == ["1.0", "tokens", "40", "40", "0", "0", "0"]
    assert len(lines[2].split()[7]) == 20


def test_accounts_stand_below_the_one_above_them_under_the_names_of_their_branches() -> None:
    branch = replace(NODE, path="1.0", name="b0", kind="sequence")
    run = snapshot(replace(NODE, path="1", name="par", kind="parallel", children=(branch,)))
    accounts = [replace(ACCOUNT, account=name) for name in ("root", "1.0", "1.0.2.1", "2")]

    lines = drawn(draw_budget(run, accounts))

    assert [line.partition("tokens")[0].rstrip() for line in lines[1:]] == ["root", "  1.0 b0", "    1.0.2.1", "  2"]


def test_what_is_blocked_stands_at_the_account_that_could_not_pay_and_by_whom() -> None:
    branch = replace(ACCOUNT, account="1.0")
    waiters = (Waiter("1.0.0", "ask", "1.0", TOKENS, 40, 16), Waiter("1.0.1.0", "look", "1.0", TOKENS, 5, 0))

    lines = drawn(draw_budget(replace(snapshot(), waiters=waiters), (ACCOUNT, branch)))
    alone = drawn(draw_budget(replace(snapshot(), waiters=waiters), (ACCOUNT,)))

    column = lines[0].split().index("blocked")
    assert [line.split()[column] for line in lines[1:3]] == ["0", "45"]
    assert lines[3] == "◌ 1.0.0 ask  waits for 40 tokens; account 1.0 could get 16"
    assert len(lines) == 5
    assert len(alone) == 2


@pytest.mark.parametrize("part", ["reserved", "unknown", "children", "overrun"])
def test_a_part_of_the_budget_is_shown_where_it_is_not_zero(part: str) -> None:
    change: dict[str, Any] = {part: 7}
    row = replace(ACCOUNT, **change)

    lines = drawn(draw_budget(snapshot(), (row, ACCOUNT)))

    titles = lines[0].split()
    assert lines[1].split()[titles.index(part)] == "7"
    assert row.free == (86 if part == "overrun" else 79)


def test_a_budget_of_nothing_is_drawn_as_well() -> None:
    assert len(drawn(draw_budget(snapshot(), (replace(ACCOUNT, granted=0, spent=0),)))) == 2


@pytest.mark.parametrize("width", [30, 80, 200])
def test_neither_an_id_nor_a_number_is_cut_where_the_terminal_is_narrow(width: int) -> None:
    run_id = "run_" + "f" * 60
    run = replace(SUMMARY, run_id=run_id, steps=None, cost_nanousd=1_234_567_000)

    listed = drawn(draw_runs([run]), width=width)
    budget = drawn(
        draw_budget(snapshot(), (replace(ACCOUNT, account="1.2.3.4", granted=123_456_789, spent=0),)), width=width
    )

    assert listed[1].split() == [run_id, "digest", "running", "2.5", "s", "?", "0", "$1.234567"]
    assert budget[1].split()[:7] == ["1.2.3.4", "tokens", "123456789", "0", "0", "0", "123456789"]


def test_the_list_of_runs_has_steps_and_what_was_spent() -> None:
    run = replace(SUMMARY, steps=4, steps_committed=3, tokens=9, cost_nanousd=1_000_000)

    assert drawn(draw_runs([run]))[1].split() == ["order-42", "digest", "running", "2.5", "s", "3/4", "9", "$0.001"]


@pytest.mark.parametrize(
    ("meter", "amount", "text"),
    [
        (COST, 1_500_000_000, "$1.5"),
        (COST, 2_000_000_000, "$2"),
        (COST, 10_000_000_000, "$10"),
        (COST, 1_000, "$0.000001"),
        (COST, 1, "$0.000000001"),
        (COST, 0, "$0"),
        (COST, -2_500_000_000, "-$2.5"),
        (COST, 9_007_199_254_740_991, "$9007199.254740991"),
        (TOKENS, 10, "10"),
    ],
)
def test_amounts_are_dollars_or_digits(meter: str, amount: int, text: str) -> None:
    assert format_amount(meter, amount) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_500, "1.5 s"),
        (180_000, "3 min"),
        (3 * 3_600_000, "3 h"),
        (3 * 86_400_000, "3 d"),
    ],
)
def test_times_are_in_the_unit_that_fits(ms: int, text: str) -> None:
    assert format_ms(ms) == text


def test_a_change_of_a_step_is_one_line_and_told_once() -> None:
    said: dict[str, tuple[str, int]] = {}

    def told(*nodes: NodeRow) -> list[str]:
        return [line.plain for line in changed_lines(snapshot(*nodes), said)]

    assert told(NODE) == []
    assert told(DISPATCHED) == ["0  ◦ fetch  queued"]
    assert told(DISPATCHED) == []
    assert told(replace(DISPATCHED, attempts=2)) == ["0  ◦ fetch  queued, 2 attempts"]
    inner = replace(NODE, path="1.0", name="inner", status=NodeStatus.FAILED, error="no")
    around = replace(NODE, path="1", name="both", kind="parallel", children=(inner,))
    assert told(replace(DISPATCHED, attempts=2), around) == ["1.0  ✗ inner  no"]


def test_money_is_cost_in_dollars_wherever_it_stands() -> None:
    waiters = (Waiter("1.0.0", "ask", "root", COST, 2_500_000, 1_000),)
    row = replace(ACCOUNT, meter=COST, granted=5_000_000, spent=5_000_000 - 1_000)

    lines = drawn(draw_budget(replace(snapshot(), waiters=waiters), (row,)))
    waiting = node_line(replace(NODE, status=NodeStatus.BLOCKED, waits_for=f"team {COST}"), snapshot())

    assert lines[1].split()[:3] == ["root", "cost", "$0.005"]
    assert lines[2] == "◌ 1.0.0 ask  waits for $0.0025; account root could get $0.000001"
    assert waiting.plain == "◌ fetch  blocked  waiting for account team cost"


def test_a_step_that_a_fallback_saved_says_so() -> None:
    saved = replace(NODE, status=NodeStatus.SUCCEEDED, attempts=3, fallback="spare", original_error="no\nluck")

    assert node_line(saved, snapshot()).plain == "✓ fetch  3 attempts  fell back on spare: no luck"
    assert "fell back" not in node_line(replace(saved, status=NodeStatus.FAILED, error="both"), snapshot()).plain
