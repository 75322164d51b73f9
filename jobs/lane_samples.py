"""What the lanes looked like, minute by minute: written by the schedulers, read for the lines on the pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection

from jobs.queries import LANE_LOADS, Bounded

#: How often a scheduler looks whether the minute has its samples. Seconds.
SWEEP_EVERY_S = 3.0
#: Hours.
KEPT_H = 48
#: As many are forgotten a minute: two hours of eight lanes, so that two days' worth is gone within half an hour.
FORGOTTEN_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A lane when a scheduler first looked in a minute: within its first seconds, if one ran all the time."""

    minute: datetime
    queued: Bounded
    #: Age of the job that had been queued longest, seconds; None if nothing was queued.
    oldest_s: float | None
    running: int
    slots: int


_SAMPLE = f"""
INSERT INTO jobs_lanesample (lane, minute, queued, oldest_s, running, slots)
SELECT lane, date_trunc('minute', now()), queued, oldest_s, running, slots
FROM ({LANE_LOADS}) AS load (lane, queued, oldest_at, oldest_s, running, slots, workers, held, unseen)
ON CONFLICT (lane, minute) DO NOTHING
"""
_FORGET = """
DELETE FROM jobs_lanesample WHERE id IN (
    SELECT id FROM jobs_lanesample WHERE minute < now() - make_interval(hours => %s)
    ORDER BY minute LIMIT %s FOR UPDATE SKIP LOCKED
)
"""


def sweep() -> bool:
    """Write this minute's sample of every lane, unless there is one; forget old ones. Returns whether it wrote any.

    Any number of schedulers may do so at once: each lane has one sample a minute.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM jobs_lanesample WHERE minute = date_trunc('minute', now()) LIMIT 1")
        if cursor.fetchone():
            return False
        cursor.execute(_SAMPLE, [list(settings.LANES)])
        written = cursor.rowcount
        if written:
            cursor.execute(_FORGET, [KEPT_H, FORGOTTEN_AT_ONCE])
    return bool(written)


def history(lanes: Sequence[str], *, minutes: int = 60) -> dict[str, list[Sample | None]]:
    """Return each lane's last minutes, the current one last. One statement.

    None stands for a minute in which nobody looked: no scheduler ran, or the database was away. The current minute has
    no sample for its first seconds.
    """
    with connection.cursor() as cursor:
        cursor.execute(_HISTORY, {"lanes": list(lanes), "minutes": minutes})
        rows = cursor.fetchall()
    found: dict[str, list[Sample | None]] = {lane: [] for lane in lanes}
    for lane, minute, queued, oldest_s, running, slots in rows:
        sample = None if queued is None else Sample(minute, Bounded.of(queued), oldest_s, running, slots)
        found[lane].append(sample)
    return found


_HISTORY = """
SELECT l.name, m.minute, s.queued, s.oldest_s, s.running, s.slots
FROM unnest(%(lanes)s::text[]) AS l(name)
CROSS JOIN generate_series(
    date_trunc('minute', now()) - make_interval(mins => %(minutes)s - 1), date_trunc('minute', now()), '1 minute'
) AS m(minute)
LEFT JOIN jobs_lanesample s ON s.lane = l.name AND s.minute = m.minute
ORDER BY l.name, m.minute
"""


def last_sampled_s() -> float | None:
    """Return how many seconds ago the last minute that was sampled began; None if none ever was. One statement."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM now() - max(minute))::float FROM jobs_lanesample")
        age: float | None = cursor.fetchone()[0]
    return age
