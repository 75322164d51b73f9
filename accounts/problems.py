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
