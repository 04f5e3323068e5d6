"""`TraceSpan`: one node of a run's trace tree, and what happened at it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TraceEvent", "TraceSpan"]


class TraceEvent(BaseModel):
    """Something that happened at a node. `timestamp` is Redis time, seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    name: str
    timestamp: float
    attributes: dict[str, Any] = Field(default_factory=dict)


class TraceSpan(BaseModel):
    """One node of a run: the run itself is `pipeline_run`, and below it are its steps, as deep as they go.

    Times are Redis time, seconds since the epoch; None where it has not begun, or not ended.
    """

    model_config = ConfigDict(frozen=True)

    span_id: str = Field(description="the node's path in the run")
    parent_span_id: str | None = None
    name: str
    start_time: float | None = None
    end_time: float | None = None
    status: str = Field("running", description="running, completed, failed or paused")
    attributes: dict[str, Any] = Field(default_factory=dict)
    events: list[TraceEvent] = Field(default_factory=list)
    children: list[TraceSpan] = Field(default_factory=list)

    def find(self, name: str) -> TraceSpan | None:
        """The first span of this name, itself included, in declared order."""
        if self.name == name:
            return self
        return next((found for child in self.children if (found := child.find(name))), None)
