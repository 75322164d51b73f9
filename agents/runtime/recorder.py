"""The run's steps: recorded once, returned from the record ever after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agents.runtime.branches import Branch, Gate, Slot
from agents.runtime.errors import JournalUnavailable, NotJson, OutputTooLarge, RunError, VersionMismatch, revive
from agents.runtime.failures import as_run_error
from agents.runtime.parking import wait_key
from agents.runtime.plain import canonical, digest, one_line, plain, preview
from agents.runtime.ports import Journal, Recorded, StepKind, StepRecord, Superseded, Transport
from agents.runtime.types import Usage

#: A failure that the program caught is history too. It is kept under the step's key and this mark.
FAILED = "!"
#: A cancelled run still lets a write that is under way finish for this long, seconds.
WRITE_GRACE_S = 2.0
#: A long replay lets the loop breathe after so many steps.
_BREATHE_EVERY = 200


@dataclass(slots=True)
class Done:
    """What a step came to. ``output`` is plain JSON."""

    output: Any
    summary: str = ""
    model: str = ""
    usage: Usage | None = None
    turns: int = 0


class Recorder:
    """Replays and records the steps of one run.

    Only finished steps are in the journal. A step that fails is told as an event; if the program catches the failure
    and goes on, then the failure is recorded as well, just before the next step runs: a replay must not find the
    provider healthy where the program took another way because it was not.
    """

    def __init__(
        self, journal: Journal, transport: Transport, gate: Gate, clock: Callable[[], datetime], max_bytes: int
    ) -> None:
        self.clock = clock
        self._journal = journal
        self._transport = transport
        self._gate = gate
        self._max_bytes = max_bytes
        self._recorded: dict[str, Recorded] = {}
        self._unread: set[str] = set()
        self._patches: dict[str, bool] = {}
        self._markers: list[StepRecord] = []
        self._flushing = asyncio.Lock()
        self._replayed = 0
        #: Results of waits that are over, by key.
        self.resolved: Mapping[str, Any] = {}
        #: Finished steps, those of earlier claims among them.
        self.steps = 0

    async def open(self) -> list[Recorded]:
        """Load the journal and return what is in it.

        Raises:
            JournalUnavailable: it could not be read.
        """
        self._recorded = dict(await self.guarded(self._journal.load()))
        self.resolved = await self.guarded(self._journal.resolved())
        self._unread = set(self._recorded)
        self.steps = len(self._recorded)
        return list(self._recorded.values())

    @property
    def replaying(self) -> bool:
        """Whether there are recorded steps that the program has not reached yet."""
        return bool(self._unread)

    def knows(self, key: str) -> bool:
        """Tell whether the step with this key is recorded, or its wait is over."""
        return key in self._recorded or wait_key(key) in self.resolved

    def take(self, branch: Branch, name: str, kind: StepKind, given: Any, shown: Any = None) -> Slot:
        """Return the place of the next call of that name, whose input is ``given`` (plain)."""
        return Slot(branch.next_key(name), name, kind, digest([kind, given]), given if shown is None else shown)

    def recall(self, slot: Slot) -> Recorded | None:
        """Return what is recorded of the call, if it is.

        Raises:
            VersionMismatch: it was recorded with another input.
            RunError: it failed then, and the program went on.
        """
        found = self._recorded.get(slot.key)
        failed = None if found else self._recorded.get(slot.key + FAILED)
        known = found or failed
        if known is None:
            return None
        if known.input_hash != slot.digest:
            error = VersionMismatch(
                f"Step {slot.key} was recorded with another input: this is not the program that the run began with.",
                step=slot.key,
            )
            self._gate.stop(error)
            raise error
        self._unread.discard(known.key)
        if failed is not None:
            raise revive(failed.output)
        return found

    def recall_failure(self, slot: Slot, inner: str) -> None:
        """Raise the recorded failure of a gather. Nobody asks for its steps again, whose keys begin with ``inner``.

        Raises:
            RunError: it failed then, and the program went on.
        """
        try:
            self.recall(slot)
        except RunError:
            self._unread = {key for key in self._unread if not key.startswith(inner)}
            raise

    async def breathe(self) -> None:
        """Let the loop's other work go on now and then during a long replay."""
        self._replayed += 1
        if self._replayed % _BREATHE_EVERY == 0:
            await asyncio.sleep(0)

    async def once(self, branch: Branch, slot: Slot, work: Callable[[], Awaitable[Done]]) -> Any:
        """Return the recorded output of the call, or do the work, record it and return its output."""
        found = self.recall(slot)
        if found is not None:
            await self.breathe()
            return plain(found.output)
        await self.flush(branch)
        started = await self.begin(slot)
        try:
            done = await work()
            self.measure(slot, done.output)
        except Exception as raised:
            if self._gate.stopped is not None:
                raise
            error = as_run_error(raised)
            await self.fail(slot, error, started)
            branch.caught.append((slot, problem(error)))
            raise error from error.__cause__
        await self.keep(slot, done, started)
        return plain(done.output)  # a copy: what the program does to it must not reach the journal

    async def after(self, branch: Branch, slot: Slot, done: Done) -> Any:
        """Record the end of a wait that is over and return its output."""
        await self.flush(branch)
        self.measure(slot, done.output)
        await self.keep(slot, done, await self.begin(slot))
        return plain(done.output)

    async def begin(self, slot: Slot) -> datetime:
        """Tell that the step's work begins, and return when."""
        await self._transport.begin(slot.key, slot.name, slot.kind)
        return self.clock()

    def measure(self, slot: Slot, output: Any) -> None:
        """Check the size of a plain output.

        Raises:
            OutputTooLarge: the journal does not take it.
        """
        size = len(canonical(output))
        if size > self._max_bytes:
            raise OutputTooLarge(
                f"The output of step {slot.name!r} has {size:,} bytes; {self._max_bytes:,} are allowed. "
                "Keep large things where they belong and return where they are.",
                step=slot.key,
            )

    async def keep(self, slot: Slot, done: Done, started: datetime) -> None:
        """Record a finished step. When this returns it will never run again."""
        record = self._record(slot, started, output=done.output, summary=one_line(done.summary))
        await self._write(replace(record, model=done.model, usage=done.usage, turns=done.turns))

    async def fail(self, slot: Slot, error: RunError, started: datetime) -> None:
        """Tell that the step failed, and what all its attempts used."""
        await self._tell_failure(slot, error, started, error.detail, is_final=True)

    async def fail_attempt(self, slot: Slot, error: RunError, started: datetime, summary: str) -> None:
        """Tell that one attempt failed and that another follows."""
        await self._tell_failure(slot, error, started, summary, is_final=False)

    async def stopped(self, slot: Slot, usage: Usage, started: datetime) -> None:
        """Write down what a step had used when the run was stopped in its middle.

        It waits no longer than a write may take. The run unwinds: nothing that goes wrong here may change why, and
        nobody who watches is told.
        """
        record = self._record(slot, started, output=None, summary="stopped in the middle")
        writing = asyncio.ensure_future(self._journal.record(replace(record, ok=False, usage=usage)))
        try:
            await asyncio.wait({writing}, timeout=WRITE_GRACE_S)
        finally:
            if not writing.cancel() and not writing.cancelled():
                writing.exception()  # looked at, so that asyncio does not complain of it

    async def _tell_failure(
        self, slot: Slot, error: RunError, started: datetime, summary: str, *, is_final: bool
    ) -> None:
        record = self._record(slot, started, output=None, summary=one_line(summary))
        await self._write(replace(record, ok=False, usage=error.usage, problem=problem(error), is_final=is_final))

    async def flush(self, branch: Branch) -> None:
        """Record what the program's going on has made history. Comes before whatever it does next."""
        if not (branch.caught or self._markers or self._flushing.locked()):
            return
        async with self._flushing:
            while self._markers:
                await self._write(self._markers[0])
                del self._markers[0]
            while branch.caught:
                slot, failure = branch.caught[0]
                summary = one_line(f"The program went on without it: {failure['detail']}")
                record = self._record(slot, self.clock(), output=failure, summary=summary)
                await self._write(replace(record, key=slot.key + FAILED))
                del branch.caught[0]

    def _record(self, slot: Slot, started: datetime, output: Any, summary: str) -> StepRecord:
        return StepRecord(
            key=slot.key,
            name=slot.name,
            kind=slot.kind,
            input_hash=slot.digest,
            input=preview(slot.shown),
            output=output,
            started_at=started,
            finished_at=self.clock(),
            summary=summary,
        )

    def patched(self, tag: str) -> bool:
        """Return whether this run is to take the way that ``tag`` stands for: see `RunContext.patched`."""
        if tag not in self._patches:
            key = f"/patched/{tag}"
            known = key in self._recorded
            self._unread.discard(key)
            self._patches[tag] = known or not self.replaying
            if self._patches[tag] and not known:
                now = self.clock()
                self._markers.append(StepRecord(key, "patched", "value", digest(key), None, True, now, now))
        return self._patches[tag]

    async def progress(self, done: int, total: int | None, note: str) -> None:
        """Tell how far the run is; a replay has told it before."""
        if not self.replaying:
            await self.guarded(self._journal.progress(done, total, note))

    async def _write(self, record: StepRecord) -> None:
        await self.told(self._journal.record(record))
        if record.ok:
            self.steps += 1
        await self._transport.step(record)

    async def told(self, work: Awaitable[Any]) -> Any:
        """Await a write of what has happened. A run that is cut off meanwhile still lets it finish, if it soon does."""
        writing = asyncio.ensure_future(self.guarded(work))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            try:
                await asyncio.wait({writing}, timeout=WRITE_GRACE_S)
            finally:
                if not writing.cancel() and not writing.cancelled():
                    writing.exception()  # looked at, so that asyncio does not complain of it
            raise

    async def guarded(self, work: Awaitable[Any]) -> Any:
        """Await the journal, or the ledger. Whatever it raises stops the run: what is not written is not gone past."""
        try:
            return await work
        except Superseded as gone:
            self._gate.stop(gone)
            raise
        except Exception as raised:
            error = JournalUnavailable(
                f"The journal cannot be reached: {type(raised).__name__}: {one_line(str(raised))}"
            )
            self._gate.stop(error)
            raise error from raised


def problem(error: RunError) -> dict[str, Any]:
    """Return the error's problem as plain JSON, whatever its extras are."""
    found: dict[str, Any] = {}
    for name, value in error.as_problem().items():
        try:
            found[name] = plain(value)
        except NotJson:
            found[name] = one_line(repr(value))
    return found
