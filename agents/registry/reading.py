"""The registry as this process holds it: what is needed to start a run, without a query for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic
from typing import Any

from django.db.models import Max
from jsonschema import Draft202012Validator
from referencing import Registry as References

from agents import text_input
from agents.approval_rules import Rule, Rules
from agents.models import ConfigLoad, Endpoint
from jobs.lanes import CHAT, DEFAULT_SLOTS

#: Other processes notice a load within this many seconds.
FRESH_S = 2.0
#: Replies that one web process writes at once, when nobody says otherwise.
CHAT_SLOTS = 250


@dataclass(frozen=True)
class EndpointInfo:
    """What is needed of an endpoint to start a run on it."""

    id: int
    name: str
    mode: str
    active: bool
    agent: str
    agent_version: int
    agent_version_id: int
    definition: Mapping[str, Any]
    wall_clock_s: float
    expected_latency_ms: int | None

    @cached_property
    def input_validator(self) -> Draft202012Validator:
        """The compiled input schema. A reference to elsewhere is never fetched."""
        return Draft202012Validator(self.definition["input"], registry=References())

    @property
    def escape(self) -> str | None:
        """The endpoint that takes over, as a task, what failed for good here."""
        return self.definition.get("escape")

    @cached_property
    def longest_message(self) -> int:
        """How many characters a message of a chat may have."""
        return text_input.longest(self.definition["input"])

    def message_input(self, text: str) -> Any:
        """Return a message as this endpoint's input: as a text if it takes one, else as an object with one key.

        None where the endpoint takes no such text.
        """
        return text_input.as_input(self.input_validator, text)

    @property
    def max_size(self) -> int | None:
        """How much one request may ask for."""
        size = self.definition.get("request_size")
        return size["max"] if size else None

    def request_size(self, input: Any) -> float:
        """Return how much an input asks for: its field `of`, a number or the length of a text or list.

        Without `of` it is the largest whole number or the longest list anywhere in the input, at least 1: "recommend
        me 100 things" says 100.
        """
        field = (self.definition.get("request_size") or {}).get("of")
        if field is None:
            return _most(input)
        value = input.get(field) if isinstance(input, dict) else None
        if isinstance(value, int | float):
            return value
        return len(value) if isinstance(value, str | list | dict) else 1


@dataclass(frozen=True, slots=True)
class Registry:
    """What one load left behind, whole."""

    load_id: int
    endpoints: Mapping[str, EndpointInfo]
    lanes: Mapping[str, Mapping[str, int | None]]
    #: Batchable tool calls of one turn that run side by side.
    max_batch_size: int
    #: What the file changes of how tools are run, as `agents.tools.toolbox.LocalToolBox` reads it.
    tool_overrides: Mapping[str, Mapping[str, Any]]
    #: USD per million input and output tokens, as `agents.llm.prices.Prices` reads them.
    prices: Mapping[str, tuple[str, str]]
    #: When a person must decide.
    approvals: Rules = field(default_factory=Rules)

    def slots(self, lane: str) -> int:
        """Return how many jobs of a lane one process runs at once."""
        return self.lanes.get(lane, {}).get("slots") or {CHAT: CHAT_SLOTS, **DEFAULT_SLOTS}[lane]

    def max_depth(self, lane: str) -> int | None:
        """Return how many jobs may wait in a lane; None: any number."""
        return self.lanes.get(lane, {}).get("max_depth")


class _Cache:
    """This process's copy, looked at again every `FRESH_S` seconds."""

    registry: Registry | None = None
    checked_at = 0.0


def current() -> Registry:
    """Return what is loaded. A load in another process is noticed within `FRESH_S` seconds."""
    cached, now = _Cache.registry, monotonic()
    if cached is not None and now - _Cache.checked_at < FRESH_S:
        return cached
    newest = ConfigLoad.objects.aggregate(newest=Max("pk"))["newest"] or 0
    if cached is None or cached.load_id != newest:
        cached = _read(newest)
    _Cache.registry, _Cache.checked_at = cached, now
    return cached


def fresh() -> Registry | None:
    """Return this process's copy if it need not be looked at again: no query, so the event loop may ask."""
    return _Cache.registry if monotonic() - _Cache.checked_at < FRESH_S else None


def forget() -> None:
    """Drop this process's copy, so that the next look reads the database."""
    _Cache.registry = None


def _read(load_id: int) -> Registry:
    settings = ConfigLoad.objects.filter(pk=load_id).first() or ConfigLoad()
    endpoints = {}
    for row in Endpoint.objects.select_related("agent"):
        limits = row.agent.definition["limits"]
        endpoints[row.name] = EndpointInfo(
            id=row.pk,
            name=row.name,
            mode=row.mode,
            active=row.active,
            agent=row.agent.name,
            agent_version=row.agent.version,
            agent_version_id=row.agent.pk,
            definition=row.definition,
            wall_clock_s=limits["wall_clock_s"],
            expected_latency_ms=limits.get("expected_latency_ms"),
        )
    return Registry(
        load_id,
        endpoints,
        lanes=settings.lanes,
        max_batch_size=settings.tools.get("max_batch_size", 8),
        tool_overrides=settings.tools.get("overrides", {}),
        prices={model: (given, taken) for model, (given, taken) in settings.prices.items()},
        approvals=Rules(tuple(Rule.from_json(kept) for kept in settings.approvals)),
    )


def _most(input: Any) -> float:
    """Return the largest whole number or the length of the longest list in a JSON value, at least 1."""
    if isinstance(input, dict):
        return max(map(_most, input.values()), default=1)
    if isinstance(input, list):
        return max([len(input), *map(_most, input)])
    return max(input, 1) if isinstance(input, int) and not isinstance(input, bool) else 1
