"""A few lines of an object store on the loopback interface that can be told to misbehave."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest


class StubbornServer(ThreadingHTTPServer):
    """Keeps objects in a dictionary.

    `on_put` sees each put before it is carried out: it may return a status to answer with, and "drop" to hang up.
    `on_get` does the same for reads; `longest` cuts the answers to ranges.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.has_conditions = True
        self.longest: int | None = None
        self.num_puts = 0
        self.on_put: Callable[[str, bytes], int | str | None] = lambda name, data: None
        self.on_get: Callable[[str], int | str | None] = lambda name: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubbornServer

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.num_puts += 1
        answer = self.server.on_put(self._name, data)
        if answer is not None:
            self._answer(answer)
        elif self.headers.get("If-None-Match") == "*" and self.server.has_conditions and self._name in self._objects:
            self._answer(412)
        else:
            self._objects[self._name] = data
            self._answer(200)

    def do_HEAD(self) -> None:
        size = self.server.sizes.get(self._name, len(self._objects.get(self._name, b"")))
        self._answer(200 if self._name in self._objects else 404, size=size)

    def do_GET(self) -> None:
        answer = self.server.on_get(self._name)
        if answer is not None or self._name not in self._objects:
            self._answer(answer or 404)
            return
        data = self._objects[self._name]
        if "Range" not in self.headers:
            self._answer(200, data)
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[first : last + 1][: self.server.longest]
        self._answer(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    def do_DELETE(self) -> None:
        self._objects.pop(self._name, None)
        self._answer(204)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]
        for key in keys:
            self._objects.pop(f"{self._name}/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    @property
    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/")

    @property
    def _objects(self) -> dict[str, bytes]:
        return self.server.objects

    def _answer(
        self, status: int | str, body: bytes = b"", headers: dict[str, str] | None = None, size: int | None = None
    ) -> None:
        if isinstance(status, str):
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body) if size is None else size),
            "ETag": '"tag"',
            "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def stubborn() -> Iterator[StubbornServer]:
    """A server that runs until the test ends."""
    with StubbornServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
