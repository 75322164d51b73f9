"""Claimed jobs whose handlers do what a test says, for tests that run on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from django.db import connection

from jobs import handlers
from jobs.handlers import Claim, Outcome, Succeeded
from jobs.models import Job
from tests.jobs import drive


async def in_thread(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Call something that uses Django's connection."""

    def run() -> Any:
        try:
            return call(*args, **more)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


Work = Callable[[Claim], Awaitable[Outcome]]


async def claimed_for(work: Work, **more: Any) -> Claim:
    """Return a claimed job whose handler does the work."""
    handlers.register_function("test.work", work)
    claimed: Claim = await in_thread(drive.running, "test.work", **more)
    return claimed


async def row_of(claimed: Claim) -> Job:
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
