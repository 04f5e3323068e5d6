"""Loaded by Python at the start of a worker whose surroundings a fault test has spoilt: its clock, its memory."""

from __future__ import annotations

import os
import resource
import time

_skew_s = float(os.environ.get("FAULT_CLOCK_SKEW_S", "0"))
_memory_mb = int(os.environ.get("FAULT_MEMORY_MB", "0"))

if _skew_s:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _skew_s
    time.time_ns = lambda: _time_ns() + round(_skew_s * 1e9)

if _memory_mb:
    resource.setrlimit(resource.RLIMIT_AS, (_memory_mb << 20, _memory_mb << 20))
