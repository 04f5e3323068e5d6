"""Whether a process is of use: what it does again and again, who asks for it over HTTP, and what follows if it stops.

A process can live and be deaf: its consumer waits for a broker that will not answer, its loop stands still, its lease is renewed no
more. So health is progress: counters that must move. A thread looks at them; it counts its own looks, not time, so that a process
which was stopped and goes on is not blamed.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flujo_client.protocol.errors import SettingsError

__all__ = ["LOOK_EVERY_S", "HealthKeeper", "Progress"]

logger = logging.getLogger(__name__)

#: Between two looks.
LOOK_EVERY_S = 0.5

#: How long a sign that is late may go on to be, until the process leaves, s: other watchers, who are kinder, come first.
_MERCY_S = 10.0


class Progress:
    """Counters that move while a process is of use, and how long each has stood still.

    Args:
        signs: By what people call them: each returns a value that changes with every step of the work.
        patience_s: How long one may stand still.
    """

    def __init__(self, signs: Mapping[str, Callable[[], Any]], patience_s: float) -> None:
        self._signs = dict(signs)
        self._patience_s = patience_s
        self._seen = {name: sign() for name, sign in self._signs.items()}
        self._still = dict.fromkeys(self._signs, 0)

    def look(self) -> None:
        """Look once; called every `LOOK_EVERY_S`."""
        for name, sign in self._signs.items():
            value = sign()
            self._still[name] = 0 if value != self._seen[name] else self._still[name] + 1
            self._seen[name] = value

    def still_s(self) -> dict[str, float]:
        """How long each has stood still, s, as far as this process was running."""
        return {name: looks * LOOK_EVERY_S for name, looks in self._still.items()}

    def late(self, mercy_s: float = 0.0) -> list[str]:
        """What has stood still for longer than it may, and for `mercy_s` more."""
        return [name for name, still_s in self.still_s().items() if still_s > self._patience_s + mercy_s]


class HealthKeeper:
    """Looks at a process' progress from a thread of its own, tells it over HTTP, and lets the process leave when there is none.

    Args:
        role: `worker` or `manager`.
        progress: Of the process.
        port: Of `/healthz`, on every address; None for none.
        leave: Called once, in the thread, when a sign is late and does not come back.
    """

    def __init__(self, role: str, progress: Progress, port: int | None, leave: Callable[[], None]) -> None:
        self._role = role
        self._progress = progress
        self._leave = leave
        self._stopped = threading.Event()
        self._resting = False
        self._server = None if port is None else _listen(port, self._report)
        self._threads = [threading.Thread(target=self._look, name="flujo-health", daemon=True)]
        if self._server is not None:
            serving = threading.Thread(target=self._server.serve_forever, name="flujo-healthz", daemon=True)
            self._threads.append(serving)

    @property
    def port(self) -> int | None:
        """Where `/healthz` is answered; None if nowhere."""
        return None if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Start looking and answering. After a fork of this process, call `forked` in the child."""
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """Judge no more: the process is ending, and what it still has to do may take its time."""
        self._resting = True

    def forked(self) -> None:
        """Called in a child: its parent answers, and the port must be free when the parent ends."""
        if self._server is not None:
            self._server.socket.close()

    def stop(self) -> None:
        """End both threads."""
        self._stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _look(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            self._progress.look()
            late = [] if self._resting else self._progress.late(_MERCY_S)
            if late:
                logger.critical(
                    "this process is of no use and ends", extra={"role": self._role, "late": ", ".join(late)}
                )
                self._resting = True
                self._leave()

    def _report(self) -> tuple[bool, dict[str, Any]]:
        late = [] if self._resting else self._progress.late()
        return not late, {
            "healthy": not late,
            "role": self._role,
            "ending": self._resting,
            "late": late,
            "still_s": self._progress.still_s(),
        }


def _listen(port: int, report: Callable[[], tuple[bool, dict[str, Any]]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # of a caller who says nothing

        def do_GET(self) -> None:
            if self.path != "/healthz":
                self.send_error(404)
                return
            healthy, document = report()
            body = json.dumps(document).encode()
            self.send_response(200 if healthy else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Probes come every few seconds: nothing to tell."""

    try:
        server = ThreadingHTTPServer(("", port), Handler)
    except OSError as error:
        raise SettingsError(
            f"FLUJO_HEALTH_PORT: nothing can listen on port {port}: {error}.",
            suggestion="Give every process on a machine a port of its own.",
        ) from error
    server.daemon_threads = True
    return server
