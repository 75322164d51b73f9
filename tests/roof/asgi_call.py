"""Call an ASGI application as a server would."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from asgiref.typing import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, Scope

Answer = tuple[int, dict[str, str], bytes]


async def call(application: Any, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """Return the status, the headers and the whole body of one answer."""
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "path": path, "method": method, "query_string": b"", "headers": pairs}
    events: list[Any] = []

    async def receive() -> ASGIReceiveEvent:
        if not events:
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: ASGISendEvent) -> None:
        events.append(event)

    await cast("ASGI3Application", application)(cast("Scope", scope), receive, send)
    body = b"".join(event["body"] for event in events[1:])
    return events[0]["status"], {name.decode(): value.decode() for name, value in events[0]["headers"]}, body
