"""A run does not fail because nobody can be told of it."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

from agents.runtime.ports import StepKind, StepRecord, Transport

log = logging.getLogger(__name__)


class Shielded:
    """A transport whose failures are logged, the first of a run only, and reach nobody else."""

    __slots__ = ("_failed", "_inner", "_run_id")

    def __init__(self, inner: Transport, run_id: str) -> None:
        self._inner = inner
        self._run_id = run_id
        self._failed = False

    async def begin(self, key: str, name: str, kind: StepKind) -> None:
        """Pass it on."""
        await self._quietly(self._inner.begin(key, name, kind))

    async def step(self, record: StepRecord) -> None:
        """Pass it on."""
        await self._quietly(self._inner.step(record))

    async def delta(self, text: str) -> None:
        """Pass it on."""
        await self._quietly(self._inner.delta(text))

    async def part(self, text: str) -> None:
        """Pass it on."""
        await self._quietly(self._inner.part(text))

    async def withdraw(self, reason: str) -> None:
        """Pass it on."""
        await self._quietly(self._inner.withdraw(reason))

    async def _quietly(self, telling: Coroutine[Any, Any, None]) -> None:
        try:
            await telling
        except Exception:
            if not self._failed:
                log.exception(
                    "a run's answer cannot be sent on", extra={"action": "transport_failed", "run": self._run_id}
                )
            self._failed = True
