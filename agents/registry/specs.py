"""Agent versions as the runtime needs them, and what this process can run."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agents.feedback import with_notes
from agents.llm import choose
from agents.models import AgentVersion, ConfigLoad
from agents.runtime import program
from agents.runtime.types import AgentSpec, Limits, Models
from agents.tools import catalog

logger = logging.getLogger(__name__)


def capability(agent: str, version: int) -> str:
    """Return what a worker must have loaded to run an agent's version."""
    return f"agent:{agent}@{version}"


def spec(name: str, version: int, definition: Mapping[str, Any], *, notes: Sequence[str] = ()) -> AgentSpec:
    """Return an agent as the runtime needs it. Which models it gets depends on this process's environment.

    Args:
        notes: what people want it to heed, beside its instructions.
    """
    model, limits = definition["model"], definition["limits"]
    return AgentSpec(
        name=name,
        version=version,
        instructions=with_notes(definition["instructions"], notes),
        program=definition["program"],
        models=Models(
            default=choose.resolve(model["default"]),
            downshift=choose.resolve(model["downshift"]) if model["downshift"] else None,
            fallback=tuple(choose.resolve(reference) for reference in model["fallback"]),
        ),
        tools=tuple(definition["tools"]),
        limits=Limits(**{key: limits[key] for key in ("max_turns", "max_tokens", "wall_clock_s")}),
        verify=definition.get("verify", "none"),
    )


def spec_for(version: AgentVersion) -> AgentSpec:
    """Return a stored version as the runtime needs it."""
    return spec(version.name, version.version, version.definition)


#: Modules whose import was tried, and for which load: one that failed is tried again after the next load.
_tried: dict[str, int] = {}


def import_programs() -> None:
    """Import the modules that the newest load named, so that their programs are registered in this process."""
    load_id, modules = ConfigLoad.objects.order_by("-pk").values_list("pk", "programs").first() or (0, [])
    for module in modules:
        if module in sys.modules or _tried.get(module) == load_id:
            continue
        _tried[module] = load_id
        try:
            importlib.import_module(module)
        except Exception:
            logger.exception("can't import the programs of %s", module, extra={"action": "programs_not_imported"})


def capabilities() -> list[str]:
    """Return what this process can run: every stored version whose program and tools are registered here."""
    import_programs()
    programs, known = set(program.names()), set(catalog.load())
    return [
        capability(name, version)
        for name, version, uses, needs in AgentVersion.objects.values_list(
            "name", "version", "program", "definition__tools"
        )
        if uses in programs and known.issuperset(needs)
    ]
