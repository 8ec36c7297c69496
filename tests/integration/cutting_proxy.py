"""An HTTP proxy on loopback that dies at a chosen request: before it is passed on, or before its answer comes back."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KEPT_BACK = {"connection", "transfer-encoding", "content-length"}


@dataclass
class Proxy:
    """cut_at: number of the request at which it dies, from 1; None: never. passed: what went through, in order."""

    upstream: str
    cut_at: int | None = None
    answer_lost: bool = False
    passed: list[str] = field(default_factory=list)
    address: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_number(self) -> int:
        with self._lock:
            return next(self._numbers)

    def is_dead(self, number: int) -> bool:
        """Dead from the cut on; when an answer is to be lost, the request itself still goes through."""
        return self.cut_at is not None and (number > self.cut_at or (number == self.cut_at and not self.answer_lost))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _pass(self) -> None:
        number = self.proxy.next_number()
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.proxy.is_dead(number):
            self._hang_up()
            return
        self.proxy.passed.append(f"{self.command} {self.path}")
        status, headers, content = self._ask(body)
        if number == self.proxy.cut_at:
            self._hang_up()
            return
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in KEPT_BACK:
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def cutting_proxy(upstream: str, *, cut_at: int | None = None, answer_lost: bool = False) -> Iterator[Proxy]:
    proxy = Proxy(upstream, cut_at, answer_lost)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up, too
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
