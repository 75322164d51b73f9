"""Run all of Astra on this machine."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Start what is missing, then the web servers, a worker and the scheduler; stop it all at the end."""

    help = "Runs all of Astra on this machine: the databases it lacks, the web servers, a worker, the scheduler."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("--host", default="127.0.0.1", help="The address to listen on (default 127.0.0.1).")
        parser.add_argument("--port", type=int, default=settings.PORT, help=f"The port (default {settings.PORT}).")
        parser.add_argument(
            "--web",
            type=int,
            choices=range(1, 65),
            default=settings.WEB_PROCESSES,
            metavar="N",
            help=f"How many web processes share the port (default {settings.WEB_PROCESSES}).",
        )
        parser.add_argument(
            "--workers", default="", metavar="LANE:SLOTS,…", help="The worker's lanes, instead of those in astra.yml."
        )
        demo = parser.add_mutually_exclusive_group()
        demo.add_argument("--demo", action="store_true", default=None, help="Make demo users on your own database too.")
        demo.add_argument("--no-demo", action="store_false", dest="demo", help="Make no demo users.")

    def handle(
        self, *args: Any, host: str, port: int, web: int, workers: str, demo: bool | None, **options: Any
    ) -> None:
        """Run until Ctrl-C or SIGTERM."""
        from astra_site.up import Up

        Up(host=host, port=port, web=web, workers=workers, demo=demo).run()
