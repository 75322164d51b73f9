"""Hold an input against its endpoint's schema, and say in words where it does not fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from jsonschema import ValidationError

from agents import payload
from agents.registry import EndpointInfo
from agents.runtime.errors import BadInput

#: Of all the errors in an input, as many are told.
MAX_ERRORS = 20


def check_input(endpoint: EndpointInfo, input: Any) -> None:
    """Check that an input can be stored and fits the endpoint's schema.

    Raises:
        BadInput: with `errors`, each of which says where and why.
    """
    payload.check(input, ("input",))
    found = sorted(endpoint.input_validator.iter_errors(input), key=lambda error: list(map(str, error.absolute_path)))
    if not found:
        return
    errors = [
        {"loc": ["input", *error.absolute_path], "msg": _say(error)}
        for error in itertools.islice(_leaves(found), MAX_ERRORS)
    ]
    where = ".".join(str(part) for part in errors[0]["loc"])
    raise BadInput(f"{where}: {errors[0]['msg']}", errors=errors)


def _leaves(found: Sequence[ValidationError]) -> Iterator[ValidationError]:
    """Yield the errors that say something: of an `anyOf`, those of the alternative that the input comes nearest to."""
    for error in found:
        if error.context:
            by_alternative: dict[Any, list[ValidationError]] = {}
            for inner in error.context:
                by_alternative.setdefault(inner.schema_path[0], []).append(inner)
            right_type = [inner for inner in by_alternative.values() if not any(_wrong_type(e) for e in inner)]
            if right_type:
                yield from _leaves(min(right_type, key=len))
                continue
        yield error


def _wrong_type(error: ValidationError) -> bool:
    return error.validator == "type" and not error.path


def _say(error: ValidationError) -> str:
    if error.validator in ("anyOf", "oneOf") and isinstance(error.validator_value, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in error.validator_value]
        names = [kind for kind in dict.fromkeys(kinds) if isinstance(kind, str)]
        if names and len(names) == len(set(kinds)):
            return f"it must be of type {' or '.join(names)}"
    if error.validator == "pattern" and isinstance(error.schema, dict) and error.schema.get("format") == "uri":
        return "it must be an address like https://example.org/"
    message = error.message
    return message if len(message) <= 300 else f"{message[:297]}…"
