"""The outputs of earlier steps, read from the run's records when somebody asks a context for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic_core

from flujo_client.protocol.earlier import EarlierNodes, EarlierOutput
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.payloads import expression_fields
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.spec_text import load_spec

__all__ = ["EarlierOutputs", "ReadNow"]

#: Specs that a worker remembers for this.
_MOST_SPECS = 100

#: Fields of a hash, in order, without awaiting anything: whoever asks a context for a field does not await either. Raises
#: `StateUnavailableError`.
ReadNow = Callable[[str, Sequence[str]], Sequence[bytes | None]]


class EarlierOutputs:
    """Reads what ended before an attempt: three short reads, and one more for each level of composites in between.

    What it reads does not change: nodes that have ended, and what they have committed. So every attempt of a step gets the same.

    Args:
        keyspace: Of the runs.
        read_now: Reads hashes.
    """

    def __init__(self, keyspace: Keyspace, read_now: ReadNow) -> None:
        self._keyspace = keyspace
        self._read_now = read_now
        self._specs: dict[str, PipelineSpec] = {}

    def before(self, ref: StepRef, branch: str | None) -> tuple[dict[str, EarlierOutput], dict[str, bytes]]:
        """The outputs that an attempt sees, by name, and the payloads that they are made of.

        Args:
            branch: See `EarlierNodes.before`.

        Raises:
            StateUnavailableError: Redis does not answer; the attempt fails with it.
        """
        keys = self._keyspace.run(ref.run_id)

        def states(paths: Sequence[str]) -> list[Mapping[str, Any]]:
            return [{} if text is None else pydantic_core.from_json(text) for text in self._read_now(keys.nodes, paths)]

        found = EarlierNodes(self._spec_of(ref.run_id), states).before(ref.path, branch)
        fields = list(dict.fromkeys(name for output in found.values() for name in expression_fields(output.expression)))
        rows = self._read_now(keys.payloads, fields) if fields else ()
        payloads = {field: row for field, row in zip(fields, rows, strict=True) if row is not None}
        whole = {
            name: output
            for name, output in found.items()
            if all(field in payloads for field in expression_fields(output.expression))
        }
        return whole, payloads

    def _spec_of(self, run_id: str) -> PipelineSpec:
        (name,) = self._read_now(self._keyspace.run(run_id).run, ["spec"])
        spec_hash = (name or b"").decode()
        if spec_hash not in self._specs:
            (text,) = self._read_now(self._keyspace.shard("specs", self._keyspace.shard_of(run_id)), [spec_hash])
            if len(self._specs) >= _MOST_SPECS:
                del self._specs[next(iter(self._specs))]
            self._specs[spec_hash] = load_spec(text or b"")
        return self._specs[spec_hash]
