"""Reads of lanes, workers and what is stuck: a fixed number of statements, whatever the tables hold.

Counts stop at `COUNT_UP_TO`: past it a person only needs to know "more", and a table may hold millions of rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce, Now

from jobs.models import BulkOperation, Hold, Job, Worker
from jobs.states import State

COUNT_UP_TO = 10_000
#: As many blocked jobs are looked at for those that a hold stops.
BLOCKED_UP_TO = 20_000
#: Of the dead letters of a day, as many of the newest are compared.
ALIKE_UP_TO = 1_000
#: An operation that nobody has worked on for so long has come to a stop.
IDLE = timedelta(minutes=1)
HOLDS_UP_TO = 200


@dataclass(frozen=True, slots=True)
class Bounded:
    """A count that stopped somewhere: ``more`` tells that there are more than ``number``."""

    number: int
    more: bool = False

    @classmethod
    def of(cls, counted: int, up_to: int = COUNT_UP_TO) -> Bounded:
        """Return the count of at most ``up_to`` + 1 rows."""
        return cls(min(counted, up_to), counted > up_to)

    def __bool__(self) -> bool:
        return self.number > 0

    def __str__(self) -> str:
        return f"{self.number:,}{'+' if self.more else ''}"


def bounded_count(rows: QuerySet[Any], up_to: int = COUNT_UP_TO) -> Bounded:
    """Count the rows of a query, but not past ``up_to``."""
    return Bounded.of(rows.order_by().values("pk")[: up_to + 1].count(), up_to)


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """What a lane has to do, and who does it."""

    name: str
    queued: Bounded
    #: When the job that has been queued longest became so.
    oldest_at: datetime | None
    #: Its age, seconds, by the database's clock.
    oldest_s: float | None
    running: int
    #: Slots of the workers that hold a lease.
    slots: int
    workers: int
    #: Jobs that would be queued but for a hold.
    held: Bounded = Bounded(0)


# One look into each lane by the indexes `job_claim` and `job_oldest`, one over the running jobs, one over the fleet,
# one over the blocked jobs by the index `job_blocked`.
#: Takes the lanes' names; gives of each its name, queued, oldest_at, oldest_s, running, slots, workers, held, and
#: whether there may be more that are held.
LANE_LOADS = f"""
WITH fleet AS (
    SELECT s.key AS lane, sum(s.value::int) AS slots, count(*) AS workers
    FROM jobs_worker w, jsonb_each_text(w.slots) s
    WHERE w.ended_at IS NULL AND w.lease_until > now()
    GROUP BY s.key
), busy AS (
    SELECT lane, count(*) AS running FROM jobs_job WHERE state = 'running' GROUP BY lane
), blocked AS MATERIALIZED (
    SELECT lane, blocked_on FROM jobs_job WHERE state = 'blocked' LIMIT {BLOCKED_UP_TO + 1}
), held AS (
    SELECT lane, count(*) AS held FROM blocked
    WHERE EXISTS (SELECT 1 FROM unnest(blocked_on) AS reason WHERE starts_with(reason, 'hold:'))
    GROUP BY lane
)
SELECT l.name,
       (SELECT count(*) FROM (
           SELECT 1 FROM jobs_job WHERE state = 'queued' AND lane = l.name LIMIT {COUNT_UP_TO + 1}
       ) q) AS queued,
       o.queued_at, extract(epoch FROM now() - o.queued_at)::float,
       coalesce(b.running, 0), coalesce(f.slots, 0), coalesce(f.workers, 0),
       coalesce(h.held, 0), (SELECT count(*) > {BLOCKED_UP_TO} FROM blocked)
FROM unnest(%s::text[]) WITH ORDINALITY AS l(name, place)
LEFT JOIN LATERAL (
    SELECT queued_at FROM jobs_job WHERE state = 'queued' AND lane = l.name ORDER BY queued_at LIMIT 1
) o ON true
LEFT JOIN busy b ON b.lane = l.name
LEFT JOIN fleet f ON f.lane = l.name
LEFT JOIN held h ON h.lane = l.name
ORDER BY l.place
"""


def lane_loads(lanes: Sequence[str]) -> list[LaneLoad]:
    """Return the load of each lane, in the order given. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(LANE_LOADS, [list(lanes)])
        return [
            LaneLoad(
                name,
                Bounded.of(queued),
                oldest_at,
                oldest_s,
                running,
                int(slots),
                workers,
                Bounded(min(held, COUNT_UP_TO), held > COUNT_UP_TO or unseen),
            )
            for name, queued, oldest_at, oldest_s, running, slots, workers, held, unseen in cursor.fetchall()
        ]


