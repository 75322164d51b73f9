"""The one shape in which the HTTP API refuses: an exception that knows its RFC 9457 problem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: The media type of every refusal.
CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """A refusal. ``slug`` is stable: it is the last part of the problem type `/problems/<slug>`.

    The docstring of each kind is its page: its first line says what happened, the rest what to do.
    """

    slug = "problem"
    title = "The request failed"
    status = 500

    def __init__(self, detail: str = "", *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.headers = headers or {}
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """Return the problem as RFC 9457 writes it."""
        return {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }


def kinds(base: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """Yield every kind of problem that has been imported."""
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


class Unauthenticated(Problem):
    """The request does not say who it comes from, or what it says is not valid any more.

    Send `Authorization: Bearer TOKEN` with a token that is neither revoked nor expired, or sign in to the site.
    """

    slug, title, status = "unauthenticated", "Sign in or send a token", 401


class Forbidden(Problem):
    """You are known, but you may not do this.

    A token needs the scope that the detail names; some calls need the role of an operator.
    """

    slug, title, status = "forbidden", "You may not do this", 403


class CsrfFailed(Problem):
    """The request came with a session's cookie but without its CSRF token.

    Send the value of the cookie `csrftoken` in the header `X-CSRFToken`, or use a bearer token.
    """

    slug, title, status = "csrf-failed", "The CSRF token is missing or wrong", 403


class NotFound(Problem):
    """There is nothing at this address, or nothing that you may see.

    What belongs to another user looks as if it did not exist.
    """

    slug, title, status = "not-found", "There is nothing here", 404


class BadRequest(Problem):
    """The request can't be understood.

    The detail says what is wrong with it.
    """

    slug, title, status = "bad-request", "The request can't be understood", 400


class UnsupportedMediaType(Problem):
    """The body is not declared as JSON.

    Send it with the header `Content-Type: application/json`.
    """

    slug, title, status = "unsupported-media-type", "The body must be JSON", 415


class MethodNotAllowed(Problem):
    """There is something at this address, but not for this method.

    The header `Allow` lists the methods there are.
    """

    slug, title, status = "method-not-allowed", "This address does not know the method", 405


class ServerError(Problem):
    """Something went wrong that should not have.

    Try again. If it stays, tell the operators the request id: it is in the detail and in their logs.
    """

    slug, title, status = "server-error", "Something went wrong on our side", 500


class Unavailable(Problem):
    """A part that Astra rests on, like its database, does not answer now.

    Try again after the seconds that `Retry-After` says. A task that was accepted is not lost.
    """

    slug, title, status = "unavailable", "Astra can't answer now", 503
