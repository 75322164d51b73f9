"""What a run did outside, as its page and the form that redrives it tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agents import parked
from agents.models import Effect, Run
from jobs.states import ENDED, REDRIVABLE, State

#: Effects of one run that are told.
MOST = 100
#: Arguments that are told of each, and characters of one.
_ARGUMENTS = 3
_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Done:
    """One call with effects."""

    effect: Effect
    #: How it stands, in words, and its icon.
    words: str
    icon: str
    #: "warn" where somebody has to look.
    hue: str = ""
    #: Of the decision that let it run, for whoever may look at it.
    url: str = ""

    @property
    def about(self) -> str:
        """Its first arguments: "order A-1, amount_usd 150"."""
        told = [f"{name} {_shown(value)}" for name, value in list(self.effect.arguments.items())[:_ARGUMENTS]]
        return ", ".join(told)


@dataclass(frozen=True, slots=True)
class Outside:
    """All that a run did, oldest first."""

    items: Sequence[Done]
    #: There are more than are told.
    more: bool
    #: What was done, by tool: a redrive from the start does it again only if a person wants that.
    done: Mapping[str, int]

    @classmethod
    def of(cls, run: Run, user: Any) -> Outside:
        """Read it. Two statements, or one where nobody had to decide."""
        found = list(Effect.objects.filter(run=run).order_by("id")[: MOST + 1])
        decisions: list[UUID] = [effect.approval_id for effect in found if effect.approval_id is not None]
        urls = parked.hooks.links(user, decisions) if decisions else {}
        items = []
        for effect in found[:MOST]:
            words, icon = _stands(effect, State(run.job.state))
            hue = "warn" if icon == "warning" else ""
            url = urls.get(effect.approval_id, "") if effect.approval_id is not None else ""
            items.append(Done(effect, words, icon, hue, url))
        done = Counter(effect.tool for effect in found if effect.state == Effect.State.DONE and _is_ok(effect))
        return cls(items, len(found) > MOST, dict(done))

    @property
    def done_words(self) -> str:
        """What was done, in words: "refund twice, send_mail once"."""
        return ", ".join(f"{tool} {_times(number)}" for tool, number in self.done.items())


def _stands(effect: Effect, job: State) -> tuple[str, str]:
    """Return how it stands in words, and its icon. Nobody is asked of a call that was cut off as its run ended."""
    if effect.state == Effect.State.DONE:
        by = f", as {effect.resolved_by} says" if effect.resolved_by and effect.note else ""
        return (f"Done{by}", "succeeded") if _is_ok(effect) else ("Failed", "dead")
    is_cut_off = effect.state == Effect.State.STARTED and job in ENDED and not effect.idempotent
    if is_cut_off or effect.state == Effect.State.UNKNOWN:
        asks = "; a redrive asks" if job in REDRIVABLE else ""
        return f"Nobody knows whether it took effect{asks}", "warning"
    return {
        Effect.State.STARTED: ("Begun", "running"),
        Effect.State.AGAIN: ("To be done again", "redrive"),
        Effect.State.GIVEN_UP: (f"Given up by {effect.resolved_by}", "discarded"),
    }[Effect.State(effect.state)]


def _is_ok(effect: Effect) -> bool:
    return isinstance(effect.result, dict) and effect.result.get("ok") is not False


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")
