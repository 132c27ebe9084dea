"""A file server on 127.0.0.1 that knows Range requests, and can be told to misbehave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class RangeServer(ThreadingHTTPServer):
    """Serves `content`; `requests` lists (path, Range header) in the order in which they came."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.requests: list[tuple[str, str | None]] = []
        self.knows_ranges = True
        self.range_shift = 0  # answers another range than the one asked for
        self.says_length = True
        self.cut_after: int | None = None  # closes the connection after so many bytes of an answer
        self.chunk_bytes = 2**16
        self.chunk_seconds = 0.0
        self.status: int | None = None  # answers with this error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if server.status is not None:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.knows_ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        start += server.range_shift if start else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for place in range(0, len(body[: server.cut_after]), server.chunk_bytes):
            time.sleep(server.chunk_seconds)
            try:
                self.wfile.write(body[: server.cut_after][place : place + server.chunk_bytes])
            except OSError:
                return  # the client was killed

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running(content: bytes) -> Iterator[RangeServer]:
    """A server that runs while the context lasts."""
    server = RangeServer(content)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
