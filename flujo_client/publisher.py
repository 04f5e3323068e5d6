"""Publishes journalled dispatches as Celery messages: ids, attempt and trace context, never payloads."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kombu import Connection, Queue
from kombu.exceptions import KombuError
from opentelemetry.trace import SpanKind

from flujo_client.protocol.errors import BrokerUnavailableError, StateUnavailableError
from flujo_client.protocol.messages import Prepared, StepMessage, StepRef
from flujo_client.protocol.queues import STEP_TASK, broker_queue, celery_message, task_id
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.tracing import context_of, get_tracer, records, traceparent_of
from flujo_client.protocol.wire import Commands, RedisReplyError, Wire

__all__ = [
    "MOST_STEPS_PER_MESSAGE",
    "KombuPublisher",
    "Outgoing",
    "Publisher",
    "RedisPublisher",
    "make_publisher",
    "pack_messages",
]

#: Steps that one message carries at the most, so that a fleet shares a burst.
MOST_STEPS_PER_MESSAGE = 10

#: How long the broker may take for one answer, s.
_PATIENCE_S = 5.0

_ORIGIN = f"flujo@{socket.gethostname()}.{os.getpid()}"


class Publisher(Protocol):
    """Hands messages to a broker.

    Attributes:
        beside_runs: The broker is the Redis that holds the runs: a script may publish what it dispatches.
    """

    beside_runs: bool

    def prepare(self, message: StepMessage) -> Prepared:
        """Do what can be done before a message may leave."""

    async def publish(self, messages: Sequence[Prepared]) -> None:
        """Publish. A message may arrive twice or, on Redis, never: the journal heals both.

        Raises:
            BrokerUnavailableError: The broker does not take messages; the sweep publishes them later.
        """

    async def depth(self, queue: str) -> int:
        """How many messages wait in a queue."""

    async def close(self) -> None:
        """Close connections."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One attempt to publish. A step that is not async blocks a thread or a process.

    Attributes:
        alone: The message that carries only this one, if it was prepared ahead.
    """

    queue: str
    is_async: bool
    traceparent: str
    ref: StepRef
    alone: Prepared | None = None

    @property
    def message(self) -> StepMessage:
        """The message that carries only this one."""
        return StepMessage(queue=self.queue, traceparent=self.traceparent, steps=(self.ref,))


def pack_messages(steps: Sequence[Outgoing], prepare: Callable[[StepMessage], Prepared]) -> list[Prepared]:
    """Pack attempts into messages of one queue each.

    A step that blocks a process goes alone: it would hold up the others. The rest is packed so that a burst still
    makes eight messages or more, and an idle system sends every step on its own.
    """
    packs: list[list[Outgoing]] = []
    queues: dict[str, list[Outgoing]] = {}
    for step in steps:
        if step.is_async:
            queues.setdefault(step.queue, []).append(step)
        else:
            packs.append([step])
    for waiting in queues.values():
        size = max(1, min(MOST_STEPS_PER_MESSAGE, len(waiting) // 8))
        packs += [waiting[at : at + size] for at in range(0, len(waiting), size)]
    return [pack[0].alone or prepare(pack[0].message) if len(pack) == 1 else prepare(_packed(pack)) for pack in packs]


def _packed(pack: Sequence[Outgoing]) -> StepMessage:
    refs = tuple(step.ref for step in pack)
    return StepMessage(queue=pack[0].queue, traceparent=pack[0].traceparent, steps=refs)


def celery_headers(message: StepMessage) -> dict[str, Any]:
    """Celery's headers of a message: what workers and Flower show of it."""
    first = message.steps[0]
    more = f" +{len(message.steps) - 1}" if len(message.steps) > 1 else ""
    return {
        "lang": "py",
        "task": STEP_TASK,
        "id": task_id(first.run_id, first.path, first.attempt),
        "shadow": first.label,
        "root_id": first.run_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": f"run={first.run_id} step={first.path} attempt={first.attempt}{more}",
        "kwargsrepr": "",
        "origin": _ORIGIN,
        "ignore_result": True,
        "traceparent": message.traceparent,
    }


def _send_span(message: StepMessage, queue: str, system: str) -> StepMessage:
    """Open and close the PRODUCER span of a message, and put its traceparent in."""
    if not records():
        return message
    first = message.steps[0]
    with get_tracer("flujo_client").start_as_current_span(
        f"send {queue}",
        context=context_of(message.traceparent),
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": system,
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "messaging.destination.name": queue,
            "messaging.message.conversation_id": first.run_id,
            **(
                {"messaging.message.id": task_id(first.run_id, first.path, first.attempt)}
                if len(message.steps) == 1
                else {"messaging.batch.message_count": len(message.steps)}
            ),
        },
    ) as span:
        traceparent = traceparent_of(span)
    return message.model_copy(update={"traceparent": traceparent}) if traceparent else message


