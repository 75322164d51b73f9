"""Dead letters by what went wrong: groups, counts with their bounds, samples."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import dead_letters
from jobs.dead_letters import Group, group, groups, kinds, letters
from jobs.models import Job

pytestmark = pytest.mark.django_db


def dead(fingerprint: str | None = "f", *, ago: float = 60, error: dict[str, Any] | None = None, **more: Any) -> Job:
    """Write a dead letter that failed so many seconds ago."""
    at = timezone.now() - timedelta(seconds=ago)
    problem = {"type": "/problems/unexpected-error", "title": "An unexpected error", "detail": f"KeyError: {ago}"}
    if fingerprint is not None:
        problem["fingerprint"] = fingerprint
    values: dict[str, Any] = {"handler": "h", "lane": "queue", "home_lane": "queue", "state": "dead"}
    return Job.objects.create(**values | {"finished_at": at, "error": problem | (error or {})} | more)


def by_print(found: dead_letters.Groups) -> dict[str, Group]:
    return {each.fingerprint: each for each in found.groups}


def test_those_with_one_fingerprint_are_one_group_the_last_seen_first() -> None:
    dead("old", ago=900)
    newest = dead("new", ago=30, error={"error": "KeyError", "at": "m:f:3"})
    first = dead("new", ago=7200)
    found = groups()
    assert [each.fingerprint for each in found.groups] == ["new", "old"]
    one = found.groups[0]
    assert str(one.count) == "2"
    assert (one.first_at, one.last_at) == (first.finished_at, newest.finished_at)
    assert (one.sample.job_id, one.sample.name, one.sample.words) == (
        newest.pk,
        "An unexpected error",
        "KeyError: 30",
    )
    assert (one.sample.error, one.sample.at, one.sample.slug) == ("KeyError", "m:f:3", "unexpected-error")
    assert list(one.newest) == [newest.pk, first.pk]


def test_only_dead_letters_count() -> None:
    dead("a")
    for state in ("cancelled", "discarded", "succeeded"):
        dead("a", state=state)
        dead("b", state=state)
    found = groups()
    assert [(each.fingerprint, str(each.count)) for each in found.groups] == [("a", "1")]
    assert group("b") is None
    assert list(letters("b")) == []


def test_without_any_dead_letter_there_is_no_group() -> None:
    found = groups()
    assert (list(found.groups), found.found, str(found.kinds)) == ([], 0, "0")


def test_those_without_a_fingerprint_or_a_problem_are_a_group_too() -> None:
    dead(None)
    nothing = dead(None, ago=5)
    Job.objects.filter(pk=nothing.pk).update(error=None)
    (one,) = groups().groups
    assert (one.fingerprint, str(one.count), one.sample.name) == ("", "2", "No problem was recorded")
    assert next(iter(letters(""))) == nothing
    assert letters("").count() == 2


@pytest.mark.parametrize(
    "error",
    [
        {"title": 7, "detail": ["x"], "type": None, "at": {"a": 1}},
        {"title": "", "detail": "", "type": "javascript:alert(1)"},
        {"type": "https://elsewhere/problems/x"},
        {"type": "/problems/../admin"},
    ],
)
def test_a_problem_may_be_of_any_shape(error: dict[str, Any]) -> None:
    dead(error=error)
    one = group("f")
    assert one is not None
    assert isinstance(one.sample.name, str)
    assert one.sample.slug == ""


def test_long_texts_are_cut_before_they_are_read() -> None:
    dead(error={"title": "t" * 5_000, "detail": "d" * 100_000, "at": "a" * 5_000})
    one = group("f")
    assert one is not None
    assert (len(one.sample.title), len(one.sample.detail), len(one.sample.at)) == (300, 1_000, 300)


def test_the_count_of_a_group_stops_at_a_bound_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "COUNT_UP_TO", 3)
    for number in range(4):
        dead("many", ago=number + 1)
    for number in range(3):
        dead("three", ago=number + 1)
    found = by_print(groups())
    assert (str(found["many"].count), str(found["three"].count)) == ("3+", "3")


def test_the_hours_are_told_apart_as_far_back_as_the_count_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    for ago in (10, 20, 3_700, 3_600 * 23.5, 3_600 * 30):
        dead(ago=ago)
    one = group("f")
    assert one is not None
    assert list(one.hours) == [1, *[0] * 21, 1, 2]
    monkeypatch.setattr(dead_letters, "COUNT_UP_TO", 2)
    one = group("f")
    assert one is not None
    assert list(one.hours) == [*[None] * 22, 1, 2]


def test_one_that_ended_in_the_future_by_a_skewed_clock_came_in_the_last_hour() -> None:
    dead(ago=-30)
    one = group("f")
    assert one is not None
    assert one.hours[-1] == 1


def test_more_kinds_than_are_looked_at_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "WALKED", 3)
    for number in range(3):
        dead(f"k{number}")
    assert str(groups().kinds) == "3"
    dead("k3")
    found = groups()
    assert (str(found.kinds), found.found, len(found.groups)) == ("3+", 3, 3)


def test_the_groups_shown_are_those_last_seen_or_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "SHOWN", 2)
    for number, times in enumerate((3, 1, 2, 1)):
        for _ in range(times):
            dead(f"k{number}", ago=100 - number)
    assert [each.fingerprint for each in groups().groups] == ["k3", "k2"]
    assert [each.fingerprint for each in groups(largest_first=True).groups] == ["k0", "k2"]
    found = groups(lambda there: [kind for kind in there if kind.fingerprint != "k3"])
    assert ([each.fingerprint for each in found.groups], found.found) == (["k2", "k1"], 3)


def test_the_newest_to_fail_comes_first_in_a_group() -> None:
    made = [dead(ago=ago) for ago in (50, 10, 30)]
    assert [job.pk for job in letters("f")] == [made[1].pk, made[2].pk, made[0].pk]


def test_many_kinds_of_many_letters_take_as_many_statements_as_one() -> None:
    dead()
    with CaptureQueriesContext(connection) as few:
        groups()
    for number in range(60):
        dead(f"k{number % 20}", ago=number)
    with CaptureQueriesContext(connection) as many:
        assert len(groups().groups) == 21
    assert len(few) == len(many) == 2


def plan(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {sql}")
        return "\n".join(row[0] for row in cursor.fetchall())


def test_groups_are_found_by_their_index_alone() -> None:
    for number in range(300):
        dead(f"k{number % 3}", ago=number)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")
    with CaptureQueriesContext(connection) as asked:
        groups(largest_first=True)
        list(letters("k1")[:10])
    for query in asked.captured_queries:
        scans = [line for line in plan(query["sql"]).splitlines() if "Scan" in line and "jobs_job" in line]
        assert scans
        assert all("job_dead_alike" in line for line in scans), scans


def test_the_walk_stops_one_past_its_bound() -> None:
    for number in range(6):
        dead(f"k{number}")
    assert len(kinds(4)) == 5
