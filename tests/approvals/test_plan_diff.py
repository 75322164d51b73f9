"""What is different between two versions of a plan."""

from __future__ import annotations

from typing import Any

import pytest

from approvals.plan_diff import PlanDiff, between
from tests.support.configs import loaded

pytestmark = pytest.mark.django_db

_config = loaded("programs: [tests.support.programs]\nagents: {}\nendpoints: {}\n")


def plan(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    numbered = [{"id": str(n), "tool": "refund", "arguments": {}, **call} for n, call in enumerate(calls, 1)]
    return {"title": "", "summary": "", "calls": numbered, **more}


def told(diff: PlanDiff) -> list[tuple[str, int, list[tuple[str, str | None, str | None]]]]:
    """Return each change with what it was before and after."""
    return [
        (change.what, change.place, [(one.label, one.before, one.after) for one in change.differences])
        for change in diff.calls
    ]


def texts(before: str, after: str) -> list[tuple[str, str]]:
    """Return the pieces of one changed text."""
    diff = between(plan({"arguments": {"body": before}}), plan({"arguments": {"body": after}}))
    return [(piece.op, piece.text) for piece in diff.calls[0].differences[0].pieces]


def test_the_same_plan_differs_in_nothing() -> None:
    same = plan({"arguments": {"order": "A-1"}}, {"arguments": {"order": "A-2"}})
    diff = between(same, same)
    assert not diff
    assert (diff.words, diff.same) == ("nothing", 2)


def test_an_argument_is_shown_before_and_after() -> None:
    old = plan({"arguments": {"amount_usd": 150, "order": "A-1"}})
    new = plan({"arguments": {"amount_usd": 60, "note": "half", "to": None}})
    assert told(between(old, new)) == [
        (
            "changed",
            1,
            [("Amount", "$150.00", "$60.00"), ("Note", None, "half"), ("To", None, "Nothing"), ("Order", "A-1", None)],
        )
    ]


def test_a_value_of_another_kind_that_looks_alike_is_a_difference() -> None:
    diff = between(plan({"arguments": {"amount_usd": "150"}}), plan({"arguments": {"amount_usd": 150.0}}))
    assert told(diff) == [("changed", 1, [("Amount", '"150"', "150.0")])]
    nested = between(plan({"arguments": {"to": ["1"]}}), plan({"arguments": {"to": [2]}}))
    assert told(nested) == [("changed", 1, [("To", "• 1", "• 2")])]


def test_steps_left_out_added_and_moved_are_told() -> None:
    one, two, three = ({"id": key, "arguments": {"order": key}} for key in "abc")
    assert told(between(plan(one, two, three), plan(one, three))) == [("removed", 2, [])]
    assert told(between(plan(one), plan(one, two))) == [("added", 2, [("Order", None, "b")])]
    moved = between(plan(one, two), plan(two, one))
    assert {(change.what, change.call.id) for change in moved.calls} == {("moved", "a"), ("moved", "b")}
    assert between(plan(one, two, three), plan({**one, "arguments": {"order": "x"}}, three)).words == (
        "1 step changed, 1 left out"
    )


def test_a_step_that_got_another_id_is_still_that_step() -> None:
    old = plan({"id": "call_1", "arguments": {"amount_usd": 150}})
    new = plan({"id": "call_9", "arguments": {"amount_usd": 75}})
    assert told(between(old, new)) == [("changed", 1, [("Amount", "$150.00", "$75.00")])]


def test_what_the_agent_says_of_a_step_counts() -> None:
    old = plan({"why": "It is due.", "undoable": True})
    new = plan({"why": "It is late.", "undoable": False})
    assert told(between(old, new)) == [
        ("changed", 1, [("Why", "It is due.", "It is late."), ("Undoing", "Can be undone", "Cannot be undone")])
    ]
    titled = between(plan(title="Pay"), plan(title="Pay all"))
    assert [(one.label, one.before, one.after) for one in titled.about] == [("Title", "Pay", "Pay all")]
    assert titled.words == "only its title or summary"


def test_a_long_text_is_compared_by_the_word() -> None:
    before = "The river ends in the sea, and nobody has ever seen it end elsewhere."
    after = "The river ends in the lake, and nobody has seen it end elsewhere today."
    assert texts(before, after) == [
        ("same", "The river ends in the"),
        ("out", " sea,"),
        ("in", " lake,"),
        ("same", " and nobody has"),
        ("out", " ever"),
        ("same", " seen it end"),
        ("out", " elsewhere."),
        ("in", " elsewhere today."),
    ]


def test_what_is_the_same_is_folded_far_from_a_difference() -> None:
    lines = [f"Line {number} of the text.\n" for number in range(1000)]
    changed = [*lines]
    changed[500] = "Line 500 is another.\n"
    pieces = texts("".join(lines), "".join(changed))
    assert [op for op, _ in pieces] == ["fold", "same", "out", "in", "same", "fold"]
    assert pieces[2:4] == [("out", " of the text."), ("in", " is another.")]
    assert sum(len(text) for op, text in pieces if op == "same") < 400


def test_texts_without_a_word_in_common_are_shown_whole() -> None:
    diff = between(plan({"arguments": {"body": "a " * 40 + "a"}}), plan({"arguments": {"body": "b " * 40 + "b"}}))
    difference = diff.calls[0].differences[0]
    assert not difference.is_text
    assert difference.before is not None and difference.before.startswith("a a")


def test_large_plans_are_compared_within_bounds() -> None:
    old = plan(*({"arguments": {"body": f"{n} " + "x y " * 25_000}} for n in range(40)))
    new = plan(*({"arguments": {"body": f"{n} " + "y x " * 25_000}} for n in range(40)))
    diff = between(old, new)
    assert len(diff.calls) == 40
    assert max(len(one.pieces) for change in diff.calls for one in change.differences) == 4, "nothing was searched for"
    assert sum(len(one.before or "") for change in diff.calls for one in change.differences) < 40 * 21_000
