"""A pipeline with importable functions, for tests that need no worker."""

from __future__ import annotations

from flujo_client import step

__all__ = ["echoing"]


@step
async def echo(text: str) -> str:
    return text


echoing = (echo >> echo).named("echoing")
