"""Browsers that have signed in before: a signed cookie tells for which account.

It opens nothing. It only keeps the guesses of strangers from being counted against the account's owner; whoever steals
one gains ten guesses. (The idea is OWASP's "device cookies".)
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

COOKIE = "astra_device"
LIFE_S = 365 * 24 * 3600
SALT = "accounts.devices"
#: Django looks for no account with a longer name. Characters.
LONGEST_NAME = 150


def known(request: HttpRequest, account: str) -> str:
    """Return the name of the browser if it has signed in to the account before, else nothing."""
    try:
        digest, _, name = (
            signing.TimestampSigner(salt=SALT).unsign(request.COOKIES.get(COOKIE, ""), LIFE_S).partition(".")
        )
    except signing.BadSignature:
        return ""
    return name if secrets.compare_digest(digest, _digest(account)) else ""


def remember(request: HttpRequest, response: HttpResponse, account: str) -> None:
    """Let the browser be known as one that has signed in to the account."""
    name = known(request, account) or secrets.token_urlsafe(16)
    response.set_cookie(
        COOKIE,
        signing.TimestampSigner(salt=SALT).sign(f"{_digest(account)}.{name}"),
        max_age=LIFE_S,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
        path="/",
    )


def account_name(typed: str) -> str:
    """Return the account that is meant by what was typed, to count by: Django's form takes ``ｏlga`` for ``olga``."""
    name = typed.strip()
    if len(name) <= LONGEST_NAME:
        name = unicodedata.normalize("NFKC", name).strip()
    return name.casefold()


def _digest(account: str) -> str:
    return hashlib.sha256(account_name(account).encode("utf-8", "surrogatepass")).hexdigest()
