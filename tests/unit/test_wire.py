"""`Wire` on a real Redis: replies, ways to connect, and everything that may happen to a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import pytest
import redis

from flujo_client.cli.redis_server import RedisServer, free_port
from flujo_client.protocol.errors import StateUnavailableError
from flujo_client.protocol.wire import RedisReplyError, Wire
from tests.unit.proxy import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server of this module's own, to be reconfigured at will; it also listens on a unix socket."""
    folder = tmp_path_factory.mktemp("wire")
    with RedisServer(folder, options=("--unixsocket", str(folder / "socket"))) as running:
        yield running


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client of the server, connected before the test changes anything."""
    client = redis.Redis.from_url(server.url)
    client.ping()
    yield client
    client.close()


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port).listening() as listening:
        yield listening


@pytest.fixture
def key() -> str:
    return uuid4().hex


@asynccontextmanager
async def wired(url: str, **options: Any) -> AsyncIterator[Wire]:
    wire = Wire(url, **options)
    yield wire
    await wire.close()


@contextmanager
def configured(admin: redis.Redis, name: str, value: str, normal: str) -> Iterator[None]:
    admin.config_set(name, value)
    yield
    admin.config_set(name, normal)


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (("PING",), b"PONG"),
        (("ECHO", b"\x00\xff\r\n"), b"\x00\xff\r\n"),
        (("ECHO", "ä"), "ä".encode()),
        (("ECHO", 2**53), b"9007199254740992"),
        (("GET", "nothing"), None),
        (("STRLEN", "nothing"), 0),
        (("MGET", "nothing", "nothing"), [None, None]),
        (("LRANGE", "nothing", 0, -1), []),
    ],
    ids=str,
)
async def test_replies_come_as_resp2_gives_them(server: RedisServer, words: tuple[Any, ...], reply: Any) -> None:
    async with wired(server.url) as wire:
        assert await wire.execute(*words) == reply


async def test_calls_made_at_once_share_a_connection_and_get_their_own_replies(proxy: Proxy) -> None:
    async with wired(proxy.url) as wire:
        replies = await asyncio.gather(*(wire.execute("ECHO", number) for number in range(500)))

    assert replies == [b"%d" % number for number in range(500)]
    assert proxy.connections == 1


async def test_an_error_reply_is_raised_and_ends_only_its_own_call(server: RedisServer) -> None:
    async with wired(server.url) as wire:
        wrong, right = (asyncio.ensure_future(wire.execute(command)) for command in ("NONSENSE", "PING"))

        with pytest.raises(RedisReplyError, match="unknown command"):
            await wrong
        assert await right == b"PONG"


async def test_a_cancelled_caller_does_not_shift_the_replies_of_others(server: RedisServer) -> None:
    async with wired(server.url) as wire:
        await wire.execute("PING")
        first = asyncio.ensure_future(wire.execute("ECHO", "first"))
        second = asyncio.ensure_future(wire.execute("ECHO", "second"))
        await asyncio.sleep(0)  # both are sent
        first.cancel()

        assert await second == b"second"
        assert first.cancelled()


async def test_a_unix_socket_serves_as_well(server: RedisServer, key: str) -> None:
    async with wired(f"unix://{server.folder / 'socket'}?db=2") as wire:
        await wire.execute("SET", key, "x")

    with redis.Redis.from_url(f"redis://127.0.0.1:{server.port}/2") as plain:
        assert plain.get(key) == b"x"


async def test_the_database_of_the_url_is_used(server: RedisServer, key: str) -> None:
    async with wired(f"redis://127.0.0.1:{server.port}/3") as third, wired(server.url) as zeroth:
        await third.execute("SET", key, "x")

        assert await third.execute("GET", key) == b"x"
        assert await zeroth.execute("GET", key) is None


@pytest.mark.parametrize(
    ("credentials", "user"),
    [(":gate%2Fkey@", b"default"), ("alice:p%40ss@", b"alice"), ("guest@", b"guest"), ("guest:any@", b"guest")],
)
async def test_user_and_password_of_the_url_are_used(
    server: RedisServer, admin: redis.Redis, credentials: str, user: bytes
) -> None:
    admin.acl_setuser("alice", enabled=True, passwords=["+p@ss"], commands=["+@all"], keys=["*"])
    admin.acl_setuser("guest", enabled=True, nopass=True, commands=["+@all"], keys=["*"])

    with configured(admin, "requirepass", "gate/key", ""):
        async with wired(f"redis://{credentials}127.0.0.1:{server.port}/1") as wire:
            assert await wire.execute("ACL", "WHOAMI") == user


@pytest.mark.parametrize(
    ("credentials", "database", "reason"), [("bob:wrong@", 0, "WRONGPASS"), ("", 999, "DB index is out of range")]
)
async def test_a_client_that_redis_refuses_is_told_why_at_once_and_disconnects(
    proxy: Proxy, admin: redis.Redis, credentials: str, database: int, reason: str
) -> None:
    url = proxy.url.replace("://", f"://{credentials}").removesuffix("0") + str(database)

    async with wired(url) as wire:
        with pytest.raises(StateUnavailableError, match=f"Redis refuses this client: .*{reason}.*Check user"):
            await wire.execute("PING")

        await proxy.all_closed()
    assert proxy.connections == 1


async def test_a_password_that_the_url_lacks_is_asked_for(server: RedisServer, admin: redis.Redis) -> None:
    with configured(admin, "requirepass", "secret", ""):
        async with wired(server.url) as wire:
            with pytest.raises(RedisReplyError, match="NOAUTH"):
                await wire.execute("GET", "x")


@pytest.mark.parametrize("bytes_let_through", [0, 1, 70])
async def test_a_connection_cut_in_the_middle_of_a_reply_is_made_again(
    proxy: Proxy, key: str, bytes_let_through: int
) -> None:
    async with wired(proxy.url) as wire:
        await wire.execute("SET", key, "v" * 100)
        proxy.cut_after = bytes_let_through

        assert await wire.execute("GET", key) == b"v" * 100
    assert proxy.connections == 2


async def test_every_call_whose_reply_was_lost_is_sent_again(proxy: Proxy, key: str) -> None:
    async with wired(proxy.url) as wire:
        await wire.execute("PING")
        proxy.cut_after = 6  # the first reply and half of the second

        replies = await asyncio.gather(*(wire.execute("INCRBY", f"{key}{n}", 1) for n in range(20)))

    assert replies == [1] + [2] * 19
    assert proxy.connections == 2


async def test_calls_cancelled_before_the_connection_is_lost_stay_cancelled(proxy: Proxy) -> None:
    proxy.silent = True
    async with wired(proxy.url) as wire:
        call = asyncio.ensure_future(wire.execute("ECHO", "heard"))
        await proxy.saw(b"heard")
        call.cancel()

    await proxy.all_closed()
    assert call.cancelled()


async def test_a_connection_that_falls_silent_is_given_up(proxy: Proxy) -> None:
    proxy.silent = True
    async with wired(proxy.url, reply_timeout_s=0.05) as wire:
        call = asyncio.ensure_future(wire.execute("ECHO", "heard"))
        await proxy.saw(b"heard")
        proxy.silent = False

        assert await call == b"heard"
    assert proxy.connections == 2


async def test_an_idle_connection_is_kept(proxy: Proxy, server: RedisServer) -> None:
    async with wired(proxy.url, reply_timeout_s=0.05) as wire, wired(server.url) as clock:
        await wire.execute("PING")
        await clock.execute("BLPOP", "nothing", "0.2")

        await wire.execute("PING")
    assert proxy.connections == 1


async def test_what_is_unsent_when_the_wire_closes_goes_over_the_next_connection(proxy: Proxy) -> None:
    async with wired(proxy.url) as wire:
        await wire.execute("PING")
        call = asyncio.ensure_future(wire.execute("ECHO", "late"))
        await asyncio.sleep(0)  # it is made, and written at the end of this turn of the loop
        await wire.close()

        assert await call == b"late"
    assert proxy.connections == 2


async def test_a_closed_wire_connects_again(server: RedisServer) -> None:
    wire = Wire(server.url)
    await wire.close()  # never connected

    assert await wire.execute("PING") == b"PONG"
    await wire.close()
    assert await wire.execute("PING") == b"PONG"
    await wire.close()


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{port}", "rediss://127.0.0.1:{port}", "unix:///nowhere/redis.{port}"]
)
async def test_a_redis_that_is_not_there_is_reported_with_a_remedy(url: str) -> None:
    async with wired(url.format(port=free_port())) as wire:
        with pytest.raises(StateUnavailableError, match=r"Redis does not answer: .*Check that it is up"):
            await wire.execute("PING")


async def test_a_redis_with_too_many_clients_is_one_that_does_not_answer(
    server: RedisServer, admin: redis.Redis
) -> None:
    async with wired(server.url) as wire:
        refused = pytest.raises(StateUnavailableError, match="Redis does not answer")
        with configured(admin, "maxclients", "1", "1000"), refused:
            await wire.execute("PING")

        assert await wire.execute("PING") == b"PONG"


async def test_a_replica_without_its_master_is_asked_again(proxy: Proxy, admin: redis.Redis, key: str) -> None:
    admin.set(key, "x")
    with configured(admin, "replica-serve-stale-data", "no", "yes"):
        admin.replicaof("127.0.0.1", str(free_port()))
        async with wired(proxy.url) as wire:
            call = asyncio.ensure_future(wire.execute("GET", key))
            await proxy.saw(b"-MASTERDOWN")
            admin.replicaof("NO", "ONE")

            assert await call == b"x"
    assert proxy.connections > 1, "the next connection may lead to another server"


@pytest.mark.parametrize("script", [False, True], ids=["command", "script"])
async def test_a_redis_that_is_no_master_any_more_is_left_for_the_next_connection(
    proxy: Proxy, admin: redis.Redis, key: str, script: bool
) -> None:
    words = ("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, key) if script else ("SET", key, "x")
    admin.replicaof("127.0.0.1", str(free_port()))
    async with wired(proxy.url) as wire:
        call = asyncio.ensure_future(wire.execute(*words))
        await proxy.saw(b"READONLY")
        admin.replicaof("NO", "ONE")

        assert await call == b"OK"
    assert proxy.connections > 1
