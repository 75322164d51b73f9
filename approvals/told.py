"""What people are asked about calls whose end is known by now: the question is settled, and the run goes on.

Whoever tells how a call ended settles it at once. If they die in between, nobody else would: it has no deadline.
"""

from __future__ import annotations

import logging

from agents.effect_ledger import settle
from agents.models import Effect
from approvals.models import Approval
from jobs import script
from jobs.reconcile import is_outage

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 5.0
#: One turn settles so many at most.
PAGE = 200
_OPEN = (Effect.State.STARTED, Effect.State.UNKNOWN)


def sweep() -> int:
    """Settle them; return how many. Any number of processes may do so at once: it is settled once."""
    due = Approval.objects.pending().filter(kind=Approval.Kind.EFFECT).exclude(effect__state__in=_OPEN)
    done = 0
    for run_id, wait_key in list(due.order_by("effect_id").values_list("run_id", "wait_key")[:PAGE]):
        try:
            script.run(settle(run_id, wait_key))
            done += 1
        except Exception as error:
            if is_outage(error):
                raise
            logger.exception("a question could not be settled", extra={"action": "settle_failed", "run": str(run_id)})
    return done
