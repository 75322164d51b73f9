"""New tasks from the page of a review: one a line, now or at a time, all of them or none."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from jsonschema import Draft202012Validator

from accounts.problems import Problem
from agents import registry
from agents.invoke import invoke
from agents.modes import policy
from agents.registry import EndpointInfo
from agents.runtime.errors import BadInput
from agents.text_input import as_input
from audit.trail import Actor

#: Lines of one form.
MOST = 50
#: When the night's work begins unless they say otherwise, in the site's time.
NIGHT = time(22)
_TOKEN = re.compile(r"[\w-]{16,40}", re.ASCII)


@dataclass(slots=True)
class Plan:
    """The form: what was typed, and what is wrong with it."""

    endpoint: str = ""
    lines: str = ""
    #: "now", or a time in ISO 8601 without a zone: the site's.
    start: str = "now"
    at: str = ""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, str]) -> Plan:
        """Return what the browser sent."""
        token = data.get("form", "")
        given = cls(
            endpoint=data.get("endpoint", ""),
            lines=data.get("lines", "").replace("\0", ""),
            start="later" if data.get("start") == "later" else "now",
            at=data.get("at", ""),
        )
        if _TOKEN.fullmatch(token):
            given.token = token
        return given

    def submit(self, user: User, actor: Actor) -> list[UUID]:
        """Submit a task for each line that is not blank, and return them. Sent twice it finds the same ones.

        Raises:
            BadInput: `errors` says what is wrong, by field; nothing was submitted.
        """
        texts = [line.strip() for line in self.lines.splitlines() if line.strip()]
        offered = {info.name: info for info in endpoints()}
        if self.endpoint not in offered:
            self.errors["endpoint"] = "Choose an endpoint that takes texts."
        if not texts:
            self.errors["lines"] = "Write one task a line."
        elif len(texts) > MOST:
            self.errors["lines"] = f"That is {len(texts)} tasks; at most {MOST} at once."
        run_at = self._run_at()
        if not self.errors:
            schema = Draft202012Validator(offered[self.endpoint].definition["input"])
            inputs = [as_input(schema, text) for text in texts]
            if None in inputs:
                place = inputs.index(None)
                self.errors["lines"] = f"Line {place + 1} is too short or too long for {self.endpoint}."
        if self.errors:
            raise BadInput("; ".join(self.errors.values()))
        try:
            with transaction.atomic():
                return [
                    invoke(
                        self.endpoint,
                        given,
                        user=user,
                        actor=actor,
                        run_at=run_at,
                        idempotency_key=f"review-{self.token}-{place}",
                    ).run_id
                    for place, given in enumerate(inputs)
                ]
        except (BadInput, Problem) as error:
            self.errors["lines"] = str(error)
            raise BadInput(str(error)) from error

    def _run_at(self) -> datetime | None:
        if self.start == "now":
            return None
        try:
            found = datetime.fromisoformat(self.at)
            found = found if found.tzinfo else timezone.make_aware(found)
        except (ValueError, OverflowError):
            self.errors["at"] = "Say when, like 2026-12-24T22:00."
            return None
        if found < timezone.now() - timedelta(minutes=1):
            self.errors["at"] = "This time is past. Start now, or choose a later one."
        return found


def endpoints() -> list[EndpointInfo]:
    """Return the endpoints that tasks are submitted to and that take a plain text."""
    return [
        info
        for info in registry.current().endpoints.values()
        if info.active
        and policy(info.mode).concurrency.entrance == "tasks"
        and as_input(Draft202012Validator(info.definition["input"]), "Where does the river end?") is not None
    ]


def tonight(now: datetime | None = None) -> datetime:
    """Return when the night's work begins: at `NIGHT`, today or, if that is past, in an hour."""
    local = timezone.localtime(now or timezone.now())
    begins = local.replace(hour=NIGHT.hour, minute=NIGHT.minute, second=0, microsecond=0)
    return begins if begins > local else (local + timedelta(hours=1)).replace(second=0, microsecond=0)
