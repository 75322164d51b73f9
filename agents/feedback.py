"""What people say of what agents did: a grade and a comment of one run, a note to the agent for all to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now

from accounts import roles
from accounts.problems import Problem
from agents.models import AgentNote, AgentVersion, Feedback, Run
from audit import trail
from audit.trail import Actor
from jobs.actions import note_of
from jobs.states import ENDED

#: Notes that stand for one agent at once: its runs read all of them.
MAX_NOTES = 50
#: A run reads the notes that stood so long before it was made: one that is being written then is read by none of its
#: attempts, rather than by some.
SETTLE_S = 2

#: The notes that a run reads, oldest first, for a statement in which `r` is the run and `v` its agent's version.
NOTES_OF_RUN = (
    "(SELECT coalesce(array_agg(n.text ORDER BY n.id), '{}') FROM agents_agentnote n WHERE n.agent = v.name"
    f" AND n.created_at < r.created_at - interval '{SETTLE_S} seconds'"
    f" AND (n.retired_at IS NULL OR n.retired_at >= r.created_at - interval '{SETTLE_S} seconds'))"
)


class NoFeedback(Problem):
    """It cannot be said so: the detail says why.

    Mend what the detail names and say it again. Nothing was changed.
    """

    slug, title, status = "no-feedback", "This cannot be said so", 422


@dataclass(frozen=True, slots=True)
class Grade:
    """Say what a run that has ended was worth. Said again by the same person it replaces what they said before."""

    actor: Actor
    #: One of `Feedback.Grade`; "" to say a comment alone.
    grade: str
    comment: str = ""

    def run(self, run_id: UUID) -> Feedback:
        """Grade.

        Raises:
            NoFeedback: there is no such run for them, it has not ended, or nothing is said.
        """
        user = self.actor.user
        assert isinstance(user, User)
        comment = note_of(self.comment)
        if self.grade not in ("", *Feedback.Grade.values):
            raise NoFeedback(f"There is no grade {self.grade!r}.")
        if not self.grade and not comment:
            raise NoFeedback("Choose a grade, or write what you think.")
        with transaction.atomic():
            run = Run.objects.select_related("job").filter(pk=run_id).first()
            if run is None or not (roles.is_operator(user) or run.user_id == user.pk):
                raise NoFeedback("There is no such task.")
            if run.job.state not in ENDED:
                raise NoFeedback("The task has not ended yet.")
            said, _ = Feedback.objects.update_or_create(
                run=run,
                user=user,
                defaults={"grade": self.grade, "comment": comment, "user_name": user.username, "changed_at": Now()},
            )
            trail.record(self.actor, "run.grade", "run", run_id, note=comment, after={"grade": self.grade})
        return said


@dataclass(frozen=True, slots=True)
class AddNote:
    """Tell an agent something for all runs to come. The same words twice stand once."""

    actor: Actor
    text: str
    #: What it is said about.
    about: UUID | None = None

    def run(self, agent: str) -> AgentNote:
        """Add it.

        Raises:
            NoFeedback: they may not, there is no such agent, nothing is said, or too many notes stand.
        """
        user = self.actor.user
        assert isinstance(user, User)
        text = note_of(self.text)
        if not may_note(user):
            raise NoFeedback("Operators and reviewers tell agents what to heed.")
        if not text:
            raise NoFeedback("Write what the agent should heed.")
        with transaction.atomic():
            version = (
                AgentVersion.objects.select_for_update(no_key=True).filter(name=agent).order_by("-version").first()
            )
            if version is None:
                raise NoFeedback(f"There is no agent {agent!r}.")
            standing = AgentNote.objects.filter(agent=agent, retired_at=None)
            if (found := standing.filter(text=text).first()) is not None:
                return found
            if standing.count() >= MAX_NOTES:
                raise NoFeedback(f"{MAX_NOTES} notes stand for {agent} already. Retire some of them first.")
            about = Run.objects.filter(pk=self.about, agent__name=agent).first() if self.about else None
            made = AgentNote.objects.create(agent=agent, text=text, user=user, user_name=user.username, run=about)
            trail.record(self.actor, "agent.note", "agent", agent, note=text, after={"note": made.pk})
        return made


@dataclass(frozen=True, slots=True)
class RetireNote:
    """Have an agent heed a note no more. Runs that were made while it stood go on with it."""

    actor: Actor

    def run(self, note_id: int) -> AgentNote:
        """Retire it; one that is retired stays as it is.

        Raises:
            NoFeedback: they may not, or there is no such note.
        """
        user = self.actor.user
        assert isinstance(user, User)
        if not may_note(user):
            raise NoFeedback("Operators and reviewers tell agents what to heed.")
        with transaction.atomic():
            found = AgentNote.objects.select_for_update().filter(pk=note_id).first()
            if found is None:
                raise NoFeedback("There is no such note.")
            if found.retired_at is None:
                found.retired_by = user.username
                AgentNote.objects.filter(pk=note_id).update(retired_at=Now(), retired_by=user.username)
                trail.record(self.actor, "agent.note-retire", "agent", found.agent, note=found.text)
        found.refresh_from_db()
        return found


def may_note(user: User) -> bool:
    """Tell whether a person may tell agents what to heed."""
    return roles.is_operator(user) or roles.is_reviewer(user)


def with_notes(instructions: str, notes: Sequence[str]) -> str:
    """Return an agent's instructions with what the people who review its work want it to heed."""
    if not notes:
        return instructions
    listed = "\n".join(f"- {note}" for note in notes)
    return f"{instructions.rstrip()}\n\nThe people who review your work want you to heed this:\n{listed}\n"
