"""Forks: a new run that begins in the middle of another, with all that the other has paid for until there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flujo_client.archive.dump import RunDump
from flujo_client.execution.decision import FRESH, NodeState, NodeStatus
from flujo_client.protocol.accounts import AccountRow
from flujo_client.protocol.errors import ConfigurationError, ExecutionError
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.quota import Amounts, add_amounts, parse_amounts
from flujo_client.protocol.spec import ConditionalSpec, NodeSpec, PipelineSpec, SequenceSpec

__all__ = ["fork_event", "fork_of", "place_of"]

#: Fields of a record that say how a run went on, and are not the fork's.
_OF_THE_RUN = frozenset({"final", "finished_ms", "error", "reason", "ending", "last_event"})

#: Composites whose children run once, one after the other: a fork may begin inside them.
_ONCE = frozenset({"pipeline", "conditional"})

#: Control steps of theirs that come before their children.
_BEFORE = frozenset({"enter", "choose"})

#: Fields of such a composite that say what is in it, and not how it behaves.
_PARTS = frozenset({"body", "branches"})

#: Which node, and which control step of it, a payload or a stored node belongs to.
_PLACE = re.compile(r"(?:\w+:)?(\d+(?:\.\d+)*)(?:!(\w+))?")

_Indices = tuple[int, ...]


def place_of(spec: PipelineSpec, step: str) -> str:
    """The path of the node that a name, or a path, means; of one that is the first in its composites, the path of these.

    Raises:
        ConfigurationError: There is none, several have the name, or none of its kind can be begun with.
    """
    places = list(_places(spec.root, "", None))
    found = [place for place in places if place.path == step] or [place for place in places if place.name == step]
    if len(found) > 1:
        found = [place for place in found if "." not in place.path and place.inside is None] or found
    if len(found) != 1:
        listed = ", ".join(f"{place.path} {place.name}" for place in places if place.inside is None)
        problem = "has no step" if not found else "has several steps"
        raise ConfigurationError(
            f"Pipeline '{spec.name}' {problem} '{step}'; it has: {listed}.",
            suggestion="Name one of them, by its number if a name stands twice.",
        )
    if found[0].inside is not None:
        raise ConfigurationError(
            f"Step '{step}' of pipeline '{spec.name}' stands inside '{found[0].inside}', whose parts run at once, or again and "
            "again: nothing says which of them a fork would begin with.",
            suggestion=f"Fork from '{found[0].inside}'.",
        )
    path = found[0].path
    while path.endswith(".0"):
        path = path.rpartition(".")[0].rpartition(".")[0]
    return path


@dataclass(frozen=True, slots=True)
class _Place:
    """A node; `inside` names the composite in which nothing can be begun with."""

    path: str
    name: str
    inside: str | None


def _places(sequence: NodeSpec, base: str, inside: str | None) -> Iterator[_Place]:
    for index, node in enumerate(sequence.parts()):
        path = f"{base}{index}"
        if isinstance(node, SequenceSpec):
            yield from _places(node, f"{path}.", inside)
            continue
        yield _Place("" if inside else path, node.name, inside)
        stuck = inside or (None if node.kind in _ONCE else node.name)
        for place, part in enumerate(node.parts()):
            yield from _places(part, f"{path}.{place}.", stuck)


def fork_of(dump: RunDump, spec: PipelineSpec, start: str, run_id: str, created_ms: int) -> RunDump:
    """The records of a run that has all of another's nodes before one, and begins there.

    Args:
        dump: The other run.
        spec: Of the fork; the same, or a newer one that is the same before `start`.
        start: Path of the node where it begins, see `place_of`.
        created_ms: Redis time.

    Raises:
        ConfigurationError: The two pipelines differ before `start`.
        ExecutionError: A node before `start` has not succeeded, or the branch that has it did not run.
    """
    indices = tuple(map(int, start.split(".")))
    for depth in range(1, len(indices) + 1, 2):
        _check_before(dump, spec, indices[:depth])
    nodes = {path: node for path, node in dump.nodes.items() if path != "root" and _is_before(path, indices)}
    for depth in range(1, len(indices) - 1, 2):
        nodes |= _reopened(dump, indices, depth)
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
        nodes={**nodes, "root": _root(dump, indices)},
        accounts=_accounts(dump.record, dump.accounts, nodes),
        payloads={
            name: value
            for name, value in dump.payloads.items()
            if name in ("input", "ctx:root") or _is_before(name, indices)
        },
    )


def fork_event(fork: RunDump, start: str) -> tuple[str, str, int, str]:
    """What happens to a fork first: its creation, or the success of the last node that it has from the other run."""
    if start == "0":
        return EventKind.CREATED.value, "root", 0, ""
    path = _previous(tuple(map(int, start.split("."))))
    return EventKind.SUCCEEDED.value, path, fork.nodes[path].attempt, f"forked from {fork.record['forked_from']}"


def _check_before(dump: RunDump, spec: PipelineSpec, indices: _Indices) -> None:
    """What stands before a node in its sequence is the same in both pipelines, and has succeeded."""
    above, base = indices[:-1], "".join(f"{index}." for index in indices[:-1])
    sequence, old = spec.node(_path(above)), _node_of(dump.spec, above)
    if above:
        composite = indices[:-2]
        ran = dump.nodes.get(_path(composite), FRESH)
        if _shell(spec.node(_path(composite))) != _shell(_node_of(dump.spec, composite)):
            raise _differs(dump, spec, _path(composite))
        if isinstance(spec.node(_path(composite)), ConditionalSpec) and ran.chosen != above[-1]:
            raise ExecutionError(
                f"Run {dump.run_id}: step {_path(composite)} '{_name(spec.node(_path(composite)))}' took another branch.",
                suggestion="Fork from that step, or an earlier one.",
                run_id=dump.run_id,
            )
    for index, node in enumerate(sequence.parts()[: indices[-1]]):
        path, parts = f"{base}{index}", () if old is None else old.parts()
        if index >= len(parts) or parts[index] != node:
            raise _differs(dump, spec, path)
        if dump.nodes.get(path, FRESH).status is not NodeStatus.SUCCEEDED:
            raise ExecutionError(
                f"Run {dump.run_id}: step {path} '{_name(node)}' has not succeeded, nothing of it can be used again.",
                suggestion="Fork from that step, or an earlier one.",
                run_id=dump.run_id,
            )


def _differs(dump: RunDump, spec: PipelineSpec, path: str) -> ConfigurationError:
    return ConfigurationError(
        f"Step {path} '{_name(spec.node(path))}' of pipeline '{spec.name}' is not what run {dump.run_id} ran there.",
        suggestion="Fork from that step, or an earlier one.",
    )


def _reopened(dump: RunDump, indices: _Indices, depth: int) -> dict[str, NodeState]:
    """A composite around the node as it was while its child ran, and the child, whose context is that at the node's beginning."""
    composite, child = _path(indices[:depth]), _path(indices[: depth + 1])
    ended = dump.nodes.get(composite, FRESH)
    running = ended.model_copy(update={"status": NodeStatus.RUNNING, "error": None, "told": None, "failing": None})
    return {composite: running, child: NodeState(context=_context_before(dump, indices[: depth + 2]))}


