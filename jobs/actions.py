"""What people do to jobs: one class each. Console, API, admin and commands all call these."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID

from django.db import transaction

from accounts import roles
from accounts.problems import Forbidden
from audit import trail
from audit.trail import Actor
from jobs import holds, script, wakeups
from jobs.script import Row, Script
from jobs.states import REDRIVABLE, State
from jobs.transitions import UNKNOWN_HANDLER, VERSION, change, lock, make_ready

#: Characters of a note.
MAX_NOTE = 2_000


def note_of(text: str) -> str:
    """Return what a person typed as it is kept: the database takes no NULs."""
    return text.replace("\0", "").strip()[:MAX_NOTE]


class UnknownJob(LookupError):
    """There is no such job."""


class InvalidState(Exception):
    """The job is not in a state in which that can be done."""

    def __init__(self, job_id: UUID, state: str, verb: str) -> None:
        super().__init__(f"A {state} job can't be {verb}.")
        self.job_id, self.state, self.verb = job_id, state, verb


class Changed(InvalidState):
    """Somebody else was first: the job is no longer the one that was looked at."""

    def __init__(self, job_id: UUID, state: str, verb: str, by: str = "") -> None:
        super().__init__(job_id, state, verb)
        self.by = by

    def __str__(self) -> str:
        who = f" by {self.by}" if self.by else ""
        again = " again" if self.verb == "redriven" else ""
        return f"It was redriven meanwhile{who}, so it was not {self.verb}{again}."


@dataclass(frozen=True, slots=True)
class Seen:
    """What was looked at when an action was decided on: it refuses a job that was sent back since."""

    #: The job's generation; None for any.
    generation: int | None = None
    #: When it was looked at; None for any time.
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Action:
    actor: Actor

    def _locked(self, job_id: UUID) -> Script[Row]:
        job = yield from lock(job_id)
        if job is None:
            raise UnknownJob(f"there is no job {job_id}")
        return job

    def _check(self, job: Row, seen: Seen, verb: str) -> Script[None]:
        """Refuse a job that is another one than was seen.

        Raises:
            Changed: and names who sent it back.
        """
        other = seen.generation is not None and job["generation"] != seen.generation
        if not other and (seen.at is None or job["generation"] == 1):
            return
        rows = yield (
            "SELECT at, actor FROM jobs_jobevent WHERE job_id = %s AND reason = 'redriven' ORDER BY id DESC LIMIT 1",
            [job["id"]],
        )
        if seen.at is not None:  # sent back since; or just before, and it has failed since
            other |= any(
                at is not None and at > seen.at for at in (rows[0]["at"] if rows else None, job["finished_at"])
            )
        if other:
            raise Changed(job["id"], job["state"], verb, rows[0]["actor"] if rows else "")

    def _record(self, verb: str, job: Row, after: str, *, note: str = "", **more: object) -> None:
        trail.record(
            self.actor,
            f"job.{verb}",
            "job",
            job["id"],
            note=note,
            before={"state": job["state"], "generation": job["generation"]},
            after={"state": after, **more},
        )


@dataclass(frozen=True, slots=True)
class Cancel(_Action):
    """Stop a job for good: at once if it does not run, else by telling its owner, whose call is cut off."""

    seen: Seen = Seen()

    def run(self, job_id: UUID) -> State:
        """Cancel; return the state the job is in now (still running, if its owner has yet to stop).

        Raises:
            InvalidState: it has ended. Asking twice for a running job is harmless.
            Changed: it was redriven since it was seen.
            UnknownJob: there is no such job.
        """
        with transaction.atomic():
            job, state, fresh = script.run(self._cancel(job_id))
            if fresh:
                self._record("cancel", job, state)
        if state is State.RUNNING:
            transaction.on_commit(partial(wakeups.nudge, job_id))
        return state

    def _cancel(self, job_id: UUID) -> Script[tuple[Row, State, bool]]:
        job = yield from self._locked(job_id)
        yield from self._check(job, self.seen, "cancelled")
        state = State(job["state"])
        if state is State.RUNNING:
            if job["cancel_requested_at"] is None:
                yield (
                    "WITH job AS (UPDATE jobs_job SET cancel_requested_at = now() WHERE id = %s RETURNING id, fence)"
                    " INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, actor, reason)"
                    " SELECT id, 'state', 'running', 'running', fence, %s, 'cancel-requested' FROM job",
                    [job_id, self.actor.name],
                )
            return job, state, job["cancel_requested_at"] is None
        if state not in (State.SCHEDULED, State.BLOCKED, State.QUEUED, State.WAITING):
            raise InvalidState(job_id, state, "cancelled")
        yield from change(job, State.CANCELLED, reason="cancelled", actor=self.actor.name)
        return job, State.CANCELLED, True


@dataclass(frozen=True, slots=True)
class Redrive(_Action):
    """Send an ended job back as a new generation: from its last recorded step, or from the start."""

    from_: Literal["checkpoint", "start"] = "checkpoint"
    seen: Seen = Seen()
    #: From the start: do again what is on record as done outside. Else its results are taken from there.
    repeat_effects: bool = False

    def run(self, job_id: UUID) -> State:
        """Redrive; return the new state.

        Raises:
            InvalidState: only dead letters, cancelled jobs and jobs whose program or handler the worker did not have
                can be redriven.
            Changed: it was redriven since it was seen.
            UnknownJob: there is no such job.
            Forbidden: only operators, and Astra itself, repeat effects.
            ValueError: effects are repeated only from the start.
        """
        if self.repeat_effects and self.from_ != "start":
            raise ValueError("Effects are repeated only from the start.")
        if self.repeat_effects and self.actor.user is not None and not roles.is_operator(self.actor.user):
            raise Forbidden("Only operators have done again what a task did outside.")
        with transaction.atomic():
            job, state = script.run(self._redrive(job_id))
            self._record("redrive", job, state, from_=self.from_, **self._repeats())
        return state

    def _repeats(self) -> dict[str, Any]:
        return {"repeat_effects": True} if self.repeat_effects else {}

    def _redrive(self, job_id: UUID) -> Script[tuple[Row, State]]:
        job = yield from self._locked(job_id)
        yield from self._check(job, self.seen, "redriven")
        # A person has put right what a worker could not: the reason goes, others stay.
        put_right = job["state"] == State.BLOCKED and not {VERSION, UNKNOWN_HANDLER}.isdisjoint(job["blocked_on"])
        if job["state"] not in REDRIVABLE and not put_right:
            raise InvalidState(job_id, job["state"], "redriven")
        sets = {
            "generation": job["generation"] + 1,
            "attempt": 0,
            "crashes": 0,
            "lane": job["home_lane"],
            "error": None,
            "progress": None,
            "cancel_requested_at": None,
            "started_at": None,
        }
        if self.from_ == "start":
            yield "DELETE FROM jobs_wait WHERE job_id = %s", [job_id]
        state = yield from make_ready(
            job,
            reason="redriven",
            actor=self.actor.name,
            redrive=self.from_,
            repeat_effects=self.repeat_effects,
            sets=sets,
            data={"from": self.from_, "generation": sets["generation"], **self._repeats()},
        )
        return job, state


@dataclass(frozen=True, slots=True)
class Discard(_Action):
    """Give a dead letter up, with a note that says why."""

    note: str
    seen: Seen = Seen()

    def run(self, job_id: UUID) -> State:
        """Discard.

        Raises:
            InvalidState: it is no dead letter.
            Changed: it was redriven since it was seen.
            ValueError: the note is empty.
            UnknownJob: there is no such job.
        """
        note = note_of(self.note)
        if not note:
            raise ValueError("Say why it is discarded.")
        with transaction.atomic():
            job = script.run(self._discard(job_id, note))
            self._record("discard", job, State.DISCARDED, note=note)
        return State.DISCARDED

    def _discard(self, job_id: UUID, note: str) -> Script[Row]:
        job = yield from self._locked(job_id)
        yield from self._check(job, self.seen, "discarded")
        if job["state"] != State.DEAD:
            raise InvalidState(job_id, job["state"], "discarded")
        yield from change(job, State.DISCARDED, reason="discarded", actor=self.actor.name, data={"note": note})
        return job


#: Why a person stops new work: a hold like any other, but lifted by hand.
PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Pause:
    """Let no job with a key start: a lane's, an agent's, an endpoint's or all. What runs goes on."""

    actor: Actor
    note: str = ""
    reason: str = PAUSED

    def run(self, key: str) -> bool:
        """Place the hold. Returns False if the same one was there already: it and its note stay."""
        note = note_of(self.note)
        with transaction.atomic():
            placed = script.run(holds.place(key, self.reason, by=self.actor.name, note=note))
            if placed:
                trail.record(self.actor, "hold.place", "hold", key, note=note, after={"reason": self.reason})
        return placed


@dataclass(frozen=True, slots=True)
class Resume:
    """Lift the hold on a key. What nothing else stops is queued within a second or two."""

    actor: Actor
    reason: str = PAUSED

    def run(self, key: str) -> bool:
        """Lift it. Returns False if there was none."""
        with transaction.atomic():
            lifted = script.run(holds.lift(key, self.reason))
            if lifted:
                trail.record(self.actor, "hold.lift", "hold", key, before={"reason": self.reason})
        return lifted
