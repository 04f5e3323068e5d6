"""Distinct secrets go in everywhere; everything that can be observed is read; none may be in it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pytest
import redis
from celery import Celery
from cryptography.fernet import Fernet
from pydantic import SecretStr

from flujo_client import AsyncFlujoClient, Settings
from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.errors import RunCancelledError, TypeMismatchError
from flujo_client.protocol.messages import EventKind
from tests.integration import confidential
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet


def _secret(kind: str) -> str:
    return f"{kind}{uuid4().hex}"


#: Of the installation: nobody may see them.
STATE, BROKER, SIGNING, PROVIDER = (_secret(kind) for kind in ("state", "broker", "signing", "provider"))
SEALING = Fernet.generate_key().decode()

#: Of what runs work on: nobody without the key of payloads may see them.
INPUT, ANSWER, REFUSED = (_secret(kind) for kind in ("input", "answer", "refused"))

INSTALLATION, PAYLOADS = (STATE, BROKER, SIGNING, PROVIDER, SEALING), (INPUT, ANSWER, REFUSED)

pytestmark = pytest.mark.timeout(300)


def _found(text: str, secrets: tuple[str, ...] = INSTALLATION + PAYLOADS) -> list[str]:
    """The places of a text at which a secret stands."""
    return [text[max(0, at - 150) : at + 40] for secret in secrets if (at := text.find(secret)) >= 0]


def _acl(folder: Path, password: str) -> str:
    file = folder / f"{password[:6]}.acl"
    file.write_text(f"user default on nopass resetkeys -@all +ping\nuser flujo on >{password} ~* &* +@all\n")
    return str(file)


def _url(server: RedisServer, password: str) -> str:
    return server.url.replace("redis://", f"redis://flujo:{password}@")


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    """A stub that answers whoever has the key; its address."""
    message = {"choices": [{"message": {"role": "assistant", "content": ANSWER}}], "model": "gpt-4o-mini"}
    body = json.dumps({**message, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        allowed = f"Bearer {PROVIDER}" in head
        status = "200 OK" if allowed else "401 Unauthorized"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "broker", options=("--aclfile", _acl(tmp_path, BROKER))) as server:
        yield server


class _Watcher:
    """What Flower sees: every event, and the answers to its questions."""

    def __init__(self, url: str) -> None:
        self.app = Celery(broker=url)
        self.seen: list[dict[str, Any]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.app.close()

    def _listen(self) -> None:
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": self.seen.append})
            while not self._stopped.is_set():
                with suppress(TimeoutError):
                    receiver.capture(limit=None, timeout=1)

    def ask(self) -> str:
        """What the workers answer to all that can be asked."""
        asking = self.app.control.inspect(timeout=1.5)
        questions = (asking.active, asking.reserved, asking.scheduled, asking.stats, asking.conf, asking.registered)
        return json.dumps([question() for question in questions], default=repr)


#: Runs many commands in one process and prints all that they print.
_COMMANDS = """
import json, sys
from typer.testing import CliRunner
from flujo_client.cli.main import app
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(words, done.output, done.stderr, repr(done.exception), done.exception and done.exception.__cause__)
"""


def _flujo(fleet: Fleet, commands: list[tuple[str, ...]], **environment: str) -> str:
    """Everything that commands print, and raise."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, json.dumps(commands)],
        env=fleet.environment | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout + done.stderr


