from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from django.db import connection

from audit.trail import SYSTEM
from jobs import handlers, runner, script
from jobs.actions import Cancel
from jobs.claim import StaleFence
from jobs.handlers import Blocked, Cancelled, Claim, Failed, HandedBack, Outcome, Parked, Succeeded, Transition, WaitFor
from jobs.models import Job
from jobs.pool import close_pool, conninfo, get_pool
from jobs.runner import Runner, persist, problem_of
from jobs.script import Script
from tests.jobs import drive
from tests.jobs.drive import PROBLEM


async def in_thread(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Call something that uses Django's connection."""

    def run() -> Any:
        try:
            return call(*args, **more)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


@pytest_asyncio.fixture(autouse=True)
async def _pool() -> AsyncIterator[None]:
    await get_pool()
    yield
    await close_pool()


@pytest.fixture
def jobs() -> Runner:
    return Runner()


Work = Callable[[Claim], Awaitable[Outcome]]


async def _claimed(work: Work, **more: Any) -> Claim:
    """Return a claimed job whose handler does the work."""
    handlers.register_function("test.work", work)
    claimed: Claim = await in_thread(drive.running, "test.work", **more)
    return claimed


async def _row(claimed: Claim) -> Job:
    row: Job = await in_thread(drive.job, claimed.job_id)
    return row


class Long:
    """Work that goes on until it is stopped, and says when it began."""

    def __init__(self, then: Outcome | None = None) -> None:
        self.began = asyncio.Event()
        self.stopped = False
        self._then = then

    async def __call__(self, claim: Claim) -> Outcome:
        self.began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.stopped = True
            if self._then is not None:
                return self._then
            raise
        return Succeeded()


# --- Outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Succeeded("done"), "succeeded"),
        (Failed(PROBLEM), "scheduled"),
        (Failed(PROBLEM, retriable=False), "dead"),
        (Parked([WaitFor("person", "approve")]), "waiting"),
        (Blocked("version"), "blocked"),
        (HandedBack(), "queued"),
        (Cancelled(), "cancelled"),
    ],
)
async def test_what_the_handler_returns_is_written(jobs: Runner, outcome: Outcome, state: str) -> None:
    async def work(claim: Claim) -> Outcome:
        return outcome

    claimed = await _claimed(work)
    await jobs.start(claimed)
    assert (await _row(claimed)).state == state
    assert len(jobs) == 0