class RedisPublisher:
    """Writes messages into kombu's lists, without blocking the event loop.

    Args:
        commands: A connection to the broker's Redis; owned by this object.
        namespace: Of the queues' names.
        keys: The newest signs the messages; without any, they are not signed.
        beside_runs: See `Publisher`.
    """

    def __init__(
        self, commands: Commands, namespace: str, keys: Sequence[str] = (), *, beside_runs: bool = False
    ) -> None:
        self.beside_runs = beside_runs
        self._commands = commands
        self._namespace = namespace
        self._keys = keys

    def prepare(self, message: StepMessage) -> Prepared:
        """See `Publisher.prepare`."""
        queue = broker_queue(self._namespace, message.queue)
        sent = _send_span(message.signed(self._keys), queue, "redis")
        return Prepared(queue, sent, celery_message(queue, sent.model_dump(mode="json"), celery_headers(sent)))

    async def publish(self, messages: Sequence[Prepared]) -> None:
        """See `Publisher.publish`."""
        queues: dict[str, list[str]] = {}
        for message in messages:
            queues.setdefault(message.queue, []).append(message.text)
        try:
            for queue, texts in queues.items():
                await self._commands.execute("LPUSH", queue, *texts)
        except (StateUnavailableError, RedisReplyError) as error:
            raise _unavailable(error) from error

    async def depth(self, queue: str) -> int:
        """See `Publisher.depth`."""
        try:
            return int(await self._commands.execute("LLEN", broker_queue(self._namespace, queue)))
        except (StateUnavailableError, RedisReplyError) as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """See `Publisher.close`."""
        await self._commands.close()


class KombuPublisher:
    """Publishes through kombu, for brokers other than Redis: RabbitMQ with quorum queues and publisher confirms.

    Args:
        url: Of the broker.
        namespace: Of the queues' names.
        keys: The newest signs the messages; without any, they are not signed.
        patience_s: For one answer of the broker; one that blocks its publishers, as RabbitMQ does when it is out of memory,
            is one that does not answer.
    """

    beside_runs = False

    def __init__(self, url: str, namespace: str, keys: Sequence[str] = (), *, patience_s: float = _PATIENCE_S) -> None:
        self._keys = keys
        self._patience_s = patience_s
        options = {"confirm_publish": True, "read_timeout": patience_s, "write_timeout": patience_s}
        self._connection = Connection(url, transport_options=options, connect_timeout=patience_s)
        self._faults = (KombuError, OSError, *self._connection.connection_errors, *self._connection.channel_errors)
        self._namespace = namespace
        self._lock = asyncio.Lock()

    def prepare(self, message: StepMessage) -> Prepared:
        """See `Publisher.prepare`."""
        queue = broker_queue(self._namespace, message.queue)
        return Prepared(queue, _send_span(message.signed(self._keys), queue, "rabbitmq"))

    async def publish(self, messages: Sequence[Prepared]) -> None:
        """See `Publisher.publish`."""
        async with self._lock:
            await asyncio.to_thread(self._publish, messages)

    def _publish(self, messages: Sequence[Prepared]) -> None:
        try:
            with self._connection.Producer(serializer="json") as producer:
                for prepared in messages:
                    queue, message = _quorum_queue(prepared.queue), prepared.message
                    headers = celery_headers(message)
                    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
                    producer.publish(
                        [[], message.model_dump(mode="json"), embed],
                        exchange="",
                        routing_key=queue.name,
                        declare=[queue],
                        headers=headers,
                        correlation_id=headers["id"],
                        delivery_mode=2,
                        timeout=self._patience_s,
                        confirm_timeout=self._patience_s,
                    )
        except self._faults as error:
            raise self._given_up(error) from error

    async def depth(self, queue: str) -> int:
        """See `Publisher.depth`."""
        async with self._lock:
            return await asyncio.to_thread(self._depth, queue)

    def _depth(self, queue: str) -> int:
        try:
            with self._connection.channel() as channel:
                declared = _quorum_queue(broker_queue(self._namespace, queue))(channel).queue_declare()
                return int(declared.message_count)
        except self._faults as error:
            raise self._given_up(error) from error

    def _given_up(self, error: Exception) -> BrokerUnavailableError:
        """The next call makes a new connection: what this one still has under way is unknown."""
        self._connection.collect(socket_timeout=0.1)
        return _unavailable(error)

    async def close(self) -> None:
        """See `Publisher.close`."""
        await asyncio.to_thread(self._connection.release)


def _quorum_queue(name: str) -> Queue:
    return Queue(name, routing_key=name, durable=True, queue_arguments={"x-queue-type": "quorum"})


def make_publisher(settings: Settings) -> Publisher:
    """The publisher for the broker that the settings name."""
    if settings.broker_kind == "redis":
        beside = settings.broker_holds_runs
        return RedisPublisher(Wire(settings.broker), settings.namespace, settings.signing_keys, beside_runs=beside)
    return KombuPublisher(settings.broker, settings.namespace, settings.signing_keys)


def _unavailable(error: Exception) -> BrokerUnavailableError:
    return BrokerUnavailableError(
        f"The broker does not answer: {str(error).rstrip('.')}.",
        suggestion="Check FLUJO_BROKER_URL. What was to be published is journalled and goes out when the broker is back.",
    )
