"""A change of many jobs that an operator asked for, and how far it has come."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from jobs.ids import uuid7

#: The states of an operation of which something may still come.
UNDER_WAY = ("pending", "running")


class BulkOperationQuerySet(models.QuerySet["BulkOperation"]):
    """Named filters over operations."""

    def under_way(self) -> BulkOperationQuerySet:
        """Operations that have not ended."""
        return self.filter(state__in=UNDER_WAY)


class BulkOperation(models.Model):
    """One verb for every job of a selection, done in the background, each job in a transaction with its count.

    The row is the truth: whoever works on it holds a short lease, and a dead one's successor goes on at the cursor.
    """

    class Verb(models.TextChoices):
        REDRIVE = "redrive", "Redrive"
        CANCEL = "cancel", "Cancel"
        DISCARD = "discard", "Discard"

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        RUNNING = "running", "Running"
        FINISHED = "finished", "Finished"
        STOPPED = "stopped", "Stopped"
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    verb = models.CharField(max_length=10, choices=Verb.choices)
    options = models.JSONField(default=dict, help_text="What the verb is told: from, note.")
    selector = models.CharField(max_length=40, help_text="Who knows which jobs are meant.")
    selection = models.JSONField(help_text="Which jobs: ids, or a filter whose times are absolute.")
    words = models.CharField(max_length=300, help_text="The selection for people.")

    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    expected = models.PositiveIntegerField(help_text="As many were counted when it was asked for.")
    expected_more = models.BooleanField(default=False, help_text="The count stopped there: there were more.")
    cursor = models.UUIDField(null=True, help_text="The last job that was looked at. It goes from the newest back.")
    changed = models.PositiveIntegerField(default=0)
    refused = models.PositiveIntegerField(default=0)
    refusals = models.JSONField(default=dict, help_text="How many were refused, by the reason in words.")
    problem = models.TextField(blank=True, help_text="Why it failed as a whole.")

    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )
    asked_by_name = models.CharField(max_length=150)
    address = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)

    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    worked_at = models.DateTimeField(null=True, help_text="When it last had its turn.")
    taken_by = models.UUIDField(null=True, help_text="Who works on it now.")
    taken_until = models.DateTimeField(null=True)

    objects = BulkOperationQuerySet.as_manager()

    class Meta:
        indexes = [
            # The next one to work on: whose last turn is longest ago.
            models.Index(
                fields=["worked_at", "id"], condition=Q(state__in=["pending", "running"]), name="bulk_operation_open"
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(verb__in=["redrive", "cancel", "discard"]), name="bulk_operation_verb_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "running"], finished_at=None)
                | Q(state__in=["finished", "stopped", "failed"], finished_at__isnull=False),
                name="bulk_operation_ended_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.words}"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state not in UNDER_WAY
