"""Handlers for tests of `jobs`, known to the test process and to the worker processes it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from jobs.claim import StaleFence, fenced, finish, forget_crashes, note_event, report_progress
from jobs.handlers import (
    Blocked,
    Cancelled,
    Claim,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Succeeded,
    Transition,
    WaitFor,
    register_function,
)
from jobs.pool import get_pool
from jobs.retry import RetryPolicy
from jobs.runner import persist
from jobs.script import Script, arun
from jobs.states import State
from tests.support import deaths

QUICK = RetryPolicy(max_attempts=3, base_s=0.05, factor=1.0, max_s=0.05)


async def noop(claim: Claim) -> Outcome:
    return Succeeded()


async def note(claim: Claim) -> Outcome:
    """Append a line to the file named in the payload, so that a test sees each execution."""
    _write(claim, "ran")
    return Succeeded()


async def brief(claim: Claim) -> Outcome:
    """Take long enough that a kill finds some of them at work."""
    await asyncio.sleep(0.03)
    return await note(claim)


async def slow(claim: Claim) -> Outcome:
    """Say that it began, wait until a file appears, say that it ended, or that it was cut off."""
    _write(claim, "began")
    try:
        await _until(claim)
    except asyncio.CancelledError:
        _write(claim, "cut-off")
        raise
    _write(claim, "ended")
    return Succeeded()


async def steps(claim: Claim) -> Outcome:
    """Do the payload's number of ``steps``, record each under the fence, go on after those that are recorded.

    Before it records the step number ``gate`` it waits until a file appears.
    """
    done = await persist(lambda: _recorded(claim))
    for number in range(1, claim.payload["steps"] + 1):
        if number in done:
            continue
        _write(claim, f"step-{number}")
        if number == claim.payload.get("gate"):
            await _until(claim)
        if number == 2:
            deaths.here("in step")
        await persist(lambda number=number: _record(claim, number))
        if number == 1:
            deaths.here("between steps")
    deaths.here("after last step")
    return Succeeded()


async def stall(claim: Claim) -> Outcome:
    """Block the event loop, the first time, until a file appears; then try to record a step."""
    if claim.fence == 1:
        _write(claim, "stalled")
        while not Path(claim.payload["until"]).exists():
            time.sleep(0.02)  # noqa: ASYNC251  that is the point
        _write(claim, "woke")
    await persist(lambda: _record(claim, 1))
    _write(claim, "recorded")
    return Succeeded()


async def freeze(claim: Claim) -> Outcome:
    """Stop the whole process, the first time, in the middle of a transaction that holds the job's row."""

    def record() -> Script[None]:
        yield from fenced(claim, exclusive=True)
        if claim.fence == 1 and not thawed:
            thawed.append(True)
            _write(claim, "frozen")
            os.kill(os.getpid(), signal.SIGSTOP)
            _write(claim, "thawed")
        yield from _record(claim, 1)

    async def try_it() -> None:
        try:
            await persist(record)
            _write(claim, "recorded")
        except StaleFence:
            _write(claim, "refused")
            raise

    thawed: list[bool] = []
    await _whatever_comes(try_it())
    return Succeeded()


async def stale(claim: Claim) -> Outcome:
    """Wait, the first time, until a file appears; then try every kind of write and say what became of it."""
    if claim.fence > 1:
        await persist(lambda: report_progress(claim, {"by": claim.fence}))
        _write(claim, "took-over")
        return Succeeded()
    _write(claim, "began")
    await _whatever_comes(_try_every_write(claim))
    return Succeeded()


async def _try_every_write(claim: Claim) -> None:
    await _until(claim)
    pool = await get_pool()
    writes: dict[str, Callable[[], Script[None]]] = {
        "step": lambda: _record(claim, 1),
        "progress": lambda: report_progress(claim, {"by": claim.fence}),
    }
    for name, make in writes.items():
        try:
            await arun(pool, make())
            _write(claim, f"{name}-written")
        except StaleFence:
            _write(claim, f"{name}-refused")
    for outcome in (Succeeded(), Failed({}), HandedBack(), Cancelled(), Blocked("test"), Parked([])):
        written = await arun(pool, finish(claim, outcome))
        _write(claim, f"{type(outcome).__name__.lower()}-{'written' if written else 'refused'}")


async def fail(claim: Claim) -> Outcome:
    return Failed(
        {"type": "/problems/test", "title": "No", "detail": "as told"}, retriable=claim.payload.get("retry", True)
    )


async def explode(claim: Claim) -> Outcome:
    raise RuntimeError("boom")


async def poison(claim: Claim) -> Outcome:
    """Kill the process that runs it."""
    _write(claim, "poison")
    os.kill(os.getpid(), signal.SIGKILL)
    return Succeeded()


async def park(claim: Claim) -> Outcome:
    """Wait for a person the first time, then succeed."""
    if claim.fence == 1:
        return Parked([WaitFor("person", "approve:1")])
    return Succeeded()


async def _whatever_comes(work: Coroutine[Any, Any, None]) -> None:
    """Wait for the work; it goes on to its end also when we are cancelled, as code that nothing reaches would."""
    task = asyncio.create_task(work)
    _unstoppable.add(task)
    task.add_done_callback(_unstoppable.discard)
    await asyncio.shield(task)


_unstoppable: set[asyncio.Task[None]] = set()


async def _until(claim: Claim) -> None:
    file = Path(claim.payload["until"])
    while True:
        if file.exists():
            return
        await asyncio.sleep(0.02)


def _recorded(claim: Claim) -> Script[set[int]]:
    rows = yield "SELECT data FROM jobs_jobevent WHERE job_id = %s AND kind = 'step'", [claim.job_id]
    return {row["data"]["number"] for row in rows}


def _record(claim: Claim, number: int) -> Script[None]:
    yield from fenced(claim, exclusive=True)
    if number not in (yield from _recorded(claim)):
        yield from note_event(claim, "step", "finished", {"number": number})
        yield from forget_crashes(claim)


def tally(change: Transition) -> Script[None]:
    """Count a success, in the transaction that makes it one."""
    if change.new is State.SUCCEEDED:
        yield (
            "INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, actor, reason)"
            " VALUES (%s, 'emit', '', '', 0, '', 'tallied')",
            [change.job_id],
        )


def refuse_success(change: Transition) -> Script[None]:
    """Keep something of a success that PostgreSQL cannot keep."""
    if change.new is State.SUCCEEDED:
        yield "SELECT %s::jsonb", [Jsonb("\0")]


def _write(claim: Claim, word: str) -> None:
    with Path(claim.payload["file"]).open("a") as file:
        file.write(f"{claim.job_id} {word} {os.getpid()} {claim.fence}\n")


def register() -> None:
    """Register all of them under `test.NAME`."""
    for function in (noop, note, slow, steps, stall, freeze, stale, fail, explode, poison, park):
        register_function(f"test.{function.__name__}", function, retry=QUICK)
    register_function("test.tallied", brief, retry=QUICK, on_transition=tally)
    register_function("test.refused", note, retry=QUICK, on_transition=refuse_success)
