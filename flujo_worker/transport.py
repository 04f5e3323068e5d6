"""kombu's Redis transport, made to outlive garbage: an entry of a queue that is no message is dropped, not raised."""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis

__all__ = ["GUARDED_REDIS", "GuardedTransport"]

logger = logging.getLogger(__name__)

#: How Celery's `broker_transport` names it.
GUARDED_REDIS = "flujo_worker.transport:GuardedTransport"

#: What parsing an entry that is no message raises, in kombu and in Celery.
_GARBAGE = (ValueError, KeyError, TypeError, AttributeError)


class GuardedChannel(redis.Channel):  # type: ignore[misc]  # kombu has no types
    """Reads queues. kombu lets the error of an unreadable entry end the whole worker."""

    def _brpop_read(self, **options: Any) -> Any:
        self.connection.heard += 1  # kombu calls the transport a channel's connection
        try:
            return super()._brpop_read(**options)
        except _GARBAGE as error:
            logger.error("an entry of the queue is no message and was dropped: %r", error)  # noqa: TRY400 - no traceback: nothing of ours failed
            return True


class GuardedTransport(redis.Transport):  # type: ignore[misc]  # kombu has no types
    """kombu's transport over `GuardedChannel`.

    Attributes:
        heard: Answers of the broker to reads that waited.
    """

    heard = 0

    Channel = GuardedChannel
