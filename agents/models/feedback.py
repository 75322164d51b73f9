"""What people say of what agents did: to one run, and to the agent for the next."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agents.models.run import Run


class Feedback(models.Model):
    """What one person says of one run: a grade, a comment, or both. Theirs to change."""

    class Grade(models.TextChoices):
        GOOD = "good", "Good"
        FAIR = "fair", "Needs work"
        POOR = "poor", "Not usable"

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="feedback", db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    user_name = models.CharField(max_length=150)
    grade = models.CharField(max_length=10, choices=Grade.choices, blank=True)
    comment = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(grade__in=["good", "fair", "poor", ""]), name="feedback_grade_known"),
            models.CheckConstraint(condition=~Q(grade="", comment=""), name="feedback_says_something"),
            models.UniqueConstraint(fields=["run", "user"], name="feedback_once"),
        ]
        indexes = [
            # What was said of late.
            models.Index(fields=["-created_at"], name="feedback_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.user_name}: {self.grade or self.comment[:40]}"


class AgentNote(models.Model):
    """What a person wants an agent to heed from now on: every run made while it stands reads it.

    Its text never changes, it is only retired; so a run that is replayed, by its time of creation, reads what it read.
    """

    agent = models.CharField(max_length=80, help_text="Of any version.")
    text = models.TextField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    user_name = models.CharField(max_length=150)
    run = models.ForeignKey(
        Run, null=True, on_delete=models.SET_NULL, related_name="+", help_text="What it was said about."
    )
    created_at = models.DateTimeField(db_default=Now())
    retired_at = models.DateTimeField(null=True)
    retired_by = models.CharField(max_length=150, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(text=""), name="agent_note_says_something"),
        ]
        indexes = [
            # What a run of the agent reads.
            models.Index(fields=["agent", "id"], name="agent_note_by_agent"),
        ]

    def __str__(self) -> str:
        return f"{self.agent}: {self.text[:40]}"
