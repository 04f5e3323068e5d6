"""Turns: what a granular step keeps between them in the context, and what its agent gets of it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any, Final

import pydantic_core

from flujo_client.protocol.agent_results import TurnEnd
from flujo_client.protocol.errors import GranularResumeError
from flujo_client.protocol.leaves import TurnSpec
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.step_run import StepRun
from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.policies.step_context import set_in_context

__all__ = ["GranularPolicy"]

#: The field of contexts that has the state.
_STATE: Final = "granular_state"

#: What stands in the state for a value that is kept beside the context.
_BLOB: Final = "$blob"

_BYTES_A_TOKEN: Final = 4


class GranularPolicy:
    """Gives a turn its history, and writes into the context what came of it."""

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: turns of granular steps."""
        return call.step.turn is not None

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`.

        Raises:
            GranularResumeError: The turns before were made by another agent, or on another input, than this one.
            PayloadError: The agent's answer is no JSON value.
        """
        terms = call.step.turn
        assert terms is not None
        assert call.context is not None
        run: StepRun = call.injected["run"]
        prints = _fingerprints(call)
        state = _state_of(call.context_model, run) or {"loop": _loop_of(run), "turn_index": 0, "history": [], **prints}
        _refuse_other(state, prints, terms, call.step.name)
        history = [await _unpacked(entry, run) for entry in state["history"]]
        call.injected["history"] = _newest(history, terms.history_max_tokens)
        if terms.enforce_idempotency and call.injected.get("resources") is not None:
            call.injected["resources"] = _keyed(call.injected["resources"], call, state["turn_index"])
        end = _turn_end(await proceed(call), state["turn_index"])
        packed = [await _packed(entry, run, terms) for entry in end.history]
        state = {
            **state,
            **prints,
            "turn_index": state["turn_index"] + 1,
            "history": [*state["history"], *packed],
            "is_complete": end.is_complete,
            "final_output": await _packed(_plain(end.output), run, terms) if end.is_complete else None,
        }
        set_in_context(call.context.model, _STATE, state)
        return end.output


def _loop_of(run: StepRun) -> str:
    """The loop around a turn, whose iterations are its turns: another loop's state is not this one's."""
    return run.path.rpartition(".")[0].rpartition(".")[0]


def _state_of(context: Any, run: StepRun) -> dict[str, Any] | None:
    """What the turns before left; None if there were none."""
    state = getattr(context, _STATE, None)
    first = run.path.split(".")[-2:-1] == ["0"]
    return None if first or state is None or state.get("loop") != _loop_of(run) else dict(state)


def _fingerprints(call: StepCall) -> dict[str, str]:
    given, facts = _plain(call.value), call.definition.turn_facts
    return {
        "fingerprint": _hash([given, facts["strict"]]),
        "compat_fingerprint": _hash([given, facts["compat"]]),
    }


def _hash(facts: Any) -> str:
    return hashlib.sha256(json_bytes(facts)).hexdigest()


def _refuse_other(state: Mapping[str, Any], prints: Mapping[str, str], terms: TurnSpec, name: str) -> None:
    kind = "fingerprint" if terms.fingerprint == "strict" else "compat_fingerprint"
    if state[kind] != prints[kind]:
        raise GranularResumeError(
            f"Step '{name}' is not what made its first {state['turn_index']} turns: its {terms.fingerprint} fingerprint "
            "is another.",
            suggestion='Let the release that began the run end it, or give the step resume_fingerprint_mode="compat".',
            irrecoverable=True,
        )


def _newest(history: list[Any], most_tokens: int) -> list[Any]:
    """The first entry, and the newest of the others, in pairs: what a model asked for stays with what it got."""
    sizes = [len(json_bytes(entry)) for entry in history]
    skipped = 0
    while sum(sizes[:1]) + sum(sizes[1 + skipped :]) > most_tokens * _BYTES_A_TOKEN and skipped + 2 < len(history):
        skipped += 2
    return [*history[:1], *history[1 + skipped :]]


def _keyed(resources: Any, call: StepCall, turn: int) -> Any:
    """A copy of the resources that says which turn asks, the same for every attempt of it."""
    keyed = copy.copy(resources)
    words = f"{call.attempt.ref.run_id}:{call.step.name}:{turn}"
    keyed._idempotency_key = hashlib.sha256(words.encode()).hexdigest()
    return keyed


def _turn_end(answer: Any, turn: int) -> TurnEnd:
    """What came of a turn, of agents that know turns and of those that do not."""
    if isinstance(answer, TurnEnd):
        return answer
    told = answer if isinstance(answer, Mapping) else getattr(answer, "__dict__", {})
    done = bool(told.get("is_complete", True))
    output = told["final_output"] if done and told.get("final_output") is not None else answer
    return TurnEnd(done, output, [{"turn": turn, "output": _plain(answer)}])


def _plain(value: Any) -> Any:
    return pydantic_core.from_json(json_bytes(value))


async def _packed(value: Any, run: StepRun, terms: TurnSpec) -> Any:
    size = len(json_bytes(value))
    return value if size <= terms.blob_threshold_bytes else {_BLOB: await run.values.put(value), "bytes": size}


async def _unpacked(entry: Any, run: StepRun) -> Any:
    return await run.values.get(entry[_BLOB]) if isinstance(entry, dict) and _BLOB in entry else entry
