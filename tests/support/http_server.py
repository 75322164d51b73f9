"""A real HTTP/1.1 server on loopback for tests, in a thread of its own. It can stall, hang up and count visitors."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

REASONS = {200: "OK", 301: "Moved Permanently", 302: "Found", 400: "Bad Request", 404: "Not Found", 429: "Too Many"}


@dataclass(slots=True)
class Request:
    """What a client asked."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One request and the answer to it."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer
        self.keep_alive = True
        #: True once the client hung up before the answer was complete, and when that was (``time.monotonic``).
        self.abandoned = False
        self.left_at: float | None = None
        #: Of an answer that comes in pieces: how many are out.
        self.pieces = 0

    async def reply(
        self, body: bytes | str, *, status: int = 200, media_type: str = "text/html", headers: Mapping[str, str] = {}
    ) -> None:
        """Answer at once."""
        data = body.encode() if isinstance(body, str) else body
        self._head(status, {"content-type": media_type, "content-length": str(len(data)), **headers})
        self._writer.write(data)
        await self._writer.drain()

    async def json(self, value: Any, *, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        """Answer with JSON."""
        await self.reply(json.dumps(value), status=status, media_type="application/json", headers=headers)

    async def begin(self, *, media_type: str = "text/event-stream", headers: Mapping[str, str] = {}) -> None:
        """Begin an answer that comes in pieces."""
        self._head(200, {"content-type": media_type, "transfer-encoding": "chunked", **headers})
        await self._writer.drain()

    async def piece(self, data: bytes | str) -> None:
        """Send a piece."""
        raw = data.encode() if isinstance(data, str) else data
        self._writer.write(b"%x\r\n%b\r\n" % (len(raw), raw))
        await self._writer.drain()
        self.pieces += 1

    async def end(self) -> None:
        """End an answer that came in pieces, properly."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def event(self, value: Any, name: str = "") -> None:
        """Send a server-sent event."""
        data = value if isinstance(value, str) else json.dumps(value)
        await self.piece((f"event: {name}\n" if name else "") + f"data: {data}\n\n")

    async def stall(self) -> None:
        """Say nothing more until the client hangs up or the server stops."""
        await self._reader.read(1)
        self.leave()
        self.keep_alive = False

    def leave(self) -> None:
        """Note that the client hung up."""
        if not self.abandoned:
            self.abandoned, self.left_at = True, time.monotonic()

    def cut(self) -> None:
        """Break the connection off."""
        self.keep_alive = False
        self._writer.transport.abort()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [
            f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}",
            *(f"{key}: {val}" for key, val in headers.items()),
        ]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


class _Connection(asyncio.StreamReaderProtocol):
    """Tells at once when the client hangs up, also while nobody reads or writes."""

    def __init__(self, server: HttpServer, connected: Callable[..., None]) -> None:
        self._server = server
        self._source = asyncio.StreamReader()
        super().__init__(self._source, connected)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.connections += 1
        self._server.open += 1
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self._server.hung_up(self._source)
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open -= 1
        self._server.hung_up(self._source)
        super().connection_lost(error)


@dataclass
class HttpServer:
    """Serves on 127.0.0.1 while it is entered. Subclasses write `handle`."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    #: Requests that are being answered now, and the most there ever were at once.
    busy: int = 0
    busiest: int = 0
    #: Connections ever made, and those that are open now.
    connections: int = 0
    open: int = 0
    _answering: dict[asyncio.StreamReader, Exchange] = field(default_factory=dict)
    _telling: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, exchange: Exchange) -> None:
        """Answer."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._changed = asyncio.Condition()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),), daemon=True)
        self._thread.start()
        assert ready.wait(10), "the test server did not start"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def wait_until(self, seen: Callable[[Self], bool], seconds: float = 10.0) -> bool:
        """Wait in the test's thread until ``seen`` is true of the server, at most ``seconds``."""

        async def look() -> bool:
            async with asyncio.timeout(seconds), self._changed:
                return await self._changed.wait_for(lambda: seen(self))

        try:
            return asyncio.run_coroutine_threadsafe(look(), self._loop).result()
        except TimeoutError:
            return False

    async def _serve(self, ready: threading.Event) -> None:
        tasks: set[asyncio.Task[None]] = set()
        transports: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            transports.add(writer.transport)
            task = loop.create_task(self._talk(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self, connected), "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        await _rounds()  # connections that are just being accepted: asyncio loses them when the server closes first
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in list(transports):
            transport.abort()  # type: ignore[attr-defined]
        await _rounds()  # the loop closes sockets in the round after

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                exchange = Exchange(request, reader, writer)
                self.exchanges.append(exchange)
                self.busy += 1
                self.busiest = max(self.busiest, self.busy)
                self._answering[reader] = exchange
                await self._tell()
                try:
                    await self.handle(exchange)
                finally:
                    self.busy -= 1
                    self._answering.pop(reader, None)
                if not exchange.keep_alive:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            if self.exchanges:
                self.exchanges[-1].leave()
        finally:
            writer.close()
            await self._tell()

    def hung_up(self, reader: asyncio.StreamReader) -> None:
        """Note that a client hung up: what it was being answered is abandoned."""
        exchange = self._answering.pop(reader, None)
        if exchange is not None and exchange.keep_alive:  # else it was cut off from here
            exchange.leave()
        task = self._loop.create_task(self._tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _rounds() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines if line)}
    return Request(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def serve_until_stopped(server: HttpServer) -> None:
    """Serve in the foreground, for trying things by hand."""
    with server:
        print(server.url, flush=True)  # noqa: T201
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return
