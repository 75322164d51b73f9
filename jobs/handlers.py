"""The registry of handlers: how `jobs` calls upwards without importing anything above it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from jobs.retry import RetryPolicy
from jobs.script import Script
from jobs.states import State


def subject_of(handler: str, requires: str | None) -> str:
    """Return whose work a job is: what its worker must have loaded, of whatever version, or else its handler."""
    return (requires or handler).split("@", 1)[0]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed job, as its handler gets it. ``fence`` goes with every write."""

    job_id: UUID
    fence: int
    handler: str
    payload: dict[str, Any]
    user_id: int | None
    lane: str
    home_lane: str
    attempt: int
    max_attempts: int
    crashes: int
    generation: int
    time_limit_s: int | None
    partition_key: str | None
    worker_id: UUID
    created_at: datetime
    requires: str | None = None

    @property
    def subject(self) -> str:
        """Return whose work it is, for grouping failures: see `subject_of`."""
        return subject_of(self.handler, self.requires)


@dataclass(frozen=True, slots=True)
class WaitFor:
    """A reason to park: see `jobs.models.Wait`. ``until`` is the time itself or a deadline.

    ``data`` is for the handler's `on_transition`, in the transaction that parks the job; `jobs` does not keep it.
    """

    kind: str
    key: str
    until: datetime | None = None
    data: Any = None


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The job is done. ``result`` is what `on_transition` may store."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed. ``problem`` is an RFC 9457 problem; ``retriable`` False makes it a dead letter at once."""

    problem: dict[str, Any]
    retriable: bool = True
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """Every outstanding call is a wait: the job holds no worker until the last of them is resolved."""

    waits: Sequence[WaitFor]


@dataclass(frozen=True, slots=True)
class Blocked:
    """It may not go on for a reason that a sweep or a person lifts (version, cap)."""

    reason: str
    problem: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The process is stopping: queue it again, nothing is charged."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It was asked to stop and has."""


Outcome = Succeeded | Failed | Parked | Blocked | HandedBack | Cancelled


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state that is happening in the current transaction."""

    job_id: UUID
    handler: str
    payload: dict[str, Any]
    old: State
    new: State
    reason: str
    #: Of a finish by the job's owner; None when anybody else made the change.
    outcome: Outcome | None = None
    #: What a redrive asked for ("checkpoint" or "start"), else "".
    redrive: str = ""
    #: A person wants what was done outside to be done again.
    repeat_effects: bool = False


class Handler(Protocol):
    """What does the work of a job."""

    retry: RetryPolicy

    async def run(self, claim: Claim) -> Outcome:
        """Do the work. A raised exception is a retriable failure; CancelledError means stop now."""

    def on_transition(self, change: Transition) -> Script[None]:
        """Do what must stand or fall with the change, as statements of the same transaction."""


def nothing_more(change: Transition) -> Script[None]:
    """Do nothing: the `on_transition` of a handler that keeps no rows of its own."""
    yield from ()


@dataclass(slots=True)
class _Function:
    run: Callable[[Claim], Awaitable[Outcome]]
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    on_transition: Callable[[Transition], Script[None]] = nothing_more


_handlers: dict[str, Handler] = {}


def register(name: str, handler: Handler) -> None:
    """Make a handler known under ``name``. Names are stored in rows: they are for ever."""
    if _handlers.get(name, handler) is not handler:
        raise ValueError(f"a handler named {name!r} is registered already")
    _handlers[name] = handler


def register_function(
    name: str,
    run: Callable[[Claim], Awaitable[Outcome]],
    *,
    retry: RetryPolicy | None = None,
    on_transition: Callable[[Transition], Script[None]] = nothing_more,
) -> None:
    """Register a plain coroutine function as a handler."""
    _handlers[name] = _Function(run, retry or RetryPolicy(), on_transition)  # type: ignore[assignment]


class UnknownHandler(LookupError):
    """No handler of that name is registered in this process."""


def names() -> list[str]:
    """Return the names of the handlers that this process knows."""
    return sorted(_handlers)


def get(name: str) -> Handler:
    """Return the handler of that name.

    Raises:
        UnknownHandler: this process has no such handler.
    """
    try:
        return _handlers[name]
    except KeyError:
        raise UnknownHandler(
            f"no handler named {name!r} is registered; known: {', '.join(sorted(_handlers))}"
        ) from None
