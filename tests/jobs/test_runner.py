from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from django.db import connection

from jobs import handlers, script
from jobs.claim import StaleFence
from jobs.faults import problem_of
from jobs.handlers import Blocked, Cancelled, Claim, Failed, HandedBack, Outcome, Parked, Succeeded, Transition, WaitFor
from jobs.pool import close_pool, get_pool
from jobs.runner import Runner, persist
from jobs.script import Script
from tests.jobs import drive
from tests.jobs.at_work import claimed_for, in_thread, row_of
from tests.jobs.drive import PROBLEM


@pytest_asyncio.fixture(autouse=True)
async def _pool() -> AsyncIterator[None]:
    await get_pool()
    yield
    await close_pool()


@pytest.fixture
def jobs() -> Runner:
    return Runner()


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

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    assert (await row_of(claimed)).state == state
    assert len(jobs) == 0


async def test_an_exception_is_a_failure_that_is_tried_again(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        raise RuntimeError("boom")

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert (row.state, row.attempt) == ("scheduled", 1)
    assert row.error is not None
    assert (row.error["title"], row.error["detail"]) == ("An unexpected error", "RuntimeError: boom")
    assert row.error["at"].startswith("tests.jobs.test_runner:test_an_exception_is_a_failure_that_is_tried_again")
    assert ".work:" in row.error["at"]


async def test_a_handler_that_finds_itself_fenced_off_leaves_the_job_alone(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        raise StaleFence("gone")

    claimed = await claimed_for(work)
    before = await in_thread(drive.snapshot)
    await jobs.start(claimed)
    assert await in_thread(drive.snapshot) == before


async def test_an_outcome_of_a_claim_that_was_taken_away_is_not_written(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        await in_thread(drive.crash, claim.worker_id)
        return Succeeded()

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    assert (await row_of(claimed)).state == "queued"


async def test_a_handler_that_this_process_does_not_have_blocks_the_job(jobs: Runner) -> None:
    claimed = await in_thread(drive.running, "of-another-process")
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert (row.state, row.blocked_on, row.attempt) == ("blocked", ["unknown-handler"], 0)
    assert row.error is not None
    assert "of-another-process" in row.error["detail"]


async def test_a_handler_that_returns_no_outcome_has_failed(jobs: Runner) -> None:
    async def work(claim: Claim) -> Outcome:
        return None  # type: ignore[return-value]

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert (row.state, row.attempt) == ("scheduled", 1)
    assert row.error is not None
    assert "returned None" in row.error["detail"]


@pytest.mark.parametrize("text", ["a\0b", "half of a pair: \ud800"])
async def test_text_that_postgresql_refuses_is_a_failure_and_no_endless_run(jobs: Runner, text: str) -> None:
    async def work(claim: Claim) -> Outcome:
        return Failed({**PROBLEM, "detail": text})

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert (row.state, row.attempt) == ("scheduled", 1)


@pytest.mark.parametrize("text", ["a\0b", "half of a pair: \ud800"])
async def test_the_text_of_an_exception_is_made_storable(jobs: Runner, text: str) -> None:
    async def work(claim: Claim) -> Outcome:
        raise ValueError(text)

    claimed = await claimed_for(work)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert row.error is not None
    assert row.error["detail"].startswith(f"ValueError: {text[:1]}")


async def test_a_handler_that_refuses_its_part_of_an_outcome_has_failed(jobs: Runner) -> None:
    def on_transition(change: Transition) -> Script[None]:
        yield "SELECT 1", []
        if change.new == "succeeded":
            raise RuntimeError("I can't store this")

    async def work(claim: Claim) -> Outcome:
        return Succeeded()

    claimed = await claimed_for(work)
    handlers.register_function("test.work", work, on_transition=on_transition)
    await jobs.start(claimed)
    row = await row_of(claimed)
    assert row.state == "scheduled"
    assert row.error is not None
    assert "I can't store this" in row.error["detail"]


async def test_a_handler_that_refuses_every_outcome_leaves_a_dead_letter(jobs: Runner) -> None:
    def on_transition(change: Transition) -> Script[None]:
        yield "SELECT 1", []
        raise RuntimeError("never")

    async def work(claim: Claim) -> Outcome:
        return Succeeded()

    claimed = await claimed_for(work)
    handlers.register_function("test.work", work, on_transition=on_transition)
    await jobs.start(claimed)
    row = await row_of(claimed)
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


# --- Outages ---------------------------------------------------------------------------------------------------------


async def test_an_outage_while_the_outcome_is_written_is_waited_out(jobs: Runner, outage: Callable[[], None]) -> None:
    async def work(claim: Claim) -> Outcome:
        await asyncio.to_thread(outage)
        return Succeeded()

    claimed = await claimed_for(work)
    await in_thread(lambda: None)
    await jobs.start(claimed)
    connection.close_pool()  # type: ignore[attr-defined]
    row = await row_of(claimed)
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

    claimed = await claimed_for(work)
    monkeypatch.setattr(persist, "__kwdefaults__", {**(persist.__kwdefaults__ or {}), "patience_s": 0.0})
    with monkeypatch.context() as patch:
        patch.setattr(script, "arun", away)
        await jobs.start(claimed)
    assert (await row_of(claimed)).state == "running"
    assert len(jobs) == 0


async def test_an_error_that_is_no_outage_is_not_tried_again() -> None:
    tries = []

    def wrong() -> Script[None]:
        tries.append(1)
        yield "SELECT no_such_column", []

    with pytest.raises(psycopg.errors.UndefinedColumn):
        await persist(wrong)
    assert len(tries) == 1
