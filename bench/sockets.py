"""A WebSocket client that costs next to nothing: no library is between the load and the clock."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
#: A socket that is not open by then will not be.
OPEN_S = 60.0

S = TypeVar("S", bound="Socket")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and with which headers."""

    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)


class Socket(asyncio.Protocol):
    """One connection. Subclasses take frames and hear of its end."""

    def __init__(self) -> None:
        #: Bytes that came after the handshake.
        self.received = 0
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._address: Address | None = None
        self._opened: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls: type[S], address: Address, make: Callable[[], S], loop: asyncio.AbstractEventLoop) -> S:
        """Connect, and return once the server has agreed."""

        def prepared() -> S:
            made = make()
            made._address, made._opened = address, loop.create_future()
            return made

        async with asyncio.timeout(OPEN_S):
            _, socket = await loop.create_connection(prepared, "127.0.0.1", address.port)
            assert socket._opened is not None
            await socket._opened
        return socket

    def frame_came(self, payload: bytes) -> None:
        """Take the payload of a text frame."""

    def closed(self) -> None:
        """Hear that it is over."""

    def send(self, data: Any) -> None:
        """Send JSON as a text frame."""
        self._send(TEXT, json.dumps(data).encode())

    def cut(self) -> None:
        """Drop the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        self._transport = cast(asyncio.Transport, transport)
        assert self._address is not None
        headers = {"Host": f"127.0.0.1:{self._address.port}", **self._address.headers}
        lines = [f"GET {self._address.path} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        """Take the answer to the handshake, then frames."""
        self._buffer += data
        assert self._opened is not None
        if not self._opened.done():
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._opened.set_exception(ConnectionError(head.decode("latin-1")))
                return
            self._buffer = rest
            self.received = len(rest)
            self._opened.set_result(None)
        else:
            self.received += len(data)
        self._take_frames()

    def _take_frames(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            length, begin = buffer[at + 1] & 0x7F, at + 2
            if length >= 126:
                wide = 2 if length == 126 else 8
                if len(buffer) < begin + wide:
                    break
                length = int.from_bytes(buffer[begin : begin + wide], "big")
                begin += wide
            if len(buffer) < begin + length:
                break
            self._take(buffer[at] & 0x0F, buffer[begin : begin + length])
            at = begin + length
        self._buffer = buffer[at:]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self.frame_came(payload)
        elif opcode == PING:
            self._send(PONG, payload)
        elif opcode == CLOSE:
            self._send(CLOSE, payload[:2])

    def _send(self, opcode: int, payload: bytes) -> None:
        """Send a frame, masked with zeros: a mask all the same, and none to compute."""
        length = len(payload)
        short = length < 126
        head = bytes([0x80 | opcode, 0x80 | (length if short else 126)]) + (b"" if short else struct.pack(">H", length))
        if self._transport is not None:
            self._transport.write(head + bytes(4) + payload)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(exc or ConnectionError("closed in the handshake"))
        else:
            self.closed()

    def __hash__(self) -> int:
        return id(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