@dataclass(frozen=True, slots=True)
class Stuck:
    """Jobs that do not go on by themselves."""

    #: Dead letters there are, and those that came in the last 24 hours.
    dead: Bounded
    dead_today: Bounded
    #: The fingerprint that all of those share, or the newest `ALIKE_UP_TO` of them; None if they are not alike.
    alike: str | None
    #: Jobs by the reason why they are blocked, the most frequent first.
    blocked: Sequence[tuple[str, int]]
    #: Scheduled jobs whose time came over half a minute ago: no reconciler runs.
    overdue: Bounded


_STUCK = f"""
SELECT
    (SELECT CASE WHEN min(fingerprint) = max(fingerprint) THEN min(fingerprint) END
     FROM (
        SELECT coalesce(error ->> 'fingerprint', '') AS fingerprint FROM jobs_job
        WHERE state = 'dead' AND finished_at > now() - interval '24 hours'
        ORDER BY finished_at DESC LIMIT {ALIKE_UP_TO}
    ) a),
    (SELECT count(*) FROM (SELECT 1 FROM jobs_job WHERE state = 'dead' LIMIT {COUNT_UP_TO + 1}) d),
    (SELECT count(*) FROM (
        SELECT 1 FROM jobs_job WHERE state = 'dead' AND finished_at > now() - interval '24 hours'
        LIMIT {COUNT_UP_TO + 1}
    ) d),
    (SELECT coalesce(jsonb_agg(jsonb_build_array(reason, n) ORDER BY n DESC, reason), '[]') FROM (
        SELECT reason, count(*) AS n
        FROM (SELECT unnest(blocked_on) AS reason FROM jobs_job WHERE state = 'blocked' LIMIT {COUNT_UP_TO}) b
        GROUP BY reason ORDER BY n DESC LIMIT 20
    ) r),
    (SELECT count(*) FROM (
        SELECT 1 FROM jobs_job WHERE state = 'scheduled' AND run_at < now() - interval '30 seconds'
        LIMIT {COUNT_UP_TO + 1}
    ) s)
"""


def stuck() -> Stuck:
    """Return what does not go on by itself. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(_STUCK)
        alike, dead, today, blocked, overdue = cursor.fetchone()
    pairs = json.loads(blocked) if isinstance(blocked, str) else blocked
    return Stuck(
        dead=Bounded.of(dead),
        dead_today=Bounded.of(today),
        alike=alike,
        blocked=[(reason, number) for reason, number in pairs],
        overdue=Bounded.of(overdue),
    )


def newest_dead_letters() -> QuerySet[Job]:
    """Return the dead letters, the last to come first."""
    return Job.objects.dead().order_by("-finished_at")


def workers(limit: int) -> list[Worker]:
    """Return the workers that hold a lease, with ``busy`` slots, and after them those lost in the last hour."""
    shown = Worker.objects.filter(
        Q(ended_at=None) | Q(end__in=["lost", "died"], ended_at__gt=Now() - timedelta(hours=1))
    )
    return list(_with_busy(shown).order_by(F("ended_at").desc(nulls_first=True), "hostname", "started_at")[:limit])


def fleet(limit: int) -> list[Worker]:
    """Return the workers that have not ended, with ``busy`` slots."""
    return list(_with_busy(Worker.objects.filter(ended_at=None)).order_by("hostname", "started_at")[:limit])


def ended_workers(limit: int) -> list[Worker]:
    """Return the workers that ended in the last day, the last one first."""
    return list(Worker.objects.filter(ended_at__gt=Now() - timedelta(days=1)).order_by("-ended_at")[:limit])


def _with_busy(chosen: QuerySet[Worker]) -> QuerySet[Worker]:
    # By the index of what each holds: a join would look at every job there is.
    held = Job.objects.filter(worker=OuterRef("pk"), state=State.RUNNING).order_by().values("worker")
    busy = Subquery(held.annotate(number=Count("*")).values("number"), output_field=IntegerField())
    return chosen.annotate(busy=Coalesce(busy, 0))


def holds_in_force() -> list[Hold]:
    """Return the holds, the oldest first, `HOLDS_UP_TO` at most."""
    return list(Hold.objects.order_by("placed_at", "pk")[:HOLDS_UP_TO])


def idle_operations(limit: int) -> list[BulkOperation]:
    """Return operations on many jobs that have not ended, if nobody has worked on any of them for `IDLE`.

    As long as somebody does, each has its turn: of many open ones it may be a long time until the next.
    """
    open_ones = BulkOperation.objects.under_way()
    at_work = open_ones.filter(Q(taken_until__gt=Now()) | Q(worked_at__gt=Now() - IDLE))
    idle = open_ones.annotate(last=Coalesce("worked_at", "created_at")).filter(~Exists(at_work), last__lt=Now() - IDLE)
    return list(idle.order_by("last")[:limit])
