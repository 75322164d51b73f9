"""A web process with WebSockets to be misused, for the tests of what the server takes and gives.

``python -m tests.roof.socket_site FD``. ``/ws/chat/{id}/`` is Astra's own address with an echo behind it; ``/flood``
sends as fast as the client reads, ``/deaf`` takes no frame before ``GET /go``; ``GET /state`` tells how it goes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from types import ModuleType
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")

import django

django.setup()

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope  # noqa: E402

from astra_site import asgi, drain, request_id, sockets, web  # noqa: E402
from jobs.process import hooks  # noqa: E402

#: The frames that `/flood` sends, and how long each is.
FRAMES, LENGTH = 20_000, 1_000
#: How much `/leave` says in the end.
WORDS = 8 << 20

sockets.PING_S = int(os.environ.get("PING_S", sockets.PING_S))
sockets.PONG_S = int(os.environ.get("PONG_S", sockets.PONG_S))

state: dict[str, Any] = {"sent": 0, "paused": False, "ended": False}
go = asyncio.Event()


def flow_of(scope: Scope) -> sockets.Flow:
    assert scope["type"] == "websocket"
    flow = (scope["extensions"] or {})[sockets.FLOW]
    assert isinstance(flow, sockets.Flow)
    return flow


async def accept(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})


async def say(send: ASGISendCallable, data: Any) -> None:
    await send({"type": "websocket.send", "bytes": None, "text": json.dumps(data)})


async def echo(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Tell what the handshake brought, then repeat each frame."""
    assert scope["type"] == "websocket"
    await accept(receive, send)
    headers = dict(scope["headers"])
    brought = {
        "conversation": str(scope["url_route"]["kwargs"]["conversation_id"]),  # type: ignore[typeddict-item]
        "cookie": headers.get(b"cookie", b"").decode(),
        "request_id": request_id.current(),
    }
    await say(send, brought)
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")})


async def flood(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Send all frames, and wait whenever the client is behind; cut it off instead if so asked."""
    await accept(receive, send)
    flow = flow_of(scope)
    for number in range(FRAMES):
        if flow.paused:
            state["paused"] = True
            if scope.get("query_string") == b"cut":
                flow.abort()
            await flow.writable()
            state["paused"] = False
        await say(send, f"{number:>{LENGTH - 2}}")
        state["sent"] = number + 1
        await asyncio.sleep(0)
    state["ended"] = True


async def deaf(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Take no frame before it is told to; then tell how many came before the one that says `end`."""
    await accept(receive, send)
    await go.wait()
    count = 0
    while (event := await receive())["type"] == "websocket.receive" and event["text"] != '"end"':
        count += 1
    await say(send, count)


async def leave(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Say a word that takes long to read when the process begins to stop, then close."""
    await accept(receive, send)
    await say(send, "here")
    await drain.begun()
    await say(send, "x" * WORDS)
    await send({"type": "websocket.close", "code": 4000, "reason": None})


async def page(scope: Scope, send: ASGISendCallable) -> None:
    assert scope["type"] == "http"
    if scope["path"] == "/go":
        go.set()
    open_ones = [one for one in server.connections if isinstance(one, sockets.Socket)]
    state["waiting"] = sum(one.application_queue.qsize() for one in open_ones)
    state["reads"] = all(one.flow._is_read for one in open_ones)
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": False})
    await send({"type": "http.response.body", "body": json.dumps(state).encode(), "more_body": False})


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    if scope["type"] == "http" and scope["path"] in ("/state", "/go"):
        await page(scope, send)
    elif scope["type"] == "websocket" and scope["path"] == "/flood":
        await flood(scope, receive, send)
    elif scope["type"] == "websocket" and scope["path"] == "/leave":
        await leave(scope, receive, send)
    elif scope["type"] == "websocket" and scope["path"] == "/deaf":
        await deaf(scope, receive, send)
    else:
        await asgi.application(scope, receive, send)


hooks.on_web_start.clear()
hooks.on_web_stop.clear()
chat = ModuleType("agents.chat.socket")
chat.application = echo  # type: ignore[attr-defined]
sys.modules["agents.chat.socket"] = chat
server = web.Server(socket.socket(fileno=int(sys.argv[1])), application)
server.run()  # type: ignore[no-untyped-call]
