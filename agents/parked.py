"""What becomes of runs that wait for people: `agents` calls upwards only through these hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from jobs.handlers import WaitFor
from jobs.script import Script


def _nothing(run_id: UUID, waits: Sequence[WaitFor]) -> Script[None]:
    yield from ()


@dataclass(slots=True)
class Hooks:
    """Scripts of the transaction in which a run parks, or leaves what it waited for."""

    #: The run waits for people: these are all of its waits of kind ``person``.
    on_parked: Callable[[UUID, Sequence[WaitFor]], Script[None]] = _nothing
    #: The run waits no more: it ended, was redriven, or goes on.
    on_left: Callable[[UUID, Sequence[WaitFor]], Script[None]] = _nothing


hooks = Hooks()
