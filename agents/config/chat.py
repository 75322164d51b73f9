"""What an endpoint that people chat with must be, and the endpoint that takes over when its answer fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from agents import modes, text_input
from agents.config.checks import Found
from agents.config.faults import Path, nearest
from agents.config.sections import Endpoint, Lane
from jobs import lanes

#: What a message is tried with, as long as the endpoint takes it.
_LETTER = "x"


def endpoint(name: str, it: Endpoint, valid: Mapping[str, Endpoint], names: Sequence[str]) -> Found:
    """Check that a chat's endpoint takes a plain message, and that its escape endpoint takes the same as a task."""
    if it.mode not in modes.POLICIES:
        return
    here: Path = ("endpoints", name)
    policy = modes.policy(it.mode)
    longest = text_input.longest(it.input)
    if policy.concurrency.entrance == "chat" and not _takes(it.input, longest, text_input.MESSAGE):
        yield (
            (*here, "input"),
            f"a chat sends a message of up to {longest} characters: the input must take it as a text, or as"
            ' {"message": text}; where it takes less, say so with maxLength',
        )
    if it.escape is not None:
        yield from _escape((*here, "escape"), name, it, valid, names)


def _escape(here: Path, name: str, it: Endpoint, valid: Mapping[str, Endpoint], names: Sequence[str]) -> Found:
    assert it.escape is not None
    if modes.policy(it.mode).on_failure.then != "escape":
        yield here, f"an endpoint of mode {it.mode} hands nothing over to another; leave this out"
        return
    if it.escape not in names:
        yield here, f"there is no endpoint {it.escape!r}; {nearest(it.escape, [n for n in names if n != name])}"
        return
    other = valid.get(it.escape)
    if other is None or other.mode not in modes.POLICIES:
        return  # its own section is at fault, and says so
    if modes.policy(other.mode).concurrency.entrance != "tasks":
        yield here, f"{it.escape} is of mode {other.mode}; name an endpoint that takes tasks"
        return
    longest = text_input.longest(it.input)
    if not _takes(other.input, longest, text_input.TASK):
        yield (
            here,
            f"{it.escape} does not take a message of {longest} characters, as {name} does: its input must be a text, or"
            ' {"message": text}, or {"question": text}',
        )


def lane(name: str, it: Lane) -> Found:
    """Check that nothing is asked of the chat's lane that a person who waits would have to wait for."""
    if name == lanes.CHAT and it.max_depth is not None:
        yield ("lanes", name, "max_depth"), "nobody waits in this lane; set slots: one message more is refused at once"


def _takes(schema: Any, length: int, forms: Sequence[str]) -> bool:
    """Tell whether an input schema takes a text of that length. One that is no schema is told of elsewhere."""
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        validator.check_schema(schema)
        return text_input.as_input(validator, _LETTER * length, forms) is not None
    except (SchemaError, Unresolvable):
        return True
