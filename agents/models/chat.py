"""What people and agents said to each other."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agents.models.declared import Endpoint
from agents.models.run import Run
from jobs.ids import uuid7

#: Characters of a message's `client_id`.
CLIENT_ID_LENGTH = 80


class Conversation(models.Model):
    """One person's chat with one endpoint."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="conversations", db_index=False
    )
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="conversations")
    title = models.CharField(max_length=120, blank=True, help_text="The beginning of its first message, or as renamed.")
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now(), help_text="When its last message was written.")
    summary = models.TextField(blank=True, help_text="Of its oldest messages, made when the history grew too long.")
    summary_through = models.PositiveIntegerField(default=0, help_text="Place of the last message in the summary.")

    class Meta:
        indexes = [
            # A person's list, the last one used first.
            models.Index(fields=["user", "-updated_at", "-id"], name="conversation_by_user"),
        ]
        ordering = ["-updated_at", "-id"]

    def __str__(self) -> str:
        return self.title or str(self.pk)


class Message(models.Model):
    """What one side said. An answer that is being written grows once a second, and is whole when its run has ended."""

    class Role(models.TextChoices):
        USER = "user", "User"
        ASSISTANT = "assistant", "Assistant"

    class Status(models.TextChoices):
        WRITING = "writing", "Being written"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages", db_index=False)
    place = models.PositiveIntegerField(help_text="Its number in the conversation, from 1.")
    role = models.CharField(max_length=10, choices=Role.choices)
    text = models.TextField(blank=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.DONE)
    run = models.ForeignKey(
        Run, null=True, on_delete=models.SET_NULL, related_name="messages", help_text="The exchange, or the task."
    )
    client_id = models.CharField(
        max_length=CLIENT_ID_LENGTH, null=True, help_text="The sender's own id, so that none is sent twice."
    )
    seq = models.BigIntegerField(default=0, help_text="Of the last frame whose text is in here.")
    problem = models.JSONField(null=True, help_text="Why it failed.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["conversation", "place"], name="message_place_once"),
            models.UniqueConstraint(
                fields=["conversation", "client_id"], condition=Q(client_id__isnull=False), name="message_sent_once"
            ),
            models.CheckConstraint(condition=Q(role__in=["user", "assistant"]), name="message_role_known"),
            models.CheckConstraint(
                condition=Q(status__in=["writing", "done", "stopped", "failed"]), name="message_status_known"
            ),
            models.CheckConstraint(condition=Q(role="assistant") | Q(status="done"), name="message_of_user_is_done"),
        ]
        ordering = ["conversation", "place"]

    def __str__(self) -> str:
        return f"{self.role} {self.text[:60]}"
