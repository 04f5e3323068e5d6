"""What carries the messages of an arena: its Redis, beside the runs or apart from them, or a RabbitMQ behind a proxy that can be taken away."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import redis.asyncio as aioredis
from kombu import Connection

from flujo_client.cli.redis_server import RedisServer, free_port
from flujo_client.protocol.queues import SUBMIT_QUEUE, broker_queue

__all__ = ["BROKERS", "ApartBroker", "BesideBroker", "Broker", "RabbitBroker", "rabbitmq_answers"]

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

RABBITMQ_PORT = 5672


def rabbitmq_answers() -> bool:
    """Whether there is a RabbitMQ on this machine."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", RABBITMQ_PORT), timeout=1):
        return True
    return False


class Broker(Protocol):
    """A broker under a test.

    Attributes:
        kind: As the results file names it.
        database: Of the arena's Redis; None if it is another server.
    """

    kind: str
    url: str
    namespace: str
    database: int | None

    async def empty(self, queues: Collection[str]) -> None:
        """Lose every message that waits."""

    async def waiting(self, queue: str) -> int:
        """How many messages wait in a queue of the namespace."""

    async def put(self, queue: str, body: bytes) -> None:
        """Put garbage into a queue."""

    def stop(self) -> None:
        """Leave nothing behind."""


class BesideBroker:
    """Messages lie in the database of the runs, as they do by default: there a commit may publish what follows it."""

    kind = "beside"
    namespace = "flujo"
    database: int | None = 0

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url.removesuffix("0") + str(self.database)

    async def empty(self, queues: Collection[str]) -> None:
        await self._execute("UNLINK", *(broker_queue(self.namespace, queue) for queue in queues))

    async def waiting(self, queue: str) -> int:
        return int(await self._execute("LLEN", broker_queue(self.namespace, queue)))

    async def put(self, queue: str, body: bytes) -> None:
        await self._execute("LPUSH", broker_queue(self.namespace, queue), body)

    async def _execute(self, *words: Any) -> Any:
        client: Any = aioredis.Redis.from_url(self.url)
        try:
            return await client.execute_command(*words)
        finally:
            await client.aclose()

    def stop(self) -> None:
        pass


class ApartBroker(BesideBroker):
    """Messages have a database of their own, which can be lost as a whole."""

    kind = "apart"
    database = 1

    async def empty(self, queues: Collection[str]) -> None:
        await self._execute("FLUSHDB")


def _purge(queue: str, channel: Any) -> int:
    return int(channel.queue_purge(queue) or 0)


class RabbitBroker:
    """Quorum queues of a namespace of its own on the machine's RabbitMQ, reached through a proxy in a process.

    The server is shared, so it is not restarted: the proxy is killed, which resets every connection and refuses new ones,
    and started again. To clients that is a broker that restarts, since quorum queues keep what they hold.
    """

    kind = "rabbitmq"
    database: int | None = None

    def __init__(self, server: RedisServer) -> None:
        self.namespace = f"faults{uuid4().hex[:8]}"
        self._port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}//"
        self._proxy: subprocess.Popen[bytes] | None = None
        self.come_back()

    def go_away(self) -> None:
        """Reset every connection, and refuse others."""
        assert self._proxy is not None
        self._proxy.kill()
        self._proxy.wait()

    def come_back(self) -> None:
        """Listen again."""
        words = [sys.executable, "-m", "tests.faults.proxy", str(self._port), str(RABBITMQ_PORT)]
        self._proxy = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.05)

    async def empty(self, queues: Collection[str]) -> None:
        for queue in queues:
            await self._ask(partial(_purge, broker_queue(self.namespace, queue)), 0)

    async def waiting(self, queue: str) -> int:
        name = broker_queue(self.namespace, queue)
        return await self._ask(lambda channel: int(channel.queue_declare(name, passive=True).message_count), 0)

    async def put(self, queue: str, body: bytes) -> None:
        name = broker_queue(self.namespace, queue)

        def publish(channel: Any) -> None:
            channel.basic_publish(channel.prepare_message(body), exchange="", routing_key=name)

        await self._ask(publish, None)

    async def _ask(self, question: Callable[[Any], T], otherwise: T) -> T:
        """Ask on a connection of its own, past the proxy; `otherwise` if there is no such queue."""

        def ask() -> T:
            with Connection(self._direct) as connection:
                try:
                    return question(connection.channel())
                except connection.channel_errors:
                    return otherwise

        return await asyncio.to_thread(ask)

    @property
    def _direct(self) -> str:
        return self.url.replace(str(self._port), str(RABBITMQ_PORT))

    def stop(self) -> None:
        """End the proxy and delete the queues."""
        self.go_away()
        with Connection(self._direct) as connection, connection.channel() as channel:
            for queue in ("default", "far", "cpu", "poison", "story", "released", SUBMIT_QUEUE):
                channel.queue_delete(broker_queue(self.namespace, queue))


#: By the name that the command line and the results file give them.
BROKERS: dict[str, type[BesideBroker] | type[RabbitBroker]] = {
    broker.kind: broker for broker in (BesideBroker, ApartBroker, RabbitBroker)
}
