"""`Wire` over TLS, with a certificate of the test's own: the URL's ssl_* options mean what they mean to redis-py."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from flujo_client.cli.redis_server import RedisServer, free_port
from flujo_client.protocol.errors import ConfigurationError, StateUnavailableError
from flujo_client.protocol.wire import Wire


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A self-signed certificate of 127.0.0.1 as options of a URL; the server's, and the client's as well."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subject = ("-subj", "/CN=flujo", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    command = (
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "rsa:2048",
        *subject,
        "-keyout",
        key,
        "-out",
        certificate,
    )
    subprocess.run(command, check=True, capture_output=True)
    return {"ssl_certfile": certificate, "ssl_keyfile": key, "ssl_ca_certs": certificate}


@pytest.fixture(scope="module")
def tls_port(certificate: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The TLS port of a redis-server that wants certificates of its clients."""
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    files = (certificate["ssl_certfile"], "--tls-key-file", certificate["ssl_keyfile"])
    ca = ("--tls-ca-cert-file", certificate["ssl_ca_certs"])
    server = RedisServer(folder, options=("--tls-port", str(port), "--tls-cert-file", *files, *ca))
    try:
        server.start()
    except ConfigurationError:
        if "tls-port" in (folder / "redis.log").read_text():
            pytest.skip(f"{server.executable} was built without TLS")
        raise
    yield port
    server.stop()


def _url(port: int, options: dict[str, str], host: str = "127.0.0.1") -> str:
    return f"rediss://{host}:{port}/1?{urlencode(options)}"


@pytest.mark.parametrize(
    ("host", "changes"),
    [
        ("127.0.0.1", {}),
        ("127.0.0.1", {"ssl_ca_certs": "", "ssl_cert_reqs": "none"}),
        ("localhost", {"ssl_check_hostname": "false"}),
    ],
    ids=["verified", "unverified", "name unverified"],
)
async def test_commands_go_over_tls(
    tls_port: int, certificate: dict[str, str], host: str, changes: dict[str, str]
) -> None:
    wire = Wire(_url(tls_port, {**certificate, **changes}, host))

    assert await wire.execute("ECHO", "x" * 100_000) == b"x" * 100_000
    assert b"db=1" in await wire.execute("CLIENT", "INFO")

    await wire.close()


@pytest.mark.parametrize(
    ("host", "changes", "reason"),
    [
        ("127.0.0.1", {"ssl_ca_certs": ""}, "certificate verify failed"),
        ("localhost", {}, "certificate is not valid for 'localhost'"),
        ("127.0.0.1", {"ssl_certfile": "", "ssl_keyfile": ""}, ""),  # what TLS 1.3 says of it depends on the moment
    ],
    ids=["unknown authority", "another host", "no certificate of the client"],
)
async def test_a_server_that_cannot_be_trusted_or_trusts_us_not_is_not_used(
    tls_port: int, certificate: dict[str, str], host: str, changes: dict[str, str], reason: str
) -> None:
    wire = Wire(_url(tls_port, {**certificate, **changes}, host))

    with pytest.raises(StateUnavailableError, match=f"Redis does not answer: .*{reason}"):
        await wire.execute("PING")
