"""Asking a model: which one, how often, and what to make of the reply."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agents.runtime.errors import (
    BadReply,
    BudgetExceeded,
    MaxTokensExceeded,
    ModelRefused,
    ModelUnavailable,
    RunError,
)
from agents.runtime.meter import Meter
from agents.runtime.ports import ModelPort
from agents.runtime.types import ModelCall, Models, Reply, Usage

Send = Callable[[ModelCall], Awaitable[Reply]]
#: Is told of an attempt that failed and will be followed by another: the error and one line about it.
OnRetry = Callable[[RunError, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often one model is asked when it is unavailable or answers what cannot be read.

    Waits grow exponentially with jitter: uniform in [half, whole] of ``base_s * 2**(n-1)``, at most ``max_s``. When a
    provider asks for more patience than ``max_s``, the next model is tried, or the run's own retry takes over.
    """

    most: int = 3
    base_s: float = 0.5
    max_s: float = 20.0
    #: ``most`` is for all models together: once one is unavailable the next attempt is a fallback's, at once.
    in_all: bool = False


@dataclass(slots=True)
class Question:
    """What one step asks of a model, and what asking has used so far."""

    draft: ModelCall
    #: Bounds the reply, in tokens; None means all that is left.
    want: int | None
    send: Send
    on_retry: OnRetry
    #: Of a call that is stopped in its middle: the text that had come.
    heard: Callable[[], str] = str
    #: By attempts that failed or were stopped.
    spent: Usage = field(default_factory=Usage)
    made: int = 0
    tried: set[str] = field(default_factory=set)


class Asker:
    """Gets one sound reply: fallback models around retries around the budget around the call."""

    def __init__(
        self, port: ModelPort, meter: Meter, models: Models, attempts: Attempts, left_s: Callable[[], float]
    ) -> None:
        self._port = port
        self._meter = meter
        self._models = models
        self._attempts = attempts
        self._left_s = left_s

    async def ask(self, question: Question) -> Reply:
        """Return a reply whose usage includes what failed attempts are known to have cost.

        When this is cancelled, ``question.spent`` holds what was used all the same.

        Raises:
            RunError: the last failure, when neither the model nor its fallbacks gave a sound reply. Its usage is that
                of all attempts.
        """
        failed: RunError | None = None
        for models in self._candidates():
            if question.tried.issuperset(models):
                continue
            try:
                if failed is not None:
                    told = f"attempt {question.made} failed, another model is asked: {failed.detail}"
                    await question.on_retry(failed, told)
                reply = await self._persist(models, question)
            except RunError as error:
                if failed is not None and isinstance(error, BudgetExceeded):
                    continue  # a cheaper fallback may still be within the budget
                failed = error
                if not isinstance(error, ModelUnavailable) or self._is_out_of_attempts(question):
                    break  # it did answer, or refused to: another model is no cure for that
            else:
                return reply.model_copy(update={"usage": reply.usage + question.spent})
        assert failed is not None
        raise _charged(failed, question.spent) from failed.__cause__

    def _is_out_of_attempts(self, question: Question) -> bool:
        return self._attempts.in_all and question.made >= self._attempts.most

    async def _persist(self, models: tuple[str, ...], question: Question) -> Reply:
        """Ask one model, or its cheaper stand-in, as often as it may be asked."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(models, question)
            except (ModelUnavailable, BadReply) as error:
                wait_s = self._wait_s(error, attempt, question)
                if wait_s is None:
                    raise
                await question.on_retry(error, f"attempt {attempt} failed, next in {wait_s:.1f} s: {error.detail}")
                await asyncio.sleep(wait_s)

    def _candidates(self) -> list[tuple[str, ...]]:
        return [self._meter.choice(), *((model,) for model in self._models.fallback)]

    async def _attempt(self, models: tuple[str, ...], question: Question) -> Reply:
        draft = question.draft
        admission = await self._meter.admit(models, draft, question.want)
        question.tried.add(admission.call.model)
        question.made += 1
        call = admission.call.model_copy(update={"timeout_s": max(0.1, min(draft.timeout_s, self._left_s()))})
        try:
            reply = await question.send(call)
            if not reply.model:
                reply = reply.model_copy(update={"model": call.model})
            sound(reply, call)
        except RunError as error:
            question.spent += error.usage or Usage()
            self._meter.settle(admission, error.usage)
            raise
        except BaseException:
            # Stopped in the middle: a provider bills what it wrote until then, and does not say how much that was.
            used = self._port.estimate(call, question.heard())
            question.spent += used
            self._meter.settle(admission, used)
            raise
        self._meter.settle(admission, reply.usage, turns=1)
        return reply

    def _wait_s(self, error: RunError, attempt: int, question: Question) -> float | None:
        """Return the seconds until the next attempt on the same model, None if there is to be none."""
        rules = self._attempts
        if attempt >= rules.most or self._is_out_of_attempts(question):
            return None
        if (
            rules.in_all
            and isinstance(error, ModelUnavailable)
            and not question.tried.issuperset(self._models.fallback)
        ):
            return None
        whole = min(rules.max_s, rules.base_s * 2 ** (attempt - 1))
        wait_s: float = max(whole * random.uniform(0.5, 1.0), float(error.extra.get("retry_after_s") or 0.0))
        return wait_s if wait_s <= rules.max_s and wait_s < self._left_s() else None


def _charged(error: RunError, spent: Usage) -> RunError:
    """Return the error that a step ends with, with what all its attempts are known to have cost."""
    if spent != Usage():
        error.usage = spent
    return error


def sound(reply: Reply, call: ModelCall) -> None:
    """Check that a reply can be used for what it was asked for. A text that was cut off can: its `finish` says so.

    Raises:
        BadReply: it is empty, broken, or asks for tools where none were offered.
        ModelRefused: the provider's filter stopped it.
        MaxTokensExceeded: it was cut off before there was anything to use.
    """
    error: RunError | None = None
    cut_off = reply.finish == "length"
    if reply.finish == "content_filter":
        error = ModelRefused("The provider's content filter stopped the reply.")
    elif cut_off and (reply.calls or call.output is not None or not reply.text):
        error = MaxTokensExceeded(
            f"The reply was cut off at {call.max_tokens:,} tokens, before it could be used.", limit=call.max_tokens
        )
    elif reply.finish == "error":
        error = BadReply("The model ended its reply with an error.")
    elif reply.calls and (not call.tools or call.tool_choice == "none"):
        error = BadReply("The model asked for a tool although none was offered.")
    elif not (reply.text or reply.calls or reply.data is not None):
        error = BadReply("The model's reply is empty.")
    if error is not None:
        error.usage = reply.usage
        raise error
