"""The socket that the site is served on."""

from __future__ import annotations

import errno
import socket

from django.core.management.base import CommandError

BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; raise ``CommandError`` in words if it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise CommandError(f"There is no such host as {host!r} to listen on.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} of {host} is taken by another program. Choose one with --port or ASTRA_PORT."
        else:
            message = f"Astra cannot listen on port {port} of {host}: {error.strerror}."
        raise CommandError(message) from None
    listener.setblocking(False)
    return listener
