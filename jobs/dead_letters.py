"""Dead letters that are alike: how many of each kind, since when, and what the newest says.

Alike are those with one fingerprint. The index `job_dead_alike` is walked from fingerprint to fingerprint, and each
group is read from its newest letter back, so that the cost depends on the bounds below and not on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from jobs.models import Job
from jobs.models.job import FINGERPRINT
from jobs.queries import Bounded

#: As many groups are looked at, and as many of those are counted and shown.
WALKED = 200
SHOWN = 30
#: The letters of a group are counted up to here,
COUNT_UP_TO = 1_000
#: and up to here to find the largest groups among those that are looked at.
ROUGHLY_UP_TO = 100
#: So many of the newest letters of a group say whose work it is.
NEWEST = 20
#: The hours that are told apart.
HOURS = 24


@dataclass(frozen=True, slots=True)
class Sample:
    """The newest dead letter of a group. Its texts may be of any kind, and long ones are cut."""

    job_id: UUID
    handler: str
    type: str
    title: str
    detail: str
    #: The class of the exception and our innermost frame, where there was one.
    error: str
    at: str

    @property
    def name(self) -> str:
        """Return what the failure is called."""
        return self.title or self.detail or "No problem was recorded"

    @property
    def words(self) -> str:
        """Return what it says of itself beyond its name."""
        return self.detail if self.title and self.detail != self.title else ""

    @property
    def slug(self) -> str:
        """Return the problem type, if it is one of the house's, as it stands in its address."""
        before, _, slug = self.type.partition("/problems/")
        return slug if not before and slug.replace("-", "").isalnum() else ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A fingerprint that dead letters have, and the last of them."""

    fingerprint: str
    last_at: datetime
    sample: Sample


@dataclass(frozen=True, slots=True)
class Group:
    """The dead letters of one kind."""

    fingerprint: str
    count: Bounded
    first_at: datetime
    last_at: datetime
    sample: Sample
    #: How many came in each of the last `HOURS` hours, the last hour at the end. None: so far the count does not reach.
    hours: Sequence[int | None]
    #: The newest of them.
    newest: Sequence[UUID]

    @property
    def today(self) -> Bounded:
        """Return how many came in the hours that are told apart."""
        known = [number for number in self.hours if number is not None]
        return Bounded(self.count.number, more=True) if len(known) < len(self.hours) else Bounded(sum(known))


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a page, and how much of all there is they are."""

    groups: Sequence[Group]
    #: How many kinds there are, and how many of them were asked for.
    kinds: Bounded
    found: int


# The range instead of an equality keeps the planner from walking another index past all other fingerprints.
_PRINT = "coalesce(error ->> 'fingerprint', '')"
_ALIKE = f"FROM jobs_job WHERE state = 'dead' AND {_PRINT} BETWEEN k.print AND k.print ORDER BY {_PRINT}"
_NEWEST_FIRST = f"{_ALIKE} DESC, finished_at DESC"
_OLDEST = f"{_ALIKE}, finished_at LIMIT 1"
_LAST = f"""
CROSS JOIN LATERAL (
    SELECT id, handler, finished_at, left(error ->> 'type', 200) AS type, left(error ->> 'title', 300) AS title,
           left(error ->> 'detail', 1000) AS detail, left(error ->> 'error', 200) AS error,
           left(error ->> 'at', 300) AS at
    {_NEWEST_FIRST} LIMIT 1
) l
"""
_KINDS = f"""
WITH RECURSIVE k(print, place) AS (
    (SELECT {_PRINT}, 1 FROM jobs_job WHERE state = 'dead' ORDER BY {_PRINT} LIMIT 1)
    UNION ALL
    SELECT n.print, k.place + 1 FROM k CROSS JOIN LATERAL (
        SELECT {_PRINT} AS print FROM jobs_job WHERE state = 'dead' AND {_PRINT} > k.print ORDER BY {_PRINT} LIMIT 1
    ) n WHERE k.place <= %(walked)s
)
SELECT k.print, l.finished_at, l.id, l.handler, l.type, l.title, l.detail, l.error, l.at FROM k {_LAST}
"""
_ROUGH_COUNTS = f"""
SELECT k.print, (SELECT count(*) FROM (SELECT 1 {_NEWEST_FIRST} LIMIT %(up_to)s + 1) r)
FROM unnest(%(prints)s::text[]) AS k(print)
"""
_GROUPS = f"""
SELECT k.print, l.finished_at, l.id, l.handler, l.type, l.title, l.detail, l.error, l.at,
       f.finished_at, c.number, c.hours, c.reach,
       ARRAY(SELECT id {_NEWEST_FIRST} LIMIT %(newest)s)
FROM unnest(%(prints)s::text[]) AS k(print)
{_LAST}
CROSS JOIN LATERAL (SELECT finished_at {_OLDEST}) f
CROSS JOIN LATERAL (
    SELECT count(*) AS number, max(hour) AS reach, array_agg(hour) FILTER (WHERE hour < %(hours)s) AS hours
    FROM (
        SELECT greatest(0, floor(date_part('epoch', now() - finished_at) / 3600))::int AS hour
        FROM (SELECT finished_at {_NEWEST_FIRST} LIMIT %(up_to)s + 1) n
    ) r
) c
"""


