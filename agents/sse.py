"""A task's events as server-sent events: a plain ASGI application, for a Django view would hold a thread each.

`GET /api/v1/tasks/{id}/events` replays what has happened, goes on as it happens, and ends when the task has.
`Last-Event-ID` resumes. One query every quarter of a second serves all streams of the process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.http.cookie import parse_cookie

from accounts import api_auth
from accounts.problems import CONTENT_TYPE, MethodNotAllowed, NotFound, Problem, Unavailable
from agents import queries
from agents.event_hub import End, Event, Stream, hub

if TYPE_CHECKING:
    from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope

logger = logging.getLogger(__name__)

PATH = re.compile(r"/api/v1/tasks/(?P<id>[^/]+)/events")
SCOPE = "tasks:read"
#: The first events are in the first answer, unless the database takes longer than this.
FIRST_S = 2.0
#: A comment goes out when nothing else has for so long: proxies close what is silent.
HEARTBEAT_S = 15.0
#: So often it is looked at again whether the caller may still see the task.
RECHECK_S = 60.0
#: What a browser waits before it connects again.
RETRY_MS = 3000


async def app(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer one request for a task's events."""
    try:
        if scope["method"] != "GET":
            raise MethodNotAllowed(f"{scope['method']} is not known here; there is GET.", headers={"Allow": "GET"})
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        task_id = await _authorise(scope["path"], headers)
    except Problem as problem:
        await _refuse(send, problem)
        return
    except DatabaseError as error:
        logger.warning("the database does not answer: %s", error, extra={"action": "api_unavailable"})
        await _refuse(send, Unavailable("The database does not answer.", headers={"Retry-After": "5"}))
        return
    after = _last_event_id(headers)
    stream = hub().open(task_id, after)
    answering = asyncio.create_task(_answer(stream, scope["path"], headers, send, resumes=after > 0))
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            await answering
    finally:
        hub().close(stream)
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _answer(
    stream: Stream, path: str, headers: Mapping[str, str], send: ASGISendCallable, *, resumes: bool
) -> None:
    item: Event | End | None = await _next(stream, FIRST_S)
    if resumes and isinstance(item, End):
        await _start(send, 204, {})
        await _write(send, "", last=True)
        return
    await _start(send, 200, {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"})
    await _write(send, f"retry: {RETRY_MS}\n\n")
    checked_at = time.monotonic()
    while not isinstance(item, End):
        await _write(send, _event(item) if item is not None else ": still here\n\n")
        if time.monotonic() - checked_at > RECHECK_S:
            if not await _may_still(path, headers):
                break
            checked_at = time.monotonic()
        item = await _next(stream, HEARTBEAT_S)
    else:
        await _write(send, f"event: end\ndata: {json.dumps({'status': item.state})}\n\n")
    await _write(send, "", last=True)


async def _next(stream: Stream, patience_s: float) -> Event | End | None:
    """Return what comes next, or None if nothing comes for so long."""
    try:
        async with asyncio.timeout(patience_s):
            return await stream.next()
    except TimeoutError:
        return None


async def _left(receive: ASGIReceiveCallable) -> None:
    """Return when the client goes away, or the process stops."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _authorise(path: str, headers: Mapping[str, str]) -> UUID:
    """Return the task's id if the caller may see it.

    Raises:
        Problem: they may not.
    """
    return await sync_to_async(_authorise_in_thread, thread_sensitive=False)(path, headers)


def _authorise_in_thread(path: str, headers: Mapping[str, str]) -> UUID:
    close_old_connections()
    try:
        if "authorization" in headers:
            caller = api_auth.by_token(headers["authorization"])
        else:
            caller = api_auth.by_session(parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME))
        caller.require(SCOPE)
        found = PATH.fullmatch(path)
        try:
            task_id = UUID(found["id"]) if found else None
        except ValueError:
            task_id = None
        if task_id is None or not queries.visible_to(caller.user).filter(job_id=task_id).exists():
            raise NotFound("There is no such task, or it is not yours.")
        return task_id
    finally:
        close_old_connections()


async def _may_still(path: str, headers: Mapping[str, str]) -> bool:
    """Look again: a token may have been revoked, a session ended. While the database is away, nothing is decided."""
    try:
        await _authorise(path, headers)
    except Problem:
        return False
    except DatabaseError:
        return True
    return True


def _last_event_id(headers: Mapping[str, str]) -> int:
    text = headers.get("last-event-id", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def _event(event: Event) -> str:
    told: dict[str, Any] = {"at": event.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    if event.kind == "state":
        told |= {"from": event.old or None, "status": event.new, "reason": event.reason}
        told |= {"actor": event.actor} if event.actor else {}
        told |= {"data": event.data} if event.data else {}
    else:
        told |= event.data if isinstance(event.data, dict) else {"data": event.data}
        told |= {"status": event.reason} if event.reason else {}
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n"


async def _start(send: ASGISendCallable, status: int, headers: Mapping[str, str]) -> None:
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    pairs += [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": pairs, "trailers": False})


async def _write(send: ASGISendCallable, text: str, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": not last})


async def _refuse(send: ASGISendCallable, problem: Problem) -> None:
    await _start(send, problem.status, {"Content-Type": CONTENT_TYPE, **problem.headers})
    await _write(send, json.dumps(problem.body()), last=True)
