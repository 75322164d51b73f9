"""What the runtime needs from outside, as protocols. It imports neither Django nor a provider's library."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from agents.runtime.types import ModelCall, Reply, ToolCall, ToolResult, ToolSpec, Usage

StepKind = Literal["model", "compose", "tool", "step", "value", "emit", "wait"]
WaitKind = Literal["person", "tool", "event", "child", "time"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finished step as the journal holds it. ``output`` is JSON."""

    key: str
    input_hash: str
    output: Any
    #: Tells model replies from other outputs, so that what they spent counts before any new call is made.
    kind: StepKind


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that has just finished (``ok``) or failed; only finished ones enter the journal."""

    key: str
    name: str
    kind: StepKind
    input_hash: str
    #: What is worth showing of the input, JSON; None where there is nothing.
    input: Any
    output: Any
    started_at: datetime
    finished_at: datetime
    ok: bool = True
    #: One line for the timeline.
    summary: str = ""
    model: str = ""
    usage: Usage | None = None
    #: Of a failed step: the problem.
    problem: dict[str, Any] | None = None
    #: False for an attempt that another follows: the record of how the step ends counts what this one used as well.
    is_final: bool = True
    #: 1 when the step is a model reply that counts as a turn.
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a parked line of a run waits for. ``until`` is the time itself, or the deadline of any other kind.

    ``data`` is what whoever resolves it has to know: of a person, what is asked.
    """

    key: str
    kind: WaitKind
    until: datetime | None = None
    data: Any = None


class Journal(Protocol):
    """Where a run's steps are kept."""

    async def load(self) -> Mapping[str, Recorded]:
        """Return every recorded step of the run's current epoch, by key."""

    async def resolved(self) -> Mapping[str, Any]:
        """Return the results of the waits that are over, by key; JSON, None of a wait whose time or deadline came."""

    async def record(self, record: StepRecord) -> None:
        """Keep the step (a failed one only as an event).

        Raises:
            Superseded: another owner has the run; this one must stop at once.
        """

    async def progress(self, done: int, total: int | None, note: str) -> None:
        """Tell how far the run is."""


class Superseded(BaseException):
    """This process no longer owns the run. It is no error of the run: it unwinds and writes nothing more.

    A BaseException, so that a program's `except Exception` cannot swallow it.
    """


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer's text."""

    text: str


class ModelPort(Protocol):
    """The one way to a model. Errors are `agents.runtime.errors` (ModelUnavailable, ModelRefused, BadReply …)."""

    async def request(self, call: ModelCall) -> Reply:
        """Ask, wait for the whole reply."""

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta | ToolCall | Reply, None]:
        """Ask, yield pieces as they come; the last item is the whole Reply. Closing it closes the request.

        A Delta without text is a sign of life: the model thinks, or writes the arguments of a call.
        """

    def upper_bound_usd(self, call: ModelCall) -> Any:
        """Return a Decimal that the call cannot cost more than, or None when the price is not known."""

    def estimate(self, call: ModelCall, text: str) -> Usage:
        """Return what a call that was cut off after ``text`` has probably used."""


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """How a tool is run."""

    batchable: bool = True
    idempotent: bool = True
    effect: bool = False
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Who calls the tool, for what: given to a tool that asks for it."""

    run_id: str
    user_id: int | None
    agent: str
    step_key: str
    #: Stable over retries and crashes of the same call.
    idempotency_key: str
    #: The decision that lets exactly this call run; "" where nobody had to decide.
    approval_id: str = ""


#: Errors of a result that are not the tool's own word on a call: it took too long, or raised what it did not mean to.
#: Whether it took effect is open. Any other error says that nothing was done.
UNTOLD = frozenset({"timeout", "failed"})


class ToolBox(Protocol):
    """The tools an agent may use."""

    def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        """Return the tools as a model sees them, in the order of ``names``."""

    def policy(self, name: str) -> ToolPolicy:
        """Return how the tool is run."""

    async def call(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Run one call to its end. Bad arguments, time-outs and failures are results (``ok=False``), not exceptions.

        The error of a result is one of `UNTOLD` if the tool itself has not said how the call ended.
        """


#: Stands between the parts of an answer that were written in different turns.
JOINT = "\n\n"


class Transport(Protocol):
    """Where a run's answer goes while it is made. A queued run keeps none of it: the result store has it.

    The answer is its parts with `JOINT` between them, one part for each `ctx.compose` that says something. While one is
    written its text comes in deltas, the joint before it among them; then its step, then the part itself, whole. A part
    that an earlier claim finished comes without deltas and without a step. So at any time the text to show is
    ``JOINT.join(parts)`` and the deltas since the last part; each `part` or `withdraw` ends those deltas, and after it
    the text is exactly ``JOINT.join(parts)``. A run that is stopped leaves the deltas as they stand.

    Its methods should be quick, for the run waits for them. What they raise is logged and kept from the run: it does
    not fail because nobody can be told of it.
    """

    async def begin(self, key: str, name: str, kind: StepKind) -> None:
        """A step that is not recorded yet begins its work. `step` with the same key follows unless the run stops."""

    async def step(self, record: StepRecord) -> None:
        """A step finished, or an attempt at it failed; with ``is_final`` it is over."""

    async def delta(self, text: str) -> None:
        """A piece of the part that is being written. The first piece of any but the first part begins with `JOINT`."""

    async def part(self, text: str) -> None:
        """A part is finished and recorded, now or in an earlier claim: its whole text, without the joint."""

    async def withdraw(self, reason: str) -> None:
        """Take back every delta since the last part, the joint too: they are about to be written anew, or failed."""


@dataclass(slots=True)
class NullTransport:
    """Nobody is watching."""

    async def begin(self, key: str, name: str, kind: StepKind) -> None:
        """Drop it."""

    async def step(self, record: StepRecord) -> None:
        """Drop it."""

    async def delta(self, text: str) -> None:
        """Drop it."""

    async def part(self, text: str) -> None:
        """Drop it."""

    async def withdraw(self, reason: str) -> None:
        """Drop it."""


@dataclass(slots=True)
class MemoryJournal:
    """A journal for tests and for runs that live in memory (batch rows)."""

    steps: dict[str, Recorded] = field(default_factory=dict)
    failures: list[StepRecord] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    async def resolved(self) -> Mapping[str, Any]:
        """Return what it was given."""
        return dict(self.results)

    async def load(self) -> Mapping[str, Recorded]:
        """Return the steps."""
        return dict(self.steps)

    async def record(self, record: StepRecord) -> None:
        """Keep the record."""
        if not record.ok:
            self.failures.append(record)
            return
        self.records.append(record)
        self.steps[record.key] = Recorded(record.key, record.input_hash, record.output, record.kind)

    async def progress(self, done: int, total: int | None, note: str) -> None:
        """Drop it."""
