"""What a check of a pipeline finds: `ValidationFinding`, each with its place and its remedy, gathered in a `ValidationReport`."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ValidationFinding", "ValidationReport", "possible_keys", "warn"]


class ValidationFinding(BaseModel):
    """One thing that is wrong, or may be.

    Attributes:
        rule: Short name of what was checked.
        severity: An error keeps the pipeline from running; a warning does not.
        place: Where: pipeline, step, branch and so on, joined by slashes.
        suggestion: What to do about it.
    """

    model_config = ConfigDict(frozen=True)

    rule: str
    severity: Literal["error", "warning"] = "error"
    place: str = ""
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        return f"{place}{self.message}"

    def inside(self, place: str) -> ValidationFinding:
        """The same finding of something inside a place."""
        return self.model_copy(update={"place": f"{place}/{self.place}" if self.place else place})


class ValidationReport(BaseModel):
    """Everything that a check has found, at once."""

    model_config = ConfigDict(frozen=True)

    findings: tuple[ValidationFinding, ...] = Field(())

    @property
    def errors(self) -> list[ValidationFinding]:
        """What keeps the pipeline from running."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[ValidationFinding]:
        """What deserves a look."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def is_valid(self) -> bool:
        """Whether there are no errors."""
        return not self.errors


def warn(rule: str, message: str, suggestion: str) -> ValidationFinding:
    """A warning whose place is still to be told."""
    return ValidationFinding(rule=rule, severity="warning", message=message, suggestion=suggestion)


def possible_keys(annotation: Any) -> list[Any] | None:
    """Every value that a function annotated so can return; None if they cannot be counted."""
    if annotation is bool:
        return [True, False]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [member.value for member in annotation]
    if get_origin(annotation) is Literal:
        return [value.value if isinstance(value, Enum) else value for value in get_args(annotation)]
    return None
