"""What a claim costs as the tables grow, and what the heartbeat costs: each is one committed transaction."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from bench.rounds import percentiles
from bench.stage import Stage
from bench.table import Row

#: Finished jobs have the three events of an ordinary life.
_FINISHED = """
WITH ended AS (
    INSERT INTO jobs_job (id, handler, payload, state, lane, home_lane, priority, fair_tag, hold_keys, blocked_on,
        attempt, max_attempts, crashes, generation, fence, created_at, queued_at, claimed_at, started_at, finished_at)
    SELECT uuidv7(make_interval(secs => n - {count})), 'bench.noop', '{{}}', 'succeeded', 'queue', 'queue', 1, 0,
        '{{all,lane:queue}}', '{{}}', 0, 3, 0, 1, 1, at, at, at, at, at
    FROM generate_series(1, {count}) n, LATERAL (SELECT now() + make_interval(secs => n - {count}) AS at) t
    RETURNING id, created_at
)
INSERT INTO jobs_jobevent (job_id, at, kind, old, new, fence, actor, reason)
SELECT id, created_at, 'state', old, new, 1, '', '' FROM ended,
    (VALUES ('', 'queued'), ('queued', 'running'), ('running', 'succeeded')) life (old, new)
"""
#: Three priorities; a thousand jobs under each fair tag.
_QUEUED = """
INSERT INTO jobs_job (id, handler, payload, state, lane, home_lane, priority, fair_tag, hold_keys, blocked_on,
    attempt, max_attempts, crashes, generation, fence, created_at, queued_at)
SELECT uuidv7(), 'bench.noop', '{{}}', 'queued', 'queue', 'queue', 1 + n % 3, n / 1000,
    '{{all,lane:queue}}', '{{}}', 0, 3, 0, 1, 0, now(), now()
FROM generate_series(1, {count}) n
"""
FEW, MANY, FINISHED = 1_000, 100_000, 1_000_000
IN_FLIGHT = 256


class ClaimedLess(Exception):
    """Not every claim took a job, so what was timed is not what it should be."""


class BadPlan(Exception):
    """The claim does not read the queue in order from its index."""


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Time claims one after another, with more and more rows around them."""
    many, finished = (MANY // 10, FINISHED // 50) if quick else (MANY, FINISHED)
    sizes = [
        (f"{FEW:,} queued", _QUEUED, FEW),
        (f"{many:,} queued", _QUEUED, many - FEW),
        (f"{many:,} queued, {finished:,} finished", _FINISHED, finished),
    ]
    stage.clear()
    found: dict[str, list[dict[str, float]]] = {}
    for size, sql, count in sizes:
        _execute(sql.format(count=count), "VACUUM ANALYZE", "CHECKPOINT")
        found[size] = [_times(50 if quick else 200) for _ in range(stage.rounds(5, quick=quick))]
    (least, base), *others = found.items()
    rows = [
        Row(f"{what} {size}", "ms", least, [t[key] for t in times], [t[key] for t in base], more_is_better=False)
        for size, times in others
        for key, what in (("p50", "Claim, p50,"), ("p95", "Claim, p95,"), ("look", "Look at an empty lane,"))
    ]
    return [*rows, _heartbeat(stage.rounds(5, quick=quick))]


def _execute(*statements: str) -> list[Any]:
    """Run statements; the rows of the last, if it has any."""
    from django.db import connection

    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _times(count: int) -> dict[str, float]:
    """Claim that many jobs for a new worker, and look that often at a lane without any; put the jobs back."""
    from jobs import lease, script
    from jobs.claim import claim

    worker = script.run(lease.register({"queue": count}, (), "bench"))
    _check_plan(claim(worker, "queue"))
    claims = _timed(count, lambda: script.run(claim(worker, "queue")))
    claimed = _execute("SELECT count(*) FROM jobs_job WHERE state = 'running'")
    if claimed != [(count,)]:
        raise ClaimedLess(f"{count} claims took {claimed} jobs: the lease ran out meanwhile")
    looks = _timed(count, lambda: script.run(claim(worker, "batch")))
    _execute("UPDATE jobs_job SET state = 'queued', worker_id = NULL WHERE state = 'running'", "VACUUM jobs_job")
    script.run(lease.end(worker, "stopped"))
    return {**percentiles(claims), "look": percentiles(looks)["p50"]}


def _check_plan(script: Any) -> None:
    """See that the claim walks the index of its name and sorts nothing.

    Raises:
        BadPlan: it does not.
    """
    from django.db import connection

    sql, params = next(script)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}", params)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    queue = plan[plan.index("CTE best") : plan.index("CTE claimed")]
    if "using job_claim" not in queue or "Sort" in queue or "Seq Scan on jobs_job" in plan:
        raise BadPlan(plan)


def _heartbeat(rounds: int) -> Row:
    """Compare the heartbeat of a worker with hundreds of jobs to that of one with none."""
    from jobs import lease, script
    from jobs.claim import claim_some

    def beats(worker: UUID) -> float:
        def beat() -> None:
            script.run(lease.renew(worker))
            script.run(lease.update_capabilities(worker, ()))

        return percentiles(_timed(50, beat))["p50"]

    idle, busy = (script.run(lease.register({"queue": IN_FLIGHT}, (), "bench")) for _ in range(2))
    script.run(claim_some(busy, "queue", IN_FLIGHT))
    times = [(beats(busy), beats(idle)) for _ in range(rounds)]
    mine, others = zip(*times, strict=True)
    return Row(f"Heartbeat, {IN_FLIGHT} in flight", "ms", "none in flight", mine, others, more_is_better=False)


def _timed(count: int, work: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return took


if __name__ == "__main__":
    from bench.__main__ import main

    main("claim_cost")
