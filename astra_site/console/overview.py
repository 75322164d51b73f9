"""Gather what the overview shows, in a fixed number of statements, each region by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from agents.mode_figures import ModeFigures, mode_figures
from agents.run_stats import LaneWork, ended_by_minute
from approvals.inbox import NOT_LISTED, Waiting, waiting
from approvals.models import Approval
from astra_site.console.lane_row import LaneRow, rows
from astra_site.console.operation_page import Progress
from astra_site.console.regions import Regions
from jobs.lane_samples import Sample, history
from jobs.models import BulkOperation, Hold, Job, Worker
from jobs.queries import (
    Bounded,
    LaneLoad,
    Stuck,
    holds_in_force,
    idle_operations,
    lane_loads,
    newest_dead_letters,
    stuck,
    workers,
)

#: As many rows of each list stand on the page; the rest is one click away.
SHOWN = 5
WORKERS_SHOWN = 20


@dataclass(frozen=True)
class Overview:
    """The state of the house. A part that could not be read is None, and named in ``unread``."""

    lanes: Sequence[LaneLoad] | None = None
    samples: Mapping[str, Sequence[Sample | None]] | None = None
    work: Mapping[str, LaneWork] | None = None
    holds: Sequence[Hold] | None = None
    stuck: Stuck | None = None
    dead_letters: Sequence[Job] | None = None
    waiting: Waiting | None = None
    requests: Sequence[Approval] | None = None
    workers: Sequence[Worker] | None = None
    modes: Sequence[ModeFigures] | None = None
    idle_operations: Sequence[BulkOperation] | None = None
    open_operations: Sequence[Progress] | None = None
    unread: Sequence[str] = ()

    @cached_property
    def rows(self) -> list[LaneRow]:
        """Return the lanes that have work or somebody to do it, or are paused."""
        found = rows(self.lanes or (), self.samples, self.work, self.holds)
        return [row for row in found if row.is_used]

    @property
    def idle(self) -> list[LaneRow]:
        """Return those of them that have had nothing to do lately."""
        return [row for row in self.rows if row.is_idle]

    @property
    def live_workers(self) -> list[Worker]:
        """Return the workers that hold a lease, or have just missed one."""
        return [worker for worker in self.workers or () if worker.ended_at is None]

    @property
    def queued(self) -> Bounded:
        """Return the depth of all lanes."""
        lanes = self.lanes or ()
        return Bounded(sum(lane.queued.number for lane in lanes), any(lane.queued.more for lane in lanes))

    @property
    def oldest(self) -> LaneLoad | None:
        """Return the lane whose head has waited longest; None if nothing is queued."""
        return max(
            (lane for lane in self.lanes or () if lane.oldest_s is not None),
            key=lambda lane: lane.oldest_s or 0,
            default=None,
        )

    @property
    def running(self) -> int:
        """Return how many jobs run."""
        return sum(lane.running for lane in self.lanes or ())

    @property
    def slots(self) -> int:
        """Return how many could run."""
        return sum(lane.slots for lane in self.lanes or ())

    @property
    def at_work(self) -> Progress | None:
        """Return the operation on many tasks that somebody worked on last; None if nobody works on one."""
        return next((each for each in self.open_operations or () if not each.is_left), None)

    @property
    def unsampled_min(self) -> int | None:
        """Return for how many minutes no scheduler has sampled the lanes, up to the last hour; None if not known."""
        if not self.samples:
            return None
        return min(
            next((at for at, one in enumerate(reversed(line)) if one), len(line)) for line in self.samples.values()
        )


def gather() -> Overview:
    """Read it all."""
    regions = Regions()
    return Overview(
        lanes=regions.read("lanes", lambda: lane_loads(settings.LANES)),
        workers=regions.read("workers", lambda: workers(WORKERS_SHOWN)),
        stuck=regions.read("what is stuck", stuck),
        holds=regions.read("holds", holds_in_force),
        dead_letters=regions.read("dead letters", _newest_dead),
        waiting=regions.read("how many approvals are pending", waiting),
        requests=regions.read("pending approvals", _nearest_requests),
        idle_operations=regions.read("operations", lambda: idle_operations(SHOWN)),
        open_operations=regions.read("operations under way", _open_operations),
        samples=regions.read("the lanes’ last hour", lambda: history(settings.LANES)),
        work=regions.read("what ended in the last hour", lambda: ended_by_minute(settings.LANES)),
        modes=regions.read("modes", mode_figures),
        unread=regions.unread,
    )


def _nearest_requests() -> list[Approval]:
    nearest = Approval.objects.pending().order_by("sort_at", "pk")
    return list(nearest.select_related("requested_by").defer(*NOT_LISTED)[:SHOWN])


def _newest_dead() -> list[Job]:
    return list(newest_dead_letters().select_related("run__endpoint")[:SHOWN])


def _open_operations() -> list[Progress]:
    now = timezone.now()
    latest = BulkOperation.objects.under_way().defer("selection").order_by(F("worked_at").desc(nulls_last=True), "-pk")
    return [Progress(operation, now) for operation in latest[:SHOWN]]
