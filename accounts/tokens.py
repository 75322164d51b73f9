"""API tokens: made once, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import ApiToken
from audit.trail import Actor, record

#: Every scope there is, and what it allows.
SCOPES = {
    "tasks:read": "See tasks, their steps and their events.",
    "tasks:write": "Submit, cancel and redrive tasks.",
    "agents:read": "List agents and endpoints.",
    "chat:read": "Read one's own conversations.",
    "chat:write": "Begin, rename and delete one's own conversations, and send messages in them.",
    "approvals:read": "See the approvals that one may decide on, and their plans.",
    "approvals:write": "Decide on approvals; claim, release and delegate them.",
    "metrics:read": "Read the figures of everybody's work; a token of an operator only.",
}

MARK = "astra_"
SHOWN = 12
#: `last_used_at` is good to the minute, so that a busy token does not write a row per request.
USE_NOTED_EVERY = timedelta(minutes=1)


class InvalidToken(Exception):
    """The token is unknown, revoked, expired, or its user may not sign in any more."""


class UnknownScope(ValueError):
    """There is no scope of that name."""


def create(
    user: User,
    *,
    actor: Actor,
    name: str = "",
    scopes: Iterable[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiToken, str]:
    """Make a token and return its row and the secret, which nobody can read again.

    Args:
        scopes: names of `SCOPES`; None means all of them.
        expires_at: None means that it does not expire.

    Raises:
        UnknownScope: a scope that does not exist.
    """
    wanted = list(SCOPES) if scopes is None else list(dict.fromkeys(scopes))
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise UnknownScope(f"There is no scope {unknown[0]!r}; there are {', '.join(SCOPES)}.")
    secret = MARK + secrets.token_urlsafe(32)
    with transaction.atomic():
        token = ApiToken.objects.create(
            user=user,
            name=name or "token",
            prefix=secret[:SHOWN],
            digest=_digest(secret),
            scopes=wanted,
            expires_at=expires_at,
        )
        record(
            actor,
            "token.create",
            "token",
            token.pk,
            after={"user": user.username, "name": token.name, "scopes": wanted},
        )
    return token, secret


def revoke(token: ApiToken, *, actor: Actor) -> bool:
    """Revoke the token. Returns False if it was revoked before."""
    with transaction.atomic():
        changed = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
        if changed:
            record(actor, "token.revoke", "token", token.pk, before={"user": token.user.username, "name": token.name})
    return bool(changed)


def authenticate(secret: str) -> ApiToken:
    """Return the usable token of this secret, with its user, and note that it was used.

    Raises:
        InvalidToken: there is none. The message never says which reason it was.
    """
    now = timezone.now()
    token = (
        ApiToken.objects.usable(now).select_related("user").filter(digest=_digest(secret), user__is_active=True).first()
        if secret.startswith(MARK)
        else None
    )
    if token is None:
        raise InvalidToken("The token is not valid: it is unknown, revoked or expired.")
    if token.last_used_at is None or token.last_used_at < now - USE_NOTED_EVERY:
        ApiToken.objects.filter(Q(last_used_at=None) | Q(last_used_at__lt=now), pk=token.pk).update(last_used_at=now)
    return token


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
