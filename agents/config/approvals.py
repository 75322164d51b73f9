"""`approvals`: when a person must decide, who, and what happens if nobody does."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from agents import modes
from agents.approval_rules import OPERATORS, Condition, Rule, Rules, read_condition
from agents.config.checks import Found
from agents.config.faults import Path, nearest, snake
from agents.config.sections import Agent, Endpoint, Section, Text

#: What `when` may name beside comparisons of arguments.
_PLACES = ("tool", "agent", "endpoint", "mode", "first_run_of_version")


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _hours(value: Any) -> Any:
    return float(value) if type(value) is int else value


Names = Annotated[list[Text], BeforeValidator(_many)]
Hours = Annotated[float, BeforeValidator(_hours), Field(gt=0, le=24 * 366)]


class Approval(Section):
    """`approvals[]`: one rule."""

    name: Text | None = None
    when: dict[str, Any]
    reason: str = ""
    group: Names | None = None
    users: Names = Field(default_factory=list)
    quorum: int = Field(default=1, ge=1, le=20)
    not_own: bool = False
    deadline_h: Hours = 24.0
    remind_h: Hours | None = None
    auto_action: Literal["reject", "escalate", "return"] = "reject"
    escalate_to: Text | None = None
    escalate_after_h: Hours | None = None
    per: Literal["plan", "step"] = "plan"
    links: bool = False
    webhook: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Approval:
        if self.auto_action == "escalate" and self.escalate_to is None:
            raise ValueError("auto_action: escalate needs escalate_to, the group that decides then")
        if self.escalate_after_h is not None and self.escalate_to is None:
            raise ValueError("escalate_after_h needs escalate_to, the group that decides then")
        if self.escalate_after_h is not None and self.escalate_after_h >= self.deadline_h:
            raise ValueError("escalate_after_h must come before deadline_h")
        if self.remind_h is not None and self.remind_h >= self.deadline_h:
            raise ValueError("remind_h is so long before the deadline: it must be less than deadline_h")
        if self.users and self.group is None and self.quorum > len(set(self.users)):
            raise ValueError(f"quorum is {self.quorum}, and only {len(set(self.users))} may decide")
        return self

    def rule(self, place: int) -> Rule:
        """Return it as the runtime needs it. `when` was checked by then."""
        named: dict[str, tuple[str, ...]] = {}
        for key in ("tool", "agent", "endpoint", "mode"):
            named[key] = tuple(_many(_when(self.when, key)) or ())
        conditions = []
        for key, value in self.when.items():
            if (read := read_condition(key)) is not None:
                conditions.append(Condition(*read, value))
        return Rule(
            name=self.name or f"rule {place + 1}",
            tools=named["tool"] or ("*",),
            effects_only=not named["tool"],
            agents=named["agent"],
            endpoints=named["endpoint"],
            modes=named["mode"],
            first_run_of_version=bool(_when(self.when, "first_run_of_version")),
            conditions=tuple(conditions),
            reason=self.reason,
            groups=tuple(self.group) if self.group is not None else () if self.users else ("reviewer",),
            users=tuple(self.users),
            quorum=self.quorum,
            not_own=self.not_own,
            deadline=timedelta(hours=self.deadline_h),
            remind=timedelta(hours=self.remind_h) if self.remind_h else None,
            auto_action=self.auto_action,
            escalate_to=self.escalate_to or "",
            escalate_after=timedelta(hours=self.escalate_after_h) if self.escalate_after_h else None,
            per_step=self.per == "step",
            links=self.links,
            webhook=self.webhook,
        )


def check(
    rules: Sequence[Approval],
    tools: Mapping[str, Mapping[str, Any]],
    agents: Mapping[str, Agent],
    endpoints: Mapping[str, Endpoint],
) -> Found:
    """Check what one rule alone can't know.

    Args:
        tools: the JSON schemas of the arguments, by tool.
    """
    called: dict[str, int] = {}
    for place, rule in enumerate(rules):
        here: Path = ("approvals", place, "when")
        if rule.name is not None and called.setdefault(rule.name, place) != place:
            yield ("approvals", place, "name"), f"rule {called[rule.name] + 1} is called {rule.name!r} already"
        if not rule.when:
            yield here, "say when: a tool, an agent, an endpoint, a mode, or a comparison of an argument"
        for key, value in rule.when.items():
            yield from _key((*here, key), key, value)
        yield from _names((*here, "tool"), _when(rule.when, "tool"), list(tools), "tool")
        yield from _names((*here, "agent"), _when(rule.when, "agent"), list(agents), "agent")
        yield from _names((*here, "endpoint"), _when(rule.when, "endpoint"), list(endpoints), "endpoint")
        yield from _names((*here, "mode"), _when(rule.when, "mode"), list(modes.POLICIES), "mode")
        yield from _arguments(here, rule, tools)


def endpoint(
    name: str, it: Endpoint, agents: Mapping[str, Agent], rules: Sequence[Approval], always: Collection[str]
) -> Found:
    """Check that an endpoint whose runs cannot wait for people has no tool that people decide on.

    Args:
        always: the tools of which every call is decided on.
    """
    if it.mode not in modes.POLICIES or modes.policy(it.mode).pause != "shard-restart" or it.agent not in agents:
        return
    rows = Rules(tuple(rule.rule(place) for place, rule in enumerate(rules)))
    where = {"agent": it.agent, "endpoint": name, "mode": it.mode}
    for tool in agents[it.agent].tools:
        if tool in always or rows.may_ask(tool, **where):
            yield (
                ("endpoints", name, "agent"),
                f"runs of mode {it.mode} cannot wait for people, and {it.agent} has {tool}, which people decide on",
            )


def _key(here: Path, key: str, value: Any) -> Found:
    if snake(key) == "first_run_of_version":
        if not isinstance(value, bool):
            yield here, "this is true or false"
        return
    if snake(key) in _PLACES:
        if not (isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))):
            yield here, "this is a name, or a list of names; * and ? stand for any letters"
        return
    read = read_condition(key)
    if read is None:
        word = key.split()[0] if key.split() else key
        known = [*_PLACES, *(f"{word} {operator}" for operator in OPERATORS)]
        yield here, f"this is neither a name nor a comparison like {f'{word} >'!r}; {nearest(key, known)}"
        return
    operator = read[1]
    if operator in (">", ">=", "<", "<=") and (isinstance(value, bool) or not isinstance(value, int | float)):
        yield here, "this is compared with a number"
    if operator in ("matches", "not matches"):
        try:
            re.compile(str(value))
        except re.error as error:
            yield here, f"this is no regular expression: {error}"


def _names(here: Path, value: Any, known: list[str], what: str) -> Found:
    for name in _many(value) or ():
        if isinstance(name, str) and not set(name) & set("*?[") and name not in known:
            yield here, f"there is no {what} {name!r}; {nearest(name, known)}"


def _arguments(here: Path, rule: Approval, tools: Mapping[str, Mapping[str, Any]]) -> Found:
    """Check that the compared arguments are ones that the named tools take: else the rule would never hold."""
    named = [name for name in _many(_when(rule.when, "tool")) or () if name in tools]
    if not named:
        return
    for key in rule.when:
        read = read_condition(key)
        if read is None:
            continue
        argument = read[0].split(".")[0]
        takes = {name for tool in named for name in tools[tool].get("properties", {})}
        if argument not in takes:
            yield (
                (*here, key),
                f"{' and '.join(named)} takes no argument {argument!r}; {nearest(argument, sorted(takes))}",
            )


def _when(when: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in when.items() if snake(key) == name), None)
