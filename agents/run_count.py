"""Count the runs that ended, each once, into `RunStat`: every scheduler tries, one at a time does it."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from agents.run_stats import BOUNDS_S, EPOCH

SWEEP_EVERY_S = 5.0
SWEEP_AT_MOST_S = 0.3
#: A run's end is the time at which its last transaction began. So long is waited for such transactions to commit, and
#: for one that is seen to be open still, like that of a process that was stopped, up to the longer time. Seconds.
SETTLED_S = 15
WAITED_FOR_S = 300
#: A backlog is worked off in bites, for the reconciler has other things to do within the second: the longest of these
#: with no more runs than that (a run takes about 15 µs), else the shortest. Minutes.
BITES = (60, 10, 1)
RUNS_AT_ONCE = 20_000
#: The first count of an installation goes back so far, and so long minutes are kept. Hours.
BEGINS_BACK_H = 24
KEPT_H = 48
#: As many rows are forgotten in one turn.
FORGOTTEN_AT_ONCE = 1_000


def sweep() -> int:
    """Count the runs that ended since the last count, bite by bite, for a moment. Returns how many minutes."""
    began, minutes = time.monotonic(), 0
    while counted := turn():
        minutes += counted
        if time.monotonic() - began > SWEEP_AT_MOST_S:
            break
    return minutes


def turn() -> int:
    """Count one bite. Returns how many minutes were counted; 0 if none was due, or somebody else counts.

    The cursor's row is locked meanwhile, and moves on in the same transaction: no run is counted twice or left out,
    whoever dies when.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT counted_until FROM agents_runstatcursor FOR UPDATE SKIP LOCKED")
        row = cursor.fetchone()
        if row is not None:
            return _count_on(cursor, row[0])
    with connection.cursor() as cursor:  # somebody else is at it, or nobody has begun
        cursor.execute(
            "INSERT INTO agents_runstatcursor (id, counted_until)"
            " VALUES (1, date_trunc('minute', now() - make_interval(hours => %s))) ON CONFLICT DO NOTHING",
            [BEGINS_BACK_H],
        )
    return 0


def _count_on(cursor: CursorWrapper, since: datetime) -> int:
    settled = _settled(cursor).replace(second=0, microsecond=0)
    if settled <= since:
        return 0
    for bite in BITES:
        until = min(settled, since + timedelta(minutes=bite))
        cursor.execute(_TOO_MANY, [list(settings.LANES), since, until, RUNS_AT_ONCE])
        if cursor.fetchone() is None:
            break
    cursor.execute(_COUNT, {"lanes": list(settings.LANES), "since": since, "until": until, "epoch": EPOCH})
    cursor.execute("UPDATE agents_runstatcursor SET counted_until = %s", [until])
    cursor.execute(_FORGET, [EPOCH, KEPT_H, FORGOTTEN_AT_ONCE])
    return round((until - since).total_seconds() / 60)


_TOO_MANY = """
SELECT 1 FROM jobs_job WHERE home_lane = ANY(%s) AND finished_at >= %s AND finished_at < %s OFFSET %s LIMIT 1
"""


def _settled(cursor: CursorWrapper) -> datetime:
    """Return the moment up to which no run can end any more."""
    cursor.execute(_SETTLED, [SETTLED_S, WAITED_FOR_S])
    moment: datetime = cursor.fetchone()[0]
    return moment


# A transaction that only reads, like a backup, ends no run.
_SETTLED = """
SELECT least(
    now() - make_interval(secs => %s),
    greatest(
        now() - make_interval(secs => %s),
        (SELECT coalesce(min(xact_start), now()) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
           AND (backend_xid IS NOT NULL OR wait_event_type = 'Lock' OR state = 'idle in transaction'))
    )
)
"""


def _buckets(column: str) -> str:
    """Return the SQL of the counts that `run_stats.Histogram` has."""
    counts = [f"count(*) FILTER (WHERE {column} <= {bound})" for bound in BOUNDS_S]
    return f"ARRAY[{', '.join([*counts, f'count({column})'])}]"


def _both(column: str) -> str:
    """Return the SQL that adds the counts of the row that is there and of the one that comes."""
    return (
        f"{column} = (SELECT array_agg(a + b ORDER BY place)"
        f" FROM unnest(stat.{column}, excluded.{column}) WITH ORDINALITY AS both_of (a, b, place))"
    )


