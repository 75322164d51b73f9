"""Gather what the overview shows, in a fixed number of statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings

from agents.mode_figures import ModeFigures, mode_figures
from jobs.models import Job, Wait, Worker
from jobs.queries import (
    Bounded,
    LaneLoad,
    Stuck,
    bounded_count,
    lane_loads,
    newest_dead_letters,
    stuck,
    waits_for_people,
    workers,
)

#: As many rows of each list stand on the page; the rest is one click away.
SHOWN = 5
WORKERS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the house."""

    lanes: Sequence[LaneLoad]
    stuck: Stuck
    dead_letters: Sequence[Job]
    waiting: Bounded
    waits: Sequence[Wait]
    workers: Sequence[Worker]
    modes: Sequence[ModeFigures]

    @property
    def used_lanes(self) -> list[LaneLoad]:
        """Return the lanes that have work or somebody to do it."""
        return [lane for lane in self.lanes if lane.queued or lane.running or lane.slots]

    @property
    def live_workers(self) -> list[Worker]:
        """Return the workers that hold a lease, or have just missed one."""
        return [worker for worker in self.workers if worker.ended_at is None]

    @property
    def queued(self) -> Bounded:
        """Return the depth of all lanes."""
        return Bounded(sum(lane.queued.number for lane in self.lanes), any(lane.queued.more for lane in self.lanes))

    @property
    def oldest(self) -> LaneLoad | None:
        """Return the lane whose head has waited longest; None if nothing is queued."""
        return max(
            (lane for lane in self.lanes if lane.oldest_s is not None),
            key=lambda lane: lane.oldest_s or 0,
            default=None,
        )

    @property
    def running(self) -> int:
        """Return how many jobs run."""
        return sum(lane.running for lane in self.lanes)

    @property
    def slots(self) -> int:
        """Return how many could run."""
        return sum(lane.slots for lane in self.lanes)


def gather() -> Overview:
    """Read it all."""
    waits = waits_for_people()
    return Overview(
        lanes=lane_loads(settings.LANES),
        stuck=stuck(),
        dead_letters=list(newest_dead_letters().select_related("run__endpoint")[:SHOWN]),
        waiting=bounded_count(waits),
        waits=list(waits.select_related("job__run__endpoint", "job__user")[:SHOWN]),
        workers=workers(WORKERS_SHOWN),
        modes=mode_figures(),
    )
