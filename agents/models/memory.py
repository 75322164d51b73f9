from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.db import models
from django.db.models import GeneratedField
from django.db.models.functions import Now


class Memory(models.Model):
    """What an agent keeps for one user, found again by PostgreSQL's full-text search."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memories")
    agent = models.CharField(max_length=80, help_text="Who wrote it; every agent of the user may read it.")
    text = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    search = GeneratedField(
        expression=SearchVector("text", config="simple"), output_field=SearchVectorField(), db_persist=True
    )

    class Meta:
        verbose_name_plural = "memories"
        indexes = [
            GinIndex(fields=["search"], name="memory_search"),
            models.Index(fields=["user", "-created_at"], name="memory_by_user"),
        ]

    def __str__(self) -> str:
        return self.text[:60]