_HISTOGRAMS = ("wait", "run", "first_token")
_SPENT = ("input_tokens", "output_tokens", "cost_usd")
_SUMS = ("runs", "first_tokens", *(f"{name}_sum_s" for name in _HISTOGRAMS), *_SPENT)
_COLUMNS = ("minute", "lane", "mode", "outcome", *_SUMS, *(f"{name}_buckets" for name in _HISTOGRAMS))

# The runs of the window by the index `job_ended`, and of each when it could start and what it spent:
# - One that was submitted for a later time waits from then on; a redriven one, from its redrive. The first two events
#   of a job tell the former; only of a redriven job all are read.
# - What a redriven run spent before was counted with its former end: only the steps since are added.
# - A dead letter that was given up since has failed all the same.
_COUNT = f"""
WITH ended AS (
    SELECT date_trunc('minute', j.finished_at) AS minute, j.home_lane AS lane, coalesce(r.mode, '') AS mode,
           CASE j.state WHEN 'discarded' THEN 'dead' ELSE j.state END AS outcome,
           extract(epoch FROM j.started_at - coalesce(again.at, due.at, j.created_at))::float AS wait_s,
           extract(epoch FROM j.finished_at - j.started_at)::float AS run_s,
           CASE WHEN j.generation = 1 THEN r.first_token_ms / 1000.0::float END AS first_token_s,
           CASE WHEN again.at IS NULL THEN r.input_tokens ELSE spent.input_tokens END AS input_tokens,
           CASE WHEN again.at IS NULL THEN r.output_tokens ELSE spent.output_tokens END AS output_tokens,
           CASE WHEN again.at IS NULL THEN r.cost_usd ELSE spent.cost_usd END AS cost_usd
    FROM jobs_job j
    LEFT JOIN agents_run r ON r.job_id = j.id
    LEFT JOIN LATERAL (
        SELECT at FROM (SELECT at, reason FROM jobs_jobevent WHERE job_id = j.id ORDER BY id LIMIT 2) first
        WHERE reason = 'due'
    ) due ON true
    LEFT JOIN LATERAL (
        SELECT id, at FROM jobs_jobevent
        WHERE j.generation > 1 AND job_id = j.id AND reason = 'redriven' ORDER BY id DESC LIMIT 1
    ) again ON true
    LEFT JOIN LATERAL (
        SELECT sum((data ->> 'input_tokens')::bigint) AS input_tokens,
               sum((data ->> 'output_tokens')::bigint) AS output_tokens,
               sum((data ->> 'cost_usd')::numeric) AS cost_usd
        FROM jobs_jobevent
        WHERE j.generation > 1 AND job_id = j.id AND kind = 'step' AND id > again.id
          AND (reason = 'finished' OR (data ->> 'final')::boolean)
    ) spent ON true
    WHERE j.home_lane = ANY(%(lanes)s) AND j.finished_at >= %(since)s AND j.finished_at < %(until)s
), counted AS (
    SELECT minute, lane, mode, outcome, count(*) AS runs, count(first_token_s) AS first_tokens,
           {", ".join(f"{_buckets(f'{name}_s')} AS {name}_buckets" for name in _HISTOGRAMS)},
           {", ".join(f"coalesce(sum({name}_s), 0) AS {name}_sum_s" for name in _HISTOGRAMS)},
           {", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _SPENT)}
    FROM ended
    GROUP BY GROUPING SETS ((minute, lane, mode, outcome), (lane, mode, outcome))
)
INSERT INTO agents_runstat AS stat ({", ".join(_COLUMNS)})
SELECT coalesce(minute, %(epoch)s), {", ".join(_COLUMNS[1:])} FROM counted
ON CONFLICT (minute, lane, mode, outcome) DO UPDATE SET
    {", ".join(f"{name} = stat.{name} + excluded.{name}" for name in _SUMS)},
    {", ".join(_both(f"{name}_buckets") for name in _HISTOGRAMS)}
"""
_FORGET = """
DELETE FROM agents_runstat WHERE id IN (
    SELECT id FROM agents_runstat WHERE minute > %s AND minute < now() - make_interval(hours => %s)
    ORDER BY minute LIMIT %s
)
"""
