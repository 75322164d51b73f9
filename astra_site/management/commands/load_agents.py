"""Load astra.yml."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from agents import registry
from agents.config import Config, ConfigError, load_config
from approvals import explain as policies


class Command(BaseCommand):
    """Validate a configuration and register what it declares; or say what that would change."""

    help = "Validates astra.yml and registers its agents and endpoints."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "path", nargs="?", type=Path, default=settings.ASTRA_CONFIG, help="The file (ASTRA_CONFIG)."
        )
        parser.add_argument("--diff", action="store_true", help="Show what a load would change and change nothing.")
        parser.add_argument(
            "--explain", action="store_true", help="Say which calls people decide on, and who; change nothing."
        )
        parser.add_argument(
            "--call",
            action="append",
            metavar="'TOOL {…}'",
            help="With --explain: say what would become of this call. May be given more than once.",
        )

    def handle(self, *args: Any, path: Path, diff: bool, explain: bool, call: list[str] | None, **options: Any) -> None:
        """Load, then list every change; or explain."""
        if call and not explain:
            raise CommandError("--call goes with --explain.")
        try:
            if explain:
                self._explain(load_config(path), call)
                return
            report = registry.load(path, dry_run=diff)
        except ConfigError as error:
            count = len(error.faults)
            raise CommandError(f"{error}\n{count} fault{'s' if count > 1 else ''}; nothing was loaded.") from None
        for change in report.changes:
            self.stdout.write(str(change))
        unchanged = len(report.entries) - len(report.changes)
        verb = "would change" if diff else "changed"
        self.stdout.write(f"{len(report.changes)} {verb}, {unchanged} unchanged.")

    def _explain(self, config: Config, calls: list[str] | None) -> None:
        if not calls:
            for line in policies.explain(config):
                self.stdout.write(line)
            return
        for call in calls:
            self.stdout.write(call)
            try:
                for line in policies.try_call(config, call):
                    self.stdout.write(f"  {line}")
            except policies.NotACall as error:
                raise CommandError(str(error)) from None
