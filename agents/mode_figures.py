"""What the runs of each mode came to in the last 24 hours: how many, how fast, at what cost, how good."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from django.db import connection

from agents.modes import POLICIES, ModePolicy

#: The window. Hours.
WINDOW_H = 24
#: Of each mode, as many of the newest runs of the window are looked at.
RUNS_UP_TO = 5_000


@dataclass(frozen=True, slots=True)
class ModeFigures:
    """One mode's figures over the newest runs (at most `RUNS_UP_TO`) of the last 24 hours."""

    policy: ModePolicy
    runs: int
    #: There were more runs than were looked at.
    more: bool
    #: Runs that ended as dead letters.
    failures: int
    #: From submission to success, seconds; None without a success.
    #: A redriven run waited for a person, a parked one for the world: left out.
    p50_s: float | None
    p95_s: float | None
    #: From the message to the first text of its answer, seconds; None where nothing streamed.
    first_token_p50_s: float | None
    first_token_p95_s: float | None
    #: What is known of the cost; ``cost_known`` tells whether that is all of it.
    cost_usd: Decimal
    cost_known: bool
    #: Mean score of the judged runs; None when none was judged.
    score: float | None
    judged: int

    @property
    def budget_s(self) -> float | None:
        """Return what 95 % of the runs should stay within, seconds."""
        return self.policy.latency.p95_ms / 1000 if self.policy.latency.p95_ms else None

    @property
    def is_slow(self) -> bool:
        """Whether the 95th percentile is over the mode's budget."""
        return self.budget_s is not None and self.p95_s is not None and self.p95_s > self.budget_s

    @property
    def first_token_budget_s(self) -> float | None:
        """Return within what 95 % of the answers should have begun, seconds."""
        budget = self.policy.latency.first_token_p95_ms
        return budget / 1000 if budget else None

    @property
    def begins_late(self) -> bool:
        """Whether answers begin later than the mode's budget for the first token says."""
        budget, found = self.first_token_budget_s, self.first_token_p95_s
        return budget is not None and found is not None and found > budget

    @property
    def drift(self) -> float | None:
        """Return how far the score is from its baseline; None where one of them is missing."""
        if self.score is None or self.policy.baseline is None:
            return None
        return self.score - self.policy.baseline


_FIGURES = f"""
SELECT m.mode, f.runs, f.failures, f.p50, f.p95, f.first50, f.first95,
       coalesce(f.cost, 0), coalesce(f.cost_known, true), s.score, s.judged
FROM unnest(%s::text[]) WITH ORDINALITY AS m(mode, place)
CROSS JOIN LATERAL (
    SELECT count(*) AS runs,
           count(*) FILTER (WHERE j.state = 'dead') AS failures,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM j.finished_at - j.created_at)::float)
               FILTER (WHERE j.state = 'succeeded' AND j.generation = 1 AND NOT parked.it) AS p50,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM j.finished_at - j.created_at)::float)
               FILTER (WHERE j.state = 'succeeded' AND j.generation = 1 AND NOT parked.it) AS p95,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY r.first_token_ms / 1000.0::float) AS first50,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY r.first_token_ms / 1000.0::float) AS first95,
           sum(r.cost_usd) AS cost, bool_and(r.cost_known) AS cost_known
    FROM (
        SELECT job_id, cost_usd, cost_known, first_token_ms FROM agents_run
        WHERE mode = m.mode AND created_at > now() - interval '{WINDOW_H} hours'
        ORDER BY created_at DESC LIMIT {RUNS_UP_TO + 1}
    ) r JOIN jobs_job j ON j.id = r.job_id
    -- The time in which it waited for a person or an event is not the agent's.
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT 1 FROM jobs_wait w WHERE w.job_id = j.id) AS it) parked
) f
CROSS JOIN LATERAL (
    SELECT avg(value) AS score, count(*) AS judged FROM (
        SELECT value FROM agents_score
        WHERE mode = m.mode AND created_at > now() - interval '{WINDOW_H} hours'
        ORDER BY created_at DESC LIMIT {RUNS_UP_TO}
    ) newest
) s
ORDER BY m.place
"""


def mode_figures() -> list[ModeFigures]:
    """Return the figures of every mode, in the order of the table of modes. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(_FIGURES, [[mode.value for mode in POLICIES]])
        rows = cursor.fetchall()
    return [
        ModeFigures(
            policy=policy,
            runs=min(runs, RUNS_UP_TO),
            more=runs > RUNS_UP_TO,
            failures=failures,
            p50_s=p50,
            p95_s=p95,
            first_token_p50_s=first50,
            first_token_p95_s=first95,
            cost_usd=cost,
            cost_known=known,
            score=score,
            judged=judged,
        )
        for policy, (_, runs, failures, p50, p95, first50, first95, cost, known, score, judged) in zip(
            POLICIES.values(), rows, strict=True
        )
    ]
