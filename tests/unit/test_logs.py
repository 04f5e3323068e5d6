"""Log lines name the run they speak of."""

from __future__ import annotations

import logging

import pytest

from flujo_client.protocol.logs import FactsFormatter


def _line(**extra: object) -> str:
    logger = logging.getLogger("test")
    record = logger.makeRecord("test", logging.WARNING, "f.py", 1, "attempt %s", ("lost",), None, extra=extra)
    return FactsFormatter("%(levelname)s %(message)s", private=False).format(record)


def test_the_facts_of_a_record_stand_behind_its_message() -> None:
    assert _line(run_id="order-42", attempt=2) == "WARNING attempt lost  run_id=order-42 attempt=2"


def test_what_is_no_plain_fact_is_left_out() -> None:
    assert _line(data={"id": 1}) == "WARNING attempt lost"


@pytest.mark.parametrize("private", [True, False])
def test_what_an_exception_says_is_left_out_where_payloads_are_encrypted(private: bool) -> None:
    try:
        int("a secret")
    except ValueError as error:
        record = logging.LogRecord(
            "test", logging.INFO, "f.py", 1, "failed", (), (ValueError, error, error.__traceback__)
        )

    line = FactsFormatter("%(message)s", private=private).format(record)

    assert ("a secret'" in line) is not private
    assert "test_logs.py" in line
