"""Say what is wrong with this installation."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Print a line per check; exit with status 1 if one found a fault."""

    help = "Checks servers, clocks, migrations, lanes, schedulers, agents and provider keys; a sentence per fault."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Run every check."""
        from astra_site import doctor

        found_fault = False
        for finding in doctor.examine():
            found_fault |= finding.is_fault
            mark = self.style.ERROR("fault") if finding.is_fault else "note " if finding.is_note else "ok   "
            self.stdout.write(f"{mark} {finding.subject:<10} {finding.sentence}")
        if found_fault:
            sys.exit(1)
