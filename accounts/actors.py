"""Say who acts in a request, for the audit trail."""

from __future__ import annotations

import ipaddress

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest

from audit.models import AuditEntry
from audit.trail import Actor

REQUEST_ID_LENGTH = AuditEntry._meta.get_field("request_id").max_length


def actor_of(
    request: HttpRequest, user: AbstractBaseUser | AnonymousUser | None = None, *, token_id: int | None = None
) -> Actor:
    """Return who makes the request: ``user`` if it was told by a token, else the session's, from which address."""
    return Actor(
        user=user or request.user,
        address=address_of(client_address(request)),
        request_id=str(getattr(request, "id", ""))[:REQUEST_ID_LENGTH],
        token_id=token_id,
    )


def client_address(request: HttpRequest) -> str:
    """Return the address that the request comes from: behind a trusted proxy, the last one that it added."""
    return peer(str(request.META.get("REMOTE_ADDR", "")), request.headers.get("X-Forwarded-For", ""))


def peer(remote: str, forwarded: str) -> str:
    """Return whose connection it is: that of ``remote``, unless that is a trusted proxy, which says for whom."""
    told = forwarded.rpartition(",")[2].strip() if settings.SECURE_PROXY_SSL_HEADER else ""
    return told or remote


def address_of(text: str) -> str | None:
    """Return the address if it is one: behind a Unix socket there is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
