"""Draws a run: its tree of nodes and its budget. Pure: from a snapshot to something that rich prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flujo_client.account_book import AccountStatus
from flujo_client.execution.decision import NodeStatus
from flujo_client.protocol.accounts import AccountRow
from flujo_client.protocol.quota import COST, Amounts, amount_words, usd_text
from flujo_client.snapshots import NodeRow, RunSnapshot, RunSummary, Waiter

__all__ = [
    "changed_lines",
    "draw_budget",
    "draw_headline",
    "draw_named",
    "draw_run",
    "draw_runs",
    "draw_tree",
    "format_amount",
    "format_meter",
    "format_ms",
    "node_line",
    "state_of",
]

#: Sign and style by state, see `state_of`.
_SIGNS = {
    "waiting": ("·", "dim"),
    "queued": ("◦", "yellow"),
    "blocked": ("◌", "yellow"),
    "running": ("▸", "yellow"),
    "stopped": ("–", "dim"),
    "paused": ("?", "magenta"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
}

#: Widths of what lies between two columns, and of a budget's bar.
_GAP, _BAR = 2, 20

#: Columns of the list of runs: words, and numbers.
_RUN_NAMES = ("run", "pipeline", "status")
_RUN_NUMBERS = ("duration", "steps", "tokens", "cost")

#: Columns of a budget that are shown even when they are all zero.
_ALWAYS = ("granted", "spent", "reserved", "unknown", "free")


def draw_run(run: RunSnapshot) -> RenderableType:
    """The whole picture: headline, tree, and a bar per account if the run has a budget."""
    return Group(draw_tree(run), draw_budget(run, run.accounts)) if run.accounts else draw_tree(run)


def draw_tree(run: RunSnapshot) -> Tree:
    """A run's headline and its nodes."""
    tree = Tree(draw_headline(run))
    for node in run.nodes:
        _grow(tree, node, run)
    return tree


def draw_headline(run: RunSnapshot) -> Text:
    """Where a run stands and what it has spent; on a line of its own, why it failed."""
    summary = run.summary
    state = "unmanaged: no manager serves the pool" if summary.unmanaged else summary.status.value
    facts = [f"{summary.steps_committed} of {summary.steps} steps", format_ms(summary.duration_ms)]
    facts += [f"{summary.tokens} tokens"] if summary.tokens else []
    facts += [format_amount(COST, summary.cost_nanousd)] if summary.cost_nanousd else []
    headline = ((summary.run_id, "bold"), f"  {summary.pipeline}  ", (state, "bold"), ("  " + ", ".join(facts), "dim"))
    return Text.assemble(*headline, *_reason(summary))


def _reason(summary: RunSummary) -> list[tuple[str, str]]:
    """Why a run failed, on a line of its own."""
    return [(f"\n{' '.join(summary.error.split())}", "red")] if summary.error else []


def _grow(tree: Tree, node: NodeRow, run: RunSnapshot) -> None:
    if node.kind == "sequence" and [child.name for child in node.children] == [node.name]:
        _grow(tree, node.children[0], run)  # a branch of one step, which is called by it
        return
    branch = tree.add(node_line(node, run))
    for child in node.children:
        _grow(branch, child, run)


def state_of(node: NodeRow, run: RunSnapshot) -> str:
    """Where a node stands, in a word: queued until a worker holds it, stopped if the run ended before it did."""
    if node.status not in (NodeStatus.DISPATCHED, NodeStatus.RUNNING, NodeStatus.PAUSED, NodeStatus.BLOCKED):
        return node.status.value
    if run.summary.status.terminal:
        return "stopped"
    if node.status in (NodeStatus.PAUSED, NodeStatus.BLOCKED):
        return node.status.value
    return "queued" if node.status is NodeStatus.DISPATCHED and node.started_ms is None else "running"


