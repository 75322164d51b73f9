from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class Hold(models.Model):
    """A named reason why jobs with a given key may not start now. Claims check it; nothing slips through."""

    key = models.CharField(max_length=120, help_text="all, lane:queue, agent:assistant, endpoint:research.v1 …")
    reason = models.CharField(max_length=40, help_text="paused, breaker, budget, kill-switch …")
    note = models.TextField(blank=True)
    placed_by = models.CharField(max_length=150)
    placed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["key", "reason"], name="hold_once")]

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"
