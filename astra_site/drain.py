"""A web process that is about to stop: it takes no new connections, and its open streams end well."""

from __future__ import annotations

import asyncio

from asgiref.typing import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)

_begun: asyncio.Event | None = None


def _event() -> asyncio.Event:
    global _begun
    if _begun is None:
        _begun = asyncio.Event()
    return _begun


def begin() -> None:
    """Say to every stream of this process that it shall end. Call it on the event loop."""
    _event().set()


async def begun() -> None:
    """Return when this process begins to stop."""
    await _event().wait()


def ends_stream(application: ASGI3Application) -> ASGI3Application:
    """Wrap a streaming application: a drain looks like a client that went away, and the response is closed properly.

    The client then sees the end of the stream, not a cut, and reconnects to another process.
    """

    async def wrapped(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        is_open = False

        async def receive_or_end() -> ASGIReceiveEvent:
            incoming = asyncio.ensure_future(receive())
            ending = asyncio.ensure_future(begun())
            try:
                await asyncio.wait({incoming, ending}, return_when=asyncio.FIRST_COMPLETED)
                return incoming.result() if incoming.done() else {"type": "http.disconnect"}
            finally:
                incoming.cancel()
                ending.cancel()

        async def send_and_note(event: ASGISendEvent) -> None:
            nonlocal is_open
            if event["type"] == "http.response.start":
                is_open = True
            elif event["type"] == "http.response.body" and not event["more_body"]:
                is_open = False
            await send(event)

        await application(scope, receive_or_end, send_and_note)
        if is_open:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return wrapped
