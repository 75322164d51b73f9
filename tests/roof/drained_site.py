"""A web process with a slow answer and an endless stream, for the tests of the drain.

``python -m tests.roof.drained_site FD FILE``: the slow answer waits for the file. Its work writes beside the file what
happens to it, a line each, and is as stubborn as the environment says.
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
from jobs.process import hooks  # noqa: E402

FILE = Path(sys.argv[2])
STORY = FILE.with_name("story")
WORK = os.environ.get("WORK", "")


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
    elif scope["path"].startswith("/large/"):
        await start(send)
        await send({"type": "http.response.body", "body": bytes(int(scope["path"][7:])), "more_body": False})
    else:
        await drain.ends_stream(stream)(scope, receive, send)


def write(line: str) -> None:
    with STORY.open("a") as story:
        story.write(line + "\n")


async def begin_work() -> None:
    """Begin, and never come to the end of it."""
    write("begun")
    if WORK == "breaks":
        raise RuntimeError("no work today")
    try:
        await asyncio.Event().wait()
    finally:
        write("cancelled")


async def end_work(grace_s: float) -> None:
    """End within the grace time once the file is there; a stubborn one does not."""
    write(f"told to end within {grace_s:.0f}")
    with socket.socket() as probe:
        write("closed" if probe.connect_ex(ADDRESS) else "open")
    drained = asyncio.ensure_future(drain.begun())
    await asyncio.sleep(0)
    write("drained" if drained.done() else "not drained")
    if WORK == "stubborn":
        await asyncio.Event().wait()
    while not FILE.exists():
        await asyncio.sleep(0.01)
    write("ended")


async def close_client() -> None:
    write("clients closed")


listener = socket.socket(fileno=int(sys.argv[1]))
ADDRESS = listener.getsockname()
# What the apps would begin here is not looked at.
hooks.on_web_start[:] = [begin_work] if WORK else []
hooks.on_web_stop[:] = [end_work] if WORK else []
if WORK:
    hooks.on_shutdown.append(close_client)
web.Server(listener, application).run()  # type: ignore[no-untyped-call]
