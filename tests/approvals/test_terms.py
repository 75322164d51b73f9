"""What several rules come to together."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agents.approval_rules import Rule
from approvals.terms import DEFAULT, Demand, terms_of


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def test_without_a_rule_one_reviewer_decides_within_a_day() -> None:
    terms = terms_of([])
    assert (terms.groups, terms.users, terms.quorum, terms.deadline) == (("reviewer",), (), 1, hours(24))
    assert terms.auto_action == "reject"
    assert not terms.links


def test_what_each_rule_demands_is_demanded() -> None:
    terms = terms_of([Rule("one", users=("ada",), groups=()), Rule("two", groups=("board",), quorum=2)])
    assert terms.demands == (Demand((), ("ada",), 1), Demand(("board",), (), 2))
    assert (terms.groups, terms.users, terms.quorum) == (("board",), ("ada",), 2)


def test_of_two_demands_of_the_same_people_the_larger_one_holds() -> None:
    rules = [Rule("one", groups=("a", "b")), Rule("two", groups=("b", "a"), quorum=3), DEFAULT]
    assert terms_of(rules).demands == (Demand(("b", "a"), (), 3), Demand(("reviewer",), (), 1))


@pytest.mark.parametrize("turned", [False, True])
def test_the_strictest_rule_says_what_happens_at_the_deadline(turned: bool) -> None:
    rules = [DEFAULT, Rule("boss", groups=(), users=("bea",), auto_action="return")]
    assert terms_of(rules[::-1] if turned else rules).auto_action == "return"


def test_what_one_rule_forbids_is_forbidden() -> None:
    free = Rule("free", links=True, webhook=True)
    assert terms_of([free]).links
    terms = terms_of([free, Rule("strict", not_own=True)])
    assert (terms.links, terms.webhook, terms.not_own) == (False, False, True)


def test_the_earliest_deadline_counts_and_nothing_is_to_happen_after_it() -> None:
    slow = Rule("slow", quorum=2, deadline=hours(48), remind=hours(24), escalate_after=hours(12), escalate_to="board")
    alone = terms_of([slow])
    assert (alone.deadline, alone.remind, alone.escalate_after) == (hours(48), hours(24), hours(12))
    both = terms_of([slow, Rule("fast", deadline=hours(6))])
    assert (both.deadline, both.remind, both.escalate_after) == (hours(6), None, None)
