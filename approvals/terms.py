"""The terms of a request: who decides, how many must, by when, and what happens if nobody does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from agents.approval_rules import AutoAction, Rule

#: What a program's own request gets where no rule says more.
DEFAULT = Rule(name="")
#: Who says what became of an effect, where no rule names others.
EFFECT_GROUPS = ("reviewer", "operator")


@dataclass(frozen=True, slots=True)
class Demand:
    """So many of these people must agree. Where several rules ask, what each of them demands must be met."""

    groups: tuple[str, ...]
    users: tuple[str, ...]
    quorum: int

    def as_json(self) -> dict[str, Any]:
        """Return it as a request keeps it."""
        return {"groups": list(self.groups), "users": list(self.users), "quorum": self.quorum}


def together(demands: Iterable[Demand]) -> tuple[Demand, ...]:
    """Return the demands without those that another one of the same people contains."""
    found: dict[tuple[frozenset[str], frozenset[str]], Demand] = {}
    for demand in demands:
        people = (frozenset(demand.groups), frozenset(demand.users))
        if people not in found or found[people].quorum < demand.quorum:
            found[people] = demand
    return tuple(found.values())


def everybody(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return all names, each once, in their order."""
    return tuple(dict.fromkeys(name for names in lists for name in names))


@dataclass(frozen=True, slots=True)
class Terms:
    """What several rules come to together."""

    demands: tuple[Demand, ...]
    not_own: bool
    deadline: timedelta
    auto_action: AutoAction
    remind: timedelta | None
    escalate_after: timedelta | None
    escalate_to: str
    links: bool
    webhook: bool

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups whose members may decide."""
        return everybody(demand.groups for demand in self.demands)

    @property
    def users(self) -> tuple[str, ...]:
        """Return the people who may decide, beside the groups."""
        return everybody(demand.users for demand in self.demands)

    @property
    def quorum(self) -> int:
        """Return how many must agree at least."""
        return max(demand.quorum for demand in self.demands)


def terms_of(rules: Sequence[Rule]) -> Terms:
    """Return the terms under all of ``rules``.

    What each of them demands must be met. The earliest deadline counts; the strictest rule, that of the highest quorum,
    says what happens then; and what only some of them forbid is forbidden.
    """
    rules = rules or (DEFAULT,)
    strictest = max(rules, key=_strictness)
    # Another rule's deadline may come before what this one wants done before its own.
    deadline = min(rule.deadline for rule in rules)
    return Terms(
        demands=together(Demand(rule.groups, rule.users, rule.quorum) for rule in rules),
        not_own=any(rule.not_own for rule in rules),
        deadline=deadline,
        auto_action=strictest.auto_action,
        remind=_within(deadline, strictest.remind),
        escalate_after=_within(deadline, strictest.escalate_after),
        escalate_to=strictest.escalate_to,
        links=all(rule.links for rule in rules),
        webhook=all(rule.webhook for rule in rules),
    )


def _strictness(rule: Rule) -> tuple[int, bool, bool]:
    """Of two rules of one quorum the one of named people, or of a group other than the usual one, is the stricter."""
    return rule.quorum, rule.not_own, rule.groups != DEFAULT.groups


def _within(deadline: timedelta, span: timedelta | None) -> timedelta | None:
    return span if span is not None and span < deadline else None
