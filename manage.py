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


def main(argv: list[str]) -> None:
    """Run the command that ``argv`` names; a bad setting or a fault of the servers ends in one sentence."""
    parent.follow(os.environ)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    from astra_site import embedded

    command = argv[1] if len(argv) > 1 and not argv[1].startswith("-") else ""
    try:
        from django.conf import settings

        if command in WITHOUT_SERVERS or {"-h", "--help"} & set(argv):
            execute_from_command_line(argv)
            return
        signal.signal(signal.SIGTERM, _leave)
        with embedded.servers(settings.DATA_DIR, postgres=settings.EMBEDDED_DATABASE, valkey=settings.EMBEDDED_REDIS):
            execute_from_command_line(argv)
    except (ImproperlyConfigured, embedded.EmbeddedError) as error:
        sys.exit(f"astra: {error}")


def _leave(number: int, frame: FrameType | None) -> None:
    """End like any other command does, so that the servers are left in order. Most long runners do better."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main(sys.argv)
