"""What runs did to the world outside."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agents.models.run import Run


class Effect(models.Model):
    """One call with effects: begun, done, or nobody knows. Its key is the same after a crash and over redrives.

    Done means that it is known how it ended: the result says whether well. A redrive tries one that failed again.
    A redrive that repeats effects makes rows of new keys; those of before stay.
    """

    class State(models.TextChoices):
        STARTED = "started", "Started"
        DONE = "done", "Done"
        UNKNOWN = "unknown", "Unknown"
        AGAIN = "again", "To be done again"
        GIVEN_UP = "given-up", "Given up"

    key = models.CharField(
        max_length=64, unique=True, help_text="Of run, step, tool and arguments; and of the repetition."
    )
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="effects", db_index=False)
    step_key = models.CharField(max_length=300)
    tool = models.CharField(max_length=120)
    arguments = models.JSONField()
    idempotent = models.BooleanField(help_text="Repeating it under its key changes nothing more.")
    state = models.CharField(max_length=10, choices=State.choices)
    attempt = models.PositiveIntegerField(default=1, help_text="How often it was begun.")
    fence = models.BigIntegerField(help_text="Of the claim that began it last.")
    result = models.JSONField(null=True)
    approval_id = models.UUIDField(null=True, help_text="The decision that let it run; none where nobody had to.")
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    resolved_by = models.CharField(max_length=150, blank=True, help_text="Who said what became of it.")
    note = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["started", "done", "unknown", "again", "given-up"]), name="effect_state_known"
            ),
            models.CheckConstraint(
                condition=~Q(state="done") | Q(finished_at__isnull=False), name="effect_done_has_time"
            ),
        ]
        indexes = [
            # What a run did, on its page.
            models.Index(fields=["run", "id"], name="effect_by_run"),
            # What a decision let run, on its page.
            models.Index(fields=["approval_id"], condition=Q(approval_id__isnull=False), name="effect_by_approval"),
        ]

    def __str__(self) -> str:
        return f"{self.tool} {self.state}"
