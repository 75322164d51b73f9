"""Calls in words: what a person reads is exactly what would run."""

from __future__ import annotations

from typing import Any

import pytest

from approvals.plan_words import call_of, calls_of, label_of, money, visible
from tests.support.configs import loaded

pytestmark = pytest.mark.django_db

_config = loaded("programs: [tests.support.programs]\nagents: {}\nendpoints: {}\n")


def rows(tool: str = "unheard_of", **arguments: Any) -> dict[str, tuple[str, Any]]:
    """Return the rows of a call by label: kind and value."""
    return {row.label: (row.kind, row.value) for row in call_of(tool, arguments).rows}


def test_a_call_is_called_after_the_first_sentence_of_its_tool() -> None:
    (call,) = calls_of({"calls": [{"id": "1", "tool": "test_pay", "arguments": {"file": "a", "amount_usd": 150}}]})
    assert (call.title, call.tool) == ("Pay somebody", "test_pay")
    assert [row.name for row in call.rows] == ["file", "amount_usd"], "in the order of the tool's parameters"


def test_a_tool_that_is_there_no_more_is_called_by_its_name() -> None:
    assert call_of("send_newsletter", {}).title == "Send newsletter"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(150, "$150.00"), (0.005, "$0.005"), ("1250.5", "$1,250.50"), (1234567.891, "$1,234,567.891"), (-3, "−$3.00")],
)
def test_a_sum_is_shown_to_its_last_digit(value: object, shown: str) -> None:
    assert rows(amount_usd=value) == {"Amount": ("money", shown)}


def test_a_sum_takes_the_currency_beside_it() -> None:
    assert rows(amount=20, currency="EUR")["Amount"] == ("money", "20.00 EUR")
    assert rows(amount=20)["Amount"] == ("number", "20"), "of no currency that anybody named"


@pytest.mark.parametrize("value", ["a lot", True, None, "1e999999", float("1e30")])
def test_what_is_no_sum_is_not_shown_as_one(value: object) -> None:
    assert money(value, "USD") == ""
    ((label, (kind, _)),) = rows(amount_usd=value).items()
    assert label == "Amount (USD)"
    assert kind in ("text", "number")


def test_values_are_shown_after_their_kind() -> None:
    found = rows(
        order="A-1",
        order_id=20231,
        copies=20231,
        notify=True,
        tags=["a", "b"],
        body="First line\nsecond line",
        lines=[{"sku": 1}],
        nothing=None,
        none_of=[],
        blank="",
    )
    assert found == {
        "Order": ("text", "A-1"),
        "Order ID": ("number", "20231"),
        "Copies": ("number", "20,231"),
        "Notify": ("text", "Yes"),
        "Tags": ("list", ["a", "b"]),
        "Body": ("long", "First line\nsecond line"),
        "Lines": ("json", [{"sku": 1}]),
        "Nothing": ("text", "Nothing"),
        "None of": ("text", "None"),
        "Blank": ("text", "(empty)"),
    }


def test_a_long_list_is_data() -> None:
    assert rows(ids=list(range(51)))["Ids"][0] == "json"


def test_what_lies_deep_in_an_argument_shows_its_hidden_signs_too() -> None:
    given = {"to\u202e": ["fdp\u202eexe", 1], "to⟨U+202E⟩": 2}
    kind, shown = rows(options=given)["Options"]
    assert (kind, shown) == ("json", {"to⟨U+202E⟩": ["fdp⟨U+202E⟩exe", 1], "to⟨U+202E⟩ (another)": 2})


def test_marks_that_would_show_another_text_are_spelled_out() -> None:
    assert visible("invoice\u202efdp.exe") == "invoice⟨U+202E⟩fdp.exe"
    assert rows(to="a\u200bb")["To"] == ("text", "a⟨U+200B⟩b")
    assert visible("Grüße, 世界\n\tہیلو") == "Grüße, 世界\n\tہیلو"


@pytest.mark.parametrize(
    ("name", "label"),
    [("amount_usd", "Amount"), ("toAddress", "To address"), ("customer_id", "Customer ID"), ("usd", "Usd")],
)
def test_arguments_are_called_as_a_person_would(name: str, label: str) -> None:
    assert label_of(name) == label


def test_whether_it_can_be_undone_is_said_in_words() -> None:
    plan: dict[str, Any] = {
        "calls": [
            {"id": str(n), "tool": "x", "arguments": {}, "undoable": said} for n, said in enumerate((True, False, None))
        ]
    }
    assert [call.undo for call in calls_of(plan)] == [
        "Can be undone",
        "Cannot be undone",
        "Nobody knows whether it can be undone",
    ]
    assert call_of("test_pay", {}).undoable is False
