"""Kills one worker of the demo with SIGKILL while it holds a lease, and knows which attempts it took with it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flujo_client.cli.demo.ledger import Entry, read_ledger
from flujo_client.client import AsyncFlujoClient

__all__ = ["Kill", "kill_a_holder", "recovery_ms"]

_LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL.

    Attributes:
        lost: (run, path, nonce) of the attempts that the process held when it died; none if it had just ended them.
    """

    pid: int
    at_ms: int
    lost: tuple[tuple[str, str, str], ...]


async def kill_a_holder(client: AsyncFlujoClient, ledger: Path, after_bills: int) -> list[Kill]:
    """Wait until some steps have billed, then kill a worker that holds at least one lease.

    A lease of a process that has been killed can only be given up by the sweep, so one that Redis still books after
    the kill is lost for certain; if none is, the next worker is killed.

    Args:
        after_bills: Bills to wait for: the middle of the work.

    Returns:
        Every kill, in order; the last one's worker held a lease.
    """
    kills: list[Kill] = []
    while not (kills and kills[-1].lost):
        entries = read_ledger(ledger)
        if sum(entry.kind == "bill" for entry in entries) >= after_bills:
            kills += await _kill_holder(client, entries)
        await asyncio.sleep(_LOOK_EVERY_S)
    return kills


async def _kill_holder(client: AsyncFlujoClient, entries: list[Entry]) -> list[Kill]:
    """Kill the first worker that holds an attempt which has started; nobody if none does."""
    pids = {entry.nonce: entry.pid for entry in entries if entry.kind == "started"}
    for incarnation, nonces in (await _leases(client)).items():
        pid = next((pids[nonce] for nonce in nonces if nonce in pids), None)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            at_ms = round(time.time() * 1000)
            lost = (await _leases(client)).get(incarnation, {})
            return [Kill(pid, at_ms, tuple((run_id, path, nonce) for nonce, (run_id, path) in lost.items()))]
    return []


async def _leases(client: AsyncFlujoClient) -> dict[str, dict[str, tuple[str, str]]]:
    """By incarnation: (run, path) of each nonce that it holds."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name in await client.client.zrange(client.keyspace.shard("incarnations"), 0, -1):
        held = await client.client.zrange(client.keyspace.held(name.decode(), 0), 0, -1)
        for member in held:
            run_id, path, _, nonce = member.decode().split(" ")
            found.setdefault(name.decode(), {})[nonce] = (run_id, path)
    return found


def recovery_ms(kills: Iterable[Kill], entries: list[Entry]) -> int:
    """From a kill to the start of the last of the attempts that replaced the lost ones; -1 if one was not replaced."""
    slowest = 0
    for kill in kills:
        for run_id, path, nonce in kill.lost:
            starts = [
                entry.at_ms
                for entry in entries
                if entry.kind == "started"
                and (entry.run_id, entry.path) == (run_id, path)
                and entry.nonce != nonce
                and entry.at_ms >= kill.at_ms
            ]
            if not starts:
                return -1
            slowest = max(slowest, min(starts) - kill.at_ms)
    return slowest
