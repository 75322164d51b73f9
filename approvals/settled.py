"""What a run reads of the requests that were decided, and drops of those that need no answer any more."""

from __future__ import annotations

from uuid import UUID

from pydantic import ValidationError

from agents.parked import Settled
from agents.runtime.plans import Plan
from audit import trail
from audit.trail import SYSTEM
from jobs.script import Script


def of_run(run_id: UUID) -> Script[dict[str, Settled]]:
    """Return the requests of a run that are decided, by wait. A plan that is none has no hash.

    Of each wait the newest: while that is pending, or if it was dropped, what was decided before it counts no more. Nor
    does what was decided before the run was sent back to its start: it asks about all of it anew.
    """
    rows = yield (
        "SELECT id, wait_key, decision, plan FROM (SELECT DISTINCT ON (wait_key) id, wait_key, decision, plan"
        "   FROM approvals_approval WHERE run_id = %(run)s AND kind = 'plan' AND created_at > coalesce("
        "     (SELECT max(at) FROM jobs_jobevent WHERE job_id = %(run)s AND kind = 'state' AND reason = 'redriven'"
        "      AND data ->> 'from' = 'start'), '-infinity')"
        "   ORDER BY wait_key, id DESC) newest WHERE decision <> ''",
        {"run": run_id},
    )
    found = {}
    for row in rows:
        try:
            plan_hash = Plan.model_validate(row["plan"]).hash
        except ValidationError:
            plan_hash = ""
        found[row["wait_key"]] = Settled(str(row["id"]), row["decision"], plan_hash)
    return found


def supersede(run_id: UUID, wait_key: str) -> Script[None]:
    """Drop the question what became of a call: whoever made it has told after all."""
    dropped = yield (
        "UPDATE approvals_approval SET state = 'superseded', decided_at = now(), claimed_by_id = NULL,"
        " claimed_until = NULL WHERE run_id = %s AND wait_key = %s AND state = 'pending' RETURNING id",
        [run_id, wait_key],
    )
    for row in dropped:
        yield trail.statement(
            SYSTEM,
            "approval.supersede",
            "approval",
            row["id"],
            note="The worker that made the call told how it ended.",
            after={"run": str(run_id)},
        )
