"""What the registry loaded, and what ran."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.db import models
from django.db.models import GeneratedField, Q
from django.db.models.functions import Cast, Left, Now

from agents.modes import Mode
from jobs.models import Job

#: What a task is searched by: the beginning of its input, for PostgreSQL refuses a search vector of more than 1 MiB.
SEARCHED_INPUT = SearchVector(Left(Cast("input", models.TextField()), 10_000), config="simple")

MODE_CHOICES = [(mode.value, mode.label) for mode in Mode]
MODE_KNOWN = Q(mode__in=[mode.value for mode in Mode])


class AgentVersion(models.Model):
    """One version of an agent, whole: a run in flight finishes on the version it began with."""

    name = models.CharField(max_length=80)
    version = models.PositiveIntegerField()
    definition = models.JSONField(help_text="The agent as `astra.yml` declared it, normalised.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the definition.")
    program = models.CharField(max_length=80)
    program_hash = models.CharField(max_length=64, help_text="SHA-256 of the program's source.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "version"], name="agent_version_once")]
        ordering = ["name", "-version"]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Endpoint(models.Model):
    """A versioned public name that binds an agent and one mode. Its mode never changes: a new mode is a new name."""

    name = models.CharField(max_length=80, unique=True, help_text="Like research.v1")
    agent = models.ForeignKey(AgentVersion, on_delete=models.PROTECT, related_name="endpoints")
    mode = models.CharField(max_length=20, choices=MODE_CHOICES)
    definition = models.JSONField(help_text="Schemas and the rest, as `astra.yml` declared it.")
    active = models.BooleanField(default=True, help_text="Still declared in astra.yml.")
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=MODE_KNOWN, name="endpoint_mode_known")]
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ConfigLoad(models.Model):
    """One load of `astra.yml` that changed something. The newest is what holds; other processes notice its id."""

    at = models.DateTimeField(db_default=Now())
    lanes = models.JSONField(default=dict, help_text="Slots and depth by lane, as declared.")
    programs = models.JSONField(default=list, help_text="Modules that define programs.")
    tools = models.JSONField(default=dict, help_text="How tools are run: the batch size, and what the file overrides.")
    prices = models.JSONField(default=dict, help_text="USD per million input and output tokens, by model, as told.")
    changes = models.JSONField(default=list, help_text="What the load changed.")
    actor = models.CharField(max_length=150)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"load {self.pk}"


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
                condition=Q(kind__in=["model", "compose", "tool", "step", "value", "emit"]), name="step_kind_known"
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
