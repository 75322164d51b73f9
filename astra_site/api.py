"""The HTTP API, put together: each app's router, one shape for every refusal, and the OpenAPI description."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path, re_path
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.operation import Operation
from ninja.parser import Parser
from ninja.types import DictStrAny
from psycopg_pool import PoolTimeout

from accounts.problems import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
    ServerError,
    Unavailable,
    UnsupportedMediaType,
)
from agents import payload
from agents.api import declared, router
from agents.chat.api import router as conversations
from agents.queries import BadCursor
from agents.runtime.errors import BadInput, RunError
from approvals.api import router as approvals
from approvals.hook import router as hooks
from astra_site import problems, request_id

logger = logging.getLogger(__name__)

PREFIX = "/api/v1"
RETRY_AFTER_S = 5


class StrictParser(Parser):
    """Reads JSON as `agents.payload` does, and nothing else."""

    def parse_body(self, request: HttpRequest) -> DictStrAny:
        """Return the body's JSON.

        Raises:
            Problem, BadInput: it is none, or none that can be stored.
        """
        if request.content_type != "application/json":
            raise UnsupportedMediaType("Send the body with the header Content-Type: application/json.")
        parsed: DictStrAny = payload.parse(request.body)
        return parsed


class Api(NinjaAPI):
    """The API with its description completed by what django-ninja does not know of."""

    def get_openapi_operation_id(self, operation: Operation) -> str:
        """Return the name that generated clients call the function by."""
        return operation.view_func.__name__

    def get_openapi_schema(self, **kwargs: Any) -> Any:
        """Return the OpenAPI document."""
        document = super().get_openapi_schema(**kwargs)
        _complete(document)
        return document


api = Api(
    title="Astra",
    version="1",
    description="Submit tasks to agents, follow and steer them; decide on plans; chat. Errors are RFC 9457 problems.",
    urls_namespace="api",
    docs_url=None,
    parser=StrictParser(),
)
api.add_router("", router)
api.add_router("", declared)
api.add_router("", conversations)
api.add_router("", approvals)
api.add_router("", hooks)


@api.exception_handler(Problem)
def _on_problem(request: HttpRequest, error: Problem) -> HttpResponse:
    return problems.answer(error)


@api.exception_handler(RunError)
def _on_run_error(request: HttpRequest, error: RunError) -> HttpResponse:
    return problems.answer_run_error(error)


@api.exception_handler(BadCursor)
def _on_bad_cursor(request: HttpRequest, error: BadCursor) -> HttpResponse:
    return problems.answer_run_error(payload.bad_input(("query", "cursor"), str(error)))


@api.exception_handler(ValidationError)
def _on_validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
    errors = [{"loc": _loc(entry["loc"]), "msg": entry["msg"].removeprefix("Value error, ")} for entry in error.errors]
    where = ".".join(str(part) for part in errors[0]["loc"])
    detail = f"{where}: {errors[0]['msg']}" if where else errors[0]["msg"]
    return problems.answer_run_error(BadInput(detail, errors=errors))


@api.exception_handler(HttpError)
def _on_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    cause = error.__cause__  # django-ninja wraps what the parser raises
    if isinstance(cause, Problem):
        return problems.answer(cause)
    if isinstance(cause, RunError):
        return problems.answer_run_error(cause)
    return problems.answer(BadRequest(str(error)))


@api.exception_handler(Http404)
def _on_not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return problems.answer(NotFound(f"There is nothing at {request.path}."))


@api.exception_handler(RequestDataTooBig)
def _on_too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    return problems.answer(payload.PayloadTooLarge(f"The body may have {payload.MAX_BYTES} bytes."))


@api.exception_handler(SuspiciousOperation)
def _on_suspicious(request: HttpRequest, error: SuspiciousOperation) -> HttpResponse:
    return problems.answer(BadRequest("The request can't be read: it has too many or malformed parts."))


@api.exception_handler(Exception)
def _on_error(request: HttpRequest, error: Exception) -> HttpResponse:
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        logger.warning("the database does not answer: %s", error, extra={"action": "api_unavailable"})
        return problems.answer(
            Unavailable("The database does not answer.", headers={"Retry-After": str(RETRY_AFTER_S)})
        )
    logger.exception("a call of the API failed", extra={"action": "api_failed", "path": request.path})
    return problems.answer(ServerError(f"The request id is {request_id.current()}."))


def _loc(loc: tuple[str | int, ...]) -> list[str | int]:
    """Return where in the request an error is: a path in its body, or the part of the request and a name."""
    return list(loc[2:] if loc[0] == "body" else loc)


View = Callable[..., HttpResponse]


def _public(view: View) -> View:
    """Wrap a view of django-ninja: its own auth decides, not the site's login page, and a 405 is a problem too."""

    @login_not_required
    def wrapped(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        try:
            response = view(request, **kwargs)
        except Http404:
            response = unknown_path(request)
        if isinstance(response, HttpResponseNotAllowed):
            allow = {"Allow": response["Allow"]}
            detail = f"{request.method} is not known here; there is {allow['Allow']}."
            response = problems.answer(MethodNotAllowed(detail, headers=allow))
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    wrapped.csrf_exempt = True  # type: ignore[attr-defined]  # ApiAuth checks the token where a session is used
    return wrapped


def unknown_path(request: HttpRequest) -> HttpResponse:
    """Answer for every address under the API at which there is nothing."""
    return problems.answer(NotFound(f"There is nothing at {request.path}."))


def _patterns() -> list[URLPattern]:
    patterns = [pattern for pattern in api.urls[0] if isinstance(pattern, URLPattern)]
    for pattern in patterns:
        pattern.callback = _public(pattern.callback)
    return patterns


urlpatterns = [path("", (_patterns(), "ninja", "api")), re_path(r"", _public(unknown_path))]


def _complete(document: dict[str, Any]) -> None:
    """Add what holds for every call: the ways to sign in, the shape of problems; and the stream of events."""
    components = document["components"]
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": "sessionid"},
    }
    components["schemas"]["Problem"] = PROBLEM_SCHEMA
    components["responses"] = {
        "Problem": {
            "description": "A refusal (RFC 9457)",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }
    document["security"] = [{"token": []}, {"session": []}]
    document["paths"][f"{PREFIX}/tasks/{{task_id}}/events"] = {"get": copy.deepcopy(EVENTS)}
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}


PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "/problems/<slug>, stable"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["loc", "msg"],
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                },
            },
        },
    },
}
EVENTS = {
    "operationId": "follow_events",
    "summary": "Follow a task's events",
    "description": "Server-sent events: state, step, progress and emit as they happen, then end. Their data is JSON.",
    "tags": ["tasks"],
    "parameters": [
        {"in": "path", "name": "task_id", "required": True, "schema": {"type": "string", "format": "uuid"}},
        {
            "in": "header",
            "name": "Last-Event-ID",
            "required": False,
            "schema": {"type": "string"},
            "description": "The id of the last event you have; the stream goes on after it.",
        },
    ],
    "responses": {
        "200": {"description": "OK", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        "204": {"description": "The task has ended and you have every event: do not reconnect."},
    },
}
