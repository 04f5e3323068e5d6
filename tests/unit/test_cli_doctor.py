"""What `flujo doctor` makes of what it finds."""

from __future__ import annotations

import pytest

from flujo_client.cli.doctor import Facts, Verdict, judge
from flujo_client.execution.witness import Loss


def test_a_healthy_installation_has_no_faults() -> None:
    findings = judge(Facts(managers=1, workers=2, pipelines=("digest",)))

    assert {finding.verdict for finding in findings} == {Verdict.OK}
    assert [finding.subject for finding in findings] == ["redis", "broker", "managers", "workers", "pipelines"]


@pytest.mark.parametrize(
    ("facts", "subject", "verdict", "words"),
    [
        (Facts(redis="does not answer", reachable=False), "redis", Verdict.FAULT, "does not answer"),
        (Facts(redis="may evict keys"), "redis", Verdict.FAULT, "may evict keys"),
        (Facts(append_only=False), "redis", Verdict.WARNING, "set appendonly yes"),
        (Facts(append_only=None), "redis", Verdict.OK, "answers"),
        (Facts(broker="refuses"), "broker", Verdict.FAULT, "refuses"),
        (Facts(), "managers", Verdict.WARNING, "start `flujo manager`"),
        (Facts(unmanaged=3), "managers", Verdict.FAULT, "3 runs wait"),
        (Facts(), "workers", Verdict.FAULT, "start `flujo worker"),
        (Facts(), "pipelines", Verdict.WARNING, "none published"),
        (Facts(missing={"digest.fetch": 2}), "steps", Verdict.FAULT, "no worker has digest.fetch, 2 runs"),
        (Facts(unarchived=3), "archive", Verdict.OK, "3 finished runs wait"),
        (Facts(unarchived=9_000), "archive", Verdict.WARNING, "FLUJO_STATE_URI"),
        (
            Facts(loss=Loss(0, 5_000)),
            "history",
            Verdict.WARNING,
            "between 1970-01-01 00:00:00 UTC and 1970-01-01 00:00:05",
        ),
        (
            Facts(loss=Loss(None, 5_000)),
            "history",
            Verdict.WARNING,
            "answered before 1970-01-01 00:00:05 UTC: a replica",
        ),
        (Facts(untaken={"cpu": 5}), "queues", Verdict.FAULT, "--queues cpu"),
    ],
)
def test_each_trouble_has_its_finding_and_remedy(facts: Facts, subject: str, verdict: Verdict, words: str) -> None:
    found = next(finding for finding in judge(facts) if finding.subject == subject)

    assert found.verdict is verdict
    assert words in found.text


def test_of_a_redis_that_does_not_answer_nothing_else_is_said() -> None:
    assert len(judge(Facts(redis="gone", reachable=False, missing={"a": 1}))) == 1
