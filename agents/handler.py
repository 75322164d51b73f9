"""The handler of jobs that are runs: it puts the program, the journal, the model port and the tools together."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from agents import registry, services
from agents.journal import RunJournal
from agents.modes import policy
from agents.runtime import program
from agents.runtime.context import Options, RunContext
from agents.runtime.errors import JournalUnavailable, ProgramError, RunError, VersionMismatch
from agents.runtime.ports import Superseded
from agents.runtime.run import execute
from agents.runtime.types import Budget
from jobs.claim import StaleFence
from jobs.handlers import Blocked, Claim, Failed, HandedBack, Outcome, Succeeded, Transition
from jobs.retry import RetryPolicy
from jobs.runner import OUTAGE, persist
from jobs.script import Row, Script
from jobs.transitions import VERSION

logger = logging.getLogger(__name__)

#: What handlers of runs are called in the rows of jobs.
NAME = "agent-run"


class RunHandler:
    """Executes a run from its last recorded step on."""

    retry = RetryPolicy()

    async def run(self, claim: Claim) -> Outcome:
        """Run the program; whatever stops it becomes an outcome with a problem that says what to do."""
        row = await persist(lambda: _read(claim))
        spec = registry.spec(row["name"], row["version"], row["definition"])
        rules = policy(row["mode"])
        tools = row["tools"]  # None where nothing was ever loaded
        port = services.model_port()
        port.prices.learn(row["prices"] or {})
        ctx = RunContext(
            run_id=str(claim.job_id),
            user_id=row["user_id"],
            agent=spec,
            input=row["input"],
            journal=RunJournal(claim, row["journal_epoch"]),
            port=port,
            toolbox=services.toolbox(tools["overrides"] if tools else {}),
            options=Options(max_batch_size=tools["max_batch_size"]) if tools else None,
            limits=rules.limits(spec.limits, Budget.model_validate(row["budget"])),
            seed=row["seed"],
            elapsed_s=(datetime.now(UTC) - row["created_at"]).total_seconds(),
        )
        try:
            result = await execute(program.get(spec.program), ctx)
        except Superseded as gone:
            raise StaleFence(str(gone)) from None
        except VersionMismatch as error:
            return Blocked(VERSION, error.as_problem())
        except RunError as error:
            if isinstance(error, JournalUnavailable) and isinstance(error.__cause__, OUTAGE):
                return HandedBack()  # the database is away: nobody's failure
            return _failed(error, spec.name)
        problem = services.check_output(row["endpoint_definition"], result.output)
        if problem is not None:
            return Failed(problem, retriable=False)
        return Succeeded(result.output)

    def on_transition(self, change: Transition) -> Script[None]:
        """Keep the run's row in step with its job's."""
        if isinstance(change.outcome, Succeeded):
            yield (
                "UPDATE agents_run SET output = %s WHERE job_id = %s",
                [Jsonb(change.outcome.result), change.job_id],
            )
        if change.redrive == "start":
            # A new epoch of the journal. What was spent stays spent; the steps of before stay on record.
            yield (
                "UPDATE agents_run SET journal_epoch = journal_epoch + 1, steps_done = 0, turns = 0, output = NULL"
                " WHERE job_id = %s",
                [change.job_id],
            )


def _read(claim: Claim) -> Script[Row]:
    rows = yield (
        "SELECT r.input, r.budget, r.seed, r.mode, r.journal_epoch, r.user_id, r.created_at,"
        " v.name, v.version, v.definition, e.definition AS endpoint_definition, loaded.tools, loaded.prices"
        " FROM agents_run r JOIN agents_agentversion v ON v.id = r.agent_id"
        " JOIN agents_endpoint e ON e.id = r.endpoint_id"
        " LEFT JOIN (SELECT tools, prices FROM agents_configload ORDER BY id DESC LIMIT 1) loaded ON true"
        " WHERE r.job_id = %s",
        [claim.job_id],
    )
    return rows[0]


def _failed(error: RunError, agent: str) -> Failed:
    problem: dict[str, Any] = error.as_problem()
    problem.setdefault("fingerprint", f"{error.slug}:{agent}")
    problem["users_own"] = error.users_own
    if isinstance(error, ProgramError):
        logger.error("an agent's program failed", exc_info=error, extra={"action": "program_failed", "agent": agent})
    return Failed(problem, retriable=error.retriable, retry_after_s=problem.get("retry_after_s"))
