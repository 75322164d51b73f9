"""What the web server takes and gives over WebSockets: neither side can fill this process's memory.

Daphne's ``send`` never waits, and its queue of incoming frames has no end. Here a connection tells its application
when the client does not read, and stops reading a client whose frames the application has not taken yet.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, Scope
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol

#: The key under which an application finds its connection's `Flow` in ``scope["extensions"]``.
FLOW = "astra.flow"
#: No frame and no message of a client is longer. Bytes; what is, ends the connection with code 1009.
MAX_BYTES = 256 << 10
#: After so much silence a client is pinged, and dropped when it does not answer: within half a minute in all. Seconds.
PING_S = 20
PONG_S = 8
#: How long a client may take to answer our close before the connection is cut. Seconds.
CLOSE_S = 3
#: As many frames of a client wait for the application; then no more is read from it. One read of the network may bring
#: more; a client with so many that it brings `MAX_WAITING` is cut off: the smallest take this process longest.
WAITING_FRAMES, MAX_WAITING = 16, 500
#: Pings, pongs and pieces of messages that a client may send within `EXTRA_S` seconds before it is cut off: the
#: application, which counts the rest, sees none of them.
MAX_EXTRA, EXTRA_S = 200, 10.0
#: What the kernel keeps of what a client does not read. Without it that grows to megabytes for each. Bytes.
SEND_BUFFER = 128 << 10


class Flow:
    """One WebSocket's transport, as its application sees it. The camel-case names are those of Twisted's producers."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_read = True
        #: Frames that the application has not taken yet.
        self.waiting = 0
        transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        # The HTTP connection that this one was would stop reading the client while it does not read us.
        transport.unregisterProducer()
        transport.registerProducer(self, True)

    @property
    def paused(self) -> bool:
        """Whether the client is behind: some 200 KiB wait for it, and whatever is sent now waits in this process."""
        return not self._writable.is_set()

    async def writable(self) -> None:
        """Return when all that was sent has left this process, or when the connection is gone."""
        await self._writable.wait()

    def abort(self) -> None:
        """Cut the connection at once. What was not sent yet is lost."""
        self._transport.abortConnection()

    def read(self, wanted: bool) -> None:
        """Go on reading from the client, or stop."""
        if wanted != self._is_read and not self._transport.disconnecting:
            self._is_read = wanted
            if wanted:
                self._transport.resumeProducing()
            else:
                self._transport.pauseProducing()

    def took(self) -> None:
        """Note that the application has taken a frame."""
        self.waiting -= 1
        if self.waiting < WAITING_FRAMES:
            self.read(True)

    def pauseProducing(self) -> None:  # noqa: N802
        """Note that the buffer is full."""
        self._writable.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        """Note that the buffer is empty."""
        self._writable.set()

    def stopProducing(self) -> None:  # noqa: N802
        """Note that the connection is gone."""
        self._writable.set()


#: The kinds of frames that begin a message: text and binary.
_MESSAGES = (1, 2)


class Socket(WebSocketProtocol):
    """A WebSocket that knows its flow."""

    flow: Flow
    _extra = 0
    _extra_since = 0.0

    @property
    def is_closing(self) -> bool:
        """Whether one side has said that it closes the connection, and the other has not answered."""
        return bool(self.state == self.STATE_CLOSING)

    def connectionMade(self) -> None:  # noqa: N802
        """Take over the connection."""
        super().connectionMade()
        self.flow = Flow(self.transport)

    def onFrameBegin(self) -> None:  # noqa: N802
        """Count a frame that is no message of its own."""
        if self.current_frame.opcode in _MESSAGES or self._may_send_extra():
            super().onFrameBegin()
        else:
            self.dropConnection(abort=True)

    def _may_send_extra(self) -> bool:
        now = time.monotonic()
        if now - self._extra_since > EXTRA_S:
            self._extra, self._extra_since = 0, now
        self._extra += 1
        return self._extra <= MAX_EXTRA

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803
        """Queue a frame for the application."""
        super().onMessage(payload, isBinary)  # type: ignore[no-untyped-call]
        waiting = self.flow.waiting = self.application_queue.qsize()
        if waiting >= MAX_WAITING:
            self.dropConnection(abort=True)
        elif waiting >= WAITING_FRAMES:
            self.flow.read(False)

    def serverSend(self, content: Any, binary: bool = False) -> None:  # noqa: N802
        """Send a frame, however long: the bound is for what clients send. After a close it goes nowhere."""
        if self.state in (self.STATE_CLOSING, self.STATE_CLOSED):
            return
        self.maxMessagePayloadSize = 0
        try:
            super().serverSend(content, binary)  # type: ignore[no-untyped-call]
        finally:
            self.maxMessagePayloadSize = MAX_BYTES


def prepare(factory: WebSocketFactory) -> None:
    """Make daphne's factory build our sockets. Compression stays off: chat frames are short."""
    factory.protocol = Socket
    options = cast("Callable[..., None]", factory.setProtocolOptions)
    # Without it a client would see a cut and never the code that tells why.
    options(failByDrop=False, closeHandshakeTimeout=CLOSE_S)


def reads_on(application: ASGI3Application) -> ASGI3Application:
    """Wrap an application: once it has taken what waits, more is read from the client."""

    async def wrapped(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "websocket":
            await application(scope, receive, send)
            return
        flow = cast(Flow, (scope.get("extensions") or {})[FLOW])

        async def receive_and_read() -> ASGIReceiveEvent:
            event = await receive()
            flow.took()
            return event

        await application(scope, receive_and_read, send)

    return wrapped
