"""The message that we write ourselves is one that the installed kombu and Celery read."""

from __future__ import annotations

from uuid import uuid4

import pytest
from kombu import Connection

from flujo_client.cli.redis_server import free_port
from flujo_client.protocol.errors import BrokerUnavailableError
from flujo_client.protocol.messages import Prepared, StepMessage, StepRef, parse_step_message
from flujo_client.protocol.queues import STEP_TASK
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.wire import Wire
from flujo_client.publisher import (
    MOST_STEPS_PER_MESSAGE,
    KombuPublisher,
    Outgoing,
    RedisPublisher,
    make_publisher,
    pack_messages,
)


def _plain(message: StepMessage) -> Prepared:
    return Prepared(message.queue, message)


async def test_kombu_reads_what_is_published(redis_url: str) -> None:
    namespace = f"t{uuid4().hex[:8]}"
    publisher = RedisPublisher(Wire(redis_url), namespace)
    ref = StepRef(run_id="run-1", path="0.1", attempt=2, function="m:f", label="flujo.p.s", owner="pool")

    message = StepMessage(queue="default", steps=(ref, ref.model_copy(update={"path": "0.2"})))
    await publisher.publish([publisher.prepare(message)])

    assert await publisher.depth("default") == 1
    with Connection(redis_url) as connection, connection.SimpleQueue(f"{namespace}.default") as queue:
        received = queue.get(timeout=10)
        args, kwargs, _ = received.payload
        headers = received.headers
        received.ack()
    assert args == []
    assert parse_step_message(kwargs, ()).steps[0] == ref
    assert headers["task"] == STEP_TASK
    assert (headers["shadow"], headers["root_id"], headers["id"]) == ("flujo.p.s", "run-1", "run-1/0.1/2")
    assert headers["argsrepr"] == "run=run-1 step=0.1 attempt=2 +1"
    await publisher.close()


def test_a_burst_is_packed_and_a_blocking_step_goes_alone() -> None:
    def outgoing(number: int, is_async: bool = True) -> Outgoing:
        return Outgoing("q", is_async, "", StepRef(run_id="r", path=str(number), attempt=1, function="f", owner="o"))

    few = pack_messages([outgoing(number) for number in range(10)], _plain)
    many = pack_messages([outgoing(number) for number in range(400)], _plain)
    blocking = pack_messages([outgoing(number, is_async=False) for number in range(20)], _plain)

    assert [len(message.message.steps) for message in few] == [1] * 10
    assert {len(message.message.steps) for message in many} == {MOST_STEPS_PER_MESSAGE}
    assert len(blocking) == 20


def test_what_was_prepared_ahead_leaves_as_it_is_unless_it_is_packed() -> None:
    ref = StepRef(run_id="r", path="0", attempt=1, function="f", owner="o")
    ahead = Outgoing("q", True, "", ref, Prepared("q", StepMessage(queue="q", steps=(ref,)), "ahead"))

    assert [message.text for message in pack_messages([ahead], _plain)] == ["ahead"]
    assert "ahead" not in {message.text for message in pack_messages([ahead] * 100, _plain)}


def test_messages_carry_steps_of_one_queue_only() -> None:
    refs = [StepRef(run_id="r", path=str(number), attempt=1, function="f", owner="o") for number in range(200)]
    steps = [Outgoing("even" if number % 2 == 0 else "odd", True, "", ref) for number, ref in enumerate(refs)]

    messages = [prepared.message for prepared in pack_messages(steps, _plain)]

    packed = {
        queue: [int(ref.path) for m in messages if m.queue == queue for ref in m.steps] for queue in ("even", "odd")
    }
    assert packed == {"even": list(range(0, 200, 2)), "odd": list(range(1, 200, 2))}
    assert pack_messages([], _plain) == []


async def test_a_redis_broker_that_is_away_is_one_error() -> None:
    publisher = make_publisher(Settings(url=f"redis://127.0.0.1:{free_port()}/0"))
    ref = StepRef(run_id="r", path="0", attempt=1, function="f", owner="o")

    with pytest.raises(BrokerUnavailableError, match="journalled"):
        await publisher.publish([publisher.prepare(StepMessage(queue="q", steps=(ref,)))])
    with pytest.raises(BrokerUnavailableError):
        await publisher.depth("q")
    await publisher.close()


async def test_the_brokers_url_selects_the_publisher() -> None:
    publisher = make_publisher(Settings(url="redis://x", broker_url="amqp://guest@127.0.0.1:1//"))

    assert isinstance(publisher, KombuPublisher)
    await publisher.close()
