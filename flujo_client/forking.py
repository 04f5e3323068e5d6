"""Forks: a new run that begins in the middle of another, with all that the other has paid for until there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set

from flujo_client.archive.dump import RunDump
from flujo_client.execution.decision import FRESH, NodeState
from flujo_client.execution.paths import lineage_of, node_of, order_of
from flujo_client.execution.reuse import Reuse, composites_around, reuse_before
from flujo_client.protocol.accounts import AccountRow
from flujo_client.protocol.errors import ConfigurationError, ExecutionError
from flujo_client.protocol.quota import Amounts, add_amounts, parse_amounts
from flujo_client.protocol.spec import (
    ConditionalSpec,
    LoopSpec,
    MachineSpec,
    MapSpec,
    NodeSpec,
    PipelineSpec,
    SequenceSpec,
)

__all__ = ["FirstEvent", "fork_of", "place_of"]

#: Kind, path, attempt and reason of what happens to a fork first.
FirstEvent = tuple[str, str, int, str]

#: Fields of a record that a fork has in common with its run; the others say how that one went on.
_IN_COMMON = frozenset({"schema", "limits", "accounts", "traceparent", "metadata"})

#: Fields of a composite that say what is in it, and not how it behaves.
_PARTS = frozenset({"body", "branches", "states", "router", "parallel"})

#: Which node, or numbered control step, a payload belongs to; what follows a # says of which attempt.
_PLACE = re.compile(r"(?:\w+:)?(\d+(?:\.\d+)*(?:!\w+)?)((?:\.\d+)*)")

#: Paths that an error lists.
_MOST_LISTED = 6


def place_of(dump: RunDump, spec: PipelineSpec, step: str) -> str:
    """The path of the node that a name, or a path, means.

    A name in a body that ran again and again means the last time that the node was reached.

    Args:
        dump: The run that is forked.
        spec: Of the fork.

    Raises:
        ConfigurationError: There is none, or several have the name.
    """
    if re.fullmatch(r"\d+(\.\d+)*", step) and not isinstance(_node_at(spec, step), SequenceSpec | None):
        return step
    found = [path for path, name in _places(spec.root, "") if name == step]
    found += [path for path in dump.nodes if "!" not in path and path != "root" and _name_at(spec, path) == step]
    found = sorted(set(found), key=order_of)
    found = [path for path in found if not set(lineage_of(path)[1:]) & set(found)]
    found = [path for path in found if "." not in path] or _last_times(spec, found)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{path} {name}" for path, name in _places(spec.root, ""))
    problem = "has no step" if not found else "has several steps"
    which = "" if not found else f" at {', '.join(found[:_MOST_LISTED])}{' …' if len(found) > _MOST_LISTED else ''}"
    raise ConfigurationError(
        f"Pipeline '{spec.name}' {problem} '{step}'{which}; it has: {listed}.",
        suggestion="Name one of them, by its path if a name stands twice; `flujo show RUN` has the paths.",
    )


def _places(sequence: NodeSpec, base: str) -> Iterator[tuple[str, str]]:
    """The nodes that a run has once, or not at all, each with its path and name."""
    for index, node in enumerate(sequence.parts()):
        path = f"{base}{index}"
        if isinstance(node, SequenceSpec):
            yield from _places(node, f"{path}.")
            continue
        yield path, node.name
        if not isinstance(node, LoopSpec | MapSpec | MachineSpec):
            yield from _places(node, f"{path}.")


def _last_times(spec: PipelineSpec, found: list[str]) -> list[str]:
    """Of paths that differ in nothing but how often a loop or a state machine had gone round, the last."""
    last: dict[tuple[int, ...], str] = {}
    for path in found:
        place = list(order_of(path))
        for at, composite in composites_around(spec, path):
            if isinstance(composite, LoopSpec | MachineSpec):
                place[len(order_of(at))] = 0
        last[tuple(place)] = path
    return list(last.values())


def fork_of(
    dump: RunDump, spec: PipelineSpec, start: str, run_id: str, created_ms: int
) -> tuple[RunDump, list[FirstEvent]]:
    """The records of a run that has all of another's outcomes that do not depend on a node, and what happens to it first.

    Args:
        dump: The other run.
        spec: Of the fork; the same, or a newer one in which everything that is used again is the same.
        start: Path of the node where it begins, see `place_of`.
        created_ms: Redis time.

    Raises:
        ConfigurationError: The two pipelines differ around `start`, or in what is used again.
        ExecutionError: The other run did not reach `start`.
    """
    check = _Check(dump, spec)
    check.around(start)
    has_context = "ctx:root" in dump.payloads
    reuse = reuse_before(dump.nodes, spec, start, has_context=has_context, check=check.same_at)
    if not reuse.reached:
        raise _unreached(dump, spec, start, reuse)
    record = {name: value for name, value in dump.record.items() if name in _IN_COMMON}
    fork = RunDump(
        spec=spec,
        record={
            **record,
            "run_id": run_id,
            "fingerprint": f"fork {dump.run_id} {start} {spec.content_hash}",
            "spec": spec.content_hash,
            "pipeline": spec.name,
            "status": "running",
            "gate": "open",
            "created_ms": str(created_ms),
            "forked_from": dump.run_id,
        },
        nodes=reuse.nodes,
        accounts=_accounts(dump.record, dump.accounts, reuse.nodes),
        payloads={name: value for name, value in dump.payloads.items() if _is_used(name, reuse.used)},
    )
    return fork, [(kind.value, path, attempt, f"forked from {dump.run_id}") for kind, path, attempt in reuse.events]


class _Check:
    """Compares nodes of a run's pipeline with those of the fork's."""

    def __init__(self, dump: RunDump, spec: PipelineSpec) -> None:
        self._dump = dump
        self._spec = spec
        self._same: set[str] = set()

    def same_at(self, path: str) -> None:
        """A node and those around it are the same in both. Raises `ConfigurationError` if not."""
        if self._spec.content_hash != self._dump.spec.content_hash:
            self.around(path)
            self._compare(path)

    def around(self, path: str) -> None:
        """The composites around a node are the same in both; what is in them may differ."""
        for above, _ in composites_around(self._spec, path):
            self._compare(above)

    def _compare(self, path: str) -> None:
        if path in self._same:
            return
        node, old, name = self._spec.node(path), _node_at(self._dump.spec, path), _name_at(self._spec, path)
        now, before = _shell(node), {} if old is None else _shell(old)
        if now != before:
            differ = ", ".join(sorted(field for field in now if now[field] != before.get(field)))
            same_kind = old is not None and old.kind == node.kind
            story = f"it differs in {differ}" if same_kind else "that had no such step"
            raise ConfigurationError(
                f"Step {path} '{name}' of pipeline '{self._spec.name}' is not what run {self._dump.run_id} ran there: {story}.",
                suggestion="Fork from that step, or an earlier one.",
            )
        self._same.add(path)


def _shell(node: NodeSpec) -> dict[str, object]:
    return node.model_dump(exclude=set(_PARTS))


def _unreached(dump: RunDump, spec: PipelineSpec, start: str, reuse: Reuse) -> ExecutionError:
    """Why a run did not come as far as a node."""
    for path, node in composites_around(spec, start):
        chosen = reuse.nodes.get(path, FRESH).chosen
        if isinstance(node, ConditionalSpec) and chosen not in (None, order_of(start)[len(order_of(path))]):
            return ExecutionError(
                f"Run {dump.run_id}: step {path} '{_name_at(spec, path)}' took another branch.",
                suggestion="Fork from that step, or an earlier one.",
                run_id=dump.run_id,
            )
    for path in reuse.open_places:
        place = node_of(path)
        return ExecutionError(
            f"Run {dump.run_id}: step {place} '{_name_at(spec, place)}' has not succeeded, nothing of it can be used again.",
            suggestion="Fork from that step, or an earlier one.",
            run_id=dump.run_id,
        )
    return ExecutionError(
        f"Run {dump.run_id} did not reach step {start} '{_name_at(spec, start)}'.",
        suggestion="Fork from a step that it reached: `flujo show RUN`.",
        run_id=dump.run_id,
    )


def _is_used(name: str, used: Set[str]) -> bool:
    """Whether a payload is the run's own, or belongs to an outcome that is used again."""
    if name in ("input", "ctx:root"):
        return True
    kept = name.startswith("kept:")  # under a number of its own, behind the path
    place = _PLACE.match(name.rpartition(".")[0] if kept else name)
    if place is None:
        return False
    return place[1] in used or place[1] + place[2] in used


def _node_at(spec: PipelineSpec, path: str) -> NodeSpec | None:
    try:
        return spec.node(path)
    except KeyError:
        return None


def _name_at(spec: PipelineSpec, path: str) -> str | None:
    node = _node_at(spec, path)
    return None if node is None or isinstance(node, SequenceSpec) else node.name


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
