"""`Wire` while a real Redis loads its data, as it does for minutes after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path

import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.wire import Wire
from tests.unit.proxy import Proxy


class _Loading(RedisServer):
    """A server that counts as started when it answers that it is loading."""

    def answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
                client.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False
        raise AssertionError("it loaded too fast")


#: A loading Redis looks at its connections once in two megabytes, so each value gives it one occasion.
_VALUE_BYTES = 2_200_000
_VALUES = 12


async def test_a_redis_that_loads_its_data_is_asked_again(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, options=("--appendonly", "no", "--rdbcompression", "no")) as full,
        redis.Redis.from_url(full.url) as client,
    ):
        client.mset({f"{number}": "v" * _VALUE_BYTES for number in range(_VALUES)})
        client.save()
    with _Loading(tmp_path, options=("--appendonly", "no", "--key-load-delay", "100000")) as loading:
        async with Proxy(loading.port).listening() as proxy:
            wire = Wire(proxy.url)
            call = asyncio.ensure_future(wire.execute("STRLEN", "7"))
            await proxy.saw(b"-LOADING")
            proxy.gate.clear()
            await asyncio.to_thread(_wait_until_loaded, loading.url)
            proxy.gate.set()

            assert await call == _VALUE_BYTES
            await wire.close()
        assert proxy.connections == 1
    (tmp_path / "dump.rdb").unlink()


def _wait_until_loaded(url: str) -> None:
    with redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.02), 1000)) as patient:
        patient.ping()
