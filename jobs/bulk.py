"""Do one thing to many jobs, in the background: counted once each, whatever dies on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from jobs.models import BulkOperation
from jobs.queries import Bounded

#: The states of jobs that a verb can be done to. Others of a selection are left out, and not counted.
STATES: dict[str, tuple[str, ...]] = {
    BulkOperation.Verb.REDRIVE: ("dead", "cancelled"),
    BulkOperation.Verb.CANCEL: ("scheduled", "blocked", "queued", "running", "waiting"),
    BulkOperation.Verb.DISCARD: ("dead",),
}


@dataclass(frozen=True, slots=True)
class Selector:
    """How an app finds the jobs of a selection. `jobs` knows only their ids."""

    name: str
    #: (selection, states, below, limit) → ids under ``below`` (None: from the newest), the newest first.
    ids: Callable[[dict[str, Any], Sequence[str], UUID | None, int], list[UUID]]
    #: (selection, states) → how many there are.
    count: Callable[[dict[str, Any], Sequence[str]], Bounded]


_selectors: dict[str, Selector] = {}


def register_selector(selector: Selector) -> None:
    """Make a selector known by its name. Every process that works on operations registers the same ones."""
    _selectors[selector.name] = selector
