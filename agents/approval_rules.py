"""When a person must decide: rules that `astra.yml` declares, as plain data, and what a call comes to under them."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

AutoAction = Literal["reject", "escalate", "return"]

#: What a rule may ask of a call's arguments, by the operator that follows the argument's name.
OPERATORS = (">", ">=", "<", "<=", "==", "!=", "in", "not in", "under", "not under", "matches", "not matches")
_CONDITION = re.compile(r"([\w.]+)\s+(" + "|".join(re.escape(o) for o in sorted(OPERATORS, key=len)[::-1]) + r")")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of an argument: ``amount_usd > 100``."""

    argument: str
    operator: str
    value: Any

    def __str__(self) -> str:
        return f"{self.argument} {self.operator} {_shown(self.value)}"

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether it is so. An argument that cannot be compared is one that a person should see: it holds."""
        found = _at(arguments, self.argument)
        if found is _MISSING and self.operator in ("==", "in", "under", "matches"):
            return False
        try:
            return _COMPARE[self.operator](found, self.value)
        except (TypeError, ValueError, InvalidOperation):
            return True


@dataclass(frozen=True, slots=True)
class Rule:
    """Who must decide, on what, by when, and what happens if nobody does."""

    name: str
    #: Names of tools, with * and ?; empty for none: then it is about plans that a program asks for.
    tools: tuple[str, ...] = ()
    #: Of those only the ones with effects.
    effects_only: bool = False
    agents: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    first_run_of_version: bool = False
    conditions: tuple[Condition, ...] = ()
    reason: str = ""

    groups: tuple[str, ...] = ("reviewer",)
    users: tuple[str, ...] = ()
    quorum: int = 1
    not_own: bool = False
    deadline: timedelta = timedelta(hours=24)
    remind: timedelta | None = None
    auto_action: AutoAction = "reject"
    escalate_to: str = ""
    escalate_after: timedelta | None = None
    per_step: bool = False
    #: A one-time link in a mail may decide, without signing in; a signed webhook may.
    links: bool = False
    webhook: bool = False

    def words(self) -> str:
        """Say why a person is asked."""
        if self.reason:
            return self.reason
        parts = [" or ".join(self.tools) or "a plan", *(str(condition) for condition in self.conditions)]
        said = parts[0] + (f" with {' and '.join(parts[1:])}" if parts[1:] else "")
        return f"the first run of a new version, {said}" if self.first_run_of_version else said

    def as_json(self) -> dict[str, Any]:
        """Return it as the row of a load keeps it."""
        found: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, timedelta):
                value = value.total_seconds()
            elif part.name == "conditions":
                value = [[one.argument, one.operator, one.value] for one in value]
            elif isinstance(value, tuple):
                value = list(value)
            found[part.name] = value
        return found

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Rule:
        """Read what `as_json` made; what it does not know, of a later version, is left out."""
        given: dict[str, Any] = {}
        for part in fields(cls):
            if part.name not in kept:
                continue
            value = kept[part.name]
            if part.name in _SPANS and value is not None:
                value = timedelta(seconds=value)
            elif part.name == "conditions":
                value = tuple(Condition(*one) for one in value)
            elif isinstance(value, list):
                value = tuple(value)
            given[part.name] = value
        return cls(**given)


_SPANS = ("deadline", "remind", "escalate_after")


@dataclass(frozen=True, slots=True)
class Situation:
    """The run in which a call is made."""

    agent: str
    endpoint: str
    mode: str
    #: No run of this agent version has succeeded yet.
    first_run_of_version: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules, in the order of the file: of several that fit a call the strictest says who decides."""

    rules: Sequence[Rule] = field(default_factory=tuple)

    def for_call(
        self, tool: str, arguments: Mapping[str, Any], where: Situation, *, has_effects: bool = True
    ) -> list[Rule]:
        """Return the rules that want a person to decide on a call."""
        return [
            rule
            for rule in self.rules
            if rule.tools
            and (has_effects or not rule.effects_only)
            and _named(tool, rule.tools)
            and _fits(rule, where)
            and all(condition.holds(arguments) for condition in rule.conditions)
        ]

    def may_ask(self, tool: str, *, agent: str, endpoint: str, mode: str) -> list[Rule]:
        """Return the rules that may want a person for some call of a tool, in some run of an endpoint."""
        where = Situation(agent, endpoint, mode, first_run_of_version=True)
        return [rule for rule in self.rules if rule.tools and _named(tool, rule.tools) and _fits(rule, where)]


def _fits(rule: Rule, where: Situation) -> bool:
    return (
        _named(where.agent, rule.agents)
        and _named(where.endpoint, rule.endpoints)
        and _named(where.mode, rule.modes)
        and (where.first_run_of_version or not rule.first_run_of_version)
    )


def _named(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_condition(text: str) -> tuple[str, str] | None:
    """Read the key of a condition, ``amount_usd >``, as the argument and the operator; None if it is none."""
    found = _CONDITION.fullmatch(text.strip())
    return (found[1], found[2]) if found else None


_MISSING: Any = object()


def _at(arguments: Mapping[str, Any], path: str) -> Any:
    value: Any = arguments
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _number(value: Any) -> Decimal:
    if value is _MISSING or isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise TypeError("not a number")
    number = Decimal(str(value).strip().lstrip("$").replace(",", ""))
    if not number.is_finite():
        raise ValueError("not a finite number")
    return number


def _same(found: Any, value: Any) -> bool:
    try:
        return _number(found) == _number(value)
    except (TypeError, ValueError, InvalidOperation):
        return bool(found == value)


def _under(found: Any, folder: Any) -> bool:
    """Tell whether a path lies in a folder, however it is written: ``reports/../secret`` does not lie in reports."""
    if not isinstance(found, str):
        raise TypeError("not a path")
    root = posixpath.normpath(str(folder))
    path = posixpath.normpath(found.replace("\\", "/"))
    return path == root or path.startswith(root.rstrip("/") + "/")


def _matches(found: Any, pattern: Any) -> bool:
    if not isinstance(found, str):
        raise TypeError("not a text")
    return re.search(str(pattern), found) is not None


def _of(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else (values,)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">": lambda found, value: _number(found) > _number(value),
    ">=": lambda found, value: _number(found) >= _number(value),
    "<": lambda found, value: _number(found) < _number(value),
    "<=": lambda found, value: _number(found) <= _number(value),
    "==": _same,
    "!=": lambda found, value: not _same(found, value),
    "in": lambda found, value: any(_same(found, one) for one in _of(value)),
    "not in": lambda found, value: not any(_same(found, one) for one in _of(value)),
    "under": lambda found, value: any(_under(found, one) for one in _of(value)),
    "not under": lambda found, value: not any(_under(found, one) for one in _of(value)),
    "matches": _matches,
    "not matches": lambda found, value: not _matches(found, value),
}


def _shown(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)
