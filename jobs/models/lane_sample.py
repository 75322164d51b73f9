from __future__ import annotations

from django.db import models


class LaneSample(models.Model):
    """What a lane looked like at the beginning of a minute: the past that sparklines draw."""

    lane = models.CharField(max_length=40)
    minute = models.DateTimeField()
    queued = models.PositiveIntegerField(help_text="Jobs in state queued, counted up to a bound.")
    oldest_s = models.FloatField(null=True, help_text="Age of the job queued longest, seconds.")
    running = models.PositiveIntegerField()
    slots = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["lane", "minute"], name="lane_sample_once")]
        indexes = [
            # Forgetting, and the last hours of all lanes.
            models.Index(fields=["minute"], name="lane_sample_by_minute"),
        ]

    def __str__(self) -> str:
        return f"{self.lane} {self.minute:%H:%M}"
