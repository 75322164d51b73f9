"""`manage.py worker`: run jobs of some lanes."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs import lanes
from jobs.worker import WorkerProcess


class Command(BaseCommand):
    help = "Run jobs of the lanes named. Run as many of these as you like, on as many machines."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--lane",
            action="append",
            metavar="NAME[:SLOTS]",
            help="A lane to serve and how many of its jobs at once; may be given many times. Default: every lane.",
        )
        parser.add_argument(
            "--grace",
            type=float,
            default=20.0,
            metavar="SECONDS",
            help="How long running jobs may take to finish on stop.",
        )

    def handle(self, *args: Any, lane: list[str] | None, grace: float, **options: Any) -> None:
        try:
            slots = lanes.parse(lane) if lane else dict(lanes.DEFAULT_SLOTS)
        except lanes.UnknownLane as error:
            raise CommandError(str(error)) from None
        asyncio.run(serve(WorkerProcess(slots, grace_s=grace)))


async def serve(process: WorkerProcess) -> None:
    """Run the process until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.request_stop)
    await process.run()
