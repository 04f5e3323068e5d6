"""Pipelines on a budget, for the tests' workers."""

from __future__ import annotations

import asyncio
import zlib

from flujo_client import Pipeline, Step, StepRun, step
from tests.integration.pipelines import held, ledger


@step(expected_tokens=40, max_retries=0)
async def greedy(value: int, run: StepRun) -> int:
    """Asks for far more than it uses."""
    ledger("bill", run, tokens=10)
    run.usage.add(tokens=10)
    await asyncio.sleep(0.01)
    return value


crowd = Pipeline([Step.parallel("crowd", {f"b{index}": greedy for index in range(6)})], name="crowd")

#: Most that one `spend` uses, and what it asks for.
MOST = 20


@step(expected_tokens=MOST, max_retries=0, timeout_s=20)
async def spend(value: int, run: StepRun) -> int:
    """A provider call: the bill is written outside Redis; what it costs depends on where and when it is made."""
    tokens = zlib.crc32(f"{run.run_id}/{run.path}/{run.attempt}".encode()) % (MOST + 1)
    await asyncio.sleep(0.03)
    ledger("bill", run, tokens=tokens)
    run.usage.add(tokens=tokens)
    await asyncio.sleep(0.03)
    return tokens


storm = Pipeline([Step.parallel("storm", {f"b{index}": spend for index in range(100)})], name="storm")

dear = held.model_copy(update={"config": held.config.model_copy(update={"expected_tokens": 40})})

pair = Pipeline([Step.parallel("pair", {"first": dear, "second": dear})], name="pair")


@step(expected_tokens=10, max_retries=0, timeout_s=20)
async def pay(value: int, run: StepRun) -> int:
    """A provider call of a known price, on whatever accounts its run has."""
    ledger("bill", run, tokens=10)
    run.usage.add(tokens=10)
    return value


shared = Pipeline([Step.parallel("shared", {f"b{index}": pay for index in range(6)})], name="shared")


@step(expected_tokens=70, max_retries=0, timeout_s=20)
async def seventy(value: int, run: StepRun) -> int:
    run.usage.add(tokens=70)
    return value


@step(expected_tokens=30, max_retries=0, timeout_s=20)
async def thirty(value: int, run: StepRun) -> int:
    run.usage.add(tokens=30)
    return value


@step(expected_tokens=1, max_retries=0)
async def one(value: int, run: StepRun) -> int:
    run.usage.add(tokens=1)
    return value


@step(expected_tokens=50, estimate_quantile=0.95, max_retries=0)
async def frugal(value: int, run: StepRun) -> int:
    """Expects far more than it ever uses."""
    run.usage.add(tokens=10)
    return value


learning = Pipeline([Step.parallel("learning", {"a": frugal, "b": frugal})], name="learning")

by_weights = Step.parallel("weighted", {"a": seventy, "b": thirty}, split={"b": 3, "a": 7})
weighted = Pipeline([by_weights], name="weighted")


#: On a queue that no worker serves: its branch runs, as it may begin at any moment.
elsewhere = one.model_copy(update={"config": one.config.model_copy(update={"queue": "elsewhere"})})
apart = Pipeline([Step.parallel("apart", {"far": elsewhere, "near": greedy})], name="apart")


@step(max_retries=0, timeout_s=20)
async def occupy(value: int, run: StepRun) -> int:
    """Takes its time, so that several meet if nothing keeps them apart."""
    ledger("started", run)
    await asyncio.sleep(0.2)
    ledger("ended", run)
    return value


narrow = Pipeline([Step.parallel("narrow", {f"b{index}": occupy for index in range(8)})], name="narrow")
