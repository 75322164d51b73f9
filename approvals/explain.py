"""Say what the policies of a configuration come to: for each tool of each agent, and for a call that is only tried."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from agents.approval_rules import Rule, Rules, Situation
from agents.config import Config
from agents.gatekeeper import ALWAYS
from agents.registry.loading import tool_settings
from agents.services import toolbox
from agents.tools.registry import Tool
from approvals.quorum import in_words
from approvals.terms import DEFAULT, Terms, terms_of


class NotACall(ValueError):
    """What was given is not the name of a tool and its arguments. The message says how to write it."""


def explain(config: Config) -> Iterator[str]:
    """Yield lines that say, endpoint by endpoint, which calls people decide on, who does, and what happens else."""
    rules = _rules(config)
    for name, endpoint in config.endpoints.items():
        agent = config.agents[endpoint.agent]
        yield f"{name} ({endpoint.agent}, {endpoint.mode})"
        width = max((len(tool) for tool in (*agent.tools, "ctx.approve")), default=0)
        for tool in _tools(config, agent.tools):
            found = rules.may_ask(tool.name, agent=endpoint.agent, endpoint=name, mode=endpoint.mode)
            found = [rule for rule in found if not rule.effects_only or _has_effects(tool)]
            if tool.approval and not any(_asks_always(rule) for rule in found):
                found.append(ALWAYS)
            said = [f"{_when(rule)}: {_terms(terms_of([rule]))}" for rule in found] or ["runs at once"]
            if found and not any(_asks_always(rule) for rule in found):
                said.append("else runs at once")
            yield from (f"  {tool.name if not place else '':{width}}  {line}" for place, line in enumerate(said))
        yield f"  {'ctx.approve':{width}}  asks: {_terms(terms_of([DEFAULT]))}, or as the rules of its calls say"


def try_call(config: Config, text: str) -> Iterator[str]:
    """Yield lines that say what becomes of a call, written like ``refund {"amount_usd": 150}``, at each endpoint.

    Raises:
        NotACall: it is not written so, or no agent has that tool.
    """
    name, arguments = _read(text)
    rules, asked = _rules(config), False
    for endpoint_name, endpoint in config.endpoints.items():
        if name not in config.agents[endpoint.agent].tools:
            continue
        asked = True
        (tool,) = _tools(config, [name])
        for first in (False, True):
            where = Situation(endpoint.agent, endpoint_name, endpoint.mode, first_run_of_version=first)
            found = rules.for_call(name, arguments, where, has_effects=_has_effects(tool))
            if tool.approval and not found:
                found = [ALWAYS]
            if first and not any(rule.first_run_of_version for rule in found):
                continue
            kind = f"{endpoint_name}, until a run of the version has succeeded" if first else endpoint_name
            if not found:
                yield f"{kind}: runs at once"
                continue
            yield f"{kind}: waits for {_terms(terms_of(found))}"
            yield from (f"  because of {rule.name}: {rule.words()}" for rule in found)
    if not asked:
        raise NotACall(f"No agent that an endpoint names has a tool {name!r}.")


def _rules(config: Config) -> Rules:
    return Rules(tuple(rule.rule(place) for place, rule in enumerate(config.approvals)))


def _tools(config: Config, names: Sequence[str]) -> list[Tool[..., Any]]:
    box = toolbox(tool_settings(config)["overrides"])
    return [box.get(name) for name in names]


def _has_effects(tool: Tool[..., Any]) -> bool:
    return tool.policy.effect or not tool.policy.idempotent


def _asks_always(rule: Rule) -> bool:
    return not rule.conditions and not rule.first_run_of_version


def _when(rule: Rule) -> str:
    parts = [str(condition) for condition in rule.conditions]
    if rule.first_run_of_version:
        parts.append("no run of the version has succeeded")
    return f"asks when {' and '.join(parts)}" if parts else "asks always"


def _terms(terms: Terms) -> str:
    """Say who decides, by when, and what happens if nobody does."""
    parts = [in_words(terms.demands)]
    if terms.not_own:
        parts.append("never whoever asked")
    after = {
        "reject": "rejected",
        "escalate": f"handed to the group {terms.escalate_to}",
        "return": "given back to the agent",
    }
    parts.append(f"within {_span(terms.deadline)}, else {after[terms.auto_action]}")
    if terms.escalate_after:
        parts.append(f"with the group {terms.escalate_to} after {_span(terms.escalate_after)}")
    return ", ".join(parts)


def _span(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:g} h" if hours >= 1 else f"{hours * 60:g} min"


def _read(text: str) -> tuple[str, Mapping[str, Any]]:
    name, _, rest = text.strip().partition(" ")
    try:
        arguments = json.loads(rest or "{}")
    except ValueError:
        arguments = None
    if not name or not isinstance(arguments, dict):
        raise NotACall(
            f"A call is a tool and its arguments as a JSON object, like refund '{{\"amount_usd\": 150}}', not {text!r}."
        )
    return name, arguments
