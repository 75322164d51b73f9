"""What people were asked about a run, and what they said, as moments of its story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from agents.parked import Request, hooks
from agents.waiting import Waiting, linked, waits_of
from jobs import script
from jobs.script import Script
from jobs.timeline import Moment


@dataclass(frozen=True, slots=True)
class Asked:
    """What people were asked about a run, and what it is parked for, as a person may know it."""

    #: The newest, oldest first.
    requests: Sequence[Request] = ()
    waits: Sequence[Waiting] = ()
    #: Of the requests that they may look at.
    links: Mapping[UUID, str] = field(default_factory=dict)

    @classmethod
    def read(cls, run_id: UUID, user: Any, *, is_parked: bool) -> Asked:
        """Read it."""
        requests, waits = script.run(_read(run_id, is_parked))
        links = hooks.links(user, [request.id for request in requests]) if requests else {}
        return cls(requests, linked(waits, links), links)


def _read(run_id: UUID, is_parked: bool) -> Script[tuple[list[Request], list[Waiting]]]:
    requests = yield from hooks.requests([run_id])
    waits = (yield from waits_of([run_id])) if is_parked else {}
    return requests, waits.get(run_id, [])


def told_with(
    story: Sequence[Moment],
    requests: Sequence[Request],
    links: Mapping[UUID, str],
    *,
    after: datetime | None = None,
    before: datetime | None = None,
) -> list[Moment]:
    """Return the story with what people were asked and what they said in its place.

    Args:
        after: leave out what was before the part of the story that is told.
        before: leave out what was after it.
    """
    placed = [(moment.at, 1, _without_keys(moment) if requests else moment) for moment in story]
    for place, request in enumerate(requests):
        for number, (at, order, moment) in enumerate(_moments(request, links.get(request.id, ""))):
            if (after is None or at >= after) and (before is None or at <= before):
                # Ids of events count up from 1; these are told apart from them.
                placed.append((at, order, replace(moment, event_id=-(2 * place + number + 1))))
    return [moment for _, _, moment in sorted(placed, key=lambda one: one[:2])]


def _moments(request: Request, url: str) -> list[tuple[datetime, int, Moment]]:
    """Return when it was asked and decided. In one moment it is decided, then the run goes on; parked, then asked."""
    asked = Moment(0, request.asked_at, "person", "", f"Asked {request.who}", request.title, url=url)
    found = [(request.asked_at, 2, asked)]
    if request.decided_at is not None:
        hue = "good" if request.is_approved else ""
        mark = "check" if request.is_approved else "cross"
        decided = Moment(0, request.decided_at, mark, hue, request.outcome, request.comment)
        found.append((request.decided_at, 0, decided))
    return found


def _without_keys(moment: Moment) -> Moment:
    """What a run waits for is told by its requests, not by the keys of its waits."""
    return replace(moment, detail="") if moment.mark == "waiting" else moment
