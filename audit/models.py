"""One row per thing a person (or a token of theirs) did."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class AuditEntry(models.Model):
    """An append-only record: a trigger in the database refuses UPDATE and DELETE."""

    at = models.DateTimeField(auto_now_add=True)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.DO_NOTHING, db_constraint=False)
    actor_name = models.CharField(max_length=150, help_text="As it was then; the user may be gone by now.")
    token_id = models.BigIntegerField(null=True, help_text="The API token it was done with; none in the site.")
    action = models.CharField(max_length=60)
    target_type = models.CharField(max_length=40)
    target_id = models.CharField(max_length=64)
    note = models.TextField(blank=True)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    address = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            # The audit page: newest first, of one thing or of one person.
            models.Index(fields=["target_type", "target_id", "-id"], name="audit_by_target"),
            models.Index(fields=["actor", "-id"], name="audit_by_actor"),
            models.Index(fields=["actor_name", "-id"], name="audit_by_actor_name"),
            models.Index(fields=["action", "-id"], name="audit_by_action"),
            # … and of one span of time.
            models.Index(fields=["at"], name="audit_by_time"),
            # … and of one request.
            models.Index(fields=["request_id", "-id"], condition=~models.Q(request_id=""), name="audit_by_request"),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name} {self.action} {self.target_type} {self.target_id}"


class AuditSeal(models.Model):
    """A link of the chain: the place of one entry in it, and a hash over the entry and the link before.

    Append-only like the entries. Whoever changes, removes or slips in an entry breaks every hash from there on: see
    `audit.chain`.
    """

    place = models.BigIntegerField(primary_key=True, help_text="1, 2, 3 …, without a gap.")
    entry = models.OneToOneField(
        AuditEntry, on_delete=models.DO_NOTHING, db_constraint=False, related_name="seal", help_text="The entry."
    )
    digest = models.CharField(max_length=64, help_text="SHA-256 over the link before and the entry.")
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-place"]

    def __str__(self) -> str:
        return f"{self.place} {self.digest[:12]}"
