"""`Draft`: a decision in the making: the view of a run, overlaid with what changed, and what is to be dispatched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_client.execution.decision import FRESH, Decision, LimitWarning, NodeState, NodeStatus, RunView
from flujo_client.execution.graph import Kinds, Producer, RunGraph
from flujo_client.execution.paths import control_path, parent_of
from flujo_client.protocol.leaves import HANDLERS
from flujo_client.protocol.messages import ANY_NODE, StepOutputRef, TaskRecord
from flujo_client.protocol.payloads import Expression, expression_fields
from flujo_client.protocol.queues import task_label
from flujo_client.protocol.quota import amounts_text
from flujo_client.protocol.replies import Alarm, BranchEnd, Dispatch, Split
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import HitlSpec, SequenceSpec, StepSpec

__all__ = ["LEASE_GRACE_MS", "LONGEST_STEP_MS", "MOST_DISPATCHES", "Draft"]

#: Dispatches that one script call writes at the most; Redis serves nobody else meanwhile.
MOST_DISPATCHES = 500

#: A step without a timeout loses its lease after this.
LONGEST_STEP_MS = 3_600_000

#: What a lease lasts beyond the step's timeout: validation, hooks and the commit.
LEASE_GRACE_MS = 10_000


class Draft(RunGraph):
    """A decision in the making.

    Args:
        run: The run as it is stored.
        kinds: Of its nodes.
    """

    def __init__(self, run: RunView, kinds: Kinds) -> None:
        super().__init__(run.spec, kinds, self._overlaid)
        self.run = run
        self.status = run.status
        self.error: dict[str, Any] | None = None
        self.applied = ""
        self.ahead = ""  # the path that the commit of the event has dispatched already
        self.incomplete = False
        self.missing: list[str] = []
        self.splits: list[Split] = []
        self.branch_ends: list[BranchEnd] = []
        self.dispatches: list[Dispatch] = []
        self.alarms: list[Alarm] = []
        self.warnings: list[LimitWarning] = []
        self.opening: set[str] = set()  # joins that open children at this moment
        self.woken: list[Dispatch] = []
        self._changed: dict[str, NodeState] = {}
        self.free = {account: dict(amounts) for account, amounts in (run.free or {}).items()}
        self.needs_free = False

    def _overlaid(self, path: str) -> NodeState:
        return self._changed.get(path) or self.run.nodes.get(path) or FRESH

    def needed(self, path: str) -> NodeState:
        """The state of a node that may lie off the events' paths: until it is in the view, nothing can be decided."""
        if path not in self._changed and path not in self.run.nodes:
            self.missing.append(path)
        return self.state(path)

    def update(self, path: str, **changes: Any) -> NodeState:
        """Change what the run remembers of a node."""
        self._changed[path] = self.state(path).model_copy(update=changes)
        return self._changed[path]

    def ended_before(self, path: str) -> bool:
        """Whether a node had ended when this decision began: its event is advanced again, for the next slice."""
        return self.run.nodes.get(path, FRESH).status.ended

    def hoist_context(self, child: str) -> None:
        """A child that had a context of its own has succeeded: the context becomes that of the scope around it."""
        if self.state(child).context:
            self.update(self.scope(parent_of(child)[0]), context=self.state(child).context)

    def enter(self, path: str) -> None:
        """Start a node, or go on starting it."""
        self.kind(path).enter(self, path, self.node(path))

    def complete(self, path: str) -> None:
        """A node is done: go on in its parent."""
        if self.state(path).status is not NodeStatus.SUCCEEDED:
            self.update(path, status=NodeStatus.SUCCEEDED, **self._named_output(path))
        self.leave(path)

    def _named_output(self, path: str) -> dict[str, Any]:
        """Where the output of a composite is that something may come after: workers read it by its name."""
        node, last = self.node(path), str(len(self.spec.root.nodes) - 1)
        if isinstance(node, SequenceSpec | StepSpec | HitlSpec) or path == last:
            return {}
        return {"output": self.output(path), "made_by": self.producer(path).function}

    def leave(self, path: str) -> None:
        """A node needs nothing more: go on in its parent as after a success."""
        if path == "root":
            self._end_with_background()
            return
        parent, index = parent_of(path)
        self.kind(parent).child_succeeded(self, parent, self.node(parent), index)

    def fail(self, path: str, cause: str) -> None:
        """A node failed for good because of the step at `cause`: its handlers are called, then its parent decides what that means."""
        if self._calls_handlers(path, cause):
            return
        if self.state(path).status is not NodeStatus.FAILED:
            self.update(path, status=NodeStatus.FAILED)
        if path == "root":
            self._end_with_background()
            return
        parent, index = parent_of(path)
        self.kind(parent).child_failed(self, parent, self.node(parent), index, cause)

    def _calls_handlers(self, path: str, cause: str) -> bool:
        """Have the failure handlers of a node called, once; whether they have not all returned."""
        node, state = self.node(path), self.state(path)
        if isinstance(node, SequenceSpec) or not node.failure_handlers:
            return False
        if state.failing is None:
            place, roles = control_path(path, HANDLERS), node.roles(HANDLERS)
            self.update(path, status=NodeStatus.RUNNING, failing=cause)
            before = self.producer_before(path)
            self.dispatch(place, self.step(place), {}, before, True, kind=ANY_NODE, control=HANDLERS, roles=roles)
        return self.state(path).status is NodeStatus.RUNNING

    def handlers_returned(self, path: str) -> None:
        """The failure handlers of a node have been called: go on with its failure."""
        cause = self.update(path, status=NodeStatus.FAILED).failing
        assert cause is not None
        self.fail(path, cause)

    def begin_background(self) -> None:
        """A body begins that the pipeline does not wait for; the run's end does."""
        self.update("root", background=self.state("root").background + 1)

    def end_background(self) -> None:
        """Such a body has ended, either way."""
        self.update("root", background=self.state("root").background - 1)
        if self.state("root").status.ended:
            self._end_with_background()

    def _end_with_background(self) -> None:
        """End the run as its root ended, unless background work goes on: it is never lost, and its spend counts."""
        root = self.state("root")
        if root.background == 0:
            self.end(RunStatus.COMPLETED if root.status.succeeded else RunStatus.FAILED)

    def end(self, status: RunStatus, error: dict[str, Any] | None = None) -> None:
        """The run ends."""
        self.status, self.error = status, error

    def dispatch_step(self, path: str, step: StepSpec, delay_ms: int = 0) -> None:
        """An attempt on the terms of this step, and on the context as it is now."""
        if path == self.ahead:  # a commit has dispatched it: all that its worker needs is journalled
            self.update(path, status=NodeStatus.DISPATCHED, attempt=1)
            label = task_label(self.spec.name, step.name)
            self.dispatches.append(Dispatch(path, 1, step.queue, step.wanted, label, ahead=True))
            return
        outputs = {
            name: StepOutputRef(expression=self.output(place), function=self.producer(place).function)
            for name, place in self.named_before(path, step.reads).items()
        }
        self.dispatch(
            path,
            step,
            self.input(path),
            self.producer_before(path),
            step.wants_context,
            delay_ms=delay_ms,
            outputs=outputs,
        )

    def dispatch_control(
        self,
        path: str,
        control: str,
        number: int | None = None,
        *,
        value: Expression,
        producer: Producer | None = None,
        **terms: Any,
    ) -> None:
        """A control step of the composite at `path`, unless it was dispatched before.

        Args:
            value: Its input.
            producer: What made it; default: what made the composite's input.
            terms: More fields of its `TaskRecord`.
        """
        place = control_path(path, control, number)
        begun = path not in self.run.nodes or self.run.nodes[path].status is not NodeStatus.WAITING
        state = self.needed(place) if begun else self.state(place)  # a node that had not begun has dispatched nothing
        if state.attempt or self.missing:
            return
        node = self.node(path)
        assert not isinstance(node, SequenceSpec)
        made_by = producer or self.producer_before(path)
        roles = node.roles(control)
        self.dispatch(
            place, self.step(place), value, made_by, True, kind=node.kind, control=control, roles=roles, **terms
        )

    def dispatch(
        self,
        path: str,
        step: StepSpec,
        value: Expression,
        producer: Producer,
        wants_context: bool,
        *,
        delay_ms: int = 0,
        **terms: Any,
    ) -> None:
        """Journal an attempt with all that its worker needs."""
        label = task_label(self.spec.name, step.name)
        if step.estimate_quantile is not None and label in self.run.learned:
            step = step.model_copy(update={"estimate": {**step.estimate, **self.run.learned[label]}})
        context = self.context(path) if wants_context else ()
        task = TaskRecord(
            pipeline=self.spec.name,
            step=step,
            expression=value,
            producer=producer.name,
            producer_type=producer.type,
            producer_function=producer.function,
            context=context,
            context_model=self.context_model(path),
            **terms,
        )
        outputs = [name for output in task.outputs.values() for name in expression_fields(output.expression)]
        fields = [*expression_fields(value), *context, *_branch_fields(task.branches), *outputs]
        lease_ms = (step.timeout_ms or LONGEST_STEP_MS) + LEASE_GRACE_MS
        estimate = amounts_text({meter: amount for meter, amount in step.estimate.items() if amount})
        chain = " ".join(self.chain(path))
        named = [] if task.control else self._named(step)
        on_loss = f"{step.lost_spend} pause" if step.on_worker_lost == "pause" else step.lost_spend
        attempt = self.state(path).attempt + 1
        self.update(path, status=NodeStatus.DISPATCHED, attempt=attempt)
        self.dispatches.append(
            Dispatch(
                path=path,
                attempt=attempt,
                queue=step.queue,
                function=step.wanted,
                label=label,
                delay_ms=delay_ms,
                terms=";".join((str(lease_ms), on_loss, chain, estimate, " ".join(fields), *named)),
                task=task.model_dump_json(exclude_defaults=True).encode(),
                is_async=step.is_async,
            )
        )

    def _named(self, step: StepSpec) -> list[str]:
        """The accounts above the run that pay for a step; as one word of its terms, or none."""
        names = dict.fromkeys((*self.run.accounts, *step.accounts))
        return [" ".join(names)] if names else []

    def dispatch_again(self, path: str, delay_ms: int) -> None:
        """Another attempt on the terms of the first."""
        attempt = self.state(path).attempt + 1
        self.update(path, status=NodeStatus.DISPATCHED, attempt=attempt)
        step = self.step(path)
        label = task_label(self.spec.name, step.name)
        self.dispatches.append(
            Dispatch(path, attempt, step.queue, step.wanted, label, delay_ms, is_async=step.is_async)
        )

    def wake(self, path: str) -> None:
        """An attempt that was blocked is journalled again, its estimate reserved: publish it."""
        state = self.update(path, status=NodeStatus.DISPATCHED)
        step = self.step(path)
        label = task_label(self.spec.name, step.name)
        self.woken.append(Dispatch(path, state.attempt, step.queue, step.wanted, label, is_async=step.is_async))

    def decision(self) -> Decision:
        """What was decided so far."""
        if self.missing or self.needs_free:
            missing = tuple(dict.fromkeys(self.missing))
            return Decision(applied="", status=self.run.status, missing=missing, needs_free=self.needs_free)
        ended = self.status.terminal
        if not ended:
            self.status = self._rest_or_run()
        return Decision(
            applied=self.applied,
            status=self.status,
            error=self.error,
            nodes=self._changed,
            splits=tuple(self.splits),
            branch_ends=tuple(self.branch_ends),
            dispatches=() if ended else tuple(self.dispatches),
            woken=() if ended else tuple(self.woken),
            alarms=tuple(self.alarms),
            warnings=tuple(self.warnings),
            incomplete=self.incomplete and not ended,
        )

    def _rest_or_run(self) -> RunStatus:
        """Paused if something waits for an answer and nothing else can go on; the root counts both."""
        active = paused = 0
        for path, node in self._changed.items():
            before = self.run.nodes.get(path, FRESH).status
            active += node.status.under_way - before.under_way
            paused += (node.status is NodeStatus.PAUSED) - (before is NodeStatus.PAUSED)
        root = self.state("root")
        if active or paused:
            root = self.update("root", active=root.active + active, paused=root.paused + paused)
        rests = root.paused > 0 and root.active == 0 and not self.incomplete
        return RunStatus.PAUSED if rests else RunStatus.RUNNING


def _branch_fields(branches: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Payloads of the branches' contexts."""
    return list(dict.fromkeys(name for names in branches.values() for name in names))
