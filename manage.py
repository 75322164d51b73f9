#!/usr/bin/env python3
"""Run one of Astra's or Django's commands, with the embedded servers up for as long as it needs them."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from astra_site import parent

# These run without a database, or see to the servers themselves.
WITHOUT_SERVERS = frozenset({"", "help", "version", "check", "collectstatic", "diffsettings", "findstatic", "up"})
# These wait until the database answers, or say themselves that it does not.
PATIENT = frozenset({"web", "worker", "scheduler", "doctor"})


def main(argv: list[str]) -> None:
    """Run the command that ``argv`` names; what a person can put right ends in one sentence."""
    parent.follow(os.environ)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")
    from django.core.exceptions import ImproperlyConfigured

    from astra_site import embedded

    try:
        run(argv)
    except (ImproperlyConfigured, embedded.EmbeddedError) as error:
        sys.exit(f"astra: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def run(argv: list[str]) -> None:
    """Run the command, between the start and the stop of the servers if it needs them."""
    from django.conf import settings
    from django.core.management import execute_from_command_line

    from astra_site import embedded, reach

    command = argv[1] if len(argv) > 1 and not argv[1].startswith("-") else ""
    # Read first, so that a bad setting is said before anything else goes wrong because of it.
    data_dir = settings.DATA_DIR
    if command in WITHOUT_SERVERS or {"-h", "--help"} & set(argv):
        execute_from_command_line(argv)
        return
    signal.signal(signal.SIGTERM, _leave)
    with embedded.servers(data_dir, postgres=settings.EMBEDDED_DATABASE, valkey=settings.EMBEDDED_REDIS):
        if not settings.EMBEDDED_DATABASE and command not in PATIENT and (fault := reach.database_fault()):
            sys.exit(f"astra: {fault}")
        execute_from_command_line(argv)


def _leave(number: int, frame: FrameType | None) -> None:
    """End like any other command does, so that the servers are left in order. Most long runners do better."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main(sys.argv)
