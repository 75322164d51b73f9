"""A reply while it is written: its text, its steps and its frames. The transport of runs in the chat."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from agents.chat import frames
from agents.chat.blocks import Blocks
from agents.chat.step_words import has_words, is_decision, words
from agents.runtime.plain import plain
from agents.runtime.ports import JOINT, StepKind, StepRecord
from jobs.handlers import Claim

logger = logging.getLogger(__name__)

#: Text goes out in frames this far apart, the first one at once. Seconds.
FRAME_S = 0.03
#: A client that hears nothing for so long hears that the run is alive. Seconds.
HEARTBEAT_S = 2.0
#: Frames of one claim are numbered from here on: those of a later claim are always later.
CLAIM_SEQS = 1_000_000
#: More steps of a reply than these are not shown: the oldest go first.
MAX_STEPS = 300
#: A claim that has not killed its process for so long will not. Seconds.
PROVEN_S = 5.0
#: Steps that only the journal needs.
_SILENT = frozenset({"value", "emit"})

Say = Callable[[str], None]


class RunStream:
    """One claim of a reply: the `Transport` that its run writes to.

    Frames go to ``say`` as JSON texts, numbered by ``seq`` without gaps. Deltas are gathered: the first of a silence
    goes out at once, those that follow within `FRAME_S` together, when the `Ticker` says so.

    Of a claim that goes on with what another one began, nothing is said until it has something new: then a snapshot
    goes out first, with the parts and the steps that were finished before.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        conversation_id: UUID,
        message_id: UUID,
        say: Say,
        ticker: Ticker,
        steps: list[dict[str, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.claim = claim
        self.run_id = claim.job_id
        self.conversation_id = conversation_id
        self.message_id = message_id
        self.seq = (claim.fence - 1) * CLAIM_SEQS
        #: Of the last text that was stored.
        self.saved_seq = self.seq
        self.first_token_ms: int | None = None
        self._say = say
        self._ticker = ticker
        self._clock = clock
        self._began = self._said_at = clock()
        self._flushed_at = float("-inf")
        self._text = ""
        #: What follows it: joined when somebody asks.
        self._more: list[str] = []
        self._settled = ""
        self._ended_line = False
        self._blocks = Blocks()
        self._pending: list[str] = []
        self._steps: dict[str, dict[str, Any]] = {step["key"]: step for step in steps or ()}
        self._jumped = claim.fence > 1
        self.closed = False
        #: It has written something in this claim; then crashes of before count no more.
        self.has_written = False
        self.is_forgiven = False

    # --- what the run tells -------------------------------------------------------------------------------------

    async def begin(self, key: str, name: str, kind: StepKind) -> None:
        """Tell that a step begins."""
        if kind not in _SILENT:
            told = {"words": words(name)} if has_words(kind, name) else {}
            self._step({"key": key, "name": name, "kind": kind, "status": "started", "summary": "", **told})

    async def step(self, record: StepRecord) -> None:
        """Tell that a step, or an attempt at it, is over."""
        if record.kind in _SILENT or record.name == "patched":
            return
        status = "finished" if record.ok else "failed" if record.is_final else "started"
        told = {}
        if record.ok and has_words(record.kind, record.name):
            told = {"words": words(record.name, record.input, record.output)}
        elif record.kind == "wait" and is_decision(record.output):
            told = {"words": record.summary}
        self._step(
            {
                "key": record.key,
                "name": record.name,
                "kind": record.kind,
                "status": status,
                "summary": record.summary,
                "ms": round((record.finished_at - record.started_at).total_seconds() * 1000),
                **told,
            }
        )

    async def delta(self, text: str) -> None:
        """Add a piece of the answer."""
        if self.first_token_ms is None and self.claim.fence == 1:
            self.first_token_ms = round((self._clock() - self._began) * 1000)
        self.has_written = True
        text = plain(text)  # as the database takes it
        self._more.append(text)
        self._pending.append(text)
        if self._clock() - self._flushed_at >= FRAME_S:
            self.flush()
        else:
            self._ticker.add(self)

    async def part(self, text: str) -> None:
        """Settle what was written so far."""
        text = plain(text)
        whole = f"{self._settled}{JOINT}{text}" if self._settled else text
        if whole != self.text:
            # Written by an earlier claim. Clients hold something else: they get a snapshot before what comes next.
            self._pending.clear()
            self._write(whole)
            self._blocks.reset()
            self._jumped = True
        self._settled = whole

    async def withdraw(self, reason: str) -> None:
        """Take back what is not settled."""
        self._pending.clear()
        self._write(self._settled)
        self._blocks.reset()
        self._frame("run.withdrawn", reason=reason, text=self.text)

    @property
    def text(self) -> str:
        """What clients hold, or will hold once `flush` has run."""
        if self._more:
            self._write(self._text + "".join(self._more))
        return self._text

    def _write(self, text: str) -> None:
        self._text = text
        self._more.clear()

    # --- what clients are told ----------------------------------------------------------------------------------

    def accept(self, client_id: str | None, text: str) -> None:
        """Tell that the run has begun, and which message it answers."""
        self._frame("run.accepted", client_id=client_id, text=text, message_id=str(self.message_id))

    def flush(self) -> None:
        """Send the text that was gathered."""
        if self._pending:
            text = "".join(self._pending)
            self._pending.clear()
            self._flushed_at = self._clock()
            self._frame("run.delta", text=text)
            if "\n" in text or self._ended_line:
                self._show_blocks()
            self._ended_line = text.endswith("\n")

    def _show_blocks(self) -> None:
        """Send what is finished of the text as HTML, so that it need not be read as Markdown until the end."""
        block = self._blocks.grow(self.text)
        if block is not None:
            self._frame("run.block", html=block.html, start=block.start, end=block.end)

    def beat(self) -> None:
        """Say that the run is alive, if nothing else was said for a while."""
        now = self._clock()
        if now - self._said_at < HEARTBEAT_S:
            return
        if self._jumped:
            self.announce()
            return
        self._send({"type": "run.heartbeat", "seq": self.seq, "elapsed_ms": round((now - self._began) * 1000)})

    def announce(self) -> None:
        """Send everybody a snapshot of its own number."""
        if self.closed:
            return
        self._pending.clear()  # the snapshot has it
        self._jumped = False
        self._blocks.grow(self.text)
        self.seq += 1
        self._send(self._snapshot())

    @property
    def is_showing(self) -> bool:
        """Whether its text is what clients are to hold: not before it has caught up with an earlier claim's reply, and
        not after its end."""
        return not (self._jumped or self.closed)

    @property
    def has_proven_itself(self) -> bool:
        """Whether it has got on in this claim and was forgiven, has ended, or goes on for long enough."""
        return self.is_forgiven or self.closed or self._clock() - self._began > PROVEN_S

    @property
    def has_caught_up(self) -> bool:
        """Whether its text is as far as what an earlier claim may have told."""
        return self.claim.fence == 1 or not self._jumped

    def snapshot(self) -> str:
        """Return the frame for one who comes now: it has the number of the last one that the others got."""
        self.flush()
        return self._encode(self._snapshot())

    def close(self) -> int:
        """End the frames of this claim and return the number of the one that follows: the run's last."""
        self.flush()
        self.closed = True
        return self.seq + 1

    def park(self) -> int:
        """End the frames of this claim at a wait; return the number of the one that says so.

        Whoever holds an earlier claim's text gets this one's first.
        """
        self.flush()
        if self._jumped:
            self.announce()
        return self.close()

    def _snapshot(self) -> dict[str, Any]:
        return {
            "type": "run.snapshot",
            "seq": self.seq,
            "text": self.text,
            "steps": list(self._steps.values()),
            "message_id": str(self.message_id),
            "html": self._blocks.html,
            "end": self._blocks.end,
        }

    def _step(self, step: dict[str, Any]) -> None:
        self.flush()
        self._steps[step["key"]] = step
        if len(self._steps) > MAX_STEPS:
            del self._steps[next(iter(self._steps))]
        self._frame("run.step", **step)

    def _frame(self, type_: str, /, **fields: Any) -> None:
        if self.closed:
            return
        if self._jumped:
            self.announce()
            if type_ == "run.delta":
                return
        self.seq += 1
        self._send({"type": type_, "seq": self.seq, **fields})

    def _send(self, frame: dict[str, Any]) -> None:
        if self.closed:
            return
        self._said_at = self._clock()
        self._say(self._encode(frame))

    def _encode(self, frame: dict[str, Any]) -> str:
        return frames.encode({"run_id": str(self.run_id), **frame})


class Ticker:
    """Sends what streams have gathered: one timer for all streams of a process.

    Under load it slows down before it takes more than half of the loop's time.
    """

    def __init__(self, *, every_s: float = FRAME_S) -> None:
        self._every_s = every_s
        self._due: set[RunStream] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: RunStream) -> None:
        """Flush the stream at the next tick."""
        self._due.add(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        due, self._due = self._due, set()
        for stream in due:
            try:
                stream.flush()
            except Exception:
                logger.exception("a stream could not be flushed", extra={"action": "flush_failed"})
        took = loop.time() - began
        rests = not self._due and took <= self._every_s / 2
        self._timer = None if rests else loop.call_later(max(self._every_s, took), self._tick)


#: The replies that this process writes, by run.
_running: dict[UUID, RunStream] = {}


def running(run_id: UUID) -> RunStream | None:
    """Return the stream of a run that this process runs."""
    return _running.get(run_id)


def all_running() -> list[RunStream]:
    """Return the streams of all runs that this process runs."""
    return list(_running.values())


def keep(stream: RunStream) -> None:
    """Make a stream known while its run goes on here."""
    _running[stream.run_id] = stream


def drop(stream: RunStream) -> None:
    """Forget a stream, unless a later claim has taken its place."""
    if _running.get(stream.run_id) is stream:
        del _running[stream.run_id]
