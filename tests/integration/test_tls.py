"""A fleet whose clients, managers, workers and messages reach Redis over TLS only, by an authority of the test's own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from flujo_client import AsyncFlujoClient, Settings
from flujo_client.cli.redis_server import free_port
from flujo_client.protocol.errors import ConfigurationError, StateUnavailableError
from tests.integration.certificates import Authority
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet


@dataclass
class Secured:
    """A fleet, and where its Redis listens with TLS."""

    fleet: Fleet
    port: int

    def url(self, authority: Authority) -> str:
        """As somebody writes it who trusts an authority."""
        return f"rediss://127.0.0.1:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={authority.file}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "Flujo's tests")


@pytest.fixture
def secured(make_own_fleet: Callable[..., Fleet], authority: Authority) -> Secured:
    """Nothing runs but its Redis. The plain port of that is for the test, which asks there who is connected."""
    (certificate, key), port = authority.server(), free_port()
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(authority.file))
    try:
        fleet = make_own_fleet("tls", "--tls-port", str(port), "--tls-auth-clients", "no", *files)
    except ConfigurationError as error:
        pytest.skip(f"the redis-server was built without TLS: {error}")
    made = Secured(fleet, port)
    fleet.extra["FLUJO_URL"] = made.url(authority)
    return made


def _ports_in_use(fleet: Fleet) -> set[int]:
    """The ports of Redis by which anybody but this connection is connected."""
    with redis.Redis.from_url(fleet.url) as client:
        own = client.client_id()
        return {int(each["laddr"].rpartition(":")[2]) for each in client.client_list() if int(each["id"]) != own}


async def test_pipelines_run_over_tls_and_go_on_after_a_killed_worker(secured: Secured, authority: Authority) -> None:
    fleet = secured.fleet
    fleet.manager()
    fleet.worker()
    fleet.worker()
    async with AsyncFlujoClient(settings=Settings(url=secured.url(authority))) as client:
        await fleet.published(client, "holding")

        async def registered() -> bool:
            return bool(await client.client.zcard(client.keyspace.shard("incarnations")) == 2)

        await fleet.until(registered, "two workers have registered")
        run = await client.submit("holding", "tls", run_id="held")
        (first,) = await fleet.started("held", "0")
        assert (await (await client.submit("digest", {"url": "abc"})).result(TIMEOUT_S)).output == {"text": "ABC 3"}
        assert _ports_in_use(fleet) == {secured.port}

        os.kill(first["pid"], signal.SIGKILL)

        _, second = await fleet.started("held", "0", times=2)
        fleet.open_gate("tls")
        assert (await run.result(TIMEOUT_S)).output == "after tls"
        assert second["pid"] != first["pid"]
        await fleet.assert_paid_once(client, "held", killed=[first["pid"]])
        assert _ports_in_use(fleet) == {secured.port}


@pytest.mark.parametrize("command", ["runs", "worker", "manager"])
async def test_an_authority_that_did_not_sign_is_one_clear_error(
    secured: Secured, tmp_path: Path, command: str
) -> None:
    url = secured.url(Authority(tmp_path / "other", "somebody else"))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flujo_client.cli", command],
        env=secured.fleet.environment | {"FLUJO_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "certificate verify failed" in line
    assert f"127.0.0.1:{secured.port}" in line
    async with AsyncFlujoClient(settings=Settings(url=url)) as client:
        with pytest.raises(StateUnavailableError, match="certificate verify failed"):
            await client.submit("digest", {"url": "abc"})
