"""What ran, and what it came to."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector
from django.db import models
from django.db.models import Func, Q, Value
from django.db.models.functions import Cast, Left, Now

from agents.models.declared import MODE_CHOICES, MODE_KNOWN, AgentVersion, Endpoint
from jobs.models import Job

#: What a task is searched by: the beginning of its input, for PostgreSQL refuses a search vector of more than 1 MiB.
#: JSON writes a line break as `\n`: left so, the first word of each line would begin with an n.
SEARCHED_INPUT = SearchVector(
    Func(
        Left(Cast("input", models.TextField()), 10_000),
        Value(r"\\[nrt]"),
        Value(" "),
        Value("g"),
        function="regexp_replace",
        output_field=models.TextField(),
    ),
    config="simple",
)


class Run(models.Model):
    """One execution of an agent in any mode. Its status is its job's: it has none of its own."""

    job = models.OneToOneField(Job, primary_key=True, on_delete=models.CASCADE, related_name="run")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="runs", db_index=False)
    agent = models.ForeignKey(AgentVersion, on_delete=models.PROTECT, related_name="runs", db_index=False)
    mode = models.CharField(max_length=20, choices=MODE_CHOICES)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="runs")
    input = models.JSONField()
    output = models.JSONField(null=True)
    budget = models.JSONField(default=dict, help_text="What the caller allowed: latency, cost, turns, tokens.")
    seed = models.BigIntegerField(help_text="Of ctx.random and ctx.uuid, so that a replay draws the same.")
    journal_epoch = models.PositiveIntegerField(default=1, help_text="Raised by a redrive from the start.")
    effects_epoch = models.PositiveIntegerField(
        db_default=1, help_text="A part of the keys of effects. Raised by a redrive that repeats what was done."
    )
    redriven_from = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="redrives")

    steps_done = models.PositiveIntegerField(default=0)
    turns = models.PositiveIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, default=0)
    cost_known = models.BooleanField(default=True, help_text="False once a model without a known price was used.")
    first_token_ms = models.PositiveIntegerField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.CheckConstraint(condition=MODE_KNOWN, name="run_mode_known")]
        indexes = [
            # The task list filtered by endpoint or by agent, newest first.
            models.Index(fields=["endpoint", "-job"], name="run_by_endpoint"),
            models.Index(fields=["agent", "-job"], name="run_by_agent"),
            # Words of the input, in the task list's search (`agents.queries`).
            GinIndex(SEARCHED_INPUT, name="run_search"),
            # Figures per mode.
            models.Index(fields=["mode", "-created_at"], name="run_by_mode"),
        ]

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.job_id}"


class Step(models.Model):
    """One journaled await of a run, finished. On replay its result is returned and nothing runs again."""

    class Kind(models.TextChoices):
        MODEL = "model", "Model"
        COMPOSE = "compose", "Answer"
        TOOL = "tool", "Tool"
        STEP = "step", "Function"
        VALUE = "value", "Recorded value"
        EMIT = "emit", "Emitted"
        WAIT = "wait", "Waited"

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="steps", db_index=False)
    epoch = models.PositiveIntegerField()
    key = models.CharField(max_length=300, help_text="Branch path, name, occurrence.")
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    input_hash = models.CharField(max_length=64)
    input = models.JSONField(null=True, help_text="What is worth showing of the input.")
    output = models.JSONField(null=True)
    fence = models.BigIntegerField(help_text="Of the claim that ran it.")
    model = models.CharField(max_length=120, blank=True)
    input_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=14, decimal_places=8, null=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "epoch", "key"], name="step_recorded_once"),
            models.CheckConstraint(
                condition=Q(kind__in=["model", "compose", "tool", "step", "value", "emit", "wait"]),
                name="step_kind_known",
            ),
        ]
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


class Score(models.Model):
    """A judged run."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="scores")
    rubric = models.CharField(max_length=80)
    value = models.FloatField(help_text="0 to 1.")
    judge = models.CharField(max_length=120)
    reason = models.TextField(blank=True)
    mode = models.CharField(max_length=20, choices=MODE_CHOICES)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(value__gte=0, value__lte=1), name="score_in_range"),
            models.UniqueConstraint(fields=["run", "rubric"], name="score_once"),
        ]
        indexes = [models.Index(fields=["mode", "-created_at"], name="score_by_mode")]

    def __str__(self) -> str:
        return f"{self.rubric} {self.value:.2f}"
