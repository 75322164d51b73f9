"""The journal of a run in PostgreSQL: each step recorded exactly once, under the fence of the run's owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from psycopg.types.json import Jsonb

from agents.runtime.ports import Recorded, StepRecord, Superseded
from jobs.claim import StaleFence, fenced, forget_crashes, note_event
from jobs.handlers import Claim
from jobs.runner import persist
from jobs.script import Script


class RunJournal:
    """Steps of one claim of a run.

    Writes of one run go one after the other, and those that come while one is under way go together in the next: so
    events keep their order, and a wide `gather` costs few transactions. While PostgreSQL is away a write is tried
    again.
    """

    def __init__(self, claim: Claim, epoch: int) -> None:
        self._claim = claim
        self._epoch = epoch
        self._waiting: list[tuple[Callable[[], Script[None]], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        #: Nobody had the run before and nothing was written since: there is nothing to ask the database for.
        self._is_blank = claim.fence == 1
        #: The database was away at some time: what the run lost by waiting is not its own doing.
        self.was_away = False

    async def load(self) -> Mapping[str, Recorded]:
        """Return every recorded step of the run's current epoch, by key."""
        if self._is_blank:
            return {}

        def read() -> Script[list[dict[str, Any]]]:
            return (
                yield (
                    "SELECT key, input_hash, output, kind FROM agents_step"
                    " WHERE run_id = %s AND epoch = %s ORDER BY id",
                    [self._claim.job_id, self._epoch],
                )
            )

        rows: list[dict[str, Any]] = await persist(read, on_outage=self._note_outage)
        return {row["key"]: Recorded(row["key"], row["input_hash"], row["output"], row["kind"]) for row in rows}

    async def resolved(self) -> Mapping[str, Any]:
        """Return the results of the run's waits that are over, by key."""
        if self._claim.fence == 1:
            return {}

        def read() -> Script[list[dict[str, Any]]]:
            return (
                yield (
                    "SELECT key, result FROM jobs_wait WHERE job_id = %s AND resolved_at IS NOT NULL",
                    [self._claim.job_id],
                )
            )

        rows: list[dict[str, Any]] = await persist(read, on_outage=self._note_outage)
        return {row["key"]: row["result"] for row in rows}

    async def record(self, record: StepRecord) -> None:
        """Keep the step; a failed one only as an event.

        Raises:
            Superseded: another owner has the run.
        """
        self._is_blank = False
        await self._write(lambda: self._step(record))

    async def progress(self, done: int, total: int | None, note: str) -> None:
        """Write how far the run is, on the job and as an event."""
        data = {"done": done, "total": total, "note": note}

        def write() -> Script[None]:
            yield "UPDATE jobs_job SET progress = %s WHERE id = %s", [Jsonb(data), self._claim.job_id]
            yield from note_event(self._claim, "progress", "", data)

        await self._write(write)

    def _note_outage(self) -> None:
        self.was_away = True

    async def _write(self, make: Callable[[], Script[None]]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((make, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        await done

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await persist(
                    lambda batch=batch: self._together([make for make, _ in batch]), on_outage=self._note_outage
                )
            except StaleFence as error:
                self._settle(batch, Superseded(str(error)))
            except Exception as error:
                self._settle(batch, error)
            else:
                self._settle(batch, None)

    @staticmethod
    def _settle(
        batch: list[tuple[Callable[[], Script[None]], asyncio.Future[None]]], error: BaseException | None
    ) -> None:
        for _, done in batch:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def _together(self, makes: list[Callable[[], Script[None]]]) -> Script[None]:
        yield from fenced(self._claim, exclusive=True)
        for make in makes:
            yield from make()

    def _step(self, record: StepRecord) -> Script[None]:
        claim, usage = self._claim, record.usage
        cost = usage.cost_usd if usage is not None else None
        tokens = (usage.input_tokens, usage.output_tokens) if usage is not None else (0, 0)
        if record.ok:
            written = yield (
                "INSERT INTO agents_step (run_id, epoch, key, name, kind, input_hash, input, output, fence, model,"
                " input_tokens, output_tokens, cost_usd, started_at, finished_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (run_id, epoch, key) DO NOTHING RETURNING id",
                [
                    claim.job_id,
                    self._epoch,
                    record.key,
                    record.name,
                    record.kind,
                    record.input_hash,
                    Jsonb(record.input),
                    Jsonb(record.output),
                    claim.fence,
                    record.model,
                    *tokens,
                    cost,
                    record.started_at,
                    record.finished_at,
                ],
            )
            if not written:
                return  # the commit whose answer was lost had been made
            if claim.crashes:
                yield from forget_crashes(claim)
        if record.ok or (usage is not None and record.is_final):
            # A step that failed was paid for all the same.
            yield (
                "UPDATE agents_run SET steps_done = steps_done + %s, turns = turns + %s,"
                " input_tokens = input_tokens + %s, output_tokens = output_tokens + %s,"
                " cost_usd = cost_usd + %s, cost_known = cost_known AND %s WHERE job_id = %s",
                [int(record.ok), record.turns, *tokens, cost or 0, usage is None or cost is not None, claim.job_id],
            )
        yield from note_event(
            claim,
            "step",
            "finished" if record.ok else "failed",
            {
                "key": record.key,
                "name": record.name,
                "kind": record.kind,
                "summary": record.summary,
                "ms": round((record.finished_at - record.started_at).total_seconds() * 1000),
                "model": record.model,
                "input_tokens": tokens[0],
                "output_tokens": tokens[1],
                "cost_usd": str(cost) if cost is not None else None,
                "problem": record.problem,
                "final": record.is_final,
            },
        )
