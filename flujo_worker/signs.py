"""`ConsumerSigns`: what a worker's main process does again and again while it takes messages; see `protocol/health.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo_worker.transport import GuardedTransport

__all__ = ["ConsumerSigns"]


class ConsumerSigns:
    """Counts the turns of Celery's loop, and what shows that its consumer hears the broker.

    On Redis a consumer with a free slot always waits in a BRPOP, which is answered within a second: no answer for long means
    that nobody waits there any more, whatever the rest of the process does. On RabbitMQ the heartbeats of the connection tell.

    Attributes:
        turns: Of the loop, and tries to reach a broker that is away.
    """

    def __init__(self) -> None:
        self.turns = 0
        self._excused = 0
        self._consumer: Any = None
        self._busy: Callable[[], bool] = lambda: False

    @property
    def heard(self) -> tuple[int, int]:
        """Changes while the consumer hears the broker, or has a reason not to."""
        connection = None if self._consumer is None else self._consumer.connection
        transport = None if connection is None else connection.transport
        return self._excused, transport.heard if isinstance(transport, GuardedTransport) else self.turns

    def attach(self, consumer: Any, busy: Callable[[], bool]) -> None:
        """Watch a consumer; called at every (re)connect.

        Args:
            busy: Whether the pool has anything to do.
        """
        self._consumer, self._busy = consumer, busy
        consumer.hub.on_tick.add(self._turned)

    def trying(self) -> None:
        """The broker is away and is tried again: who knows that is not deaf."""
        self.turns += 1
        self._excused += 1

    def _turned(self) -> None:
        self.turns += 1
        taking, on_redis = (
            self._consumer.task_consumer,
            isinstance(self._consumer.connection.transport, GuardedTransport),
        )
        full = taking is None or (on_redis and not taking.channel.qos.can_consume())
        if full and self._busy():  # full without anything to do is a slot that was lost, and no excuse
            self._excused += 1
