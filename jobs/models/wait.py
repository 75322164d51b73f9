from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from jobs.models.job import Job


class Wait(models.Model):
    """A reason why a job is parked. It holds no worker; when its last wait is resolved the job is queued."""

    class Kind(models.TextChoices):
        PERSON = "person", "A person"
        TOOL = "tool", "A tool"
        EVENT = "event", "An event"
        CHILD = "child", "A child run"
        TIME = "time", "A time"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="waits", db_index=False)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    key = models.CharField(max_length=200, help_text="Which one: the step's key, an event's name …")
    until = models.DateTimeField(null=True, help_text="A time to wait for, or the deadline of any other kind.")
    created_at = models.DateTimeField(db_default=Now())
    resolved_at = models.DateTimeField(null=True)
    result = models.JSONField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["person", "tool", "event", "child", "time"]), name="wait_kind_known"
            ),
            models.CheckConstraint(condition=~Q(kind="time") | Q(until__isnull=False), name="wait_time_has_time"),
            models.UniqueConstraint(fields=["job", "key"], name="wait_once"),
        ]
        indexes = [
            # The sweep over waits whose time came.
            models.Index(fields=["until"], condition=Q(resolved_at=None, until__isnull=False), name="wait_due"),
            # Pending approvals on the overview.
            models.Index(fields=["kind"], condition=Q(resolved_at=None), name="wait_open"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"
