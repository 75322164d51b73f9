from __future__ import annotations

from django.db import models

from jobs.models.job import Job


class IdempotencyKey(models.Model):
    """A caller's promise that two requests are one. It lives 24 hours longer than its job."""

    scope = models.CharField(max_length=200, help_text="Whose key it is: user and endpoint.")
    key = models.CharField(max_length=255)
    body_hash = models.CharField(max_length=64)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="+")
    expires_at = models.DateTimeField(null=True, help_text="Set when the job ends.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "key"], name="idempotency_key_once")]
        indexes = [
            models.Index(fields=["expires_at"], condition=models.Q(expires_at__isnull=False), name="idempotency_due")
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.key}"
