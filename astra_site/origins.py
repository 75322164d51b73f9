"""Who may open a WebSocket: browsers send cookies along with any page's WebSocket, so the page's origin decides."""

from __future__ import annotations

from urllib.parse import urlsplit

from asgiref.typing import WebSocketScope
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest

PORTS = {"http": 80, "https": 443}


def admit(scope: WebSocketScope) -> str:
    """Return why the handshake is refused, or nothing.

    The host must be the site's. With an ``Authorization`` header any page may open the socket, for no browser sends
    that by itself, but its cookies are taken out of ``scope`` then: nothing but the header counts. Without it the
    origin must be the site's own or one of ``CSRF_TRUSTED_ORIGINS``, each written out: wildcards match nothing.
    """
    request = _request(scope)
    try:
        host = request.get_host()
    except DisallowedHost:
        return "the host is not the site's"
    if "HTTP_AUTHORIZATION" in request.META:
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name.lower() != b"cookie"]
        return ""
    origin = _read(request.META.get("HTTP_ORIGIN", ""))
    if origin is None:
        return "it has neither a token nor an origin"
    trusted = {_read(text) for text in (f"{request.scheme}://{host}", *settings.CSRF_TRUSTED_ORIGINS)}
    return "" if origin in trusted else "its origin is not the site's"


def _request(scope: WebSocketScope) -> HttpRequest:
    """Return the handshake as Django reads the host and the scheme from it."""
    request = HttpRequest()
    for name, value in scope["headers"]:
        request.META[f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"] = value.decode("latin-1")
    request.META.setdefault("HTTP_HOST", "")
    return request


def _read(origin: str) -> tuple[str, str, int] | None:
    """Return an origin's scheme, host and port, or None if it is none."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in PORTS or not parts.hostname or parts.hostname.startswith("*"):
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, port if port is not None else PORTS[parts.scheme]
