"""Judging an answer before anybody sees it: `verify: buffered`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agents.runtime.types import Value

#: The step that holds an answer back, and the one that judges it.
DRAFT, VERIFY = "draft", "verify answer"


class Verdict(Value):
    """What became of an answer that was held back."""

    ok: bool
    #: Why it may not leave; for operators, in the run's timeline.
    reason: str = ""
    #: What leaves in its place.
    instead: str = ""


#: Judges an answer's whole text. What it raises fails the run: what cannot be judged does not leave.
Check = Callable[[str], Verdict | Awaitable[Verdict]]

WITHHELD = "The answer was withheld: it did not stand up to its check. Ask again, or ask a person."


def passed() -> Verdict:
    """Return that an answer may leave as it is."""
    return Verdict(ok=True)


def text_after(text: str, verdict: Verdict) -> str:
    """Return what leaves: the answer, or what stands in its place."""
    return text if verdict.ok else verdict.instead or WITHHELD


def summary(verdict: Verdict) -> str:
    """Say in a line what was found."""
    return "The answer stands." if verdict.ok else f"Another text took its place: {verdict.reason}"
