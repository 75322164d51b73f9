"""Plain JSON: what goes into the journal comes out of PostgreSQL the same."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agents.runtime.errors import NotJson
from agents.runtime.plain import canonical, digest, one_line, plain, preview
from agents.runtime.types import Message, Usage

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "Lu"]))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@pytest.mark.django_db
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_a_plain_value_reads_back_from_postgresql_the_same_to_the_last_byte(value: Any) -> None:
    written = plain(value)
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [canonical(written).decode()])
        read = plain(json.loads(cursor.fetchone()[0]))
    assert canonical(read) == canonical(written)
    assert repr(read) == repr(written)


@given(VALUES)
def test_plain_is_settled_after_once_and_makes_a_copy(value: Any) -> None:
    once = plain(value)
    again = plain(once)
    assert repr(once) == repr(again)
    if isinstance(once, dict | list):
        assert once is not again


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
        ({Word.YES: Colour.RED, "n": Level.HIGH}, {"n": 3, "yes": "red"}),
        (Decimal("0.10"), "0.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC)], ["2026-01-02", "2026-01-02T00:00:00+00:00"]),
        (Usage(cost_usd=Decimal("0.5")), {"cost_usd": "0.5", "input_tokens": 0, "output_tokens": 0}),
        (Message(role="user", text="a\x00b\ud800"), {"calls": [], "results": [], "role": "user", "text": "a�b�"}),
        ([-0.0, 1e16, 1.5, 1e-7], [0.0, 10**16, 1.5, 1e-7]),
    ],
)
def test_values_with_one_clear_form_are_turned_into_it(value: Any, expected: Any) -> None:
    found = plain(value)
    assert repr(found) == repr(expected)
    assert type(found) is type(expected)


def test_keys_in_another_order_make_the_same_digest_and_other_values_another() -> None:
    assert digest(plain({"a": 1, "b": [1, 2]})) == digest(plain({"b": [1, 2], "a": 1}))
    assert digest(plain({"a": 1})) != digest(plain({"a": "1"}))
    assert digest(plain([[], {}])) != digest(plain([{}, []]))


def test_a_set_inside_a_model_is_refused_because_its_order_is_chance() -> None:
    class Tags(BaseModel):
        tags: set[str]

    with pytest.raises(NotJson, match=r"a set at \['tags'\]"):
        plain(Tags(tags={"a", "b"}))


def test_previews_are_short_and_lines_are_one() -> None:
    assert preview({"a": 1}) == {"a": 1}
    assert preview(["x" * 100], limit=10) == {"preview": '["xxxxxxxx', "characters": 104}
    assert one_line("a\n  b\tc ") == "a b c"
    assert one_line("x" * 500) == "x" * 159 + "…"
