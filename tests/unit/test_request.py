"""What others see of a submission while a worker has it."""

from __future__ import annotations

import json

from kombu.message import Message

from flujo_client import Settings
from flujo_worker.app import create_app
from flujo_worker.registry import Registry
from flujo_worker.request import SUBMIT_REQUEST, SubmitRequest


def test_a_submission_is_shown_without_its_input() -> None:
    app = create_app(Settings(url="redis://localhost/0"), Registry())
    task = app.tasks["flujo.submit"]
    body = json.dumps([[], {"input": "a-secret"}, {}])
    headers = {"id": "1", "task": "flujo.submit", "argsrepr": "a-secret", "kwargsrepr": "a-secret"}
    message = Message(body=body, headers=headers, content_type="application/json", content_encoding="utf-8")

    request = SubmitRequest(message, app=app, task=task)

    assert task.Request == SUBMIT_REQUEST
    assert request.kwargs == {"input": "a-secret"}, "the task gets it"
    shown = [request.info(), request.info(safe=True), request.argsrepr, request.kwargsrepr, str(request)]
    assert "a-secret" not in repr(shown)
