"""How long a queued job has to wait, by what the lane has done lately."""

from __future__ import annotations

from uuid import UUID

from jobs import script
from jobs.script import Script

#: A position past this is not counted: it only needs to be known as far.
COUNT_UP_TO = 10_000


def queue_position(job_id: UUID) -> int | None:
    """Return the job's place in its lane, 1 for the next; None unless it is queued. Counts to 10,000 and stops."""
    return script.run(_position(job_id))


def eta_seconds(job_id: UUID, position: int | None = None) -> float | None:
    """Estimate the seconds until the job ends; None if it is not queued, no worker serves its lane or none is known.

    Position and one, by the mean time of the lane's last fifty jobs, over the slots that serve it (Little's law).
    """
    return script.run(_eta(job_id, position))


def _position(job_id: UUID) -> Script[int | None]:
    rows = yield (
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM jobs_job o WHERE o.lane = j.lane AND o.state = 'queued'"
        "        AND (o.priority, o.fair_tag, o.id) < (j.priority, j.fair_tag, j.id) LIMIT %s) ahead) + 1 AS position"
        " FROM jobs_job j WHERE j.id = %s AND j.state = 'queued'",
        [COUNT_UP_TO, job_id],
    )
    return rows[0]["position"] if rows else None


def _eta(job_id: UUID, position: int | None) -> Script[float | None]:
    if position is None:
        position = yield from _position(job_id)
    if position is None:
        return None
    rows = yield (
        "SELECT (SELECT avg(extract(epoch FROM finished_at - started_at)) FROM"
        "         (SELECT started_at, finished_at FROM jobs_job r WHERE r.home_lane = j.home_lane"
        "          AND finished_at IS NOT NULL AND r.state = 'succeeded' ORDER BY finished_at DESC LIMIT 50) recent"
        "       )::float AS mean_s,"
        " (SELECT sum((slots ->> j.lane)::int) FROM jobs_worker w"
        "  WHERE ended_at IS NULL AND lease_until > now() AND j.lane = ANY(w.lanes))::int AS slots"
        " FROM jobs_job j WHERE j.id = %s",
        [job_id],
    )
    if not rows or rows[0]["mean_s"] is None or not rows[0]["slots"]:
        return None
    mean_s, slots = float(rows[0]["mean_s"]), int(rows[0]["slots"])
    return round(mean_s * ((position - 1) // slots + 1), 1)
