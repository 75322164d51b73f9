"""Read and check JSON that comes from outside, before anything else sees it."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from accounts.problems import Problem
from agents.runtime.errors import BadInput

#: A request's body may not be larger.
MAX_BYTES = 1 << 20
#: Lists and objects inside one another.
MAX_DEPTH = 64
#: PostgreSQL's jsonb keeps any number that Python reads; a longer one serves no purpose but to cost time.
MAX_DIGITS = 400

Loc = tuple[str | int, ...]


class PayloadTooLarge(Problem):
    """The request's body is larger than Astra takes.

    Put large material where a tool can fetch it and send its address.
    """

    slug, title, status = "payload-too-large", "The body is too large", 413


class BadJson(Problem):
    """The request's body is not JSON.

    The detail names the line and column where reading it failed. `NaN` and `Infinity` are not JSON.
    """

    slug, title, status = "bad-json", "The body is not JSON", 400


def parse(body: bytes) -> Any:
    """Read a body strictly.

    Raises:
        BadJson: it is not JSON.
        PayloadTooLarge: it has more than `MAX_BYTES`.
        BadInput: it holds what can't be stored (see `check`).
    """
    if len(body) > MAX_BYTES:
        raise PayloadTooLarge(f"The body may have {MAX_BYTES} bytes.")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise BadJson(f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise BadJson(f"{error.msg}: line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise too_deep(()) from None
    check(value)
    return value


def check(value: Any, loc: Loc = ()) -> None:
    """Check that a JSON value can be stored: PostgreSQL keeps neither U+0000 nor half of a surrogate pair.

    Raises:
        BadInput: with `errors` that say where.
    """
    stack: list[tuple[Any, Loc, int]] = [(value, loc, 0)]
    while stack:
        it, where, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise too_deep(where)
        if isinstance(it, str):
            _check_text(it, where)
        elif isinstance(it, float) and not math.isfinite(it):
            raise bad_input(where, "the number is too large")
        elif isinstance(it, dict):
            for key in it:
                _check_text(key, where)
            stack += [(item, (*where, key), depth + 1) for key, item in it.items()]
        elif isinstance(it, list):
            stack += [(item, (*where, index), depth + 1) for index, item in enumerate(it)]


def bad_input(loc: Loc, message: str) -> BadInput:
    """Return the error that says what is wrong at one place of a request."""
    where = ".".join(str(part) for part in loc)
    return BadInput(f"{where}: {message}" if where else message, errors=[{"loc": list(loc), "msg": message}])


def too_deep(loc: Loc) -> BadInput:
    """Return the error of a value that is nested too deep."""
    return bad_input(loc[:MAX_DEPTH], f"lists and objects may be nested {MAX_DEPTH} deep")


def _check_text(text: str, loc: Loc) -> None:
    if "\0" in text:
        raise bad_input(loc, "text may not hold the character U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise bad_input(loc, "text may not hold half of a surrogate pair") from None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise bad_input((), f"a number may have {MAX_DIGITS} digits")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise BadJson(f"{name} is not a JSON number.")
