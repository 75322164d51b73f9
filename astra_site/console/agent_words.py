"""Agents, their versions and endpoints in words: tools and their flags, modes, how to call, what changed."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents import registry, text_input
from agents.llm import choose
from agents.models import Endpoint
from agents.modes import ModePolicy, policy
from agents.registry import EndpointInfo
from agents.tools import catalog
from jobs.actions import PAUSED
from jobs.models import Hold

#: A text of more lines is not compared line by line.
LINES_COMPARED = 2_000
#: Lines around a change.
AROUND = 2
QUESTION = "What do you want to know?"
DEEPEST = 6

#: What a mode means and its icon, by the way in to it.
_MEANS = {
    "chat": ("chat", "Streamed to a person who waits for it. Nothing queues: a web process answers at once."),
    "tasks": ("queues", "Taken from a lane by a worker when one is free. Whoever asked looks again, or is told."),
    "batches": ("inbox", "Spread over many rows within a window. What counts is how many get done, not how soon."),
    "schedules": ("scheduled", "Fired by a clock."),
}
_THEN = {
    "escape": "then it is offered as a task, where the endpoint names one",
    "dead-letter": "then it is a dead letter",
    "retry-shard": "then its shard waits for a person",
    "next-fire": "then the next cycle fires it anew",
}


@dataclass(frozen=True, slots=True)
class ToolWords:
    """A tool of an agent."""

    name: str
    description: str
    #: What is special about how it is run, and a longer word on each.
    flags: Sequence[tuple[str, str]]
    is_known: bool


@dataclass(frozen=True, slots=True)
class ModelWords:
    """A model of an agent, and which one that means in this process."""

    role: str
    declared: str
    used: str

    @property
    def is_other(self) -> bool:
        """Whether another model than the declared one is used here."""
        return self.declared != self.used


@dataclass(frozen=True, slots=True)
class EndpointWords:
    """An endpoint of an agent."""

    endpoint: Endpoint
    policy: ModePolicy
    icon: str
    means: str
    facts: Sequence[tuple[str, str]]
    holds: Sequence[Hold]
    #: How to call it from a shell: the API, and `manage.py`; empty where that is not the way in.
    curl: str
    command: str

    @property
    def is_paused(self) -> bool:
        """Whether a person paused it."""
        return any(hold.reason == PAUSED for hold in self.holds)

    @property
    def pause_key(self) -> str:
        """What a pause of it is placed on."""
        return f"endpoint:{self.endpoint.name}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing of a definition that is not the same in two versions: by its lines, or whole."""

    name: str
    lines: Sequence[tuple[str, str]]
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class EndpointSign:
    """An endpoint in the list of agents: its name, and its mode as an icon and a word."""

    endpoint: Endpoint
    icon: str
    mode: str

    @classmethod
    def of(cls, endpoint: Endpoint) -> EndpointSign:
        """Read its mode."""
        rules = policy(endpoint.mode)
        return cls(endpoint, _MEANS[rules.concurrency.entrance][0], rules.mode.label)


def models_of(definition: Mapping[str, Any]) -> list[ModelWords]:
    """Return the models of a version in the order of their use."""
    model = definition["model"]
    named = [("Default", model["default"])]
    named += [("Under a tight budget", model["downshift"])] if model.get("downshift") else []
    named += [("After errors", name) for name in model.get("fallback", ())]
    return [ModelWords(role, name, _used(name)) for role, name in named]


def _used(name: str) -> str:
    try:
        return choose.resolve(name)
    except choose.UnknownModel:
        return name


def tools_of(definition: Mapping[str, Any]) -> list[ToolWords]:
    """Return the tools of a version, as they are run here."""
    known, overrides = catalog.load(), registry.current().tool_overrides
    found = []
    for name in definition["tools"]:
        tool = known.get(name)
        if tool is None:
            found.append(ToolWords(name, "", (), is_known=False))
            continue
        rules = replace(tool.policy, **_policy_part(overrides.get(name, {})))
        flags = [
            (f"{rules.timeout_s:g} s at most", "A call that takes longer ends as a timeout, which the model reads.")
        ]
        if not rules.batchable:
            flags.append(("one at a time", "It runs beside no other call of the same turn."))
        if rules.effect:
            flags.append(("has effects", "It changes something outside the run."))
        if not rules.idempotent:
            flags.append(("not repeated", "Running it again changes more: after a crash nobody repeats it blindly."))
        if tool.async_:
            flags.append(("may take long", "A later turn asks for its result."))
        if tool.approval:
            flags.append(("asks a person", "A person has to agree to every call."))
        found.append(ToolWords(name, tool.signature.description.strip().partition("\n")[0], flags, is_known=True))
    return found


