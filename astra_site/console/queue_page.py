"""Gather what the queues page shows, in a fixed number of statements, each region by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings

from agents.run_stats import ended_by_minute
from astra_site.console.lane_row import LaneRow, rows
from astra_site.console.pausing import Held
from astra_site.console.regions import Regions
from jobs.holds import EVERYTHING
from jobs.lane_samples import history
from jobs.models import Worker
from jobs.queries import ended_workers, fleet, holds_in_force, lane_loads, stuck

FLEET_UP_TO = 200
ENDED_UP_TO = 50


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold in force, and how many jobs it stops now."""

    held: Held
    waiting: int


@dataclass(frozen=True, slots=True)
class QueuePage:
    """Lanes, holds and workers. A part that could not be read is None, and named in ``unread``."""

    lanes: Sequence[LaneRow] | None
    holds: Sequence[HoldRow] | None
    workers: Sequence[Worker] | None
    ended: Sequence[Worker] | None
    unread: Sequence[str]

    @property
    def everything(self) -> HoldRow | None:
        """Return the pause of everything, if there is one."""
        return next((row for row in self.holds or () if row.held.hold.key == EVERYTHING and row.held.is_pause), None)

    @property
    def more_workers(self) -> bool:
        """Whether there may be more workers than are shown."""
        return len(self.workers or ()) == FLEET_UP_TO


def gather() -> QueuePage:
    """Read it all."""
    regions = Regions()
    holds = regions.read("holds", holds_in_force)
    blocked = regions.read("what is stuck", stuck)
    loads = regions.read("lanes", lambda: lane_loads(settings.LANES))
    samples = regions.read("the lanes’ last hour", lambda: history(settings.LANES))
    work = regions.read("what ended in the last hour", lambda: ended_by_minute(settings.LANES))
    waiting = dict(blocked.blocked) if blocked is not None else {}
    return QueuePage(
        lanes=rows(loads, samples, work, holds) if loads is not None else None,
        holds=None if holds is None else [HoldRow(Held(one), waiting.get(f"hold:{one.key}", 0)) for one in holds],
        workers=regions.read("workers", lambda: fleet(FLEET_UP_TO)),
        ended=regions.read("workers that ended", lambda: ended_workers(ENDED_UP_TO)),
        unread=regions.unread,
    )
