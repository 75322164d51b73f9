"""A plain text as an endpoint's input: in which form, and how long it may be."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agents import text_input
from agents.text_input import LONGEST, MESSAGE, TASK


@pytest.mark.parametrize(
    ("schema", "longest"),
    [
        ({"type": "string", "maxLength": 5}, 5),
        ({"type": "string"}, LONGEST),
        ({"type": "string", "maxLength": LONGEST + 1}, LONGEST),
        ({"type": "object", "properties": {"message": {"type": "string", "maxLength": 7}}}, 7),
        ({"type": "object", "properties": {"other": {"type": "string", "maxLength": 7}}}, LONGEST),
        ({"oneOf": [{"type": "string", "maxLength": 5}, {"type": "string", "maxLength": 9}]}, 9),
        ({"anyOf": [{"properties": {"message": {"type": "string", "maxLength": 3}}}, True]}, 3),
        (True, LONGEST),
        ({}, LONGEST),
        # These are no schemas. That is for others to say.
        ({"type": "string", "maxLength": "many"}, LONGEST),
        ({"anyOf": 5}, LONGEST),
        ({"properties": "message"}, LONGEST),
    ],
)
def test_the_longest_message_is_what_the_schema_takes_anywhere(schema: Any, longest: int) -> None:
    assert text_input.longest(schema) == longest


def test_a_text_takes_the_first_form_that_fits() -> None:
    question = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
    either = {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "object", "required": ["message"]}]}
    assert text_input.as_input(Draft202012Validator({"type": "string"}), "What?") == "What?"
    assert text_input.as_input(Draft202012Validator(either), "What?") == {"message": "What?"}
    assert text_input.as_input(Draft202012Validator(question), "What?", TASK) == {"question": "What?"}
    assert text_input.as_input(Draft202012Validator(question), "What?", MESSAGE) is None
