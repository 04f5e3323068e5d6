"""Every fault that can be injected, by its name in the list of faults."""

from __future__ import annotations

from tests.faults.arena import FaultTable
from tests.faults.processes import PROCESS_FAULTS

__all__ = ["FAULTS"]

FAULTS: FaultTable = {**PROCESS_FAULTS}
