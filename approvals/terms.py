"""The terms of a request: who decides, how many must, by when, and what happens if nobody does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from agents.approval_rules import AutoAction, Rule

#: What a program's own request gets where no rule says more.
DEFAULT = Rule(name="")
#: Who says what became of an effect, where no rule names others.
EFFECT_GROUPS = ("reviewer", "operator")


@dataclass(frozen=True, slots=True)
class Terms:
    """What several rules come to together."""

    groups: tuple[str, ...]
    users: tuple[str, ...]
    quorum: int
    not_own: bool
    deadline: timedelta
    auto_action: AutoAction
    remind: timedelta | None
    escalate_after: timedelta | None
    escalate_to: str
    links: bool
    webhook: bool


def terms_of(rules: Sequence[Rule]) -> Terms:
    """Return the terms under all of ``rules``.

    The strictest rule, that of the highest quorum, says who decides; the earliest deadline counts; and what only
    some of them forbid is forbidden.
    """
    rules = rules or (DEFAULT,)
    strictest = max(rules, key=_strictness)
    # Another rule's deadline may come before what this one wants done before its own.
    deadline = min(rule.deadline for rule in rules)
    return Terms(
        groups=strictest.groups,
        users=strictest.users,
        quorum=strictest.quorum,
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
