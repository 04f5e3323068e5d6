"""Steps that are given up because their workers died: they fail, or wait until somebody says what becomes of them. Pure."""

from __future__ import annotations

from flujo_client.execution.decision import NodeStatus, PauseState
from flujo_client.execution.draft import Draft
from flujo_client.execution.paths import node_of
from flujo_client.protocol.messages import Event

__all__ = ["give_up", "revive"]


def give_up(draft: Draft, event: Event) -> None:
    """A step has lost its last attempt. Its siblings go on; the run fails, or rests when nothing else can run."""
    path, node = event.path, draft.state(event.path)
    plural = "time" if node.losses == 1 else "times"
    error = {
        "type": "RunFailedError",
        "message": f"step '{draft.name(path)}' crashed its worker {node.losses} {plural}",
        "data": {"run_id": draft.run.run_id, "path": path, "dead_letter": True},
    }
    if draft.step(path).on_worker_lost == "pause":
        run_id = draft.run.run_id
        message = (
            f"{error['message']}: `flujo dead retry {run_id}` runs it again, `flujo dead drop {run_id}` gives it up"
        )
        pause = PauseState(message=message, asked_ms=int(event.id.partition("-")[0]))
        draft.update(path, status=NodeStatus.PAUSED, error=error, pause=pause, dead=True)
        return
    draft.update(path, status=NodeStatus.FAILED, error=error)
    draft.fail(node_of(path), path)


def revive(draft: Draft, event: Event) -> None:
    """Somebody has said what becomes of it: it runs again on the terms that it had, or fails with what ended it."""
    if event.fields["how"] == "retry":
        draft.update(event.path, dead=False, pause=None, error=None, losses=0)
        draft.dispatch_again(event.path, 0)
        return
    draft.update(event.path, dead=False, pause=None, status=NodeStatus.FAILED)
    draft.fail(node_of(event.path), event.path)
