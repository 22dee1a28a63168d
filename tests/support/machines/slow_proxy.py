"""What stands between a program and its HTTP server, and makes the server slow."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

#: Seconds that a request waits before it reaches the server, and its answer before it goes back; from its path.
Delay = Callable[[str], tuple[float, float]]


class SlowProxy(ThreadingHTTPServer):
    """Hands requests on to a port of this computer. `requests`: paths so far; `delay` may be exchanged at any time."""

    daemon_threads = True

    def __init__(self, port: int, delay: Delay) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.delay = port, delay
        self.requests: list[str] = []
        self.open, self.lock = 0, Lock()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: SlowProxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests.append(self.path)
            self.server.open += 1
        try:
            before, after = self.server.delay(self.path)
            time.sleep(before)
            onward = http.client.HTTPConnection("127.0.0.1", self.server.target)
            onward.request(self.command, self.path, body, dict(self.headers))
            answer = onward.getresponse()
            content = answer.read()
            onward.close()
            time.sleep(after)
            with suppress(OSError):  # the client has gone
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
        finally:
            with self.server.lock:
                self.server.open -= 1

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def slow(port: int, delay: Delay) -> Iterator[SlowProxy]:
    """A proxy before `port` that listens until the end of the block."""
    with SlowProxy(port, delay) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
