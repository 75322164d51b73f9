"""What becomes of runs that wait for people: `agents` calls upwards only through these hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from jobs.handlers import WaitFor
from jobs.script import Script


@dataclass(frozen=True, slots=True)
class Settled:
    """What was decided on a request, as the database has it now."""

    approval_id: str
    decision: str
    #: Worked out from the plan that is there now, not the hash that is kept with it.
    plan_hash: str


def _nothing(run_id: UUID, waits: Sequence[WaitFor]) -> Script[None]:
    yield from ()


def _nothing_settled(run_id: UUID) -> Script[dict[str, Settled]]:
    yield from ()
    return {}


def _nobody_told(run_id: UUID, wait_key: str) -> Script[None]:
    yield from ()


@dataclass(slots=True)
class Hooks:
    """Scripts of the transaction in which a run parks, or leaves what it waited for."""

    #: The run waits for people: these are all of its waits of kind ``person``.
    on_parked: Callable[[UUID, Sequence[WaitFor]], Script[None]] = _nothing
    #: The run waits no more: it ended, was redriven, or goes on.
    on_left: Callable[[UUID, Sequence[WaitFor]], Script[None]] = _nothing
    #: The decided requests of a run, by wait: of each wait the newest.
    settled: Callable[[UUID], Script[dict[str, Settled]]] = _nothing_settled
    #: What a person was asked has settled by itself: the run's wait is resolved.
    on_told: Callable[[UUID, str], Script[None]] = _nobody_told


hooks = Hooks()