def _policy_part(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in ("batchable", "idempotent", "timeout_s")}


def endpoint_words(endpoint: Endpoint, holds: Sequence[Hold], site: str) -> EndpointWords:
    """Say what an endpoint is and how it is called; ``site`` is the address of this Astra."""
    rules = policy(endpoint.mode)
    icon, means = _MEANS[rules.concurrency.entrance]
    info = registry.current().endpoints.get(endpoint.name)
    curl, command = _calls(info, rules, site) if info is not None else ("", "")
    return EndpointWords(endpoint, rules, icon, means, list(_facts(rules, endpoint)), holds, curl, command)


def _facts(rules: ModePolicy, endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    yield "Lane", rules.concurrency.lane
    if rules.latency.p95_ms:
        yield "95 % within", f"{rules.latency.p95_ms / 1000:g} s{' at most' if rules.latency.kind == 'hard' else ''}"
    tried = f"{rules.on_failure.attempts} attempt{'' if rules.on_failure.attempts == 1 else 's'}"
    yield "On failure", f"{tried}, {_THEN[rules.on_failure.then]}"
    yield "May cost", f"${rules.cost_ceiling.usd:,.2f} a {rules.cost_ceiling.per}"
    if escape := endpoint.definition.get("escape"):
        yield "Escape", escape
    if size := endpoint.definition.get("request_size"):
        yield "Request size", f"{size['max']:,} at most{', by ' + size['of'] if size.get('of') else ''}"


def _calls(info: EndpointInfo, rules: ModePolicy, site: str) -> tuple[str, str]:
    """Return how the API and the command start something on an endpoint. Batches and schedules have no call yet."""
    curl = f'curl -X POST {site}/api/v1/{{path}} \\\n  -H "Authorization: Bearer $ASTRA_TOKEN" \\\n'
    curl += "  -H 'Content-Type: application/json' \\\n  -d "
    if rules.concurrency.entrance == "chat":
        return curl.format(path="conversations") + shlex.quote(json.dumps({"endpoint": info.name})), ""
    if rules.concurrency.entrance != "tasks":
        return "", ""
    given = example(info)
    body = json.dumps({"endpoint": info.name, "input": given}, ensure_ascii=False)
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return curl.format(path="tasks") + shlex.quote(body), f"manage.py submit {info.name} {shlex.quote(text)}"


def example(info: EndpointInfo) -> Any:
    """Return an input that shows what an endpoint takes: a question where it takes one, else made of its schema."""
    asked = text_input.as_input(info.input_validator, QUESTION)
    return asked if asked is not None else _example(info.definition["input"], DEEPEST)


def _example(schema: Any, deep: int) -> Any:
    if not isinstance(schema, dict) or deep == 0:
        return "…"
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    for word in ("examples", "enum"):
        if given := _listed(schema, word):
            return given[0]
    for word in ("anyOf", "oneOf", "allOf"):
        if given := _listed(schema, word):
            return _example(given[0], deep - 1)
    return _of_type(schema, deep)


def _of_type(schema: Mapping[str, Any], deep: int) -> Any:
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or isinstance(schema.get("properties"), dict):
        properties = schema.get("properties") or {}
        wanted = schema.get("required") or list(properties)
        return {name: _example(properties.get(name), deep - 1) for name in wanted[:20]}
    if kind == "array":
        return [_example(schema.get("items"), deep - 1)]
    text = "https://example.org/" if schema.get("format") == "uri" else "…"
    number = schema.get("minimum", 1)
    return {"integer": number, "number": number, "boolean": True, "null": None}.get(str(kind), text)


def _listed(schema: Mapping[str, Any], word: str) -> list[Any]:
    given = schema.get(word)
    return given if isinstance(given, list) else []


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Return what is not the same in two definitions, text by its lines."""
    before, after = dict(_flat(old)), dict(_flat(new))
    found = []
    for name in [*before, *(name for name in after if name not in before)]:
        was, now = before.get(name, ""), after.get(name, "")
        if was == now:
            continue
        lines = list(_lines(was, now)) if "\n" in was or "\n" in now else []
        found.append(Difference(name, lines, was, now))
    return found


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(item if isinstance(item, str) else json.dumps(item) for item in value) or "none"
    else:
        yield name, value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _lines(was: str, now: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a comparison with their signs: - gone, + new, ' ' as before, … left out."""
    old, new = was.splitlines(), now.splitlines()
    if max(len(old), len(new)) > LINES_COMPARED:
        return
    for number, line in enumerate(difflib.unified_diff(old, new, n=AROUND, lineterm="")):
        if number < 2:
            continue
        if line.startswith("@@"):
            if number > 2:
                yield "…", ""
            continue
        yield line[0], line[1:]
