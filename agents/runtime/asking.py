"""Asking a model: which one, how often, and what to make of the reply."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agents.runtime.errors import (
    BadReply,
    BudgetExceeded,
    MaxTokensExceeded,
    ModelRefused,
    ModelUnavailable,
    RunError,
)
from agents.runtime.meter import Meter
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


class Asker:
    """Gets one sound reply: fallback models around retries around the budget around the call."""

    def __init__(self, meter: Meter, models: Models, attempts: Attempts, left_s: Callable[[], float]) -> None:
        self._meter = meter
        self._models = models
        self._attempts = attempts
        self._left_s = left_s

    async def ask(self, draft: ModelCall, want: int | None, send: Send, on_retry: OnRetry) -> Reply:
        """Return a reply whose usage includes what failed attempts are known to have cost.

        Raises:
            RunError: the last failure, when neither the model nor its fallbacks gave a sound reply. Its usage is that
                of all attempts.
        """
        failed: RunError | None = None
        spent = Usage()
        tried: set[str] = set()
        for models in self._candidates():
            if tried.issuperset(models):
                continue
            for attempt in range(1, self._attempts.most + 1):
                try:
                    reply = await self._attempt(models, draft, want, send, tried)
                except (ModelUnavailable, BadReply) as error:
                    failed = error
                    spent += error.usage or Usage()
                    wait_s = self._wait_s(error, attempt)
                    if wait_s is None:
                        break
                    await on_retry(error, f"attempt {attempt} failed, next in {wait_s:.1f} s: {error.detail}")
                    await asyncio.sleep(wait_s)
                except RunError as error:
                    spent += error.usage or Usage()
                    if failed is None or not isinstance(error, BudgetExceeded):
                        raise _charged(error, spent) from error.__cause__
                    break  # a cheaper fallback may still be within the budget
                else:
                    return reply.model_copy(update={"usage": reply.usage + spent})
            if isinstance(failed, BadReply):
                break  # it did answer: another model is no cure for that
        assert failed is not None
        raise _charged(failed, spent)

    def _candidates(self) -> list[tuple[str, ...]]:
        return [self._meter.choice(), *((model,) for model in self._models.fallback)]

    async def _attempt(
        self, models: tuple[str, ...], draft: ModelCall, want: int | None, send: Send, tried: set[str]
    ) -> Reply:
        admission = await self._meter.admit(models, draft, want)
        tried.add(admission.call.model)
        call = admission.call.model_copy(update={"timeout_s": max(0.1, min(draft.timeout_s, self._left_s()))})
        try:
            reply = await send(call)
            if not reply.model:
                reply = reply.model_copy(update={"model": call.model})
            sound(reply, call)
        except RunError as error:
            self._meter.settle(admission, error.usage)
            raise
        except BaseException:
            self._meter.settle(admission, None)
            raise
        self._meter.settle(admission, reply.usage, turns=1)
        return reply

    def _wait_s(self, error: RunError, attempt: int) -> float | None:
        """Return the seconds until the next attempt on the same model, None if there is to be none."""
        if attempt >= self._attempts.most:
            return None
        whole = min(self._attempts.max_s, self._attempts.base_s * 2 ** (attempt - 1))
        wait_s: float = max(whole * random.uniform(0.5, 1.0), float(error.extra.get("retry_after_s") or 0.0))
        return wait_s if wait_s <= self._attempts.max_s and wait_s < self._left_s() else None


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
