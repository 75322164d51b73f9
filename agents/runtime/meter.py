"""What a run has used of what it may use: turns, tokens, money."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from agents.runtime.errors import BudgetExceeded, CostCapExceeded, MaxTokensExceeded, MaxTurnsExceeded, PriceUnknown
from agents.runtime.ports import ModelPort, Recorded
from agents.runtime.recorder import FAILED
from agents.runtime.types import Limits, ModelCall, Models, Reply, Usage

#: A reply is shortened to fit into the cost cap rather than refused, but only to so many tokens …
USABLE_TOKENS = 1_024
#: … or, where no model can do that, to so many.
LEAST_TOKENS = 64
#: The cheaper model is chosen when less than this share of the cost cap is left …
TIGHT_COST = Decimal("0.25")
#: … or this share of the latency budget is gone.
TIGHT_LATENCY = 0.5


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run has used, over all its claims since the journal began."""

    input_tokens: int = 0
    output_tokens: int = 0
    #: Of the replies whose price is known; all of them are when ``cost_known``.
    cost_usd: Decimal = Decimal(0)
    cost_known: bool = True
    turns: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to make one call, with what is set aside for it until it is settled."""

    call: ModelCall
    bound_usd: Decimal


class Meter:
    """Admits model calls and adds up what they cost.

    Calls that run side by side set aside what they could use at most, so that together they stay within the limits. One
    that finds everything set aside waits for another to settle; it is refused only when nothing is under way.
    """

    def __init__(self, limits: Limits, models: Models, port: ModelPort, elapsed_ms: Callable[[], float]) -> None:
        self._limits = limits
        self._models = models
        self._port = port
        self._elapsed_ms = elapsed_ms
        self._open: list[Admission] = []
        self._settled = asyncio.Event()
        self._turns = 0
        self._used = Usage()
        self._cost = Decimal(0)

    def restore(self, recorded: Iterable[Recorded]) -> None:
        """Count what the journal says was used before."""
        for step in recorded:
            if step.kind in ("model", "compose") and not step.key.endswith(FAILED):
                reply = Reply.model_validate(step.output)
                if reply.model:
                    self.add(reply.usage, turns=1)

    def add(self, usage: Usage, turns: int = 0) -> None:
        """Count a request."""
        self._turns += turns
        self._used += usage
        self._cost += usage.cost_usd or 0

    def totals(self, steps: int = 0) -> Totals:
        """Return what was used so far."""
        return Totals(
            input_tokens=self._used.input_tokens,
            output_tokens=self._used.output_tokens,
            cost_usd=self._cost,
            cost_known=self._used.cost_usd is not None,
            turns=self._turns,
            steps=steps,
        )

    def choice(self) -> tuple[str, ...]:
        """Return the models to consider, the wanted one first: the cheaper one when the budget is tight."""
        cheaper = self._models.downshift
        if cheaper is None or cheaper == self._models.default:
            return (self._models.default,)
        return (cheaper, self._models.default) if self._tight() else (self._models.default, cheaper)

    def _tight(self) -> bool:
        cap, budget = self._limits.cost_cap_usd, self._limits.latency_budget_ms
        if cap is not None and cap - self._cost < cap * TIGHT_COST:
            return True
        return budget is not None and self._elapsed_ms() > budget * TIGHT_LATENCY

    async def admit(self, models: Sequence[str], draft: ModelCall, want: int | None) -> Admission:
        """Return leave to make the call ``draft`` on the first of the models that the budget allows.

        ``want`` bounds the reply, in tokens; None means all that is left.

        Raises:
            BudgetExceeded: one of MaxTurnsExceeded, MaxTokensExceeded, CostCapExceeded, PriceUnknown.
        """
        while True:
            try:
                admission = self._fit(models, draft, want)
            except BudgetExceeded:
                if not self._open:
                    raise
                self._settled.clear()
                await self._settled.wait()
            else:
                self._open.append(admission)
                return admission

    def settle(self, admission: Admission, usage: Usage | None, turns: int = 0) -> None:
        """Give back what was set aside and count what was used, None when that is nothing."""
        self._open = [other for other in self._open if other is not admission]
        if usage is not None:
            self.add(usage, turns)
        self._settled.set()

    def _fit(self, models: Sequence[str], draft: ModelCall, want: int | None) -> Admission:
        limits = self._limits
        if self._turns + len(self._open) >= limits.max_turns:
            raise MaxTurnsExceeded(f"The model wanted another turn after {limits.max_turns}.", limit=limits.max_turns)
        left = limits.max_tokens - self._used.output_tokens - sum(a.call.max_tokens for a in self._open)
        tokens = left if want is None else min(want, left)
        if tokens < (min(want or USABLE_TOKENS, limits.max_tokens) if self._open else 1):
            raise MaxTokensExceeded(
                f"The replies used up the {limits.max_tokens:,} tokens of this run.", limit=limits.max_tokens
            )
        if limits.cost_cap_usd is None:
            return Admission(_with(draft, models[0], tokens), Decimal(0))
        money = limits.cost_cap_usd - self._cost - sum((a.bound_usd for a in self._open), Decimal(0))
        unpriced: list[str] = []
        for least in (USABLE_TOKENS, LEAST_TOKENS):
            for model in models:
                bound = self._bound(draft, model, tokens)
                if bound is None and not limits.cost_cap_explicit:
                    return Admission(_with(draft, model, tokens), Decimal(0))
                if bound is None:
                    unpriced.append(model)
                    continue
                fitting = self._shortened(draft, model, tokens, bound, money)
                if fitting is not None and fitting.call.max_tokens >= min(least, tokens):
                    return fitting
        if set(unpriced) == set(models):
            raise PriceUnknown(
                f"A cost cap is set, and the price of {' and '.join(dict.fromkeys(unpriced))} is not known.",
                models=list(dict.fromkeys(unpriced)),
            )
        raise CostCapExceeded(
            f"The next call could cost more than is left of {limits.cost_cap_usd} USD ({self._cost} USD are spent).",
            limit=str(limits.cost_cap_usd),
        )

    def _bound(self, draft: ModelCall, model: str, tokens: int) -> Decimal | None:
        bound = self._port.upper_bound_usd(_with(draft, model, tokens))
        return None if bound is None else Decimal(bound)

    def _shortened(self, draft: ModelCall, model: str, tokens: int, bound: Decimal, money: Decimal) -> Admission | None:
        """Return the call, bounded to as many tokens as the money pays for. Output is paid by the token."""
        if bound > money and tokens > 1:
            least = self._bound(draft, model, 1) or Decimal(0)
            if least > money or bound <= least:
                return None
            tokens = 1 + int((money - least) / ((bound - least) / (tokens - 1)))
            bound = self._bound(draft, model, tokens) or Decimal(0)
        return Admission(_with(draft, model, tokens), bound) if bound <= money else None


def _with(draft: ModelCall, model: str, tokens: int) -> ModelCall:
    return draft.model_copy(update={"model": model, "max_tokens": tokens})