def _root(dump: RunDump, indices: _Indices) -> NodeState:
    if indices == (0,):
        return FRESH
    first = ("ctx:root",) if "ctx:root" in dump.payloads else ()
    return NodeState(status=NodeStatus.RUNNING, context=_context_before(dump, indices[:1]) if indices[0] else first)


def _context_before(dump: RunDump, indices: _Indices) -> tuple[str, ...]:
    """The context of a node's sequence when the node was reached; () if nothing in the sequence had changed it."""
    return dump.nodes[_previous(indices)].context_after if indices[-1] else ()


def _is_before(name: str, start: _Indices) -> bool:
    """Whether a stored node, or a payload, was there before a node began; composites around it are made anew."""
    place = _PLACE.match(name)
    if place is None:
        return False
    indices = tuple(map(int, place[1].split(".")))
    if indices == start[: len(indices)]:
        return len(indices) < len(start) and place[2] in _BEFORE
    return indices < start


def _previous(indices: _Indices) -> str:
    return _path((*indices[:-1], indices[-1] - 1))


def _path(indices: _Indices) -> str:
    return ".".join(map(str, indices)) or "root"


def _node_of(spec: PipelineSpec, indices: _Indices) -> NodeSpec | None:
    try:
        return spec.node(_path(indices))
    except KeyError:
        return None


def _shell(node: NodeSpec | None) -> dict[str, object]:
    return {} if node is None else node.model_dump(exclude=set(_PARTS))


def _accounts(record: Mapping[str, str], accounts: Mapping[str, str], nodes: Mapping[str, NodeState]) -> dict[str, str]:
    """The other run's budget, of which is spent what the nodes that are used again have cost."""
    used: Amounts = {}
    for node in nodes.values():
        used = add_amounts(used, node.usage)
    made = {
        "meters": accounts.get("meters", ""),
        "life|root": "1 0 open",
        **{f"total|{meter}": str(amount) for meter, amount in used.items()},
        **{f"forked|{meter}": str(amount) for meter, amount in used.items()},  # of which it has no claims
    }
    for meter, limit in parse_amounts(record["limits"]).items():
        made[f"root|{meter}"] = AccountRow("root", meter, limit, spent=min(limit, used.get(meter, 0))).stored
    return made


def _name(node: NodeSpec) -> str:
    return "sequence" if isinstance(node, SequenceSpec) else node.name
