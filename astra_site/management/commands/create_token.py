"""Make an API token."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts import tokens
from audit.trail import SYSTEM

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Command(BaseCommand):
    """Print a new token, alone on stdout; all else goes to stderr."""

    help = "Prints a new API token of a user, once. Only its hash is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("username")
        parser.add_argument("--name", default="command line", help="What it is for; shown where tokens are listed.")
        parser.add_argument(
            "--scope",
            action="append",
            metavar="SCOPE[,SCOPE…]",
            help=f"One or more of {', '.join(tokens.SCOPES)}; may be given more than once. Default: all.",
        )
        parser.add_argument("--expires", default="", help="30d, 12h, 90m or a date like 2030-01-31. Default: never.")

    def handle(
        self, *args: Any, username: str, name: str, scope: list[str] | None, expires: str, **options: Any
    ) -> None:
        """Make the token."""
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"There is no user {username!r}.")
        if not user.is_active:
            raise CommandError(f"The user {username!r} is not active: the token would not work.")
        scopes = None if scope is None else [name for given in scope for name in given.replace(",", " ").split()]
        try:
            token, secret = tokens.create(user, actor=SYSTEM, name=name[:100], scopes=scopes, expires_at=_when(expires))
        except tokens.UnknownScope as error:
            raise CommandError(str(error)) from None
        until = f"until {token.expires_at:%Y-%m-%d %H:%M %Z}" if token.expires_at else "until it is revoked"
        self.stderr.write(f"A token of {username} with {', '.join(token.scopes)}, valid {until}. It is shown only now.")
        self.stdout.write(secret)


def _when(text: str) -> datetime | None:
    """Read an age like 30d, a day (its end, UTC) or a time."""
    if not text:
        return None
    try:
        moment = _moment(text)
    except (ValueError, OverflowError):
        raise CommandError(
            f"--expires {text!r} is neither an age like 30d, 12h or 90m nor a date like 2030-01-31."
        ) from None
    if moment <= timezone.now():
        raise CommandError(f"--expires {text!r} is in the past.")
    return moment


def _moment(text: str) -> datetime:
    if match := re.fullmatch(r"(\d{1,5})([mhd])", text):
        return timezone.now() + timedelta(**{UNITS[match[2]]: int(match[1])})
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment + timedelta(days=1) if re.fullmatch(r"[\d-]+", text) else moment
