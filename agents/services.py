"""What every run of a process shares: the model port with its pooled clients, and the tools."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from referencing import Registry as References

from agents.tools import catalog
from agents.tools.toolbox import LocalToolBox

if TYPE_CHECKING:
    from agents.llm.port import PydanticAIPort


@functools.cache
def model_port() -> PydanticAIPort:
    """Return this process's model port. Made at first use: the providers' libraries take a second to import."""
    from agents.llm.port import PydanticAIPort

    return PydanticAIPort()


def preload() -> None:
    """Import the providers' libraries now, for the processes that are to be forked from this one."""
    for module in ("port", "providers", "dialect", "faults"):
        importlib.import_module(f"agents.llm.{module}")


def toolbox(overrides: Mapping[str, Mapping[str, Any]]) -> LocalToolBox:
    """Return this process's tools, run as the newest load of `astra.yml` says."""
    return _toolbox(json.dumps(overrides, sort_keys=True))


@functools.lru_cache(maxsize=2)
def _toolbox(overrides: str) -> LocalToolBox:
    catalog.load()
    # Not those that are registered now: a later load may name a module that brings its own.
    return LocalToolBox(overrides=json.loads(overrides))


def check_output(definition: Mapping[str, Any], output: Any) -> dict[str, Any] | None:
    """Return the problem of an output that its endpoint's schema does not allow; None if it fits or there is none."""
    schema = definition.get("output")
    if schema is None:
        return None
    error = next(iter(Draft202012Validator(schema, registry=References()).iter_errors(output)), None)
    if error is None:
        return None
    where = ".".join(str(part) for part in ["output", *error.absolute_path])
    return {
        "type": "/problems/bad-output",
        "title": "The answer does not fit the endpoint",
        "detail": f"{where}: {error.message[:300]}",
        "retriable": False,
    }


async def close() -> None:
    """Close what was opened. Call on the loop that used it."""
    if model_port.cache_info().currsize:
        await model_port().aclose()
        model_port.cache_clear()
