"""What a plain text looks like as an endpoint's input: the text itself, or an object with one key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator

#: Characters of one message, where the endpoint's schema does not say less.
LONGEST = 32_000
#: Keys of the forms in which a text may be asked for; "" is the text itself. The first that fits is used.
MESSAGE: Sequence[str] = ("", "message")
TASK: Sequence[str] = (*MESSAGE, "question")


def as_input(schema: Draft202012Validator, text: str, forms: Sequence[str] = TASK) -> Any:
    """Return ``text`` in the first of the forms that the schema takes; None if it takes none."""
    written = (text if form == "" else {form: text} for form in forms)
    return next((given for given in written if schema.is_valid(given)), None)


def longest(schema: Any) -> int:
    """Return how many characters a message may have: the ``maxLength`` that an input schema tells, else `LONGEST`."""
    told = list(_lengths(schema))
    return min(max(told), LONGEST) if told else LONGEST


def _lengths(schema: Any) -> list[int]:
    if not isinstance(schema, dict):
        return []
    properties = schema.get("properties")
    message = properties.get("message") if isinstance(properties, dict) else None
    texts = [place for place in (schema, message) if isinstance(place, dict) and place.get("type") == "string"]
    told = [place.get("maxLength") for place in texts]
    parts = [part for word in ("anyOf", "oneOf") if isinstance(schema.get(word), list) for part in schema[word]]
    found = [length if isinstance(length, int) else LONGEST for length in told]
    return found + [length for part in parts for length in _lengths(part)]
