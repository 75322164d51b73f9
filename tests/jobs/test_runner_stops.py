from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from audit.trail import SYSTEM
from jobs import handlers, runner
from jobs.actions import Cancel
from jobs.handlers import Claim, Failed, Outcome, Succeeded
from jobs.pool import close_pool, get_pool
from jobs.runner import Runner
from tests.jobs import drive
from tests.jobs.at_work import Long, claimed_for, in_thread, row_of
from tests.jobs.drive import PROBLEM


@pytest_asyncio.fixture(autouse=True)
async def _pool() -> AsyncIterator[None]:
    await get_pool()
    yield
    await close_pool()


@pytest.fixture
def jobs() -> Runner:
    return Runner()


# --- Stopped from outside --------------------------------------------------------------------------------------------


async def test_a_job_cancelled_before_it_began_never_begins(jobs: Runner) -> None:
    ran = []

    async def work(claim: Claim) -> Outcome:
        ran.append(claim)
        return Succeeded()

    claimed = await claimed_for(work)
    task = jobs.start(claimed)
    jobs.cancel(claimed.job_id)
    await task
    assert not ran
    assert (await row_of(claimed)).state == "cancelled"


async def test_a_running_job_is_stopped_and_cancelled(jobs: Runner) -> None:
    work = Long()
    claimed = await claimed_for(work)
    task = jobs.start(claimed)
    await work.began.wait()
    assert jobs.runs(claimed.job_id)
    jobs.cancel(claimed.job_id)
    await task
    assert work.stopped
    assert (await row_of(claimed)).state == "cancelled"
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
    claimed = await claimed_for(work)
    task = jobs.start(claimed)
    await began.wait()
    jobs.cancel(claimed.job_id)
    await asyncio.sleep(0)
    jobs.cancel(claimed.job_id)
    await task
    assert cleaned == ["up"], "the second did not cut off the cleaning up"
    assert (await row_of(claimed)).state == "cancelled"


async def test_a_job_cancelled_while_its_outcome_is_written_keeps_its_outcome(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        return Succeeded()

    claimed = await claimed_for(work)
    with drive.session() as other:
        other.connection.execute("SELECT 1 FROM jobs_job FOR UPDATE")
        task = jobs.start(claimed)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await in_thread(drive.until, lambda: drive.ask(waiting))
        jobs.cancel(claimed.job_id)
        other.connection.commit()
    await task
    assert (await row_of(claimed)).state == "succeeded"


async def test_what_the_handler_makes_of_being_stopped_stands_unless_the_row_says_cancel(jobs: Runner) -> None:
    work = Long(then=Failed(PROBLEM))
    claimed = await claimed_for(work)
    task = jobs.start(claimed)
    await work.began.wait()
    await in_thread(Cancel(SYSTEM).run, claimed.job_id)
    jobs.cancel(claimed.job_id)
    await task
    assert (await row_of(claimed)).state == "cancelled"


async def test_a_job_that_succeeded_while_it_was_being_stopped_has_succeeded(jobs: Runner) -> None:
    work = Long(then=Succeeded())
    claimed = await claimed_for(work)
    task = jobs.start(claimed)
    await work.began.wait()
    await in_thread(Cancel(SYSTEM).run, claimed.job_id)
    jobs.cancel(claimed.job_id)
    await task
    assert (await row_of(claimed)).state == "succeeded"


async def test_only_the_job_that_is_meant_is_stopped(jobs: Runner) -> None:
    work = Long()
    one, other = await claimed_for(work), await claimed_for(work)
    tasks = jobs.start(one), jobs.start(other)
    await work.began.wait()
    jobs.cancel(one.job_id)
    await tasks[0]
    assert not tasks[1].done()
    jobs.cancel(other.job_id)
    await tasks[1]


async def test_what_was_claimed_under_a_lost_lease_is_stopped_and_nothing_is_written(jobs: Runner) -> None:
    work = Long()
    lost, kept = await claimed_for(work), await claimed_for(work)
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

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    assert (await row_of(claimed)).state == "scheduled"


# --- The wall clock --------------------------------------------------------------------------------------------------


async def test_a_run_that_takes_too_long_is_stopped_for_good(jobs: Runner) -> None:
    work = Long()
    claimed = replace(await claimed_for(work, time_limit_s=1), time_limit_s=0)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert work.stopped
    assert (row.state, row.attempt) == ("dead", 1)
    assert row.error is not None
    assert row.error["type"] == "/problems/wall-clock"


async def test_a_timeout_of_the_handlers_own_is_an_ordinary_failure(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        async with asyncio.timeout(0):
            await asyncio.sleep(3600)
        return Succeeded()

    claimed = await claimed_for(work, time_limit_s=600)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert row.state == "scheduled"
    assert row.error is not None
    assert (row.error["type"], row.error["detail"]) == ("/problems/unexpected-error", "TimeoutError")


async def test_a_handler_that_notices_the_wall_clock_says_itself_what_came_of_it(jobs: Runner) -> None:
    claimed = replace(await claimed_for(Long(then=Failed(PROBLEM)), time_limit_s=1), time_limit_s=0)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert (row.state, row.error) == ("scheduled", PROBLEM)


async def test_a_job_that_is_cancelled_just_as_its_time_is_over_is_cancelled(jobs: Runner) -> None:
    work = Long()
    claimed = replace(await claimed_for(work, time_limit_s=1), time_limit_s=0)
    task = jobs.start(claimed)
    await work.began.wait()
    jobs.cancel(claimed.job_id)
    await task
    assert (await row_of(claimed)).state == "cancelled"


# --- Shutting down ---------------------------------------------------------------------------------------------------


async def test_short_runs_finish_and_long_ones_are_handed_back(jobs: Runner) -> None:
    go_on = asyncio.Event()

    async def short(claim: Claim) -> Outcome:
        await go_on.wait()
        return Succeeded()

    work = Long()
    long = await claimed_for(work)
    handlers.register_function("test.short", short)
    brief = await in_thread(drive.running, "test.short")
    jobs.start(long)
    jobs.start(brief)
    await work.began.wait()
    closing = asyncio.create_task(jobs.shut_down(0.2))
    go_on.set()
    await closing
    row = await row_of(long)
    assert (await row_of(brief)).state == "succeeded"
    assert (row.state, row.attempt, row.crashes, row.lane) == ("queued", 0, 0, "queue")
    assert len(jobs) == 0


async def test_a_claim_that_comes_in_after_the_end_is_handed_back_unopened(jobs: Runner) -> None:
    await jobs.shut_down(0)
    ran = []

    async def work(claim: Claim) -> Outcome:
        ran.append(claim)
        return Succeeded()

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    assert not ran
    assert (await row_of(claimed)).state == "queued"


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
    claimed = await claimed_for(work)
    task = jobs.start(claimed)
    await began.wait()
    await jobs.shut_down(0)
    assert not task.done()
    enough.set()
    await task


async def test_shutting_down_with_nothing_to_do_takes_no_time(jobs: Runner) -> None:
    async with asyncio.timeout(1):
        await jobs.shut_down(3600)
