"""What a redrive keeps, what it pays for again, and who was first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import Count, Q, Sum, TextField, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce

from agents.models import Run, Step
from jobs.actions import Changed, InvalidState
from jobs.models import Job, JobEvent
from jobs.states import REDRIVABLE, State
from jobs.transitions import UNKNOWN_HANDLER, VERSION

_NOUNS = {
    Step.Kind.MODEL: ("model call", "model calls"),
    Step.Kind.COMPOSE: ("answer", "answers"),
    Step.Kind.TOOL: ("tool call", "tool calls"),
    Step.Kind.STEP: ("function", "functions"),
    Step.Kind.VALUE: ("recorded value", "recorded values"),
    Step.Kind.EMIT: ("published event", "published events"),
    Step.Kind.WAIT: ("wait", "waits"),
}


#: Whether a tool call went well, as its result says.
_OK = Coalesce(KeyTextTransform("ok", "output"), Value(""), output_field=TextField())


def can_redrive(job: Job) -> bool:
    """Tell whether a job can be sent back: it has ended badly, or a person has to put right what stops it."""
    if job.state == State.BLOCKED:
        return not {VERSION, UNKNOWN_HANDLER}.isdisjoint(job.blocked_on)
    return job.state in REDRIVABLE


@dataclass(frozen=True, slots=True)
class Kept:
    """The finished steps of a run's present journal: a redrive from the last step keeps them.

    Not the tool calls that failed last, on which nothing was built: it tries those again.
    """

    steps: int
    #: How many of each kind, in words.
    kinds: Sequence[str]
    #: What was paid for them; None where a price is not known.
    usd: Decimal | None
    #: Tool calls that are tried again.
    again: int = 0

    @property
    def all(self) -> int:
        """How many steps a redrive from the start runs again."""
        return self.steps + self.again

    @classmethod
    def of(cls, run: Run) -> Kept:
        """Count the steps. One statement."""
        journal = Step.objects.filter(run=run, epoch=run.journal_epoch)
        # From the newest back to the first that is kept: no more outputs than those are read.
        good = journal.alias(ok=_OK).filter(~Q(kind=Step.Kind.TOOL) | ~Q(ok="false")).order_by("-id")
        kept = Q(pk__lte=Coalesce(good.values("pk")[:1], 0))
        found = (
            journal.order_by()
            .values("kind")
            .annotate(
                number=Count("pk", filter=kept),
                usd=Sum("cost_usd", filter=kept),
                priceless=Count("pk", filter=kept & ~Q(model="") & Q(cost_usd=None)),
                again=Count("pk", filter=~kept),
            )
        )
        told = list(found)
        rows = {row["kind"]: row for row in told if row["number"]}
        kinds = []
        for kind, (one, many) in _NOUNS.items():
            if kind in rows:
                number = rows[kind]["number"]
                kinds.append(f"{number:,} {one if number == 1 else many}")
        known = not any(row["priceless"] for row in rows.values())
        usd = sum((row["usd"] or Decimal(0) for row in rows.values()), Decimal(0))
        return cls(
            sum(row["number"] for row in rows.values()),
            kinds,
            usd if known else None,
            sum(row["again"] for row in told),
        )


def changed_since(job: Job, generation: int | None, verb: str) -> Changed | None:
    """Return that a job was sent back since its page was read, and by whom; None if it was not."""
    if generation is None or generation == job.generation:
        return None
    last = job.events.filter(kind=JobEvent.Kind.STATE, reason="redriven").order_by("-id").first()
    return Changed(job.pk, job.state, verb, last.actor if last is not None else "")


def standing(state: str) -> str:
    """Return a state as it stands after "is"."""
    return "a dead letter" if state == State.DEAD else State(state).label.lower()


def in_words(error: InvalidState, verb: str, user: AbstractBaseUser | AnonymousUser) -> str:
    """Say to a person why something was not done to a task."""
    now = standing(error.state)
    if isinstance(error, Changed):
        if error.by == user.get_username():
            first = "you redrove it already, a moment ago or in another window"
        else:
            first = f"{error.by or 'somebody'} redrove it since you opened this page"
        return f"Not {verb}: {first}. It is {now} now."
    return f"Not {verb}: this task is {now} by now."