def node_line(node: NodeRow, run: RunSnapshot) -> Text:
    """One node of a run: sign, name, attempts, time, tokens, money, and what went wrong."""
    state = state_of(node, run)
    sign, style = _SIGNS[state]
    facts = [state] if state in ("queued", "running", "stopped", "paused", "blocked") else []
    if node.attempts > 1:
        facts.append(f"{node.attempts} attempts")
    if node.started_ms is not None and state == "running":
        facts.append(format_ms(max(0, run.now_ms - node.started_ms)))
    elif node.latency_ms:
        facts.append(format_ms(node.latency_ms))
    if node.tokens:
        facts.append(f"{node.tokens} tokens")
    if node.cost_nanousd:
        facts.append(format_amount(COST, node.cost_nanousd))
    line = Text.assemble((f"{sign} ", style), node.name, ("  " + ", ".join(facts) if facts else "", "dim"))
    for words, style in _asides(node, state):
        line.append(f"  {words}", style)
    return line


def _asides(node: NodeRow, state: str) -> Iterator[tuple[str, str]]:
    """What a node waits for, asks, was saved by, or failed of; with its style."""
    if node.declined and state == "queued":
        yield f"waiting: no worker has {node.declined}", "yellow"
    if node.waits_for and state == "blocked":
        account, _, meter = node.waits_for.partition(" ")
        yield f"waiting for account {account} {format_meter(meter)}", "yellow"
    if node.question is not None and state == "paused":
        place = "" if node.dead else f"  (--token {node.path})"
        yield f"{' '.join(node.question.split())}{place}", "magenta"
    if node.fallback is not None and node.status is not NodeStatus.FAILED:
        yield f"fell back on {node.fallback}: {' '.join((node.original_error or '').split())}", "yellow"
    if node.error and node.status is NodeStatus.FAILED:
        yield node.error, "red"


def changed_lines(run: RunSnapshot, said: dict[str, tuple[str, int]]) -> Iterator[Text]:
    """A line for each step that stands elsewhere than it was last said to.

    Args:
        said: Where each step stood, and in which attempt, by path; brought up to date.
    """
    for step in run.steps():
        now = state_of(step, run), step.attempts
        if now[0] != "waiting" and said.get(step.path) != now:
            said[step.path] = now
            yield Text.assemble((f"{step.path}  ", "dim"), node_line(step, run))


def draw_runs(runs: Sequence[RunSummary]) -> RenderableType:
    """A table of runs, one line each; below a run that failed why it did, and below one that waits what it asks."""
    rows = []
    for run in runs:
        status = "unmanaged" if run.unmanaged else run.status.value
        steps = "?" if run.steps is None else f"{run.steps_committed}/{run.steps}"
        spent = (str(run.tokens), format_amount(COST, run.cost_nanousd))
        rows.append((run.run_id, run.pipeline, status, format_ms(run.duration_ms), steps, *spent))
    parts: list[RenderableType] = []
    table = _table(_RUN_NAMES, _RUN_NUMBERS, rows)
    for run, cells in zip(runs, rows, strict=True):
        table.add_row(*map(Text, cells))
        below = [(f"  {' '.join(run.error.split())}", "red")] if run.error else []
        below += [
            (
                f"  {asked.message}"
                if asked.dead
                else f"  {asked.step} asks: {' '.join(asked.message.split())}  (--token {asked.token})",
                "magenta",
            )
            for asked in run.questions
        ]
        if below:
            parts += [table, *(Text(text, style, no_wrap=True, overflow="ignore") for text, style in below)]
            table = _table(_RUN_NAMES, _RUN_NUMBERS, rows)
            table.show_header = False
    return Group(*parts, table) if table.row_count or not parts else Group(*parts)


