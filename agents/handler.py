"""The handler of jobs that are runs: it puts the program, the journal, the model port and the tools together."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from agents import parked, registry, services
from agents.approval_rules import Rule, Rules, Situation
from agents.chat import escape, exchange, forgetting, stream
from agents.effect_ledger import RunLedger, still_unknown, try_failed_again
from agents.feedback import NOTES_OF_RUN
from agents.gatekeeper import SiteGatekeeper
from agents.journal import RunJournal
from agents.modes import policy
from agents.parked import Settled
from agents.runtime import program
from agents.runtime.context import RunContext
from agents.runtime.errors import JournalUnavailable, ProgramError, RunError, VersionMismatch, WallClockExceeded
from agents.runtime.parking import RunParked
from agents.runtime.plans import PlanAltered
from agents.runtime.ports import Superseded
from agents.runtime.run import execute
from agents.runtime.types import Budget, Usage
from agents.tools.toolbox import LocalToolBox
from audit import trail
from audit.trail import SYSTEM
from jobs.claim import StaleFence
from jobs.handlers import Blocked, Claim, Failed, HandedBack, Outcome, Parked, Succeeded, Transition, WaitFor
from jobs.retry import RetryPolicy
from jobs.runner import OUTAGE, persist
from jobs.script import Row, Script
from jobs.states import ENDED, State
from jobs.transitions import VERSION

logger = logging.getLogger(__name__)

#: What handlers of runs are called in the rows of jobs.
NAME = "agent-run"

#: A reason that tells causes apart: words alone, so that no id, address or host is ever one.
_REASON = re.compile(r"(?=.{1,40}$)[a-z]+(-[a-z]+)*")


class RunHandler:
    """Executes a run from its last recorded step on."""

    retry = RetryPolicy()

    async def run(self, claim: Claim) -> Outcome:
        """Run the program; whatever stops it becomes an outcome with a problem that says what to do."""
        row, given, settled = await persist(lambda: _prepare(claim))
        spec = registry.spec(row["name"], row["version"], row["definition"], notes=row["notes"])
        rules = policy(row["mode"])
        tools = row["tools"]  # None where nothing was ever loaded
        toolbox = services.toolbox(tools["overrides"] if tools else {})
        port = services.model_port()
        port.prices.learn(row["prices"] or {})
        journal = RunJournal(claim, row["journal_epoch"])
        ctx = RunContext(
            run_id=str(claim.job_id),
            user_id=row["user_id"],
            agent=spec,
            input=given,
            journal=journal,
            port=port,
            toolbox=toolbox,
            transport=stream.running(claim.job_id),
            options=rules.options(tools["max_batch_size"] if tools else None),
            gatekeeper=_gatekeeper(claim, row, toolbox, settled),
            ledger=RunLedger(claim, row["effects_epoch"]),
            limits=rules.limits(spec.limits, Budget.model_validate(row["budget"])),
            seed=row["seed"],
            elapsed_s=(datetime.now(UTC) - row["created_at"]).total_seconds() - row["parked_s"],
            lost=_lost(row),
        )
        models = spec.models
        await port.open(models.default, *models.fallback, *([models.downshift] if models.downshift else []))
        try:
            result = await execute(program.get(spec.program), ctx)
        except Superseded as gone:
            raise StaleFence(str(gone)) from None
        except RunParked as quiet:
            return Parked([WaitFor(wait.kind, wait.key, wait.until, wait.data) for wait in quiet.waits])
        except VersionMismatch as error:
            return Blocked(VERSION, error.as_problem())
        except RunError as error:
            if _is_the_outages(error, journal):
                return HandedBack()
            failed = _failed(error, spec.name)
            return failed if rules.retries_job else replace(failed, retriable=False)
        problem = services.check_output(row["endpoint_definition"], result.output)
        if problem is not None:
            return Failed({**problem, "fingerprint": f"bad-output:{spec.name}"}, retriable=False)
        return Succeeded(result.output)

    def on_transition(self, change: Transition) -> Script[None]:
        """Keep the run's row in step with its job's."""
        if _is_reply(change):
            yield from exchange.on_transition(change)
        if isinstance(change.outcome, Parked):
            asked = [wait for wait in change.outcome.waits if wait.kind == "person"]
            for_people = yield from still_unknown(change.job_id, asked)
            yield from parked.hooks.on_left(change.job_id, for_people)
            yield from parked.hooks.on_parked(change.job_id, for_people)
        elif change.redrive or (change.new in ENDED and change.old is not State.RUNNING):
            # Nobody is being asked for a run that goes on: all that it waited for is settled by then.
            yield from parked.hooks.on_left(change.job_id, ())
        if isinstance(change.outcome, Succeeded):
            # The first success of a version is kept with it: rules ask for it at every claim.
            yield (
                "WITH run AS (UPDATE agents_run SET output = %s WHERE job_id = %s RETURNING agent_id)"
                " UPDATE agents_agentversion v SET first_succeeded_at = now() FROM run"
                " WHERE v.id = run.agent_id AND v.first_succeeded_at IS NULL",
                [Jsonb(change.outcome.result), change.job_id],
            )
        if isinstance(change.outcome, Failed):
            yield from _tell_of_altered(change.job_id, change.outcome.problem)
        if change.redrive == "checkpoint":
            yield from _forget_last_failures(change.job_id)
        if change.redrive == "start":
            # A new epoch of the journal. What was spent stays spent; the steps of before stay on record. So does what
            # was done outside, under its keys: done it is not done again, unless a person wants that.
            yield (
                "UPDATE agents_run SET journal_epoch = journal_epoch + 1, steps_done = 0, turns = 0, output = NULL,"
                " effects_epoch = CASE WHEN %s THEN journal_epoch + 1 ELSE effects_epoch END WHERE job_id = %s",
                [change.repeat_effects, change.job_id],
            )
            yield from try_failed_again(change.job_id)
        if "reply_to" in change.payload:
            yield from escape.on_task_ended(change)
        elif _is_reply(change):
            yield from forgetting.forget_if_deleted(change)


def _is_reply(job: Claim | Transition) -> bool:
    """Tell whether the run writes a reply in the chat."""
    return "message" in job.payload


def _prepare(claim: Claim) -> Script[tuple[Row, Any, dict[str, Settled]]]:
    """Return the run, what its program gets and what people decided. One transaction: somebody waits for an answer."""
    row = yield from _read(claim)
    given = (yield from exchange.run_input(claim, row["input"])) if _is_reply(claim) else row["input"]
    # Before its first claim nobody can have been asked anything.
    settled = (yield from parked.hooks.settled(claim.job_id)) if claim.fence > 1 else {}
    return row, given, settled


def _read(claim: Claim) -> Script[Row]:
    rows = yield (
        "SELECT r.input, r.budget, r.seed, r.mode, r.journal_epoch, r.user_id, r.created_at,"
        " v.name, v.version, v.definition, e.name AS endpoint, e.definition AS endpoint_definition,"
        " loaded.id AS load_id, loaded.tools, loaded.prices, loaded.approvals,"
        " v.first_succeeded_at IS NULL AS first_run, r.effects_epoch,"
        f" {NOTES_OF_RUN} AS notes,"
        " lost_input_tokens, lost_output_tokens, lost_usd, parked_s"
        " FROM agents_run r JOIN agents_agentversion v ON v.id = r.agent_id"
        " JOIN agents_endpoint e ON e.id = r.endpoint_id"
        " LEFT JOIN (SELECT id, tools, prices, approvals FROM agents_configload ORDER BY id DESC LIMIT 1) loaded"
        "   ON true"
        # Failed steps are in no journal; what they cost since the last redrive is in their events.
        " LEFT JOIN LATERAL (SELECT sum((data ->> 'input_tokens')::bigint)::bigint AS lost_input_tokens,"
        "   sum((data ->> 'output_tokens')::bigint)::bigint AS lost_output_tokens,"
        "   sum((data ->> 'cost_usd')::numeric) AS lost_usd"
        "   FROM jobs_jobevent f WHERE f.job_id = r.job_id AND f.kind = 'step' AND f.reason = 'failed'"
        "   AND (data ->> 'final')::boolean AND f.id > coalesce((SELECT max(g.id) FROM jobs_jobevent g"
        "     WHERE g.job_id = r.job_id AND g.kind = 'state' AND g.reason = 'redriven'), 0)) failed ON true"
        # The time in which it was parked counts against no budget.
        " CROSS JOIN LATERAL (SELECT coalesce(sum(extract(epoch FROM ended - at)), 0)::float AS parked_s FROM ("
        "   SELECT new, at, lead(at) OVER (ORDER BY id) AS ended FROM jobs_jobevent"
        "   WHERE job_id = r.job_id AND kind = 'state' AND old <> new) phase WHERE new = 'waiting') parked"
        " WHERE r.job_id = %s",
        [claim.job_id],
    )
    return rows[0]


def _forget_last_failures(run_id: UUID) -> Script[None]:
    """Take tool calls that failed, and that nothing was built on, out of the journal: a redrive tries them again.

    They stay on record as events. Without this a run that died of what a tool came back with would only ever read the
    same answer again. The ledger goes with it: an effect that failed may be tried again, one that was done never.
    """
    forgotten = yield (
        "WITH run AS (SELECT job_id, journal_epoch FROM agents_run WHERE job_id = %s)"
        " DELETE FROM agents_step s USING run WHERE s.run_id = run.job_id AND s.epoch = run.journal_epoch"
        " AND s.kind = 'tool' AND s.output ->> 'ok' = 'false' AND s.id > coalesce((SELECT max(g.id) FROM agents_step g"
        "   WHERE g.run_id = run.job_id AND g.epoch = run.journal_epoch"
        "   AND (g.kind <> 'tool' OR g.output ->> 'ok' IS DISTINCT FROM 'false')), 0) RETURNING s.key",
        [run_id],
    )
    if forgotten:
        yield "UPDATE agents_run SET steps_done = steps_done - %s WHERE job_id = %s", [len(forgotten), run_id]
        yield from try_failed_again(run_id, [step["key"] for step in forgotten])


def _tell_of_altered(run_id: UUID, problem: dict[str, Any]) -> Script[None]:
    """Write into the trail that a decision in the database was not what people decided, and was refused."""
    if problem.get("type") == f"/problems/{PlanAltered.slug}":
        target = ("approval", problem["approval"]) if problem.get("approval") else ("job", run_id)
        after = {"run": str(run_id), "wait": problem.get("wait", "")}
        yield trail.statement(SYSTEM, "approval.altered", *target, note=problem["detail"], after=after)


def _gatekeeper(claim: Claim, row: Row, toolbox: LocalToolBox, settled: Mapping[str, Settled]) -> SiteGatekeeper:
    where = Situation(row["name"], row["endpoint"], row["mode"], first_run_of_version=row["first_run"])
    return SiteGatekeeper(str(claim.job_id), _rules(row["load_id"], row["approvals"] or []), where, toolbox, settled)


def _rules(load_id: int | None, kept: list[dict[str, Any]]) -> Rules:
    """Return the rules of a load. Every claim asks, so those that were read last are kept."""
    known = _read_last[0]
    if known[0] != load_id or known[1] != kept:
        known = load_id, kept, Rules(tuple(Rule.from_json(rule) for rule in kept))
        _read_last[0] = known
    return known[2]


#: A load, its rules as it has them, and as they are.
_read_last: list[tuple[int | None, list[dict[str, Any]], Rules]] = [(None, [], Rules())]


def _lost(row: Row) -> Usage:
    return Usage(
        input_tokens=row["lost_input_tokens"] or 0,
        output_tokens=row["lost_output_tokens"] or 0,
        cost_usd=row["lost_usd"] or Decimal(0),
    )


def _is_the_outages(error: RunError, journal: RunJournal) -> bool:
    """Tell whether the run failed because the database was away: nobody's failure, so nobody is charged.

    Its time may be up because it had to wait for a write: it goes on from its last step with all its time.
    """
    if isinstance(error, WallClockExceeded):
        return journal.was_away
    return isinstance(error, JournalUnavailable) and isinstance(error.__cause__, OUTAGE)


def _failed(error: RunError, agent: str) -> Failed:
    problem: dict[str, Any] = error.as_problem()
    problem["fingerprint"] = _fingerprint(problem, f"{error.slug}:{agent}")
    problem["users_own"] = error.users_own
    if isinstance(error, ProgramError):
        logger.error("an agent's program failed", exc_info=error, extra={"action": "program_failed", "agent": agent})
    return Failed(problem, retriable=error.retriable, retry_after_s=problem.get("retry_after_s"))


def _fingerprint(problem: dict[str, Any], otherwise: str) -> str:
    """Return what groups a failure with its like: its own fingerprint or another, and its reason, where it has one."""
    found, reason = problem.get("fingerprint", otherwise), problem.get("reason")
    return f"{found}:{reason}" if isinstance(reason, str) and _REASON.fullmatch(reason) else found
