"""Start-time fair queueing over the users of a lane (Goyal, Vin, Cheng 1996), each job of weight and length one.

Within one lane and priority the job with the lowest tag goes first. The lane's virtual time is the tag at the head of
its queue. A job that comes in gets the virtual time, or a place after its user's last, whichever is later: so a user
who submits a thousand jobs makes room between them for everybody else's.

The tag is given when a job becomes queued, each time: a tag of yesterday says nothing of today's queue.
"""

from __future__ import annotations

from jobs.script import Script


def next_tag(lane: str, priority: int, user_id: int | None) -> Script[int]:
    """Return the tag of a user's next job in the lane."""
    # Two texts, because no index answers IS NOT DISTINCT FROM.
    whose = "user_id = %(user)s" if user_id is not None else "user_id IS NULL"
    rows = yield (
        f"SELECT ({_HEAD}) AS head,"
        " (SELECT max(fair_tag) FROM jobs_job WHERE lane = %(lane)s AND state = 'queued' AND priority = %(priority)s"
        f" AND {whose}) AS last",
        {"lane": lane, "priority": priority, "user": user_id},
    )
    head, last = rows[0]["head"], rows[0]["last"]
    return max(head or 0, last + 1 if last is not None else 0)


def front_tag(lane: str, priority: int) -> Script[int]:
    """Return the tag of a job that had its turn and lost it with its worker: it goes with the first."""
    rows = yield f"SELECT ({_HEAD}) AS head", {"lane": lane, "priority": priority}
    return rows[0]["head"] or 0


_HEAD = (
    "SELECT fair_tag FROM jobs_job WHERE lane = %(lane)s AND state = 'queued' AND priority = %(priority)s"
    " ORDER BY fair_tag LIMIT 1"
)