async def test_an_exception_is_a_failure_that_is_tried_again(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        raise RuntimeError("boom")

    claimed = await _claimed(work)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert (row.state, row.attempt) == ("scheduled", 1)
    assert row.error is not None
    assert (row.error["title"], row.error["detail"]) == ("An unexpected error", "RuntimeError: boom")
    assert row.error["where"] == "test_runner.py:work"


async def test_a_handler_that_finds_itself_fenced_off_leaves_the_job_alone(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        raise StaleFence("gone")

    claimed = await _claimed(work)
    before = await in_thread(drive.snapshot)
    await jobs.start(claimed)
    assert await in_thread(drive.snapshot) == before


async def test_an_outcome_of_a_claim_that_was_taken_away_is_not_written(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        await in_thread(drive.crash, claim.worker_id)
        return Succeeded()

    claimed = await _claimed(work)
    await jobs.start(claimed)
    assert (await _row(claimed)).state == "queued"


async def test_a_handler_that_this_process_does_not_have_blocks_the_job(jobs: Runner) -> None:
    claimed = await in_thread(drive.running, "of-another-process")
    await jobs.start(claimed)
    row = await _row(claimed)
    assert (row.state, row.blocked_on, row.attempt) == ("blocked", ["unknown-handler"], 0)
    assert row.error is not None
    assert "of-another-process" in row.error["detail"]


async def test_a_handler_that_returns_no_outcome_has_failed(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        return None  # type: ignore[return-value]

    claimed = await _claimed(work)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert (row.state, row.attempt) == ("scheduled", 1)
    assert row.error is not None
    assert "returned None" in row.error["detail"]


@pytest.mark.parametrize("text", ["a\0b", "half of a pair: \ud800"])
async def test_text_that_postgresql_refuses_is_a_failure_and_no_endless_run(jobs: Runner, text: str) -> None:
    async def work(claim: Claim) -> Outcome:
        return Failed({**PROBLEM, "detail": text})

    claimed = await _claimed(work)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert (row.state, row.attempt) == ("scheduled", 1)


@pytest.mark.parametrize("text", ["a\0b", "half of a pair: \ud800"])
async def test_the_text_of_an_exception_is_made_storable(jobs: Runner, text: str) -> None:
    async def work(claim: Claim) -> Outcome:
        raise ValueError(text)

    claimed = await _claimed(work)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert row.error is not None
    assert row.error["detail"].startswith(f"ValueError: {text[:1]}")


async def test_a_handler_that_refuses_its_part_of_an_outcome_has_failed(jobs: Runner) -> None:
    def on_transition(change: Transition) -> Script[None]:
        yield "SELECT 1", []
        if change.new == "succeeded":
            raise RuntimeError("I can't store this")

    async def work(claim: Claim) -> Outcome:
        return Succeeded()

    claimed = await _claimed(work)
    handlers.register_function("test.work", work, on_transition=on_transition)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert row.state == "scheduled"
    assert row.error is not None
    assert "I can't store this" in row.error["detail"]


async def test_a_handler_that_refuses_every_outcome_leaves_a_dead_letter(jobs: Runner) -> None:
    def on_transition(change: Transition) -> Script[None]:
        yield "SELECT 1", []
        raise RuntimeError("never")

    async def work(claim: Claim) -> Outcome:
        return Succeeded()

    claimed = await _claimed(work)
    handlers.register_function("test.work", work, on_transition=on_transition)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert (row.state, row.attempt) == ("dead", 1)
    assert row.error is not None
    assert row.error["detail"] == "RuntimeError: never"


def test_the_fingerprint_groups_what_went_wrong_at_one_place() -> None:
    def here(text: str) -> dict[str, Any]:
        try:
            raise KeyError(text)
        except KeyError as error:
            return problem_of(error)

    def there() -> dict[str, Any]:
        try:
            raise KeyError("x")
        except KeyError as error:
            return problem_of(error)

    assert here("x")["fingerprint"] == here("y")["fingerprint"] != there()["fingerprint"]
    assert problem_of(ValueError())["detail"] == "ValueError"


# --- Stopped from outside --------------------------------------------------------------------------------------------


async def test_a_job_cancelled_before_it_began_never_begins(jobs: Runner) -> None:
    ran = []

    async def work(claim: Claim) -> Outcome:
        ran.append(claim)
        return Succeeded()

    claimed = await _claimed(work)
    task = jobs.start(claimed)
    jobs.cancel(claimed.job_id)
    await task
    assert not ran
    assert (await _row(claimed)).state == "cancelled"


async def test_a_running_job_is_stopped_and_cancelled(jobs: Runner) -> None:
    work = Long()
    claimed = await _claimed(work)
    task = jobs.start(claimed)
    await work.began.wait()
    assert jobs.runs(claimed.job_id)
    jobs.cancel(claimed.job_id)
    await task
    assert work.stopped
    assert (await _row(claimed)).state == "cancelled"
    assert not jobs.runs(claimed.job_id)


async def test_cancelling_twice_stops_once(jobs: Runner) -> None:
    cleaned: list[str] = []

    async def work(claim: Claim) -> Outcome:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("up")
        return Succeeded()

    began = asyncio.Event()
    claimed = await _claimed(work)
    task = jobs.start(claimed)
    await began.wait()
    jobs.cancel(claimed.job_id)
    await asyncio.sleep(0)
    jobs.cancel(claimed.job_id)
    await task
    assert cleaned == ["up"], "the second did not cut off the cleaning up"
    assert (await _row(claimed)).state == "cancelled"


async def test_a_job_cancelled_while_its_outcome_is_written_keeps_its_outcome(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        return Succeeded()

    claimed = await _claimed(work)
    with drive.session() as other:
        other.connection.execute("SELECT 1 FROM jobs_job FOR UPDATE")
        task = jobs.start(claimed)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await in_thread(drive.until, lambda: drive.ask(waiting))
        jobs.cancel(claimed.job_id)
        other.connection.commit()
    await task
    assert (await _row(claimed)).state == "succeeded"


async def test_what_the_handler_makes_of_being_stopped_stands_unless_the_row_says_cancel(jobs: Runner) -> None:
    work = Long(then=Failed(PROBLEM))
    claimed = await _claimed(work)
    task = jobs.start(claimed)
    await work.began.wait()
    await in_thread(Cancel(SYSTEM).run, claimed.job_id)
    jobs.cancel(claimed.job_id)
    await task
    assert (await _row(claimed)).state == "cancelled"


async def test_a_job_that_succeeded_while_it_was_being_stopped_has_succeeded(jobs: Runner) -> None:
    work = Long(then=Succeeded())
    claimed = await _claimed(work)
    task = jobs.start(claimed)
    await work.began.wait()
    await in_thread(Cancel(SYSTEM).run, claimed.job_id)
    jobs.cancel(claimed.job_id)
    await task
    assert (await _row(claimed)).state == "succeeded"


async def test_only_the_job_that_is_meant_is_stopped(jobs: Runner) -> None:
    work = Long()
    one, other = await _claimed(work), await _claimed(work)
    tasks = jobs.start(one), jobs.start(other)
    await work.began.wait()
    jobs.cancel(one.job_id)
    await tasks[0]
    assert not tasks[1].done()
    jobs.cancel(other.job_id)
    await tasks[1]


async def test_what_was_claimed_under_a_lost_lease_is_stopped_and_nothing_is_written(jobs: Runner) -> None:
    work = Long()
    lost, kept = await _claimed(work), await _claimed(work)
    tasks = jobs.start(lost), jobs.start(kept)
    await work.began.wait()
    before = await in_thread(drive.snapshot)
    jobs.lose(lost.worker_id)
    await tasks[0]
    assert await in_thread(drive.snapshot) == before
    assert not tasks[1].done()
    assert jobs.has(kept.job_id, kept.fence)
    assert not jobs.has(lost.job_id, lost.fence)
    jobs.cancel(kept.job_id)
    await tasks[1]


async def test_a_task_that_somebody_else_cancels_has_failed_and_is_tried_again(jobs: Runner) -> None:
    """A library cancels the task it runs in: that is nobody's wish, so it is an error like any other."""

    async def work(claim: Claim) -> Outcome:
        raise asyncio.CancelledError

    claimed = await _claimed(work)
    await jobs.start(claimed)
    assert (await _row(claimed)).state == "scheduled"


# --- The wall clock --------------------------------------------------------------------------------------------------


async def test_a_run_that_takes_too_long_is_stopped_for_good(jobs: Runner) -> None:
    work = Long()
    claimed = replace(await _claimed(work, time_limit_s=1), time_limit_s=0)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert work.stopped
    assert (row.state, row.attempt) == ("dead", 1)
    assert row.error is not None
    assert row.error["type"] == "/problems/wall-clock"


async def test_a_timeout_of_the_handlers_own_is_an_ordinary_failure(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        async with asyncio.timeout(0):
            await asyncio.sleep(3600)
        return Succeeded()

    claimed = await _claimed(work, time_limit_s=600)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert row.state == "scheduled"
    assert row.error is not None
    assert (row.error["type"], row.error["detail"]) == ("/problems/unexpected-error", "TimeoutError")


async def test_a_handler_that_notices_the_wall_clock_says_itself_what_came_of_it(jobs: Runner) -> None:
    claimed = replace(await _claimed(Long(then=Failed(PROBLEM)), time_limit_s=1), time_limit_s=0)
    await jobs.start(claimed)
    row = await _row(claimed)
    assert (row.state, row.error) == ("scheduled", PROBLEM)


async def test_a_job_that_is_cancelled_just_as_its_time_is_over_is_cancelled(jobs: Runner) -> None:
    work = Long()
    claimed = replace(await _claimed(work, time_limit_s=1), time_limit_s=0)
    task = jobs.start(claimed)
    await work.began.wait()
    jobs.cancel(claimed.job_id)
    await task
    assert (await _row(claimed)).state == "cancelled"


# --- Shutting down ---------------------------------------------------------------------------------------------------


async def test_short_runs_finish_and_long_ones_are_handed_back(jobs: Runner) -> None:
    go_on = asyncio.Event()

    async def short(claim: Claim) -> Outcome:
        await go_on.wait()
        return Succeeded()

    work = Long()
    long = await _claimed(work)
    handlers.register_function("test.short", short)
    brief = await in_thread(drive.running, "test.short")
    jobs.start(long)
    jobs.start(brief)
    await work.began.wait()
    closing = asyncio.create_task(jobs.shut_down(0.2))
    go_on.set()
    await closing
    row = await _row(long)
    assert (await _row(brief)).state == "succeeded"
    assert (row.state, row.attempt, row.crashes, row.lane) == ("queued", 0, 0, "queue")
    assert len(jobs) == 0


async def test_a_claim_that_comes_in_after_the_end_is_handed_back_unopened(jobs: Runner) -> None:
    await jobs.shut_down(0)
    ran = []

    async def work(claim: Claim) -> Outcome:
        ran.append(claim)
        return Succeeded()

    claimed = await _claimed(work)
    await jobs.start(claimed)
    assert not ran
    assert (await _row(claimed)).state == "queued"


async def test_a_run_that_does_not_let_itself_be_stopped_does_not_keep_the_process(
    jobs: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SETTLE_S", 0.05)
    enough = asyncio.Event()

    async def work(claim: Claim) -> Outcome:
        began.set()
        while not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                continue
        return Succeeded()

    began = asyncio.Event()
    claimed = await _claimed(work)
    task = jobs.start(claimed)
    await began.wait()
    await jobs.shut_down(0)
    assert not task.done()
    enough.set()
    await task


async def test_shutting_down_with_nothing_to_do_takes_no_time(jobs: Runner) -> None:
    async with asyncio.timeout(1):
        await jobs.shut_down(3600)


# --- Outages ---------------------------------------------------------------------------------------------------------


def _break_connections() -> None:
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture
def _pool_anew() -> Any:
    """Leave no broken connection in Django's pool to the next test."""
    yield
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_pool_anew")
async def test_an_outage_while_the_outcome_is_written_is_waited_out(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        await asyncio.to_thread(_break_connections)
        return Succeeded()

    claimed = await _claimed(work)
    await in_thread(lambda: None)
    await jobs.start(claimed)
    connection.close_pool()  # type: ignore[attr-defined]
    row = await _row(claimed)
    assert (row.state, row.attempt) == ("succeeded", 0)


async def test_a_script_is_run_again_as_long_as_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def sometimes() -> Script[str]:
        tries.append(1)
        rows = yield "SELECT 'there' AS word", []
        if len(tries) < 3:
            raise psycopg.OperationalError("the connection is lost")
        return str(rows[0]["word"])

    assert await persist(sometimes) == "there"
    assert len(tries) == 3


async def test_an_outage_that_outlasts_all_patience_leaves_the_job_to_whoever_claims_it_next(
    jobs: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*args: Any) -> Any:
        raise psycopg.OperationalError("no server")

    async def work(claim: Claim) -> Outcome:
        return Succeeded()

    claimed = await _claimed(work)
    monkeypatch.setattr(persist, "__kwdefaults__", {**(persist.__kwdefaults__ or {}), "patience_s": 0.0})
    with monkeypatch.context() as patch:
        patch.setattr(script, "arun", away)
        await jobs.start(claimed)
    assert (await _row(claimed)).state == "running"
    assert len(jobs) == 0


async def test_an_error_that_is_no_outage_is_not_tried_again() -> None:
    tries = []

    def wrong() -> Script[None]:
        tries.append(1)
        yield "SELECT no_such_column", []

    with pytest.raises(psycopg.errors.UndefinedColumn):
        await persist(wrong)
    assert len(tries) == 1
