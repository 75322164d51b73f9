"""Who calls the HTTP API: a bearer token, or the site's session with its CSRF token."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import User
from django.http import HttpRequest
from ninja.utils import check_csrf

from accounts import roles, tokens
from accounts.actors import actor_of
from accounts.models import ApiToken
from accounts.problems import CsrfFailed, Forbidden, Unauthenticated
from audit.trail import Actor

CHALLENGE = 'Bearer realm="astra"'


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller. ``token`` is None for a session, which may do all that its user may."""

    user: User
    token: ApiToken | None = None

    @property
    def is_operator(self) -> bool:
        """Whether the caller sees and steers everybody's work."""
        return roles.is_operator(self.user)

    def require(self, scope: str) -> None:
        """Check that a token has the scope.

        Raises:
            Forbidden: it has not.
        """
        if self.token is not None and scope not in self.token.scopes:
            raise Forbidden(
                f"This token has not the scope {scope}.",
                headers={"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'},
            )

    def actor(self, request: HttpRequest) -> Actor:
        """Return the caller for the audit trail."""
        return actor_of(request, self.user, token_id=self.token.pk if self.token else None)


def caller_of(request: HttpRequest) -> Caller:
    """Return who makes a request that `ApiAuth` let in."""
    caller = request.auth  # type: ignore[attr-defined]  # ninja puts there what `auth` returned
    assert isinstance(caller, Caller)
    return caller


def by_token(authorization: str) -> Caller:
    """Return who the `Authorization` header names.

    Raises:
        Unauthenticated: it is no bearer token, or not a valid one.
    """
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _unauthenticated("Send the token as `Authorization: Bearer TOKEN`.")
    try:
        token = tokens.authenticate(secret.strip())
    except tokens.InvalidToken as error:
        raise _unauthenticated(str(error), error="invalid_token") from None
    return Caller(token.user, token)


def by_session(session_key: str | None) -> Caller:
    """Return whose session this is, for code that has no Django request.

    Raises:
        Unauthenticated: it is nobody's.
    """
    if session_key and session_key.isalnum():
        request = HttpRequest()
        request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
        user = auth.get_user(request)
        if isinstance(user, User) and user.is_active:
            return Caller(user)
    raise _unauthenticated()


class ApiAuth:
    """The `auth` of an API call that needs ``scope``. Puts the `Caller` into ``request.auth``."""

    def __init__(self, scope: str) -> None:
        assert scope in tokens.SCOPES, scope
        self.scope = scope

    def __call__(self, request: HttpRequest) -> Caller:
        """Return the caller.

        Raises:
            Unauthenticated: nobody is signed in and there is no valid token.
            CsrfFailed: a session without its CSRF token wants to change something.
            Forbidden: the token lacks the scope.
        """
        authorization = request.headers.get("Authorization")
        if authorization is not None:
            caller = by_token(authorization)
            request.user = caller.user
        elif isinstance(request.user, User):
            if check_csrf(request) is not None:
                raise CsrfFailed("Send the value of the cookie csrftoken in the header X-CSRFToken.")
            caller = Caller(request.user)
        else:
            raise _unauthenticated()
        caller.require(self.scope)
        return caller


def _unauthenticated(detail: str = "", *, error: str = "") -> Unauthenticated:
    challenge = f'{CHALLENGE}, error="{error}"' if error else CHALLENGE
    return Unauthenticated(
        detail or "Sign in, or send `Authorization: Bearer TOKEN`.", headers={"WWW-Authenticate": challenge}
    )
