"""Forks: a new run that begins in the middle of another, with all that the other has paid for until there. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flujo_client.archive.dump import RunDump
from flujo_client.execution.decision import NodeState, NodeStatus
from flujo_client.protocol.accounts import AccountRow
from flujo_client.protocol.errors import ConfigurationError, ExecutionError
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.quota import Amounts, add_amounts, parse_amounts
from flujo_client.protocol.spec import NodeSpec, PipelineSpec, SequenceSpec

__all__ = ["fork_event", "fork_of", "place_of"]

#: Fields of a record that say how a run went on, and are not the fork's.
_OF_THE_RUN = frozenset({"final", "finished_ms", "error", "reason", "ending", "last_event"})

#: Which top-level node a payload belongs to.
_PLACE = re.compile(r"\w+:(\d+)")


def place_of(spec: PipelineSpec, step: str) -> int:
    """The index of the top-level node that a name, or an index, means.

    Raises:
        ConfigurationError: There is none, or several have the name.
    """
    names = [_name(node) for node in spec.root.nodes]
    found = [int(step)] if step.isdecimal() and int(step) < len(names) else []
    found = found or [index for index, name in enumerate(names) if name == step]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{index} {name}" for index, name in enumerate(names))
    problem = "has no top-level step" if not found else "has several top-level steps"
    raise ConfigurationError(
        f"Pipeline '{spec.name}' {problem} '{step}'; it has: {listed}.",
        suggestion="Name one of them, by its number if a name stands twice.",
    )


def fork_of(dump: RunDump, spec: PipelineSpec, start: int, run_id: str, created_ms: int) -> RunDump:
    """The records of a run that has all of another's nodes before one, and begins there.

    Args:
        dump: The other run.
        spec: Of the fork; the same, or a newer one whose nodes before `start` are the same.
        start: Index of the top-level node where it begins.
        created_ms: Redis time.

    Raises:
        ConfigurationError: The two pipelines differ before `start`.
        ExecutionError: A node before `start` has not succeeded.
    """
    for index in range(start):
        before = dump.spec.root.nodes[index] if index < len(dump.spec.root.nodes) else None
        if before is None or before != spec.root.nodes[index]:
            raise ConfigurationError(
                f"Step {index} '{_name(spec.root.nodes[index])}' of pipeline '{spec.name}' is not what run {dump.run_id} ran there.",
                suggestion="Fork from that step, or an earlier one.",
            )
        if dump.nodes.get(str(index), NodeState()).status is not NodeStatus.SUCCEEDED:
            raise ExecutionError(
                f"Run {dump.run_id}: step {index} '{_name(spec.root.nodes[index])}' has not succeeded, nothing of it can be used again.",
                suggestion="Fork from that step, or an earlier one.",
                run_id=dump.run_id,
            )
    nodes = {path: node for path, node in dump.nodes.items() if path != "root" and _place_of_path(path) < start}
    root = NodeState()
    if start:
        root = NodeState(status=NodeStatus.RUNNING, context=dump.nodes[str(start - 1)].context_after)
    record = {name: value for name, value in dump.record.items() if name not in _OF_THE_RUN}
    return RunDump(
        spec=spec,
        record={
            **record,
            "run_id": run_id,
            "fingerprint": f"fork {dump.run_id} {start}",
            "spec": spec.content_hash,
            "pipeline": spec.name,
            "status": "running",
            "gate": "open",
            "created_ms": str(created_ms),
            "forked_from": dump.run_id,
        },
        nodes={**nodes, "root": root},
        accounts=_accounts(dump.record, dump.accounts, nodes),
        payloads={name: value for name, value in dump.payloads.items() if _belongs_before(name, start)},
    )


def fork_event(fork: RunDump, start: int) -> tuple[str, str, int, str]:
    """What happens to a fork first: its creation, or the success of the last node that it has from the other run."""
    if not start:
        return EventKind.CREATED.value, "root", 0, ""
    path = str(start - 1)
    return EventKind.SUCCEEDED.value, path, fork.nodes[path].attempt, f"forked from {fork.record['forked_from']}"


def _accounts(record: Mapping[str, str], accounts: Mapping[str, str], nodes: Mapping[str, NodeState]) -> dict[str, str]:
    """The other run's budget, of which is spent what the nodes that are used again have cost."""
    used: Amounts = {}
    for node in nodes.values():
        used = add_amounts(used, node.usage)
    made = {
        "meters": accounts.get("meters", ""),
        "life|root": "1 0 open",
        **{f"total|{meter}": str(amount) for meter, amount in used.items()},
    }
    for meter, limit in parse_amounts(record["limits"]).items():
        made[f"root|{meter}"] = AccountRow("root", meter, limit, spent=min(limit, used.get(meter, 0))).stored
    return made


def _belongs_before(payload: str, start: int) -> bool:
    place = _PLACE.match(payload)
    return payload in ("input", "ctx:root") or (place is not None and int(place[1]) < start)


def _place_of_path(path: str) -> int:
    return int(re.split(r"[.!]", path)[0])


def _name(node: NodeSpec) -> str:
    return "sequence" if isinstance(node, SequenceSpec) else node.name
