"""Starting a run: the same for the client, for `Flujo`, and for the Celery task `flujo.submit`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from opentelemetry.trace import SpanKind

from flujo_client.protocol.context import snapshot_of
from flujo_client.protocol.envelopes import describe_error
from flujo_client.protocol.errors import FlujoError, RunConflictError, TypeMismatchError, UnknownAccountError
from flujo_client.protocol.keys import RUN_ID_PATTERN
from flujo_client.protocol.leaves import check_estimates
from flujo_client.protocol.payloads import PayloadCodec, json_bytes
from flujo_client.protocol.quota import Amounts, UsageLimits
from flujo_client.protocol.replies import SpecNotKept, UnknownAccount
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.spec_text import spec_text
from flujo_client.protocol.told import misfit
from flujo_client.protocol.tracing import context_of, get_tracer, new_root, traceparent_of

__all__ = ["check_run_id", "refuse_run", "submit_run"]


async def submit_run(
    scripts: Scripts,
    codec: PayloadCodec,
    spec: PipelineSpec,
    value: Any,
    *,
    run_id: str,
    owner: str,
    limits: UsageLimits | None = None,
    context: dict[str, Any] | None = None,
    traceparent: str = "",
    deadline_s: float | None = None,
    accounts: Sequence[str] = (),
) -> str | None:
    """Store a run and wake its owner; durable when this returns.

    Args:
        value: The run's input; JSON, or a live object in process.
        run_id: Of the new run. The same id with the same pipeline, input and limits starts nothing new.
        owner: The manager that drives it, or `keys.POOL`.
        context: Payload of the first context; None for one that has the run's id and its input as text alone.
        traceparent: Of the submitting service's span; the current span if ''.
        deadline_s: From now; a run that has not ended by then is cancelled. None for no deadline.
        accounts: Named accounts that pay for it.

    Returns:
        None if the run is new, else the status of the stored one.

    Raises:
        ValueError: The id cannot be an id.
        ConfigurationError: The limits want estimates that steps do not have.
        TypeMismatchError: The input does not fit the pipeline's input schema.
        PayloadError: The input cannot be sent.
        RunConflictError: The id belongs to a run of another pipeline, input or limits.
        UnknownAccountError: It, or a step, names an account that nobody has defined.
        StateUnavailableError: Redis does not answer; repeat with the same id.
    """
    check_run_id(run_id)
    payload = codec.encode(value)
    text = codec.json(payload)
    if text is not None and spec.input_schema:
        _check_input(spec, value, run_id)
    amounts = _amounts(spec, limits)
    fields = {
        "fingerprint": _fingerprint(spec, text, {**amounts, **dict.fromkeys(accounts, 0)}, context),
        "owner": owner,
        "spec_hash": spec.content_hash,
        "pipeline": spec.name,
        "input_payload": payload,
        "context_payload": codec.encode(_least_context(value, run_id) if context is None else context),
        "limits": amounts,
        "metadata": b"1",
        "deadline_ms": _deadline_ms(deadline_s),
        "accounts": accounts,
        "step_accounts": () if text is None else _accounts_of(spec),  # in process nobody else can have defined them
    }
    status = await _create(scripts, run_id, spec, traceparent, fields)
    if status == "conflict" or isinstance(status, UnknownAccount):
        raise _refusal(status, run_id)
    return status


async def refuse_run(
    scripts: Scripts, error: BaseException, *, run_id: str, pipeline: str, retention_ms: int, traceparent: str = ""
) -> bool:
    """Store a submission that was refused as a run that failed: its result raises the error, `flujo runs` tells it.

    For submitters who are not there to be told. A later submission of the same id may still be taken.

    Args:
        error: Why.
        pipeline: What it asked for.
        retention_ms: How long it stays.

    Returns:
        Whether it is stored; not if a run has the id.

    Raises:
        StateUnavailableError: Redis does not answer; call again.
    """
    told = describe_error(error)
    ended = {"run_id": run_id, "status": RunStatus.FAILED.value}
    result = {**ended, "success": False, "error": told, "final_pipeline_context": {"$context": [], "set": ended}}
    result["step_history"] = []
    return await scripts.refuse_run(
        run_id, pipeline, json_bytes(told), json_bytes(result), traceparent or new_root(), retention_ms
    )


def _refusal(status: str | UnknownAccount, run_id: str) -> FlujoError:
    if isinstance(status, UnknownAccount):
        return UnknownAccountError(
            f"Nobody has defined an account {status.name}, which run {run_id} names.",
            suggestion="Define it first: `flujo accounts set`, `FlujoClient.define_account`, `AsyncFlujoClient.accounts.define`. Nothing was queued.",
            account=status.name,
        )
    return RunConflictError(
        f"Run id {run_id} belongs to a run of another pipeline, input or limits.",
        suggestion="Use another run_id, or submit exactly what was submitted before to get its result.",
        run_id=run_id,
    )


def _least_context(value: Any, run_id: str) -> dict[str, Any]:
    """What every run's context has, though its submitter knows no model of it: steps and hooks may look."""
    try:
        prompt = str(value)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # its class has no text
        prompt = f"<{type(value).__name__}>"
    return snapshot_of({"initial_prompt": prompt, "run_id": run_id})


