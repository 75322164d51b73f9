"""What becomes of runs that wait for people: `agents` calls upwards only through these hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jobs.handlers import WaitFor
from jobs.script import Script


@dataclass(frozen=True, slots=True)
class Request:
    """What people are asked for a run, and what they said, as plain data."""

    id: UUID
    run_id: UUID
    #: Of the run's wait that a decision resolves.
    wait_key: str
    title: str
    #: Who may decide, in words: "a reviewer".
    who: str
    is_pending: bool
    asked_at: datetime
    deadline: datetime | None
    #: What happens at the deadline, in words.
    otherwise: str
    decided_at: datetime | None = None
    #: How it ended, in words: "Approved by rita". Empty while it is pending.
    outcome: str = ""
    #: The run may do what it asked about.
    is_approved: bool = False
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What was decided on a request, as the database has it now."""

    approval_id: str
    decision: str
    #: Worked out from the plan that is there now, not the hash that is kept with it.
    plan_hash: str


def _nothing(run_id: UUID, waits: Sequence[WaitFor]) -> Script[None]:
    yield from ()


def _nothing_of(run_ids: Sequence[UUID]) -> Script[None]:
    yield from ()


def _no_requests(run_ids: Sequence[UUID]) -> Script[list[Request]]:
    yield from ()
    return []


def _no_links(user: Any, ids: Sequence[UUID]) -> Mapping[UUID, str]:
    return {}


def _nothing_settled(run_id: UUID) -> Script[dict[str, Settled]]:
    yield from ()
    return {}


def _nobody_told(run_id: UUID, wait_key: str) -> Script[None]:
    yield from ()


@dataclass(slots=True)
class Hooks:
    """What the app that asks people does when a run parks or goes on, and what it tells of that."""

    #: The run waits for people: these are all of its waits of kind ``person``.
    on_parked: Callable[[UUID, Sequence[WaitFor]], Script[None]] = _nothing
    #: The run waits no more: it ended, was redriven, or goes on.
    on_left: Callable[[UUID, Sequence[WaitFor]], Script[None]] = _nothing
    #: The decided requests of a run, by wait: of each wait the newest.
    settled: Callable[[UUID], Script[dict[str, Settled]]] = _nothing_settled
    #: What a person was asked has settled by itself: the run's wait is resolved.
    on_told: Callable[[UUID, str], Script[None]] = _nobody_told
    #: The requests of runs that nobody has decided yet, in the order in which they were made.
    pending: Callable[[Sequence[UUID]], Script[list[Request]]] = _no_requests
    #: The newest requests of runs, decided or not, oldest first.
    requests: Callable[[Sequence[UUID]], Script[list[Request]]] = _no_requests
    #: What these runs were about is to be forgotten: take it out of what people were asked.
    forget: Callable[[Sequence[UUID]], Script[None]] = _nothing_of
    #: Where a person finds those of these requests that they may look at.
    links: Callable[[Any, Sequence[UUID]], Mapping[UUID, str]] = _no_links


hooks = Hooks()
