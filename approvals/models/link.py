"""Ways to decide from outside the site."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from approvals.models.approval import Approval


class DecisionLink(models.Model):
    """A signed link in a mail, with which one person may decide once without signing in. Its secret is not stored."""

    approval = models.ForeignKey(Approval, on_delete=models.CASCADE, related_name="decision_links")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the secret part.")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"link of {self.user_id} for {self.approval_id}"


class HookCall(models.Model):
    """A signed webhook that came in: the same one is handled once."""

    hook = models.CharField(max_length=80)
    webhook_id = models.CharField(max_length=200)
    status = models.PositiveSmallIntegerField(help_text="What it was answered.")
    answer = models.JSONField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["hook", "webhook_id"], name="hook_call_once")]
        indexes = [
            # Old ones are dropped.
            models.Index(fields=["at"], name="hook_call_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.hook} {self.webhook_id}"
