"""Load astra.yml."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from agents import registry
from agents.config import ConfigError


class Command(BaseCommand):
    """Validate a configuration and register what it declares; or say what that would change."""

    help = "Validates astra.yml and registers its agents and endpoints."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "path", nargs="?", type=Path, default=settings.ASTRA_CONFIG, help="The file (ASTRA_CONFIG)."
        )
        parser.add_argument("--diff", action="store_true", help="Show what a load would change and change nothing.")
        parser.add_argument("--explain", action="store_true", help="Explain the approval policies: not supported yet.")

    def handle(self, *args: Any, path: Path, diff: bool, explain: bool, **options: Any) -> None:
        """Load, then list every change."""
        if explain:
            raise CommandError("--explain is not supported yet: this release has no approval policies to explain.")
        try:
            report = registry.load(path, dry_run=diff)
        except ConfigError as error:
            count = len(error.faults)
            raise CommandError(f"{error}\n{count} fault{'s' if count > 1 else ''}; nothing was loaded.") from None
        for change in report.changes:
            self.stdout.write(str(change))
        unchanged = len(report.entries) - len(report.changes)
        verb = "would change" if diff else "changed"
        self.stdout.write(f"{len(report.changes)} {verb}, {unchanged} unchanged.")
