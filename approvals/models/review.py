"""The sittings in which people go through what happened."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Review(models.Model):
    """One person's morning or evening review, done: the next one begins where it ended."""

    class Kind(models.TextChoices):
        MORNING = "morning", "Morning"
        EVENING = "evening", "Evening"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    since = models.DateTimeField(help_text="From when on it looked at what happened.")
    until = models.DateTimeField(help_text="Up to when.")
    finished_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["morning", "evening"]), name="review_kind_known"),
            models.CheckConstraint(condition=Q(until__gte=models.F("since")), name="review_span_forward"),
        ]
        indexes = [
            # A person's last one.
            models.Index(fields=["user", "kind", "-until"], name="review_by_user"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.user_id}"
