"""A lane as a row of the overview and of the queues page: what it has to do, who does it, and what it did lately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.run_stats import LaneWork
from jobs import lanes
from jobs.lane_samples import Sample
from jobs.models import Hold
from jobs.queries import Bounded, LaneLoad

#: What each lane is for, in one sentence.
PURPOSES = {
    lanes.CHAT: "Replies to people in the chat, written by the web processes.",
    lanes.QUEUE: "Tasks that people and programs submit.",
    lanes.SCHEDULED: "Runs that a schedule starts.",
    lanes.BATCH: "Slices of large batches, done while there is room.",
    lanes.TOOLS: "Long tool calls that go on beside their task.",
    lanes.DELIVERY: "Webhooks and notifications on their way out.",
    lanes.EVALS: "A sample of finished runs, to be judged.",
    lanes.SUSPECT: "Tasks whose worker died under them: each runs alone, in a process of its own.",
}


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One lane. ``samples`` and ``work`` are of the last hour; None if they could not be read."""

    load: LaneLoad
    samples: Sequence[Sample | None] | None = None
    work: LaneWork | None = None
    #: The pause of this very lane.
    hold: Hold | None = None

    @property
    def name(self) -> str:
        """Return the lane's name."""
        return self.load.name

    @property
    def purpose(self) -> str:
        """Return what it is for, in a sentence."""
        return PURPOSES.get(self.load.name, "")

    @property
    def is_used(self) -> bool:
        """Whether it has work or somebody to do it."""
        return bool(self.load.queued or self.load.running or self.load.slots or self.load.held or self.hold)

    @property
    def is_idle(self) -> bool:
        """Whether it is served, and has had nothing to do in the last hour."""
        worked = self.work is None or self.work.total or any(one.queued or one.running for one in self.newest_first)
        return not (self.load.queued or self.load.running or self.load.held or worked or self.hold)

    @property
    def may_pause(self) -> bool:
        """Whether it can be paused. What runs in lane `suspect` is held with the lane that it came from."""
        return self.load.name != lanes.SUSPECT

    @property
    def depths(self) -> list[Bounded | None]:
        """Return how many jobs were queued, minute by minute, and as the last how many are now."""
        past = [None if sample is None else sample.queued for sample in self.samples or ()]
        if past and past[-1] is None:
            past.pop()  # the current minute has no sample for its first seconds
        return [*past, self.load.queued]

    @property
    def newest_first(self) -> list[Sample]:
        """Return the samples, the newest first."""
        return [sample for sample in reversed(self.samples or ()) if sample is not None]


def rows(
    loads: Sequence[LaneLoad],
    samples: Mapping[str, Sequence[Sample | None]] | None,
    work: Mapping[str, LaneWork] | None,
    holds: Sequence[Hold] | None,
) -> list[LaneRow]:
    """Put together what was read of each lane."""
    paused = {hold.key: hold for hold in holds or ()}
    return [
        LaneRow(
            load,
            samples=samples.get(load.name) if samples is not None else None,
            work=work.get(load.name) if work is not None else None,
            hold=paused.get(f"lane:{load.name}"),
        )
        for load in loads
    ]
