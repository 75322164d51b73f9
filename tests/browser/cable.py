"""The cable between a browser and the site, which a test can pull out: nothing goes through, and nothing is closed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

CHUNK = 65_536


class Cable:
    """Passes on connections from its own port to another one on loopback, while it is plugged in."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.port = 0
        self._plugged = threading.Event()
        self._plugged.set()

    def pull(self) -> None:
        """Let nothing through any more, in neither direction. Connections stay open as far as anybody can tell."""
        self._plugged.clear()

    def plug(self) -> None:
        """Let new connections through again. What was in the old ones is lost, and so are they."""
        self._loop.call_soon_threadsafe(self._break_all)
        self._plugged.set()

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),), daemon=True)
        self._thread.start()
        assert ready.wait(10), "the cable did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        self._break_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _break_all(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", self.to)
                self._writers.add(there[1])
                await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
                self._writers.discard(there[1])
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._plugged.is_set():
                    writer.write(data)
                    await writer.drain()
        if self._plugged.is_set() and not writer.is_closing():
            writer.close()
