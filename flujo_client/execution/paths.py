"""Arithmetic on paths: a node's place in a run is its child indices, joined by dots. Pure."""

from __future__ import annotations

import re

__all__ = ["child_of", "control_of", "control_path", "lineage_of", "node_of", "order_of", "parent_of"]


def parent_of(path: str) -> tuple[str, int]:
    """The path of a node's parent, and the node's index in it."""
    parent, _, index = path.rpartition(".")
    return parent or "root", int(index)


def child_of(path: str, index: int) -> str:
    """The path of a node's child."""
    return str(index) if path == "root" else f"{path}.{index}"


def control_path(path: str, control: str, number: int | None = None) -> str:
    """The path of a composite's control step: `1!merge`; `1!next.3` where it has one for each child."""
    return f"{path}!{control}" if number is None else f"{path}!{control}.{number}"


def control_of(path: str) -> tuple[str, int]:
    """The name of a control step, "" for any other path, and its number, 0 if it has none."""
    control, _, number = path.partition("!")[2].partition(".")
    return control, int(number or 0)


def node_of(path: str) -> str:
    """The path of the node that a path's control step belongs to; of any other path, itself."""
    return path.partition("!")[0]


def order_of(path: str) -> tuple[int, ...]:
    """Sorts paths in declared order, a composite before what is in it."""
    return () if path == "root" else tuple(int(index) for index in node_of(path).split("."))


def lineage_of(path: str) -> list[str]:
    """A place, and every one above it up to the root: what load_run.lua reads for an event."""
    places = [path]
    while above := _ABOVE.fullmatch(places[-1]):
        places.append(above[1])
    return places if path == "root" else [*places, "root"]


_ABOVE = re.compile(r"(.+)[.!][^.!]+")
