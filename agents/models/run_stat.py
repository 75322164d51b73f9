"""What the runs of a minute came to, counted once: figures over time need not read the runs again."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from agents.models.declared import MODE_CHOICES


class RunStat(models.Model):
    """Runs that ended in one minute, of one lane, mode and outcome. Buckets as `agents.run_stats` has them."""

    minute = models.DateTimeField(help_text="When the minute began; `EPOCH` for the sums of all that was ever counted.")
    lane = models.CharField(max_length=40)
    mode = models.CharField(max_length=20, choices=MODE_CHOICES)
    outcome = models.CharField(max_length=10)
    runs = models.BigIntegerField()
    wait_sum_s = models.FloatField(help_text="Seconds from submission to the first claim.")
    wait_buckets = ArrayField(models.BigIntegerField())
    run_sum_s = models.FloatField(help_text="Seconds from the first claim to the end.")
    run_buckets = ArrayField(models.BigIntegerField())
    first_tokens = models.BigIntegerField(help_text="Runs that streamed.")
    first_token_sum_s = models.FloatField()
    first_token_buckets = ArrayField(models.BigIntegerField())
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_usd = models.DecimalField(max_digits=18, decimal_places=8)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["minute", "lane", "mode", "outcome"], name="run_stat_once"),
        ]

    def __str__(self) -> str:
        return f"{self.minute:%H:%M} {self.lane} {self.mode} {self.outcome}: {self.runs}"


class RunStatCursor(models.Model):
    """Up to which moment ended runs are counted. One row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    counted_until = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="run_stat_cursor_is_one")]

    def __str__(self) -> str:
        return f"until {self.counted_until}"
