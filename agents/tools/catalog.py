"""The tools that come with Astra."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from agents.tools.registry import Tool, registered

MODULES = (
    "agents.tools.web",
    "agents.tools.memory",
    "agents.tools.files",
    "agents.tools.shop",
    "agents.tools.publishing",
)


def load() -> Mapping[str, Tool[..., Any]]:
    """Register Astra's own tools and return all that are registered. Cheap to call again."""
    for module in MODULES:
        import_module(module)
    return registered()
