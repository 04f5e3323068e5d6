"""The Celery app of a worker."""

from __future__ import annotations

import pytest

from flujo_client.protocol.settings import Settings
from flujo_worker.app import consume_without_acknowledgement, create_app
from flujo_worker.registry import Registry


@pytest.mark.parametrize(("broker", "no_ack"), [("redis://localhost/0", True), ("amqp://localhost//", False)])
def test_a_queue_that_only_the_command_line_names_is_consumed_as_the_default_one(broker: str, no_ack: bool) -> None:
    settings = Settings(url="redis://localhost/0", broker_url=broker)
    app = create_app(settings, Registry())
    app.amqp.queues.select(["flujo.default", "flujo.cpu", "flujo.submit"])

    consume_without_acknowledgement(app, settings)

    acknowledged = {name: queue.no_ack for name, queue in app.amqp.queues.consume_from.items()}
    assert acknowledged == {"flujo.default": no_ack, "flujo.cpu": no_ack, "flujo.submit": False}
