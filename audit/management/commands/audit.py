"""Verify the audit trail's hash chain, write it out, tell its head."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_naive, make_aware

from audit import chain


class Command(BaseCommand):
    """`audit verify`, `audit export`, `audit head`."""

    help = "Verifies the hash chain of the audit trail, writes the trail out as JSON lines, or prints the chain's head."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what to do."""
        what = parser.add_subparsers(dest="what", required=True, metavar="verify | export | head")
        verify = what.add_parser("verify", help="Compare every link with its entry; exit with status 1 on a fault.")
        verify.add_argument("--kept", metavar="PLACE:HASH", help="A head that was kept: the chain must go through it.")
        export = what.add_parser("export", help="Write the sealed entries to standard output, a JSON object a line.")
        export.add_argument("--since", metavar="TIME", help="Only entries from this time on, ISO 8601.")
        export.add_argument("--until", metavar="TIME", help="Only entries before this time, ISO 8601.")
        what.add_parser("head", help="Print the place and hash of the last link. Keep it somewhere else.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it."""
        if options["what"] == "verify":
            self._verify(options["kept"])
        elif options["what"] == "export":
            for line in chain.export(_time(options["since"]), _time(options["until"])):
                self.stdout.write(json.dumps(line))
        else:
            self.stdout.write(str(chain.head()))

    def _verify(self, kept: str | None) -> None:
        try:
            anchor = chain.Head.read(kept) if kept else None
        except ValueError as error:
            raise CommandError(str(error)) from None
        found = chain.verify(anchor)
        for fault in found.faults:
            self.stderr.write(self.style.ERROR(str(fault)))
        if len(found.faults) >= chain.FAULTS_UP_TO:
            self.stderr.write("There may be more faults: these are the first.")
        if found.faults:
            sys.exit(1)
        waits = f" {found.unsealed:,} not sealed yet." if found.unsealed else ""
        self.stdout.write(f"{found.head.place:,} entries are as they were sealed.{waits} Head: {found.head}")


def _time(text: str | None) -> Any:
    if text is None:
        return None
    try:
        at = parse_datetime(text) or parse_datetime(f"{text}T00:00:00")
    except ValueError:
        at = None
    if at is None:
        raise CommandError(f"{text!r} is no time in ISO 8601, like 2026-11-21T09:00:00+01:00.")
    return make_aware(at) if is_naive(at) else at
