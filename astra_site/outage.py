"""What is answered when a request could not even be looked at, or a part that Astra rests on is away."""

from __future__ import annotations

import logging
import sys

import psycopg
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views import defaults

from accounts.problems import BadRequest, ServerError, Unavailable
from astra_site import problems, request_id

logger = logging.getLogger(__name__)

API = "/api/"
RETRY_AFTER_S = 5
#: The pool's time-outs are among them.
OUTAGE = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer for an error that no view caught: 503 while the database is away or overrun, else 500."""
    error = sys.exc_info()[1]
    is_api = request.path.startswith(API)
    if not _is_outage(error):
        return problems.answer(_unexpected()) if is_api else defaults.server_error(request)
    logger.warning("the database does not answer: %s", error, extra={"action": "unavailable", "path": request.path})
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    if is_api:
        response = problems.answer(Unavailable("The database does not answer.", headers=headers))
    else:
        response = render(request, "503.html", status=503)
        response.headers["Retry-After"] = headers["Retry-After"]
    # Django would log it as an error, with a traceback for each request.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer for a request that Django refuses to read: a host that is not ours, too many fields."""
    if request.path.startswith(API):
        detail = "The request can't be read: its host is not this site's, or it is malformed."
        return problems.answer(BadRequest(detail))
    return defaults.bad_request(request, exception)


def _unexpected() -> ServerError:
    return ServerError(f"The request id is {request_id.current()}.")


def _is_outage(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OUTAGE):
            return True
        error = error.__cause__
    return False
