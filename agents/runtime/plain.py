"""Plain JSON: the one form in which values enter and leave the journal.

A store may keep JSON in a form of its own: PostgreSQL's jsonb orders keys its own way, refuses NUL and lone surrogates
and writes 1e22 as an integer. `plain` settles all of that beforehand, so that what a program is given the first time is
what it is given on replay, and hashes agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from agents.runtime.errors import NotJson

#: From here on `repr` writes a float with an exponent, and it has no fraction.
_EXPONENT = 1e16
#: Longer integers cannot be written in decimal by `json` (CPython's limit is 4,300 digits).
_MAX_BITS = 14_000
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class _Unfit(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []


def plain(value: Any, what: str = "The value") -> Any:
    """Return a fresh tree of dicts (keys sorted), lists, strings, numbers, booleans and None.

    Models and dataclasses become dicts, tuples lists, enums their values; dates, UUIDs and Decimals strings. Characters
    that no JSON store keeps become U+FFFD.

    Raises:
        NotJson: there is something else in it. ``what`` begins the message.
    """
    try:
        return _plain(value)
    except _Unfit as unfit:
        place = "".join(reversed(unfit.path))
        raise NotJson(f"{what} cannot be written as JSON: {unfit}{' at ' + place if place else ''}.") from None
    except RecursionError:
        raise NotJson(f"{what} cannot be written as JSON: it is nested too deeply.") from None


def canonical(value: Any) -> bytes:
    """Return the bytes of a plain value: the same for equal values."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of a plain value, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def preview(value: Any, limit: int = 4_000) -> Any:
    """Return a plain value as it is worth showing: whole, or the beginning of its JSON."""
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= limit else {"preview": text[:limit], "characters": len(text)}


def one_line(text: str, limit: int = 160) -> str:
    """Return the text as one line of a timeline."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        if value.bit_length() > _MAX_BITS:
            raise _Unfit("an integer of more than 4,000 digits")
        return value
    if kind is float:
        return _number(value)
    if kind is list or kind is tuple:
        return [_inner(item, f"[{i}]") for i, item in enumerate(value)]
    if kind is dict:
        return _mapping(value)
    return _other(value)


def _inner(value: Any, step: str) -> Any:
    try:
        return _plain(value)
    except _Unfit as unfit:
        unfit.path.append(step)
        raise


def _text(value: str) -> str:
    if value.isascii():
        return value if "\x00" not in value else value.replace("\x00", "\ufffd")
    return _UNSTORABLE.sub("\ufffd", value)


def _number(value: float) -> int | float:
    if not math.isfinite(value):
        raise _Unfit(f"the number {value}")
    if abs(value) >= _EXPONENT:
        return int(value)
    return value or 0.0  # no negative zero


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    found = {}
    for key, item in value.items():
        if isinstance(key, Enum):
            key = key.value
        if not isinstance(key, str):
            raise _Unfit(f"the key {key!r}, which is no string,")
        found[_text(key)] = _inner(item, f"[{key!r}]")
    return dict(sorted(found.items()))


def _other(value: Any) -> Any:
    """Turn what is not JSON's own, by the kinds of it that have one clear form."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())  # not mode="json": that takes sets, in any order
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return _mapping(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    for base in (str, int, float):
        if isinstance(value, base):
            return _plain(base(value))
    if isinstance(value, list | tuple):
        return _plain(list(value))
    raise _Unfit(f"a {type(value).__qualname__}")
