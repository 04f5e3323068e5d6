"""The demo's figures as people read them, and the promises that they keep or break."""

from __future__ import annotations

from typing import Any

__all__ = ["broken_promises", "describe_figures"]


def broken_promises(figures: dict[str, Any]) -> list[str]:
    """Every promise that the figures break."""
    checks = {
        "a run did not complete": figures["completed"] == figures["runs"],
        "no worker was killed": figures["workers_killed"] >= 1,
        "no step ran again": figures["steps_rerun"] >= 1 and figures["attempts"] > figures["steps_committed"],
        "a step was committed twice": figures["committed_twice"] == 0,
        "a committed step was billed again": figures["billed_after_commit"] == 0,
        "a budget was exceeded": figures["tokens_spent"] + figures["tokens_unknown"] <= figures["tokens_granted"],
        "a killed worker's step did not run again": figures["recovery_ms_max"] >= 0,
    }
    return [promise for promise, kept in checks.items() if not kept]


def describe_figures(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each line, in order."""
    slowest = f"the slowest started {figures['recovery_ms_max']} ms after the kill"
    return [
        ("runs completed", f"{figures['completed']} of {figures['runs']}"),
        ("steps committed", f"{figures['steps_committed']} of {figures['runs']} runs"),
        ("attempts", str(figures["attempts"])),
        ("workers killed", str(figures["workers_killed"])),
        ("steps run again", f"{figures['steps_rerun']}, {slowest}"),
        ("steps committed twice", str(figures["committed_twice"])),
        ("bills after a commit", str(figures["billed_after_commit"])),
        ("budget", _budget(figures)),
    ]


def _budget(figures: dict[str, Any]) -> str:
    granted, spent, unknown = (figures[f"tokens_{part}"] for part in ("granted", "spent", "unknown"))
    held = f"{unknown} unknown (held for lost attempts that may have been billed), " if unknown else ""
    return f"{granted} tokens granted, {spent} spent, {held}{granted - spent - unknown} left"
