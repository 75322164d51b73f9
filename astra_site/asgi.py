"""The ASGI application: static files, event streams, WebSockets, then Django."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from functools import cache
from importlib import import_module
from typing import Any, cast
from uuid import UUID

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope, WebSocketScope
from django.core.asgi import get_asgi_application
from django.db import close_old_connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")
django = cast(ASGI3Application, get_asgi_application())

from astra_site import drain, origins, request_id  # noqa: E402  they need Django set up
from astra_site.static import StaticFiles  # noqa: E402

logger = logging.getLogger(__name__)

EVENTS = re.compile(r"/api/v1/tasks/[^/]+/events")
CHAT = re.compile(r"/ws/chat/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/", re.IGNORECASE)

static_files = StaticFiles()


@cache
def events() -> ASGI3Application:
    """Return the application that streams a task's events: plain ASGI, for a Django view would hold a thread each."""
    from agents import sse

    return drain.ends_stream(cast(ASGI3Application, sse.app))


@cache
def chat() -> ASGI3Application:
    """Return the application of the chat's WebSockets. The first call imports much: make it in a thread."""
    return cast(ASGI3Application, import_module("agents.chat.socket").application)


async def websocket(scope: WebSocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Hand a WebSocket to the chat, or refuse it: closing before accept answers 403."""
    found = CHAT.fullmatch(scope["path"])
    refusal = origins.admit(scope) if found else "there is no such address"
    if found is None or refusal:
        logger.warning("a WebSocket was refused: %s", refusal, extra={"action": "socket_refused"})
        await send({"type": "websocket.close", "code": 1000, "reason": None})
        return
    cast(dict[str, Any], scope)["url_route"] = {"args": (), "kwargs": {"conversation_id": UUID(found[1])}}
    application = chat() if chat.cache_info().currsize else await asyncio.to_thread(chat)
    await application(scope, receive, send)


async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Let Django answer. A stream that breaks off in an error leaves its thread's connection to nobody: return it."""
    async with ThreadSensitiveContext():
        try:
            await django(scope, receive, send)
        except BaseException:
            await sync_to_async(close_old_connections)()
            raise


async def route(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Hand a connection to the application that answers for it."""
    if scope["type"] == "websocket":
        await websocket(scope, receive, send)
    elif scope["type"] == "http":
        if static_files.matches(scope):
            await static_files(scope, receive, send)
        elif EVENTS.fullmatch(scope["path"]):
            await events()(scope, receive, send)
        else:
            await answer(scope, receive, send)


application: ASGI3Application = request_id.on_responses(route)
