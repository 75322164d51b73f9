"""What parked runs wait for, in words for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from agents.models import Run
from agents.parked import Request, hooks
from jobs import script
from jobs.script import Row, Script
from jobs.states import State

#: Waits of one run that are told.
MOST = 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that a parked run waits for."""

    run_id: UUID
    #: person, tool, event, child or time.
    kind: str
    #: Without a full stop: "Waits for a reviewer: Refund 150 USD".
    words: str
    since: datetime
    #: Its time, or its deadline.
    until: datetime | None
    #: What happens at the deadline, in words.
    otherwise: str = ""
    approval_id: UUID | None = None
    #: Of the request, for whoever may look at it.
    url: str = ""

    def as_frame(self) -> dict[str, Any]:
        """Return it as a frame of the chat tells it."""
        told: dict[str, Any] = {"kind": self.kind, "words": self.words}
        if self.approval_id is not None:
            told["approval_id"] = str(self.approval_id)
        if self.until is not None:
            told["until"] = self.until.isoformat()
        return told


def waits_of(run_ids: Sequence[UUID]) -> Script[dict[UUID, list[Waiting]]]:
    """Return what each of these runs waits for, the first `MOST` each; nothing of one that is not parked."""
    if not run_ids:
        return {}
    rows = yield (
        "SELECT w.* FROM unnest(%s::uuid[]) AS run(id) JOIN jobs_job j ON j.id = run.id AND j.state = 'waiting'"
        " CROSS JOIN LATERAL (SELECT job_id, kind, key, until, created_at FROM jobs_wait"
        "   WHERE job_id = run.id AND resolved_at IS NULL ORDER BY id LIMIT %s) w",
        [list(run_ids), MOST],
    )
    if not rows:
        return {}
    asked: dict[tuple[UUID, str], Request] = {}
    if any(row["kind"] == "person" for row in rows):
        for request in (yield from hooks.pending(list({row["job_id"] for row in rows}))):
            asked[request.run_id, request.wait_key] = request
    found: defaultdict[UUID, list[Waiting]] = defaultdict(list)
    for row in rows:
        found[row["job_id"]].append(_waiting(row, asked.get((row["job_id"], row["key"]))))
    return dict(found)


def waits_for(run_ids: Sequence[UUID], user: Any) -> dict[UUID, list[Waiting]]:
    """Return what each of these runs waits for, with links for a person to the requests that they may look at."""
    found: dict[UUID, list[Waiting]] = script.run(waits_of(run_ids)) if run_ids else {}
    ids = [wait.approval_id for waits in found.values() for wait in waits if wait.approval_id is not None]
    links = hooks.links(user, ids) if ids else {}
    return {run_id: linked(waits, links) for run_id, waits in found.items()}


def linked(waits: Iterable[Waiting], links: Mapping[UUID, str]) -> list[Waiting]:
    """Return waits with the links to their requests that there are."""
    return [replace(wait, url=links.get(wait.approval_id, "")) if wait.approval_id else wait for wait in waits]


def attach_waits(runs: Iterable[Run], user: Any) -> None:
    """Give each of these runs that is parked its ``waits``, as `waits_for` returns them."""
    parked = {run.pk: run for run in runs if run.job.state == State.WAITING}
    for run_id, waits in waits_for(list(parked), user).items():
        parked[run_id].waits = waits  # type: ignore[attr-defined]


_WORDS = {
    "person": "Waits for a person",
    "tool": "Waits for a tool that works elsewhere",
    "event": "Waits for an event from outside",
    "child": "Waits for a task that it began",
    "time": "Waits for a set time",
}


def _waiting(row: Row, request: Request | None) -> Waiting:
    if request is None:
        return Waiting(row["job_id"], row["kind"], _WORDS[row["kind"]], row["created_at"], row["until"])
    return Waiting(
        run_id=row["job_id"],
        kind=row["kind"],
        words=f"Waits for {request.who}: {request.title.rstrip('.')}",
        since=request.asked_at,
        until=request.deadline,
        otherwise=request.otherwise,
        approval_id=request.id,
    )
