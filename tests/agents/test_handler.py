"""What the handler of runs makes of what stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from agents import handler, registry
from agents.invoke import invoke
from agents.journal import RunJournal
from agents.models import Run
from agents.runtime.errors import ProgramError, RunError
from agents.runtime.ports import StepKind, StepRecord
from agents.runtime.types import Usage
from audit.trail import SYSTEM
from jobs import lanes, script
from jobs.actions import Redrive
from jobs.claim import claim, finish
from jobs.handlers import Claim, Failed, HandedBack, Outcome
from jobs.pool import close_pool
from tests.jobs.drive import worker
from tests.support.configs import load
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

CONFIG = """
programs: [tests.support.programs]
agents:
  sleeper:
    version: 1
    instructions: Sleep.
    model: demo
    program: test-slowly
    limits: {wall_clock_s: 1}
endpoints:
  sleep.v1: {agent: sleeper, mode: async-queue, input: {type: object}}
"""


@pytest.fixture(autouse=True)
def _config() -> Iterator[None]:
    load(CONFIG)
    yield
    registry.forget()


def claimed() -> Claim:
    found = script.run(claim(worker(can=registry.capabilities()), lanes.QUEUE))
    assert found is not None
    return found


def carry_out(claim: Claim) -> Outcome:
    async def run() -> Outcome:
        try:
            return await handler.RunHandler().run(claim)
        finally:
            await close_pool()

    return asyncio.run(run())


def test_a_run_that_takes_too_long_is_a_dead_letter_at_once() -> None:
    invoke("sleep.v1", {}, user=person("user"), actor=SYSTEM)
    outcome = carry_out(claimed())
    assert isinstance(outcome, Failed)
    assert (outcome.problem["type"], outcome.retriable) == ("/problems/wall-clock", False)


@pytest.mark.parametrize(
    ("reason", "fingerprint"),
    [
        ("private-address", "run-failed:digger:private-address"),
        ("no-such-host", "run-failed:digger:no-such-host"),
        ("timeout", "run-failed:digger:timeout"),
        ("example.org", "run-failed:digger"),
        ("10.0.0.1", "run-failed:digger"),
        ("3f2a9c", "run-failed:digger"),
        ("timeout\n", "run-failed:digger"),
        ("a" * 41, "run-failed:digger"),
        ("", "run-failed:digger"),
        (["timeout"], "run-failed:digger"),
        (None, "run-failed:digger"),
    ],
)
def test_failures_of_different_reasons_are_not_alike(reason: Any, fingerprint: str) -> None:
    assert handler._failed(RunError("It did not.", reason=reason), "digger").problem["fingerprint"] == fingerprint


def test_a_reason_goes_with_the_fingerprint_that_a_failure_has() -> None:
    error = ProgramError("The crawl failed", reason="broken", fingerprint="abc")
    assert handler._failed(error, "digger").problem["fingerprint"] == "abc:broken"
    assert handler._failed(error, "digger").problem["fingerprint"] == "abc:broken", "and once only"


def test_a_run_whose_time_was_spent_waiting_for_the_database_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    invoke("sleep.v1", {}, user=person("user"), actor=SYSTEM)
    found = claimed()
    calls, really = iter(range(1_000)), script.arun

    async def arun(pool: Any, asked: Any) -> Any:
        if next(calls) in (3, 4, 5):  # some time after the run was read and its journal loaded
            raise psycopg.OperationalError("the server closed the connection unexpectedly")
        return await really(pool, asked)

    monkeypatch.setattr(script, "arun", arun)
    assert carry_out(found) == HandedBack()


def test_what_failed_steps_cost_counts_against_the_caps_of_every_later_claim() -> None:
    run_id = invoke("sleep.v1", {}, user=person("user"), actor=SYSTEM).run_id
    found = claimed()

    async def fail(usage: Usage, *, is_final: bool) -> None:
        now = timezone.now()
        record = StepRecord("k", "ask", "model", "h", None, None, now, now, ok=False, usage=usage, is_final=is_final)
        try:
            await RunJournal(found, 1).record(record)
        finally:
            await close_pool()

    def lost() -> Usage:
        return handler._lost(script.run(handler._read(found)))

    assert lost() == Usage()
    paid = Usage(input_tokens=7, output_tokens=5, cost_usd=Decimal("0.01"))
    asyncio.run(fail(paid, is_final=False))
    assert lost() == Usage(), "the record of how the step ends counts it"
    asyncio.run(fail(paid, is_final=True))
    asyncio.run(fail(paid, is_final=True))
    assert lost() == paid + paid
    script.run(finish(found, Failed({"title": "No"}, retriable=False)))
    Redrive(SYSTEM).run(run_id)
    assert lost() == Usage(), "a redrive begins anew"


def test_a_redrive_from_the_last_step_tries_last_tool_calls_that_failed_again() -> None:
    run_id = invoke("sleep.v1", {}, user=person("user"), actor=SYSTEM).run_id
    found = claimed()
    now = timezone.now()

    async def record() -> None:
        journal = RunJournal(found, 1)
        try:
            steps: tuple[tuple[str, StepKind, Any], ...] = (
                ("a", "tool", {"ok": False}),  # the program went on from this one
                ("b", "step", 1),
                ("c", "tool", {"ok": True}),
                ("d", "tool", {"ok": False}),
                ("e", "tool", {"ok": False}),
            )
            for key, kind, output in steps:
                await journal.record(StepRecord(key, key, kind, "h", None, output, now, now))
        finally:
            await close_pool()

    asyncio.run(record())
    script.run(finish(found, Failed({"title": "No"}, retriable=False)))
    Redrive(SYSTEM).run(run_id)
    run = Run.objects.get(job_id=run_id)
    assert list(run.steps.values_list("key", flat=True)) == ["a", "b", "c"]
    assert run.steps_done == 3
