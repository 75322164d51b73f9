"""Give every request an id, and put it on the response and on every log line written meanwhile."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_current: ContextVar[str] = ContextVar("request_id", default="")


def current() -> str:
    """Return the id of the request being answered, or ``""`` outside one."""
    return _current.get()


def choose(offered: str) -> str:
    """Return the id a client offers if it is short and plain, else a new one."""
    return offered if SANE.fullmatch(offered) else uuid.uuid4().hex


class RequestIdMiddleware:
    """Take ``X-Request-ID`` from the request if it is sane, else make one; answer with it. Sets ``request.id``."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self.answer_async(request)
        token = _current.set(self._mark(request))
        try:
            response = self.get_response(request)
            assert isinstance(response, HttpResponseBase)
            response.headers[HEADER] = current()
            return response
        finally:
            _current.reset(token)

    async def answer_async(self, request: HttpRequest) -> HttpResponseBase:
        """Do the same on an event loop."""
        token = _current.set(self._mark(request))
        try:
            pending = self.get_response(request)
            assert not isinstance(pending, HttpResponseBase)
            response = await pending
            response.headers[HEADER] = current()
            return response
        finally:
            _current.reset(token)

    @staticmethod
    def _mark(request: HttpRequest) -> str:
        chosen = choose(request.headers.get(HEADER, ""))
        request.id = chosen  # type: ignore[attr-defined]
        return chosen
