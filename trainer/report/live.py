"""The report as a page that the trainer's metrics server serves while it trains.

The server calls `LivePage.respond` for every path that is not its own, in the request's thread. What is new in
the history is folded and rendered there once, for all viewers.
"""

import hashlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from pathlib import Path

from trainer.report.page import policy, render_live, script, sections
from trainer.report.run import Run

FRESH_SECONDS = 1.0
"""The history is read again when the last look is older than this, however many ask."""
REST = 200
"""And when this many times the processor time of the last rendering have passed, so that viewers cost half a percent.
Not its duration: on a busy machine that is many times longer, and the page would hardly move."""


@dataclass(frozen=True)
class Response:
    """An HTTP response; the server adds Content-Length and leaves the body out for HEAD."""

    status: HTTPStatus
    headers: dict[str, str]
    body: bytes


class LivePage:
    """Answers `/`, the page, and `/data`, its sections, for a run that goes on."""

    def __init__(
        self,
        run_directory: Path,
        host: str,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
    ) -> None:
        self._run = Run(run_directory)
        self._hosts = {"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        self._clock = clock
        self._cost = cost
        self._lock = threading.Lock()
        self._next_look = -inf
        self._state = ""
        self._bodies: dict[str, bytes] = {}
        self.renderings = 0
        """Pages rendered so far."""

    def respond(self, path: str, headers: Mapping[str, str]) -> Response | None:
        """The answer to GET or HEAD of `path`; None for a path that is not part of the page."""
        where = path.partition("?")[0]
        if where not in ("/", "/data"):
            return None
        if not self._is_ours(headers.get("Host") or ""):
            text = b"this host name is not the trainer's; use its address, or its name as in metrics.host\n"
            return Response(HTTPStatus.FORBIDDEN, {"Content-Type": "text/plain; charset=utf-8"}, text)
        body = self._body(where)
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        common = {
            "ETag": tag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy(script()) + "; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if tag in (headers.get("If-None-Match") or ""):
            return Response(HTTPStatus.NOT_MODIFIED, common, b"")
        return Response(HTTPStatus.OK, {**common, "Content-Type": "text/html; charset=utf-8"}, body)

    def _body(self, where: str) -> bytes:
        with self._lock:
            began = self._clock()
            if began >= self._next_look:
                changed, state = self._run.refresh(), self._run.state()
                if changed or state != self._state:
                    self._bodies.clear()
                self._next_look, self._state = began + FRESH_SECONDS, state
            if where not in self._bodies:
                before = self._cost()
                page = render_live(self._run) if where == "/" else str(sections([self._run]))
                self._bodies[where] = page.encode("utf-8", "replace")
                self.renderings += 1
                self._next_look = max(self._next_look, began + REST * (self._cost() - before))
            return self._bodies[where]

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server: an address, or one of its names. Stops DNS rebinding."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self._hosts
        return True
