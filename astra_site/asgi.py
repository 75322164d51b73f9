"""The ASGI application: static files, event streams, WebSockets, then Django."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import cast

from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")
django = cast(ASGI3Application, get_asgi_application())

from astra_site import drain, request_id  # noqa: E402  they need Django set up
from astra_site.static import StaticFiles  # noqa: E402

EVENTS = re.compile(r"/api/v1/tasks/[^/]+/events")

static_files = StaticFiles()


@cache
def events() -> ASGI3Application:
    """Return the application that streams a task's events: plain ASGI, for a Django view would hold a thread each."""
    from agents import sse

    return drain.ends_stream(cast(ASGI3Application, sse.app))


async def route(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Hand a connection to the application that answers for it."""
    if scope["type"] == "websocket":
        # No WebSocket has an address yet: closing before accept answers 403.
        await send({"type": "websocket.close", "code": 1000, "reason": None})
    elif scope["type"] == "http":
        if static_files.matches(scope):
            await static_files(scope, receive, send)
        elif EVENTS.fullmatch(scope["path"]):
            await events()(scope, receive, send)
        else:
            await django(scope, receive, send)


application: ASGI3Application = request_id.on_responses(route)
