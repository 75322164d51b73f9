"""Serve the site."""

from __future__ import annotations

import socket
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Run one web process."""

    help = "Serves the site with daphne. Run as many as you like behind a proxy."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=settings.PORT)
        parser.add_argument("--fd", type=int, help="A listening socket, given by the process that starts this one.")

    def handle(self, *args: Any, host: str, port: int, fd: int | None, **options: Any) -> None:
        """Serve until SIGTERM."""
        from astra_site import listening, static, web

        listener = socket.socket(fileno=fd) if fd is not None else listening.listen(host, port)
        static.collect()
        if fd is None:
            self.stderr.write(f"Astra serves http://{host}:{port}")
        web.serve(listener)
