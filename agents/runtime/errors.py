"""Why a run stops. Each says what it is (`slug`, `title`), what happened and whether trying again can help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.runtime.types import Usage


class RunError(Exception):
    """The run cannot go on. `slug` is stable: it is the last part of the problem type `/problems/<slug>`."""

    slug = "run-failed"
    title = "The run failed"
    #: True when the same run may succeed later without anybody changing anything.
    retriable = False
    #: True when it is the caller's own doing: it says nothing of the agent's health.
    users_own = False
    #: What the failed request cost all the same, where the port knows it.
    usage: Usage | None = None

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.extra = extra

    def as_problem(self) -> dict[str, Any]:
        """Return the error as an RFC 9457 problem."""
        return {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "detail": self.detail,
            "retriable": self.retriable,
            **self.extra,
        }


class BadInput(RunError):
    """The input does not fit the endpoint."""

    slug, title, users_own = "bad-input", "The input does not fit", True


class BudgetExceeded(RunError):
    """Base of every limit that a run ran into."""

    slug, title, users_own = "budget-exceeded", "The run used up what it was given", True


class MaxTurnsExceeded(BudgetExceeded):
    """The model wanted another turn."""

    slug, title = "max-turns", "The run reached its limit of turns"


class MaxTokensExceeded(BudgetExceeded):
    """The replies used up the tokens."""

    slug, title = "max-tokens", "The run reached its limit of tokens"


class CostCapExceeded(BudgetExceeded):
    """The next call could cost more than is left."""

    slug, title = "cost-cap", "The run reached its cost cap"


class WallClockExceeded(BudgetExceeded):
    """The run took too long. What it finished is kept: a redrive goes on from there."""

    slug, title = "wall-clock", "The run took too long"


class PriceUnknown(BudgetExceeded):
    """The caller set a cost cap and the model has no known price."""

    slug, title = "price-unknown", "The model has no known price"


class ContextOverflow(RunError):
    """The conversation is longer than the model reads."""

    slug, title = "context-overflow", "The conversation is too long for the model"


class ModelUnavailable(RunError):
    """The provider did not answer, or said that it can't now. `retry_after_s` is its own wish, if any."""

    slug, title, retriable = "model-unavailable", "The model is not available now", True


class ModelRefused(RunError):
    """The provider rejects the request: a key, a model's name, a policy."""

    slug, title = "model-refused", "The provider refused the request"


class BadReply(RunError):
    """The model's answer is not what its protocol or the schema says."""

    slug, title, retriable = "bad-reply", "The model's answer could not be read", True


class ProgramError(RunError):
    """The program itself raised. `fingerprint` is the same for the same fault, `at` names our innermost frame."""

    slug, title, retriable = "program-error", "The agent's program failed", True


class StepFailed(ProgramError):
    """A function given to `ctx.step` raised. `step` is its name, `error` the exception's type."""

    slug, title = "step-failed", "A step of the program failed"


class Misuse(ProgramError):
    """The program used `ctx` in a way that could not be replayed. Trying again cannot help."""

    slug, title, retriable = "program-misuse", "The program uses its context wrongly", False


class NotJson(ProgramError):
    """A step was given, or returned, something that JSON cannot hold."""

    slug, title, retriable = "not-json", "A value cannot be written as JSON", False


class OutputTooLarge(ProgramError):
    """A step returned more than the journal takes."""

    slug, title, retriable = "output-too-large", "A step's output is too large", False


class VersionMismatch(RunError):
    """On replay a step's input is not what was recorded: the code under the run has changed.

    It is no failure of the attempt: the run is `blocked: version` until a worker has the right code.
    """

    slug, title = "version-mismatch", "The program changed under this run"


class JournalUnavailable(RunError):
    """The journal could not be read or written. It says nothing of the agent: no attempt is charged."""

    slug, title, retriable = "journal-unavailable", "The journal cannot be reached now", True


class EffectUnknown(RunError):
    """A call with effects was begun and nobody knows how it ended: a person has to say."""

    slug, title, retriable = "effect-unknown", "Nobody knows whether a call took effect", True


def revive(problem: Mapping[str, Any]) -> RunError:
    """Return the error that `as_problem` described; one of a class no longer known keeps its slug and title."""
    slug = str(problem["type"]).rsplit("/", 1)[-1]
    extra = {k: v for k, v in problem.items() if k not in {"type", "title", "detail", "retriable"}}
    known = _known(RunError).get(slug)
    error = (known or RunError)(problem["detail"], **extra)
    if known is None:
        error.slug, error.title, error.retriable = slug, problem["title"], problem["retriable"]
    return error


def _known(base: type[RunError]) -> dict[str, type[RunError]]:
    found = {base.slug: base}
    for child in base.__subclasses__():
        for slug, kind in _known(child).items():
            found.setdefault(slug, kind)
    return found
