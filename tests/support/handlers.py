"""Handlers for tests of `jobs`, known to the test process and to the worker processes it starts."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from jobs.handlers import Claim, Failed, Outcome, Parked, Succeeded, WaitFor, register_function
from jobs.retry import RetryPolicy

QUICK = RetryPolicy(max_attempts=3, base_s=0.05, factor=1.0, max_s=0.05)


async def noop(claim: Claim) -> Outcome:
    return Succeeded()


async def note(claim: Claim) -> Outcome:
    """Append a line to the file named in the payload, so that a test sees each execution."""
    _write(claim, "ran")
    return Succeeded()


async def slow(claim: Claim) -> Outcome:
    """Say that it began, wait until a file appears, say that it ended."""
    _write(claim, "began")
    while not Path(claim.payload["until"]).exists():
        await asyncio.sleep(0.02)
    _write(claim, "ended")
    return Succeeded()


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


def _write(claim: Claim, word: str) -> None:
    with Path(claim.payload["file"]).open("a") as file:
        file.write(f"{claim.job_id} {word} {os.getpid()} {claim.fence}\n")


def register() -> None:
    """Register all of them under `test.NAME`."""
    for function in (noop, note, slow, fail, explode, poison, park):
        register_function(f"test.{function.__name__}", function, retry=QUICK)
