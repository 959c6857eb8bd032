"""/metrics for Prometheus and /healthz, served by a thread of their own."""

import gzip
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from shared.errors import UserError
from shared.settings import MetricsSettings

log = logging.getLogger(__name__)

CLIENT_SECONDS = 5.0
"""A client that neither sends nor receives anything for this long is dropped."""

CLIENTS = 32
"""Clients served at once; more are disconnected, so that they cannot exhaust the process's files and threads."""


class Health:
    """Whether the process's loop is alive, by its own beats. Construction counts as the first beat."""

    def __init__(self, stale_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._beaten = clock()
        self.ending = False
        """Set by the process when it begins to exit."""

    def beat(self) -> None:
        """The loop completed an iteration."""
        self._beaten = self._clock()

    def report(self) -> tuple[bool, dict[str, str | float]]:
        """Whether the process is healthy, and the body of /healthz."""
        age = self._clock() - self._beaten
        status = "ending" if self.ending else "stale" if age > self._stale_seconds else "ok"
        return status == "ok", {
            "status": status,
            "seconds_since_beat": round(age, 3),
            "stale_seconds": self._stale_seconds,
        }


class Response(Protocol):
    """An answer of a page; the server adds its length."""

    @property
    def status(self) -> HTTPStatus:
        """Its status."""

    @property
    def headers(self) -> dict[str, str]:
        """Its headers."""

    @property
    def body(self) -> bytes:
        """Its body, which is left out for HEAD."""


Page = Callable[[str, Mapping[str, str]], Response | None]
"""Answers a path with the headers of its request, named like Content-Type; None for paths that it does not have."""


class Server(ThreadingTCPServer):
    """Serves one registry, one `Health` and perhaps a page until closed."""

    allow_reuse_address = True
    daemon_threads = True  # a client that hangs must not delay the end of the process
    request_queue_size = CLIENTS

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, health: Health, page: Page | None = None
    ) -> None:
        self.registry = registry
        self.page = page
        self.health = health
        self._places = threading.BoundedSemaphore(CLIENTS)
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]  # IPv4 or IPv6
        super().__init__((host, port), _Handler)
        self.port: int = self.server_address[1]
        """The port it listens on, also if 0 was asked for."""
        threading.Thread(target=self.serve_forever, args=(0.1,), name="health", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, if there is a free slot."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then free the slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """Log errors of our own; clients that hang up are ignored."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.warning("metrics: %s: %s", type(error).__name__, error)


class _Handler(BaseHTTPRequestHandler):
    """One request of one client."""

    server: Server
    timeout = CLIENT_SECONDS
    server_version = "tandem"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer /metrics and /healthz."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send_metrics()
        elif path == "/healthz":
            healthy, report = self.server.health.report()
            status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, json.dumps(report).encode() + b"\n", {"Content-Type": "application/json"})
        elif self.server.page and (
            answer := self.server.page(self.path, {name.title(): value for name, value in self.headers.items()})
        ):
            self._send(answer.status, answer.body, answer.headers)
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "try /metrics or /healthz")

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse in one plain line; a method without do_METHOD arrives here as 501 and is answered with 405."""
        status = HTTPStatus(code)
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "try GET or HEAD"
            headers["Allow"] = "GET, HEAD"
        self._send(status, f"{message or status.phrase}\n".encode(), headers)

    def log_message(self, *_: Any) -> None:
        """Nothing: a line per scrape would drown the progress."""

    def _send_metrics(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.server.registry)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(self.headers.get("Accept-Encoding", "")):
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        self._send(HTTPStatus.OK, body, headers)

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def start(
    settings: MetricsSettings, registry: CollectorRegistry, health: Health, page: Page | None = None
) -> Server | None:
    """Serve on the port of the settings or of $PORT; None without both, or if the port cannot be used.

    Raises:
        UserError: $PORT is not a port.
    """
    port = _port(settings)
    if port is None:
        return None
    try:
        return Server(settings.host, port, registry, health, page)
    except OSError as error:  # metrics are a convenience: the work goes on without them
        reason = error.strerror or error
        log.warning("metrics: cannot serve on %s port %d (%s); going on without", settings.host, port, reason)
        return None


def _port(settings: MetricsSettings) -> int | None:
    text = os.environ.get("PORT", "")
    if settings.port is not None or not text:
        return settings.port
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise UserError(f"PORT in the environment is {text!r}, but a port is a number from 0 to 65535")
    return int(text)