def _stored(url: str) -> str:
    """All of what a Redis has."""
    readers = {b"string": "get", b"list": "lrange 0 -1", b"set": "smembers", b"zset": "zrange 0 -1", b"hash": "hgetall"}
    with redis.Redis.from_url(url) as client:
        lines = []
        for key in client.scan_iter():
            command, *words = readers.get(client.type(key), "xrange - +").split()
            lines.append(f"{key!r}: {client.execute_command(command, key, *words)!r}")
        return "\n".join(lines)


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
async def test_no_secret_is_in_logs_spans_events_arguments_commands_or_redis(
    make_own_fleet: Callable[..., Fleet], broker: RedisServer, provider: str, tmp_path: Path, pool: str
) -> None:
    names = {confidential.ADDRESS: provider, confidential.PROVIDER_KEY: PROVIDER, "OTEL_TRACES_EXPORTER": "console"}
    names |= {"OTEL_METRICS_EXPORTER": "console", "FLUJO_PIPELINES": "tests.integration.confidential"}
    fleet = make_own_fleet(f"secrets-{pool}", "--aclfile", _acl(tmp_path, STATE), **names)
    urls = {"FLUJO_URL": _url(fleet.server, STATE), "FLUJO_BROKER_URL": _url(broker, BROKER)}
    fleet.extra.update(urls, FLUJO_PAYLOAD_KEYS=SEALING, FLUJO_MESSAGE_KEYS=SIGNING)
    fleet.start("manager", "--loglevel", "DEBUG")
    fleet.worker("--pool", pool, "--concurrency", "4", "--loglevel", "DEBUG")
    settings = Settings(url=urls["FLUJO_URL"], broker_url=urls["FLUJO_BROKER_URL"], payload_keys=SecretStr(SEALING))
    async with AsyncFlujoClient(settings=settings) as client:
        await fleet.published(client, "waiting")
        with _Watcher(urls["FLUJO_BROKER_URL"]) as watcher:
            await _play(fleet, client, watcher)
            asked = await asyncio.to_thread(watcher.ask)
            events = json.dumps(watcher.seen, default=repr)
        await client.run("waiting").cancel()
        with pytest.raises(RunCancelledError):
            await client.run("waiting").result(TIMEOUT_S)

    await fleet.until(lambda: "flujo.step.outcome" in fleet.logs_whole(), "spans are exported")
    assert '"task-received"' in events
    assert "flujo.submit" in events
    logs = fleet.logs_whole()
    assert "attempt failed" in logs
    told = await _told(fleet)
    stored = "\n".join([_stored(urls["FLUJO_URL"]), _stored(urls["FLUJO_BROKER_URL"])])
    assert "submission refused" in logs
    for where, text in {"logs": logs, "events": events, "answers": asked, "commands": told, "Redis": stored}.items():
        assert _found(text) == [], where


async def _play(fleet: Fleet, client: AsyncFlujoClient, watcher: _Watcher) -> None:
    """Runs of each kind; whoever has the key sees all of them."""
    patient = {"name": INPUT}
    await fleet.until(
        lambda: asyncio.to_thread(watcher.app.control.enable_events, reply=True, timeout=2), "events are on"
    )
    await client.submit("waiting", patient, run_id="waiting")
    run = await client.submit("consulting", patient, run_id="consulting")
    result = await run.result(TIMEOUT_S)
    assert result.output == f"output-{ANSWER}", result
    chunks = [event async for event in run.events() if event.kind is EventKind.CHUNK]
    assert len(chunks) == 1
    failed = await (await client.submit("failing", patient, run_id="failing")).result(TIMEOUT_S)
    assert failed.step_history[0].feedback is not None
    assert f"exception-{INPUT}" in failed.step_history[0].feedback
    with pytest.raises(TypeMismatchError):
        await (await client.submit("straying", patient, run_id="straying")).result(TIMEOUT_S)
    for run_id, value in {"by-celery": patient, "refused": {"name": [REFUSED]}}.items():
        kwargs = {"pipeline": "consulting", "input": value, "run_id": run_id}
        await asyncio.to_thread(watcher.app.send_task, "flujo.submit", kwargs=kwargs, queue="flujo.submit")

    async def ended() -> bool:
        key = client.keyspace.run
        return all([await client.client.hexists(key(one).run, "final") for one in ("by-celery", "refused")])

    await fleet.until(ended, "what Celery submitted has ended")


async def _told(fleet: Fleet) -> str:
    """What commands print to somebody who has no key of payloads, and to whoever has a wrong password."""
    run_ids = ("consulting", "failing", "straying", "refused", "waiting")
    commands = [("doctor",), ("runs", "--json"), ("dead",), *(("show", run_id) for run_id in run_ids)]
    commands += [("show", "failing", "--json"), ("watch", "failing", "--json"), ("audit", "consulting")]
    told = [await asyncio.to_thread(_flujo, fleet, commands, FLUJO_PAYLOAD_KEYS="")]
    at = f"127.0.0.1:{fleet.server.port}/0"
    for url in (f"redis://flujo:not{STATE}@{at}", f"redis://{at}?username=flujo&password=not{STATE}"):
        wrong: list[tuple[str, ...]] = [("runs",), ("doctor",), ("worker",)]
        told.append(await asyncio.to_thread(_flujo, fleet, wrong, FLUJO_URL=url))
        assert "does not answer" in told[-1]
    return "\n".join(told)


def test_settings_show_no_passwords() -> None:
    settings = Settings(
        url=f"redis://u:{STATE}@h/0",
        broker_url=f"amqp://u:{BROKER}@h//",
        state_uri=f"postgresql://u:{SIGNING}@h/d",
        payload_keys=SecretStr(SEALING),
        message_keys=SecretStr(SIGNING),
    )

    assert _found(repr(settings) + str(settings)) == []
    assert os.environ.get("FLUJO_URL") is None
