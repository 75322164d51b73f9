"""Submit a task from a shell."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from accounts import roles
from accounts.problems import Problem
from agents import payload
from agents.invoke import invoke
from agents.runtime.errors import BadInput
from astra_site import following
from audit.trail import Actor


class Command(BaseCommand):
    """Put a task in the queue; with --wait follow it to its end and print its result."""

    help = "Submits a task. The input is JSON or plain text; - reads it from stdin."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("endpoint", help="Like answer.v1; GET /api/v1/endpoints lists them.")
        parser.add_argument("input", help='JSON if it begins with { [ or ", else text; - reads stdin.')
        parser.add_argument("--user", default=roles.OPERATOR, help="Whose task it is (default: operator).")
        parser.add_argument("--key", help="An idempotency key: the same key and input make one task.")
        parser.add_argument("--wait", action="store_true", help="Follow the task and print its result.")

    def handle(
        self, *args: Any, endpoint: str, input: str, user: str, key: str | None, wait: bool, **options: Any
    ) -> None:
        """Submit."""
        owner = User.objects.filter(username=user, is_active=True).first()
        if owner is None:
            raise CommandError(f"There is no active user {user!r}; name one with --user.")
        try:
            asked = parse_input(sys.stdin.read() if input == "-" else input)
            made = invoke(endpoint, asked, user=owner, actor=Actor(owner), idempotency_key=key)
        except (Problem, BadInput) as problem:
            raise CommandError(str(problem)) from None
        if wait:
            self._wait(made.run_id)
            return
        self.stdout.write(str(made.run_id))
        self.stderr.write(f"The task is {made.state}. Watch it: python manage.py task {made.run_id} --wait")

    def _wait(self, run_id: UUID) -> None:
        self.stderr.write(str(run_id))
        run = following.follow(run_id, self.stderr.write)
        following.print_result(run, self.stdout.write)
        if not following.has_succeeded(run):
            raise CommandError(f"The task ended {run.job.state}.", returncode=2)


def parse_input(text: str) -> Any:
    """Read an input as a shell gives it.

    Raises:
        CommandError: it begins like JSON and is none.
    """
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        return payload.parse(text.encode("utf-8", "surrogatepass"))
    except payload.BadJson as error:
        raise CommandError(f"The input begins like JSON and is none: {error}") from None
