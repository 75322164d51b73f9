"""What was said in a conversation goes with it, out of its runs too. What they cost stays.

A run that is still going when its conversation is deleted writes until it hears that it was cancelled. So what it said
is forgotten twice: with the conversation, and in the very transaction that ends the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from agents import parked
from agents.models import Run
from agents.modes import policy
from jobs.handlers import Transition
from jobs.script import Script

#: What stays of a problem, of a change of state, and of a step: ids, kinds, times, figures; no words of anybody's.
_PROBLEM = ["type", "title", "status", "fingerprint", "retriable", "users_own"]
_STATE = [*_PROBLEM, "delay_s", "from", "generation", "waits"]
_STEP = ["key", "name", "kind", "ms", "model", "input_tokens", "output_tokens", "cost_usd", "final"]


def _only(value: str) -> str:
    return (
        f"(SELECT coalesce(jsonb_object_agg(kept.key, kept.value), '{{}}') FROM jsonb_each({value}) kept"
        " WHERE kept.key = ANY(%s))"
    )


_PROBLEM_OF_STEP = _only("data -> 'problem'")
_EVENTS = (
    "UPDATE jobs_jobevent SET data = CASE kind"
    f" WHEN 'state' THEN {_only('data')}"
    f" WHEN 'step' THEN {_only('data')} || jsonb_build_object('summary', '', 'problem',"
    f"   CASE WHEN jsonb_typeof(data -> 'problem') = 'object' THEN {_PROBLEM_OF_STEP} END)"
    f" WHEN 'progress' THEN {_only('data')} || jsonb_build_object('note', '') END"
    " WHERE job_id = ANY(%s) AND jsonb_typeof(data) = 'object'"
)


def forget(runs: Sequence[UUID]) -> Script[None]:
    """Take what went in and came out, and every text about it, out of the rows of runs. Jobs' rows are locked by it."""
    if not runs:
        return
    given = list(runs)
    yield (
        f"UPDATE jobs_job SET progress = NULL, error = CASE WHEN jsonb_typeof(error) = 'object' THEN {_only('error')}"
        " END WHERE id = ANY(%s)",
        [_PROBLEM, given],
    )
    yield _EVENTS, [_STATE, _STEP, _PROBLEM, ["done", "total"], given]
    # The input may not be missing; an empty text says nothing.
    yield "UPDATE agents_run SET input = '\"\"'::jsonb, output = NULL WHERE job_id = ANY(%s)", [given]
    yield (
        "UPDATE agents_step SET input = NULL, output = NULL"
        " WHERE run_id = ANY(%s) AND (input IS NOT NULL OR output IS NOT NULL)",
        [given],
    )
    yield "UPDATE agents_score SET reason = '' WHERE run_id = ANY(%s) AND reason <> ''", [given]
    yield "UPDATE jobs_wait SET result = NULL WHERE job_id = ANY(%s) AND result IS NOT NULL", [given]
    # That something was done outside, and when, stays.
    yield "UPDATE agents_effect SET arguments = '{}', result = NULL, note = '' WHERE run_id = ANY(%s)", [given]
    yield from parked.hooks.forget(given)


def is_forgotten(run: Run) -> bool:
    """Tell whether nothing is left of what a run was asked: its conversation was deleted. Nobody sends empty text."""
    return run.input == "" and policy(run.mode).concurrency.entrance == "chat"


def forget_if_deleted(change: Transition) -> Script[None]:
    """Forget what a run of a conversation said if the conversation is gone. The last part of a run's transition."""
    found = yield "SELECT 1 FROM agents_conversation WHERE id = %s", [change.payload["conversation"]]
    if not found:
        yield from forget([change.job_id])
