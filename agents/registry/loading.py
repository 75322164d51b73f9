"""Load a configuration into the database: all of it or nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from django.db import connection, transaction

from agents.config import Agent, Config, ConfigError, Fault, load_config
from agents.config import Endpoint as EndpointSection
from agents.models import AgentVersion, ConfigLoad, Endpoint
from agents.registry import reading
from agents.runtime import program
from audit.trail import SYSTEM, Actor, record

#: Any number will do; it is the registry's alone. Two loads at once go one after the other.
LOCK = 0x41675265

Kind = Literal["agent", "endpoint", "setting"]
What = Literal["new", "changed", "removed", "unchanged"]


@dataclass(frozen=True, slots=True)
class Change:
    """What a load does, or would do, to one thing."""

    kind: Kind
    name: str
    what: What
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.kind} {self.name}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """All that a load found, unchanged things too."""

    entries: tuple[Change, ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is not as it was."""
        return tuple(entry for entry in self.entries if entry.what != "unchanged")


def load(path: Path | str, *, dry_run: bool = False, actor: Actor = SYSTEM) -> LoadReport:
    """Load a configuration file.

    Args:
        dry_run: say what would change and change nothing.

    Raises:
        ConfigError: the file is not valid, or asks for what would break a promise: another mode under the same
            endpoint name, another definition under the same agent version.
    """
    config = load_config(Path(path))
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        report = _Loading(config, actor).run()
        if dry_run:
            transaction.set_rollback(True)
        transaction.on_commit(reading.forget)
    reading.forget()
    return report


class _Loading:
    """One load, inside its transaction."""

    def __init__(self, config: Config, actor: Actor) -> None:
        self.config = config
        self.actor = actor
        self.entries: list[Change] = []
        self.faults: list[Fault] = []

    def run(self) -> LoadReport:
        versions = {name: self._agent(name, agent) for name, agent in self.config.agents.items()}
        for name, endpoint in self.config.endpoints.items():
            self._endpoint(name, endpoint, versions[endpoint.agent])
        for gone in Endpoint.objects.filter(active=True).exclude(name__in=self.config.endpoints):
            gone.active = False
            gone.save(update_fields=["active", "updated_at"])
            self._note("endpoint", gone.name, "removed", "takes no new work; its tasks finish")
        settings = self._settings()
        if self.faults:
            raise ConfigError(self.faults)
        report = LoadReport(tuple(self.entries))
        if report.changes:
            self._keep(report, settings)
        return report

    def _agent(self, name: str, agent: Agent) -> AgentVersion:
        definition = definition_of(agent, self.config)
        digest, source_hash = digest_of(definition), program.get(agent.program).source_hash
        label = f"{name}@{agent.version}"
        known = AgentVersion.objects.filter(name=name, version=agent.version).first()
        if known is None:
            made = AgentVersion.objects.create(
                name=name,
                version=agent.version,
                definition=definition,
                digest=digest,
                program=agent.program,
                program_hash=source_hash,
            )
            self._note("agent", label, "new")
            return made
        if known.digest != digest:
            differing = ", ".join(sorted(_differences(known.definition, definition)))
            newest = AgentVersion.objects.filter(name=name).order_by("-version").values_list("version", flat=True)[0]
            said = f"version {agent.version} is loaded with another definition ({differing})"
            self.faults.append(self.config.fault(("agents", name, "version"), f"{said}; raise version to {newest + 1}"))
            return known
        if known.program_hash == source_hash:
            self._note("agent", label, "unchanged")
        else:
            known.program_hash = source_hash
            known.save(update_fields=["program_hash"])
            self._note("agent", label, "changed", f"the code of its program {agent.program}, under the same version")
        return known

    def _endpoint(self, name: str, endpoint: EndpointSection, version: AgentVersion) -> None:
        definition = {
            "description": endpoint.description,
            "input": endpoint.input,
            "output": endpoint.output,
            "request_size": endpoint.request_size and endpoint.request_size.model_dump(mode="json"),
            "escape": endpoint.escape,
        }
        known = Endpoint.objects.filter(name=name).select_related("agent").first()
        if known is None:
            Endpoint.objects.create(name=name, agent=version, mode=endpoint.mode, definition=definition)
            self._note("endpoint", name, "new", f"{endpoint.mode}, {version}")
            return
        if known.mode != endpoint.mode:
            message = (
                f"{name} is of mode {known.mode} for ever; give {endpoint.mode} a new name, like {_next_name(name)}"
            )
            self.faults.append(self.config.fault(("endpoints", name, "mode"), message))
            return
        details = [f"{key} changed" for key in sorted(_differences(known.definition, definition))]
        if known.agent_id != version.pk:
            details.append(f"{known.agent} → {version}")
        if not known.active:
            details.append("declared again")
        if details:
            known.agent, known.definition, known.active = version, definition, True
            known.save()
        self._note("endpoint", name, "changed" if details else "unchanged", "; ".join(details))

    def _settings(self) -> dict[str, Any]:
        """Note what the load changes beside agents and endpoints, and return all of it."""
        settings: dict[str, Any] = {
            "lanes": {name: lane.model_dump(exclude_none=True) for name, lane in self.config.lanes.items()},
            "programs": list(self.config.programs),
            "tools": tool_settings(self.config),
            "prices": prices(self.config),
            "approvals": [rule.rule(place).as_json() for place, rule in enumerate(self.config.approvals)],
        }
        nothing = ConfigLoad(programs=settings["programs"], tools=tool_settings(Config()))
        before = ConfigLoad.objects.order_by("-pk").first() or nothing
        for name, now in settings.items():
            was = getattr(before, name)
            if was != now:
                self._note("setting", name, "changed", f"{json.dumps(was)} → {json.dumps(now)}")
        return settings

    def _keep(self, report: LoadReport, settings: dict[str, Any]) -> None:
        changes = [str(change) for change in report.changes]
        kept = ConfigLoad.objects.create(changes=changes, actor=self.actor.name, **settings)
        record(self.actor, "config.load", "config", kept.pk, after={"changes": changes})

    def _note(self, kind: Kind, name: str, what: What, detail: str = "") -> None:
        self.entries.append(Change(kind, name, what, detail))


