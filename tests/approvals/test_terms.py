"""What several rules come to together."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agents.approval_rules import Rule
from approvals.terms import DEFAULT, terms_of


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def test_without_a_rule_one_reviewer_decides_within_a_day() -> None:
    terms = terms_of([])
    assert (terms.groups, terms.users, terms.quorum, terms.deadline) == (("reviewer",), (), 1, hours(24))
    assert terms.auto_action == "reject"
    assert not terms.links


def test_the_rule_that_wants_most_people_says_who() -> None:
    terms = terms_of([Rule("one", users=("ada",), groups=()), Rule("two", groups=("board",), quorum=2)])
    assert (terms.groups, terms.users, terms.quorum) == (("board",), (), 2)


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_that_want_as_many_the_one_of_named_people_says_who(turned: bool) -> None:
    rules = [DEFAULT, Rule("boss", groups=(), users=("bea",))]
    terms = terms_of(rules[::-1] if turned else rules)
    assert (terms.groups, terms.users) == ((), ("bea",))


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
