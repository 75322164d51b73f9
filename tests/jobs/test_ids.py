from __future__ import annotations

import threading
import time
import uuid

import pytest
import time_machine

from jobs import ids
from jobs.ids import later_than, since, uuid7


@pytest.fixture(autouse=True)
def _database() -> None:
    """No database here."""


@pytest.fixture(autouse=True)
def _last_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last id is put back at the end: other tests live in the present."""
    monkeypatch.setattr(ids, "_last", ids._last)


def test_an_id_is_a_version_7_uuid_of_this_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after + 1


def test_ids_of_one_process_sort_in_the_order_in_which_they_were_made() -> None:
    made = [uuid7() for _ in range(20_000)]  # many within each millisecond
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_go_on_when_the_clock_is_set_back() -> None:
    with time_machine.travel("2030-01-01", tick=False):
        first = uuid7()
    with time_machine.travel("2029-12-31", tick=False):
        second = uuid7()
    assert first < second
    assert (second.version, second.variant) == (7, uuid.RFC_4122)


def test_threads_never_make_the_same_id() -> None:
    made: list[uuid.UUID] = []
    threads = [threading.Thread(target=lambda: made.extend([uuid7() for _ in range(2_000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


@pytest.mark.parametrize(
    "other",
    [
        uuid.UUID("0198c000-0000-7000-8000-000000000000"),  # of the past
        uuid.UUID("f198c000-0000-7000-8000-000000000000"),  # of a clock that is far ahead
        uuid.UUID("f198c000-0000-7fff-bfff-ffffffffffff"),  # the last of its millisecond
    ],
)
def test_an_id_can_be_made_to_sort_after_another(other: uuid.UUID) -> None:
    made = later_than(other)
    assert made > other
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_ids_made_since_a_moment_sort_after_it_and_no_others() -> None:
    with time_machine.travel("2030-01-01T10:00:00Z", tick=False) as clock:
        before = uuid7()
        clock.shift(0.001)
        first = uuid7()
        clock.shift(60)
        last = uuid7()
        bound = since(60)
        assert before < bound <= first < last
        assert since(0) <= last < since(-1)
        assert (bound.version, bound.variant) == (7, uuid.RFC_4122)


def test_the_bound_of_a_moment_is_before_every_id_of_its_millisecond() -> None:
    with time_machine.travel("2030-01-01T10:00:00Z", tick=False):
        made = [uuid7() for _ in range(1_000)]
        assert since(0) < min(made)
        assert max(made) < since(-0.001)
