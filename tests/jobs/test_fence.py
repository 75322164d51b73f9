"""What a stale owner writes changes nothing, in no table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from agents.journal import RunJournal
from agents.models import AgentVersion, Endpoint, Run
from agents.runtime.ports import StepRecord, Superseded
from agents.runtime.types import Usage
from audit.trail import SYSTEM
from jobs import lease, script
from jobs.actions import Cancel
from jobs.claim import StaleFence, fenced, finish, report_progress
from jobs.handlers import (
    Blocked,
    Cancelled,
    Claim,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Succeeded,
    WaitFor,
)
from jobs.pool import close_pool, get_pool
from jobs.states import State
from jobs.transitions import VERSION
from tests.jobs.drive import (
    PROBLEM,
    Waiter,
    crash,
    end,
    job,
    running,
    session,
    snapshot,
    state,
    take,
    taken,
    worker,
)

OUTCOMES: list[Outcome] = [
    Succeeded({"answer": 42}),
    Failed(PROBLEM),
    Failed(PROBLEM, retriable=False),
    Parked([WaitFor("person", "approve")]),
    Parked([WaitFor("time", "nap", datetime(2020, 1, 1, tzinfo=UTC))]),
    Blocked(VERSION, PROBLEM),
    HandedBack(),
    Cancelled(),
]


def _released(claimed: Claim) -> None:
    """Its worker died: the job is queued again, under the same fence until somebody claims it."""
    crash(claimed.worker_id)


def _claimed_by_another(claimed: Claim) -> None:
    crash(claimed.worker_id)
    assert taken(worker("suspect"), "suspect").fence == claimed.fence + 1


def _claimed_by_the_same_process(claimed: Claim) -> None:
    """Handed back, and claimed again by a worker of the same process: only the fence tells the two apart."""
    end(claimed, HandedBack())
    assert taken(worker()).job_id == claimed.job_id


def _ended_by_another(claimed: Claim) -> None:
    crash(claimed.worker_id)
    end(taken(worker("suspect"), "suspect"), Succeeded())


def _cancelled_in_the_meantime(claimed: Claim) -> None:
    Cancel(SYSTEM).run(claimed.job_id)
    crash(claimed.worker_id)
    assert state(claimed.job_id) is State.CANCELLED


TAKEN_AWAY = [
    _released,
    _claimed_by_another,
    _claimed_by_the_same_process,
    _ended_by_another,
    _cancelled_in_the_meantime,
]
taken_away = pytest.mark.parametrize("take_away", TAKEN_AWAY)


@taken_away
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_no_outcome_of_a_stale_owner_is_written(take_away: Callable[[Claim], None], outcome: Outcome) -> None:
    claimed = running(partition_key="p")
    take_away(claimed)
    before = snapshot()
    assert end(claimed, outcome) is False
    assert snapshot() == before


@taken_away
def test_no_progress_of_a_stale_owner_is_written(take_away: Callable[[Claim], None]) -> None:
    claimed = running()
    take_away(claimed)
    before = snapshot()
    with pytest.raises(StaleFence, match="fence 1 is stale"):
        script.run(report_progress(claimed, {"done": 1}))
    assert snapshot() == before


@taken_away
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_stale_owner_does_not_get_the_fence(take_away: Callable[[Claim], None], exclusive: bool) -> None:
    claimed = running()
    take_away(claimed)
    with pytest.raises(StaleFence):
        script.run(fenced(claimed, exclusive=exclusive))


@taken_away
def test_a_stale_owner_hands_nothing_back(take_away: Callable[[Claim], None]) -> None:
    claimed = running()
    take_away(claimed)
    before = snapshot()
    assert script.run(lease.hand_back(claimed.job_id, claimed.fence)) is False
    assert snapshot() == before


def test_an_outcome_is_written_once() -> None:
    claimed = running()
    assert end(claimed, Succeeded())
    before = snapshot()
    assert not end(claimed, Succeeded()), "the answer to the first commit may have been lost"
    assert not end(claimed, Failed(PROBLEM))
    assert snapshot() == before


def test_writing_to_a_job_that_was_deleted_changes_nothing() -> None:
    claimed = running()
    job(claimed.job_id).delete()
    before = snapshot()
    assert not end(claimed, Succeeded())
    assert snapshot() == before


# --- Locks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
def test_whoever_takes_a_job_away_waits_for_what_its_owner_is_writing(exclusive: bool) -> None:
    claimed = running()
    with session() as owner:
        owner.do(fenced(claimed, exclusive=exclusive))
        taking = Waiter(lambda: crash(claimed.worker_id))
        assert taking.blocked()
        owner.connection.commit()
        taking.end()
    assert state(claimed.job_id) is State.QUEUED


def test_an_owner_that_comes_too_late_waits_and_then_sees_that_it_is_stale() -> None:
    claimed = running()
    with session() as taking:
        taking.do(lease.end(claimed.worker_id, "lost"))
        late = Waiter(lambda: script.run(report_progress(claimed, {"done": 1})))
        assert late.blocked()
        taking.connection.commit()
        assert isinstance(late.end(), StaleFence)


def test_an_outcome_that_comes_too_late_waits_and_then_is_not_written() -> None:
    claimed = running(partition_key="p")
    with session() as taking:
        taking.do(lease.end(claimed.worker_id, "lost"))
        late = Waiter(lambda: end(claimed, Succeeded()))
        assert late.blocked()
        taking.connection.commit()
        assert late.end() is False
    assert state(claimed.job_id) is State.QUEUED


def test_two_writes_of_one_owner_go_side_by_side() -> None:
    claimed = running()
    with session() as one, session() as two:
        one.do(fenced(claimed))
        two.do(fenced(claimed))
        assert not two.is_waiting()


def test_a_job_that_is_being_written_to_is_nobody_elses_to_claim() -> None:
    claimed = running()
    with session() as owner:
        owner.do(finish(claimed, HandedBack()))
        assert take(worker()) is None
        owner.connection.commit()
    assert taken(worker()).fence == claimed.fence + 1


# --- The journal -----------------------------------------------------------------------------------------------------


def _run_of(job_id: UUID) -> Run:
    agent = AgentVersion.objects.create(name="a", version=1, definition={}, digest="", program="loop", program_hash="")
    endpoint = Endpoint.objects.create(name="a.v1", agent=agent, mode="async-queue", definition={})
    return Run.objects.create(
        job_id=job_id, endpoint=endpoint, agent=agent, mode="async-queue", input={}, budget={}, seed=1
    )


def _step(key: str, **more: Any) -> StepRecord:
    now = datetime.now(UTC)
    given = {"input": None, "output": None, **more}
    return StepRecord(key, "look", "tool", "hash", started_at=now, finished_at=now, **given)


@pytest_asyncio.fixture
async def _pool() -> AsyncIterator[None]:
    await get_pool()
    yield
    await close_pool()


@pytest.fixture
def claimed_run() -> Claim:
    claimed = running()
    _run_of(claimed.job_id)
    return claimed


async def _in_thread(call: Callable[..., Any], *args: Any) -> Any:
    from django.db import connection

    def run() -> Any:
        try:
            return call(*args)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


@pytest.mark.usefixtures("_pool")
async def test_the_journal_of_an_owner_is_written(claimed_run: Claim) -> None:
    journal = RunJournal(claimed_run, 1)
    await journal.record(_step("look#1", output={"found": 3}))
    await journal.progress(1, 2, "half")
    assert list(await journal.load()) == ["look#1"]
    assert (await _in_thread(job, claimed_run.job_id)).progress == {"done": 1, "total": 2, "note": "half"}


@pytest.mark.usefixtures("_pool")
async def test_the_first_owner_of_a_run_does_not_wait_for_its_journal(claimed_run: Claim) -> None:
    with session() as other:
        other.connection.execute("LOCK TABLE agents_step IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(5):
            assert await RunJournal(claimed_run, 1).load() == {}


@pytest.mark.usefixtures("_pool")
@taken_away
async def test_a_stale_owner_records_no_step(take_away: Callable[[Claim], None], claimed_run: Claim) -> None:
    journal = RunJournal(claimed_run, 1)
    await journal.record(_step("look#1"))
    await _in_thread(take_away, claimed_run)
    before = await _in_thread(snapshot)
    with pytest.raises(Superseded):
        await journal.record(_step("look#2"))
    with pytest.raises(Superseded):
        await journal.record(_step("look#3", ok=False, problem=PROBLEM))
    with pytest.raises(Superseded):
        await journal.progress(2, 2, "done")
    assert await _in_thread(snapshot) == before


@pytest.mark.usefixtures("_pool")
async def test_of_steps_written_together_by_a_stale_owner_none_is(claimed_run: Claim) -> None:
    journal = RunJournal(claimed_run, 1)
    await _in_thread(_claimed_by_another, claimed_run)
    before = await _in_thread(snapshot)
    results = await asyncio.gather(*(journal.record(_step(f"look#{n}")) for n in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [Superseded] * 5
    assert await _in_thread(snapshot) == before


@pytest.mark.usefixtures("_pool")
async def test_a_new_step_clears_the_count_of_crashes(claimed_run: Claim) -> None:
    def crash_twice() -> Claim:
        crash(claimed_run.worker_id)
        claimed = claimed_run
        for _ in range(2):
            claimed = taken(worker("suspect"), "suspect")
            crash(claimed.worker_id)
        return taken(worker("suspect"), "suspect")

    claimed = await _in_thread(crash_twice)
    assert claimed.crashes == 2
    journal = RunJournal(claimed, 1)
    await journal.record(_step("look#1", ok=False))
    await journal.progress(0, 2, "looking")
    assert (await _in_thread(job, claimed.job_id)).crashes == 2, "a failed step is no progress, and telling it is none"
    await journal.record(_step("look#1"))
    assert (await _in_thread(job, claimed.job_id)).crashes == 0


@pytest.mark.usefixtures("_pool")
async def test_a_run_is_charged_for_a_step_that_failed_and_once_for_its_attempts(claimed_run: Claim) -> None:
    one, both = (Usage(input_tokens=5 * n, output_tokens=10 * n, cost_usd=Decimal("0.5") * n) for n in (1, 2))
    journal = RunJournal(claimed_run, 1)
    await journal.record(_step("ask#1", ok=False, usage=one, is_final=False))
    await journal.record(_step("ask#1", ok=False, usage=both))
    run = await _in_thread(lambda: Run.objects.get(job_id=claimed_run.job_id))
    assert (run.steps_done, run.turns, run.cost_known) == (0, 0, True)
    assert (run.input_tokens, run.output_tokens, run.cost_usd) == (10, 20, Decimal(1))
    await journal.record(_step("ask#1", ok=False, usage=Usage(output_tokens=1, cost_usd=None)))
    run = await _in_thread(lambda: Run.objects.get(job_id=claimed_run.job_id))
    assert (run.output_tokens, run.cost_known) == (21, False)