def draw_budget(run: RunSnapshot, accounts: Sequence[AccountRow]) -> RenderableType:
    """Accounts, each below the one above it, with a bar of what is spent, held, or given to branches; then who is blocked.

    Beside the parts that always stand there, no column of nothing but zeros.
    """
    blocked = Counter[tuple[str, str]]()
    for waiter in run.waiters:
        blocked[waiter.account, waiter.meter] += waiter.asked
    amounts: dict[str, list[int]] = {
        "granted": [row.granted for row in accounts],
        "spent": [row.spent for row in accounts],
        "reserved": [row.reserved for row in accounts],
        "unknown": [row.unknown for row in accounts],
        "children": [row.children for row in accounts],
        "overrun": [row.overrun for row in accounts],
        "blocked": [blocked[row.account, row.meter] for row in accounts],
        "free": [row.free for row in accounts],
    }
    shown = {title: column for title, column in amounts.items() if title in _ALWAYS or any(column)}
    known = {(row.account, row.meter) for row in accounts}
    names = {node.path: node.name for top in run.nodes for node in _below(top)}
    rows = []
    for index, row in enumerate(accounts):
        cells = (format_amount(row.meter, column[index]) for column in shown.values())
        rows.append((_account_name(row, known, names), format_meter(row.meter), *cells))
    table = _table(("account", "meter"), tuple(shown), rows)
    table.add_column(width=_BAR)
    table.width = (table.width or 0) + _GAP + _BAR
    for row, texts in zip(accounts, rows, strict=True):
        bar = ProgressBar(total=max(row.granted, 1), completed=row.granted - row.free)
        table.add_row(*map(Text, texts), bar)
    return Group(table, *(_waiter_line(waiter) for waiter in run.waiters if (waiter.account, waiter.meter) in known))


def _below(node: NodeRow) -> Iterator[NodeRow]:
    yield node
    for child in node.children:
        yield from _below(child)


def _account_name(row: AccountRow, known: Set[tuple[str, str]], names: Mapping[str, str]) -> str:
    """What people call it, indented by how many accounts of its meter are above it."""
    depth, above = 0, row.account
    while above != "root":
        above = above.rpartition(".")[0] or "root"
        depth += (above, row.meter) in known
    return "  " * depth + " ".join(filter(None, (row.account, names.get(row.account))))


def _waiter_line(waiter: Waiter) -> Text:
    asked, free = amount_words(waiter.meter, waiter.asked), format_amount(waiter.meter, waiter.free)
    wants = f"waits for {asked}; account {waiter.account} could get {free}"
    return Text.assemble(("◌ ", "yellow"), f"{waiter.path} {waiter.name}  ", (wants, "dim"))


def draw_named(accounts: Sequence[AccountStatus], drawn: Mapping[str, Amounts] | None = None) -> Table:
    """A table of named accounts, a line per meter.

    Args:
        drawn: What a run has drawn on them; None if no run is looked at.
    """
    rows, rules = [], any(account.rules for account in accounts) and drawn is None
    for account in accounts:
        for meter, row in account.meters.items():
            amounts = [row.limit, row.spent, row.reserved, row.unknown, row.free]
            amounts += [] if drawn is None else [drawn[account.name].get(meter, 0)]
            cells = [format_amount(meter, amount) for amount in amounts]
            when = "waits" if account.waits else "refuses"
            paid = (" ".join(account.rules) or "-",) if rules else ()
            rows.append((account.name, format_meter(meter), account.window, when, *paid, *cells, str(account.waiting)))
    numbers = ("limit", "spent", "reserved", "unknown", "free", *(() if drawn is None else ("this run",)), "waiting")
    names = ("named account", "meter", "window", "exhausted", *(("pays for",) if rules else ()))
    table = _table(names, numbers, rows)
    for row_cells in rows:
        table.add_row(*map(Text, row_cells))
    return table


def _table(names: tuple[str, ...], numbers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table that never cuts a cell, however narrow the terminal: a cut number is another number, a cut id is none."""
    titles = names + numbers
    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    table = Table(box=None, pad_edge=False, width=sum(widths) + _GAP * (len(widths) - 1))
    for title, width in zip(titles, widths, strict=True):
        table.add_column(title, justify="left" if title in names else "right", no_wrap=True, width=width)
    return table


def format_amount(meter: str, amount: int) -> str:
    """An amount as people read it: dollars for money, digits for the rest."""
    return usd_text(amount) if meter == COST else str(amount)


def format_meter(meter: str) -> str:
    """A meter as people call it: money is shown in dollars, so it is `cost`."""
    return "cost" if meter == COST else meter


def format_ms(ms: int) -> str:
    """A length of time in the unit that fits it."""
    seconds = ms / 1000
    for limit, divisor, form in (
        (1, 0.001, "{:.0f} ms"),
        (120, 1, "{:.1f} s"),
        (7200, 60, "{:.0f} min"),
        (172_800, 3600, "{:.0f} h"),
    ):
        if seconds < limit:
            return form.format(seconds / divisor)
    return f"{seconds / 86_400:.0f} d"
