"""Look at a task from a shell."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.core.management.base import BaseCommand, CommandError

from agents import queries
from agents.models import Run
from agents.waiting import waits_for
from astra_site import following


class Command(BaseCommand):
    """Print a task: its state, its steps and its result or problem."""

    help = "Shows a task; with --wait follows it to its end."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("id", help="The task's id, or the beginning of it.")
        parser.add_argument("--wait", action="store_true", help="Follow the task to its end first.")
        parser.add_argument("--json", action="store_true", help="Print what GET /api/v1/tasks/ID answers.")

    def handle(self, *args: Any, id: str, wait: bool, json: bool, **options: Any) -> None:
        """Show."""
        run = find(id)
        if wait:
            run = following.follow(run.job_id, self.stderr.write)
        if json:
            from agents.api_shapes import task_out

            waits = waits_for([run.pk], run.user or AnonymousUser())
            self.stdout.write(task_out(run, waits.get(run.pk, ())).model_dump_json(indent=2))
            return
        for line in following.describe(run):
            self.stdout.write(line)
        following.print_result(run, self.stdout.write)


def find(text: str) -> Run:
    """Return the task whose id begins with ``text``.

    Raises:
        CommandError: there is none, or more than one.
    """
    found = list(queries.by_id(Run.objects.all(), text)[:2])
    if not found:
        raise CommandError(f"There is no task {text!r}.")
    if len(found) > 1:
        raise CommandError(f"More than one task's id begins with {text!r}; give more of it.")
    return following.find(found[0].job_id)
