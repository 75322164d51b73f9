"""What `astra.yml` declared, as the registry loaded it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agents.modes import Mode

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
    first_succeeded_at = models.DateTimeField(null=True, help_text="When a run of this version first did.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "version"], name="agent_version_once")]
        ordering = ["name", "-version"]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def has_succeeded(self) -> bool:
        """Tell whether any run of this version has."""
        return self.first_succeeded_at is not None


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
    approvals = models.JSONField(default=list, help_text="Rules for approvals, in the order of the file.")
    changes = models.JSONField(default=list, help_text="What the load changed.")
    actor = models.CharField(max_length=150)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"load {self.pk}"
