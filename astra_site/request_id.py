"""Give every request an id, and put it on the response and on every log line written meanwhile."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_current: ContextVar[str] = ContextVar("request_id", default="")


def current() -> str:
    """Return the id of the request being answered, or ``""`` outside one."""
    return _current.get()


def begin(chosen: str) -> Token[str]:
    """Answer a request under this id; give the token to ``end``."""
    return _current.set(chosen)


def end(token: Token[str]) -> None:
    """Leave the request."""
    _current.reset(token)


def choose(offered: str) -> str:
    """Return the id a client offers if it is short and plain, else a new one."""
    return offered if SANE.fullmatch(offered) else uuid.uuid4().hex


def on_responses(application: ASGI3Application) -> ASGI3Application:
    """Wrap an ASGI application, so that what does not pass through Django has its request id too."""
    name = HEADER.lower().encode()

    async def wrapped(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await application(scope, receive, send)
            return
        offered = next((value for key, value in scope["headers"] if key == name), b"")
        chosen = choose(offered.decode("latin-1"))

        async def send_with_id(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.start":
                others = [pair for pair in event["headers"] if pair[0].lower() != name]
                event["headers"] = [*others, (name, chosen.encode())]
            await send(event)

        token = begin(chosen)
        try:
            await application(scope, receive, send_with_id)
        finally:
            end(token)

    return wrapped


class RequestIdMiddleware:
    """Put the request's id on ``request.id`` and on the response: the one that ``on_responses`` chose, or a new one."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Answer one request."""
        if self.is_async:
            return self.answer_async(request)
        token = begin(self._mark(request))
        try:
            response = self.get_response(request)
            assert isinstance(response, HttpResponseBase)
            response.headers[HEADER] = current()
            return response
        finally:
            end(token)

    async def answer_async(self, request: HttpRequest) -> HttpResponseBase:
        """Do the same on an event loop."""
        token = begin(self._mark(request))
        try:
            pending = self.get_response(request)
            assert not isinstance(pending, HttpResponseBase)
            response = await pending
            response.headers[HEADER] = current()
            return response
        finally:
            end(token)

    @staticmethod
    def _mark(request: HttpRequest) -> str:
        chosen = current() or choose(request.headers.get(HEADER, ""))
        request.id = chosen  # type: ignore[attr-defined]
        return chosen
