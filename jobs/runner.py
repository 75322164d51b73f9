"""Run claimed jobs on an event loop: limits, cancellation, hand-back, and an outcome that is always written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests

from jobs import handlers, script
from jobs.claim import StaleFence, finish, give_up
from jobs.faults import problem_of
from jobs.handlers import Blocked, Cancelled, Claim, Failed, HandedBack, Outcome
from jobs.pool import drop_broken, get_pool
from jobs.transitions import UNKNOWN_HANDLER

logger = logging.getLogger(__name__)

#: What an outage of PostgreSQL looks like from here, and an outage of ours from there.
OUTAGE = (psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout, PoolTimeout, TooManyRequests)
#: How long a write is tried again. Longer outages leave the job to whoever claims it next.
PATIENCE_S = 120.0
#: How long runs may take to write what became of them, once they were told to end. Seconds.
SETTLE_S = 4.0


async def persist(make: Any, *, patience_s: float = PATIENCE_S, on_outage: Callable[[], None] | None = None) -> Any:
    """Run the script that ``make()`` returns, again and again while PostgreSQL is away.

    A commit whose answer was lost may have been written: the script must be safe to run twice, which a fence and unique
    keys make it. ``on_outage`` is called each time that it has to wait.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    delay_s = 0.1
    while True:
        try:
            return await script.arun(await get_pool(), make())
        except OUTAGE as error:
            if loop.time() + delay_s > give_up_at:
                raise
            logger.warning("the database does not answer, trying again: %s", error, extra={"action": "database_outage"})
            if on_outage is not None:
                on_outage()
            await asyncio.sleep(delay_s)
            await drop_broken()
            delay_s = min(delay_s * 2, 2.0)


class Why(Enum):
    """Why a run's task is being cancelled from outside."""

    CANCEL = "cancel"
    SHUTDOWN = "shutdown"
    LOST = "lost"


@dataclass(slots=True)
class _Running:
    claim: Claim
    task: asyncio.Task[None] | None = None
    why: Why | None = None
    #: The handler is at work: only then does an interruption cancel the task. Before, it never begins; after, it ends.
    at_work: bool = False


class Runner:
    """The runs in flight of one process."""

    def __init__(self) -> None:
        self._running: dict[tuple[UUID, int], _Running] = {}
        self._closing = False

    def __len__(self) -> int:
        return len(self._running)

    def has(self, job_id: UUID, fence: int) -> bool:
        """Tell whether this claim is being run, or its outcome written, here."""
        return (job_id, fence) in self._running

    def runs(self, job_id: UUID) -> bool:
        """Tell whether any claim of the job is run here."""
        return any(running == job_id for running, _ in self._running)

    def start(self, claim: Claim) -> asyncio.Task[None]:
        """Begin to run a claimed job; the task ends when its outcome is written. Call on the loop."""
        key = (claim.job_id, claim.fence)
        running = self._running[key] = _Running(claim, why=Why.SHUTDOWN if self._closing else None)
        running.task = asyncio.create_task(self._run(running), name=f"job {claim.job_id}")
        running.task.add_done_callback(lambda _: self._running.pop(key, None))
        return running.task

    def cancel(self, job_id: UUID) -> None:
        """Stop a job for good, if it runs here."""
        self._stop(Why.CANCEL, job_id)

    def lose(self, worker_id: UUID) -> None:
        """Stop what was claimed under a lease that is lost: it belongs to others now."""
        for running in list(self._running.values()):
            if running.claim.worker_id == worker_id:
                self._interrupt(running, Why.LOST)

    async def shut_down(self, grace_s: float) -> None:
        """Let runs finish for ``grace_s`` seconds, then hand back the rest, and whatever is still to be started."""
        await self._settle(grace_s)
        self._closing = True
        self._stop(Why.SHUTDOWN)
        await self._settle(SETTLE_S)

    async def _settle(self, timeout_s: float) -> None:
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def _stop(self, why: Why, job_id: UUID | None = None) -> None:
        for running in list(self._running.values()):
            if job_id is None or running.claim.job_id == job_id:
                self._interrupt(running, why)

    @staticmethod
    def _interrupt(running: _Running, why: Why) -> None:
        if running.why is None:
            running.why = why
            if running.at_work and running.task is not None:
                running.task.cancel()

    async def _run(self, running: _Running) -> None:
        claim = running.claim
        extra = {"job": str(claim.job_id), "fence": claim.fence}
        outcome = await self._outcome(running)
        if outcome is None:
            logger.warning("job %s: no longer ours, left alone", claim.job_id, extra={"action": "run_lost", **extra})
            return
        try:
            written = await persist(lambda: finish(claim, outcome))
        except OUTAGE:
            logger.exception(
                "job %s: its outcome could not be written", claim.job_id, extra={"action": "finish_failed"}
            )
            return
        except Exception as error:
            logger.exception("job %s: its outcome was refused", claim.job_id, extra={"action": "finish_refused"})
            written = await _fail(claim, error)
        if not written:
            logger.warning("job %s: fenced off, nothing written", claim.job_id, extra={"action": "fenced_off", **extra})
            return
        logger.info(
            "job %s: %s", claim.job_id, type(outcome).__name__.lower(), extra={"action": "job_finished", **extra}
        )

    async def _outcome(self, running: _Running) -> Outcome | None:
        """Run the handler; whatever it does becomes an outcome, or None when the job is no longer ours."""
        claim = running.claim
        try:
            handler = handlers.get(claim.handler)
        except handlers.UnknownHandler as error:
            logger.error("job %s: %s", claim.job_id, error, extra={"action": "unknown_handler"})
            problem = {"type": "/problems/unknown-handler", "title": "No handler for this job", "detail": str(error)}
            return Blocked(UNKNOWN_HANDLER, problem)
        if running.why is not None:
            return _interrupted(running.why, None)
        limit = asyncio.timeout(claim.time_limit_s)
        running.at_work = True
        try:
            async with limit:
                return _checked(await handler.run(claim))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return _interrupted(running.why, error)
        except StaleFence:
            return None
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                return _took_too_long(claim)
            logger.exception("job %s: its handler raised", claim.job_id, extra={"action": "handler_raised"})
            return Failed(problem_of(error))
        finally:
            running.at_work = False


def _checked(outcome: Outcome) -> Outcome:
    if not isinstance(outcome, Outcome):
        raise TypeError(f"the handler returned {outcome!r}, which is no outcome")
    return outcome


async def _fail(claim: Claim, error: Exception) -> bool:
    """Write that a job has failed because its outcome cannot be written; text that PostgreSQL refuses, say.

    When its handler refuses its part of that as well, the job is a dead letter without it: it must not run for ever.
    """
    problem = problem_of(error)
    try:
        return bool(await persist(lambda: finish(claim, Failed(problem))))
    except OUTAGE:
        raise
    except Exception:
        logger.exception("job %s: its handler refuses any outcome", claim.job_id, extra={"action": "handler_refuses"})
        return bool(await persist(lambda: give_up(claim, {**problem, "retriable": False})))


def _interrupted(why: Why | None, error: BaseException | None) -> Outcome | None:
    if why is None:
        return Failed(problem_of(error or asyncio.CancelledError()))
    if why is Why.LOST:
        return None
    return Cancelled() if why is Why.CANCEL else HandedBack()


def _took_too_long(claim: Claim) -> Failed:
    problem = {
        "type": "/problems/wall-clock",
        "title": "The run took too long",
        "detail": f"It was stopped after {claim.time_limit_s} s. What it had finished is kept.",
        "fingerprint": f"wall-clock:{claim.subject}",
    }
    return Failed(problem, retriable=False)
