"""The Celery task `flujo.submit`: what becomes of its message."""

from __future__ import annotations

import pytest
from celery.exceptions import Reject

from flujo_client.cli.redis_server import free_port
from flujo_client.protocol.errors import UnknownPipelineError
from flujo_client.protocol.settings import Settings
from flujo_worker.app import create_app
from flujo_worker.registry import Registry


def test_a_submission_that_redis_did_not_take_goes_back_to_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_worker.submit._PATIENCE_S", 0)
    app = create_app(Settings(url=f"redis://127.0.0.1:{free_port()}"), Registry())

    with pytest.raises(Reject) as refused:
        app.tasks["flujo.submit"]("chain", run_id="r")

    assert refused.value.requeue


def test_a_submission_with_a_mistake_of_its_sender_does_not(redis_url: str) -> None:
    app = create_app(Settings(url=redis_url), Registry())

    with pytest.raises(UnknownPipelineError):
        app.tasks["flujo.submit"]("nobody-has-it", run_id="r")


def test_its_message_is_acknowledged_after_the_run_is_stored() -> None:
    task = create_app(Settings(url="redis://127.0.0.1"), Registry()).tasks["flujo.submit"]

    assert task.acks_late
    assert task.reject_on_worker_lost