def _amounts(spec: PipelineSpec, limits: UsageLimits | None) -> Amounts:
    """The limits by meter, once every step has the estimates that they want."""
    amounts = {} if limits is None else limits.amounts()
    if limits is not None and limits.strict_estimates:
        check_estimates(spec.steps(), amounts)
    return amounts


def _deadline_ms(deadline_s: float | None) -> int | None:
    """A deadline from now, ms. Raises `ValueError` if it does not lie ahead."""
    if deadline_s is None:
        return None
    if not 0 < deadline_s < math.inf:
        raise ValueError(f"A deadline is a number of seconds from now, more than 0, not {deadline_s}.")
    return max(1, round(deadline_s * 1000))


def check_run_id(run_id: str) -> None:
    """Raise `ValueError` if this cannot be the id of a run: messages and the journal are made of words with blanks between."""
    if not RUN_ID_PATTERN.fullmatch(run_id):
        raise ValueError(
            f"{run_id!r} cannot be a run id: use up to 128 letters, digits and ._@:- with a letter or digit first."
        )


def _accounts_of(spec: PipelineSpec) -> list[str]:
    return list(dict.fromkeys(name for step in spec.steps() for name in step.accounts))


async def _create(
    scripts: Scripts, run_id: str, spec: PipelineSpec, traceparent: str, fields: dict[str, Any]
) -> str | UnknownAccount | None:
    """Create the run under the span that all of its other spans descend from: one trace a run, whoever records it."""
    with get_tracer("flujo_client").start_as_current_span(
        f"run {spec.name}",
        context=context_of(traceparent),
        kind=SpanKind.INTERNAL,
        attributes={"flujo.run_id": run_id, "flujo.pipeline.name": spec.name},
    ) as span:
        fields["traceparent"] = traceparent_of(span) or new_root()
        while isinstance(status := await scripts.create_run(run_id, **fields), SpecNotKept):
            await scripts.keep_spec(run_id, spec.content_hash, spec_text(spec))
        return status


def _fingerprint(spec: PipelineSpec, text: bytes | None, amounts: Amounts, context: dict[str, Any] | None) -> str:
    """What makes two submissions the same; a live input cannot be compared and counts as the same."""
    first = b"" if context is None else repr(context).encode() if text is None else json_bytes(context)
    parts = (spec.content_hash.encode(), text or b"", repr(sorted(amounts.items())).encode(), first)
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _check_input(spec: PipelineSpec, value: Any, run_id: str) -> None:
    fault = misfit(spec.input_schema, value)
    if fault is not None:
        step = spec.steps()[0]
        raise TypeMismatchError(
            f"The input of run {run_id} does not fit pipeline '{spec.name}': its first step '{step.name}' expects "
            f"{step.input_type}; {fault}.",
            suggestion="Nothing was queued; correct the input.",
            run_id=run_id,
            step=step.name,
        )