def definition_of(agent: Agent, config: Config) -> dict[str, Any]:
    """Return an agent as its version stores it, every alias replaced by the model it stands for."""
    definition: dict[str, Any] = {
        "instructions": agent.instructions,
        "program": agent.program,
        "model": {
            "default": config.model(agent.model.default),
            "downshift": agent.model.downshift and config.model(agent.model.downshift),
            "fallback": [config.model(reference) for reference in agent.model.fallback],
        },
        "tools": list(agent.tools),
        "limits": agent.limits.model_dump(mode="json"),
    }
    # Left out where it is not used: versions that were stored before there was such a key stay the same.
    return definition if agent.verify == "none" else definition | {"verify": agent.verify}


def tool_settings(config: Config) -> dict[str, Any]:
    """Return how tools are run, in the words of `agents.tools.toolbox`."""
    batching = config.tools.batching
    overrides: dict[str, dict[str, Any]] = {}
    for entry in config.tools.catalog:
        said = entry.model_dump(include={"batchable", "idempotent", "approval"}, exclude_none=True)
        if entry.timeout_ms is not None:
            said["timeout_s"] = entry.timeout_ms / 1000
        overrides[entry.id] = said
    return {"max_batch_size": batching.max_batch_size if batching.enabled else 1, "overrides": overrides}


def prices(config: Config) -> dict[str, list[str]]:
    """Return the prices that the file tells, by model: USD per million input and output tokens."""
    told = {config.model(alias): model.price for alias, model in config.models.items()}
    return {model: [str(part) for part in price] for model, price in told.items() if price is not None}


def digest_of(definition: dict[str, Any]) -> str:
    """Return the SHA-256 of an agent's definition."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _differences(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    return {key for key in {*old, *new} if old.get(key) != new.get(key)}


def _next_name(endpoint: str) -> str:
    stem, _, version = endpoint.rpartition(".v")
    return f"{stem}.v{int(version) + 1}"
