"""A web process with a slow answer and an endless stream, for the tests of the drain.

``python -m tests.roof.drained_site FD FILE``: the slow answer waits for the file.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")

import django

django.setup()

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope  # noqa: E402

from astra_site import drain, web  # noqa: E402

FILE = Path(sys.argv[2])


async def start(send: ASGISendCallable) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": False})


async def slow(send: ASGISendCallable) -> None:
    (FILE.parent / "asked").touch()
    while not FILE.exists():
        await asyncio.sleep(0.01)
    await start(send)
    await send({"type": "http.response.body", "body": b"at last", "more_body": False})


async def stream(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await receive()
    await start(send)
    await send({"type": "http.response.body", "body": b"begun\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await slow(send)
    else:
        await drain.ends_stream(stream)(scope, receive, send)


web.Server(socket.socket(fileno=int(sys.argv[1])), application).run()  # type: ignore[no-untyped-call]
