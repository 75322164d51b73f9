"""A WebSocket client as plain as can be: what it sends and reads is decided frame by frame, so it may misbehave."""

from __future__ import annotations

import base64
import json
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
EMPTY: Mapping[str, str] = MappingProxyType({})


class Refused(Exception):
    """The server answered the handshake with another status than 101."""

    def __init__(self, status: int, head: str) -> None:
        super().__init__(f"{status}: {head}")
        self.status = status


class Closed(Exception):
    """The server closed the connection; ``code`` is None if it did so without a close frame."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class WebSocket:
    """One connection, open after it was made.

    ``receive_buffer`` bounds what the kernel takes for a client that does not read. A client that is not ``polite``
    answers no pings.
    """

    def __init__(
        self,
        port: int,
        path: str,
        headers: Mapping[str, str] = EMPTY,
        *,
        host: str = "",
        timeout_s: float = 30,
        receive_buffer: int | None = None,
        polite: bool = True,
    ) -> None:
        self.polite = polite
        self.socket = socket.socket()
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.socket.settimeout(timeout_s)
            self.socket.connect(("127.0.0.1", port))
            self._received = b""
            self.head = self._shake_hands(path, {"Host": host or f"127.0.0.1:{port}", **headers})
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def _shake_hands(self, path: str, headers: Mapping[str, str]) -> str:
        lines = [f"GET {path} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines.append(f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._received:
            self._read_some()
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        status = int(head.split()[1])
        if status != 101:
            raise Refused(status, head.decode("latin-1"))
        return head.decode("latin-1")

    def send(self, data: Any) -> None:
        """Send JSON as a text frame."""
        self.send_frame(TEXT, json.dumps(data).encode())

    def send_frame(self, opcode: int, payload: bytes = b"", *, last: bool = True) -> None:
        """Send one frame, masked as a client's must be."""
        length, mask = len(payload), secrets.token_bytes(4)
        first = bytes([opcode | (0x80 if last else 0)])
        if length < 126:
            first += bytes([0x80 | length])
        elif length < 1 << 16:
            first += bytes([0x80 | 126]) + struct.pack(">H", length)
        else:
            first += bytes([0x80 | 127]) + struct.pack(">Q", length)
        stretched = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")).to_bytes(length, "big")
        self.socket.sendall(first + mask + masked)

    def receive(self) -> Any:
        """Return the JSON of the next text frame.

        Raises:
            Closed: the server closed the connection instead.
        """
        return json.loads(self.receive_data())

    def receive_data(self) -> bytes:
        """Return the payload of the next data frame; answer pings and a close by the way."""
        while (payload := self.take()) is None:
            pass
        return payload

    def take(self) -> bytes | None:
        """Take the next frame and return its payload; None if it was none of data: pings and a close are answered."""
        opcode, payload = self.receive_frame()
        if opcode == CLOSE:
            self.send_frame(CLOSE, payload[:2])
            raise Closed(struct.unpack(">H", payload[:2])[0] if payload else None)
        if opcode == PING and self.polite:
            self.send_frame(PONG, payload)
        return payload if opcode in (TEXT, BINARY) else None

    def receive_frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; our server sends no fragments."""
        first, second = self._read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._read(8))
        return first & 0x0F, self._read(length)

    def has_frame(self, within_s: float) -> bool:
        """Wait so long at most until `receive_frame` would return at once, or say that the connection is gone."""
        deadline = time.monotonic() + within_s
        while not self._holds_frame():
            if not select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            try:
                self._read_some()
            except Closed:
                return True
        return True

    def _holds_frame(self) -> bool:
        found = self._received
        if len(found) < 2:
            return False
        length, head = found[1] & 0x7F, 2
        if length == 126:
            length, head = int.from_bytes(found[2:4], "big"), 4
        elif length == 127:
            length, head = int.from_bytes(found[2:10], "big"), 10
        return len(found) >= head + length

    def _read(self, length: int) -> bytes:
        while len(self._received) < length:
            self._read_some()
        found, self._received = self._received[:length], self._received[length:]
        return found

    def _read_some(self) -> None:
        try:
            piece = self.socket.recv(1 << 16)
        except ConnectionResetError:
            piece = b""
        if not piece:
            raise Closed(None)
        self._received += piece
