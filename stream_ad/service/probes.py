"""The HTTP pages of a role: `/livez`, `/readyz` and `/metrics`, on loopback by default."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TypeAlias

from stream_ad.errors import ConfigError

Answer: TypeAlias = Callable[[], tuple[bool, str]]
Render: TypeAlias = Callable[[str], tuple[bytes, str]]

REQUEST_TIMEOUT_S = 5.0
CONCURRENT_REQUESTS = 8


class _Server(ThreadingMixIn, TCPServer):
    """One thread per request, at most `CONCURRENT_REQUESTS`; further connections are closed."""

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, host: str, port: int, alive: Answer, ready: Answer, render: Render) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.alive, self.ready, self.render = alive, ready, render
        self._slots = threading.BoundedSemaphore(CONCURRENT_REQUESTS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a client that disconnects is not an error."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "stream-ad"
    sys_version = ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:
        """Serve a page."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            body, content_type = self.server.render(self.headers.get("Accept", ""))
            self._send(200, body, content_type)
        elif path in ("/livez", "/readyz"):
            good, text = self.server.alive() if path == "/livez" else self.server.ready()
            self._send(200 if good else 503, f"{text}\n".encode(), "text/plain; charset=utf-8")
        else:
            self._send(404, b"not found; available: /livez, /readyz, /metrics\n", "text/plain; charset=utf-8")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server uses
        """Keep requests out of the log."""


class Probes:
    """Serves the pages on a daemon thread until `close`.

    The callables run on other threads than the role, so they must only read.
    """

    def __init__(self, host: str, port: int, alive: Answer, ready: Answer, render: Render) -> None:
        """Start listening.

        Args:
            host: address to listen on.
            port: port to listen on; 0 for any free port (see `port`).
            alive: returns liveness and a line about it.
            ready: returns readiness and a line about it.
            render: turns an Accept header into the metrics page and its content type.

        Raises:
            ConfigError: listening on the address failed.
        """
        try:
            self._server = _Server(host, port, alive, ready, render)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"service.http_port: cannot listen on {host}:{port}: {reason}; "
                "choose another http_port (0 disables the pages) or stop the program that uses it"
            ) from error
        self._thread = threading.Thread(target=self._serve, name="probes", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening; requests in progress still finish."""
        self._server.shutdown()
        self._thread.join(timeout=2.0)
        self._server.server_close()

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.1)
