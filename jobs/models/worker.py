from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models


class WorkerQuerySet(models.QuerySet["Worker"]):
    """Named filters over workers."""

    def alive(self) -> WorkerQuerySet:
        """Processes that hold a lease now, in the database's time."""
        return self.filter(ended_at=None, lease_until__gt=models.functions.Now())


class Worker(models.Model):
    """One process that runs jobs, and its lease on all that it claimed.

    The lease is one column of one row, renewed by one UPDATE every two seconds however many jobs are in flight.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    hostname = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    slots = models.JSONField(default=dict, help_text="Slots by lane.")
    lanes = ArrayField(models.CharField(max_length=40), default=list)
    capabilities = ArrayField(
        models.CharField(max_length=200), default=list, help_text="What it has loaded, like agent:assistant@1."
    )
    version = models.CharField(max_length=40, help_text="Astra's version in this process.")
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    lease_until = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    end = models.CharField(
        max_length=12,
        blank=True,
        choices=[("stopped", "Stopped"), ("lost", "Lease expired"), ("died", "Died")],
    )

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at"]
        indexes = [
            # The reconciler: live workers whose lease is over.
            models.Index(fields=["lease_until"], condition=models.Q(ended_at=None), name="worker_live_lease"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(end__in=["", "stopped", "lost", "died"]), name="worker_end_known"
            ),
            models.CheckConstraint(
                condition=models.Q(ended_at=None, end="") | models.Q(ended_at__isnull=False) & ~models.Q(end=""),
                name="worker_end_has_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hostname}:{self.pid}"