def kinds(up_to: int = WALKED) -> list[Kind]:
    """Return the kinds of dead letters there are, the one that was last seen first; one more than ``up_to`` at most."""
    with connection.cursor() as cursor:
        cursor.execute(_KINDS, {"walked": up_to})
        found = [Kind(row[0], row[1], _sample(row[2:9])) for row in cursor.fetchall()]
    return sorted(found, key=lambda kind: kind.last_at, reverse=True)


def groups(wanted: Callable[[Sequence[Kind]], Iterable[Kind]] = list, *, largest_first: bool = False) -> Groups:
    """Return the groups that were last seen, or the largest. Two statements, three to find the largest.

    Args:
        wanted: chooses among the kinds there are.
    """
    there = kinds(WALKED)
    total = Bounded.of(len(there), WALKED)
    chosen = list(wanted(there[:WALKED]))
    shown = chosen
    if largest_first and len(chosen) > SHOWN:
        counts = _rough_counts([kind.fingerprint for kind in chosen])
        shown = sorted(chosen, key=lambda kind: counts.get(kind.fingerprint, 0), reverse=True)
    found = _groups([kind.fingerprint for kind in shown[:SHOWN]])
    if largest_first:
        found.sort(key=lambda group: (group.count.number, group.count.more, group.last_at), reverse=True)
    else:
        found.sort(key=lambda group: group.last_at, reverse=True)
    return Groups(found, total, len(chosen))


def group(fingerprint: str) -> Group | None:
    """Return the group of a fingerprint; None if no dead letter has it (any more)."""
    found = _groups([fingerprint])
    return found[0] if found else None


def letters(fingerprint: str) -> QuerySet[Job]:
    """Return the dead letters with a fingerprint, the newest first."""
    alike = Job.objects.dead().alias(alike=FINGERPRINT).filter(alike=fingerprint)
    return alike.order_by("-finished_at", "-id")


def _rough_counts(prints: list[str]) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(_ROUGH_COUNTS, {"prints": prints, "up_to": ROUGHLY_UP_TO})
        return dict(cursor.fetchall())


def _groups(prints: list[str]) -> list[Group]:
    if not prints:
        return []
    values: dict[str, Any] = {"prints": prints, "hours": HOURS, "up_to": COUNT_UP_TO, "newest": NEWEST}
    with connection.cursor() as cursor:
        cursor.execute(_GROUPS, values)
        return [_group(row) for row in cursor.fetchall()]


def _group(row: Sequence[Any]) -> Group:
    print_, last_at, *sample, first_at, number, hours, reach, newest = row
    count = Bounded.of(number, COUNT_UP_TO)
    by_hour = _by_hour(hours or [], reach if count.more else None)
    return Group(print_, count, first_at, last_at, _sample(sample), by_hour, newest)


def _by_hour(hours: Iterable[int], reach: int | None) -> list[int | None]:
    """Return the counts of the hours, the last at the end; None for those before ``reach`` hours ago."""
    found: list[int | None] = [0 if reach is None or hour <= reach else None for hour in range(HOURS)]
    for hour in hours:
        found[hour] = (found[hour] or 0) + 1
    return found[::-1]


def _sample(row: Sequence[Any]) -> Sample:
    job_id, handler, *texts = row
    return Sample(job_id, handler, *(text or "" for text in texts))
