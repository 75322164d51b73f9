"""What models cost, from genai-prices or as told, and how many tokens a request has at most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agents.llm.choose import DEMO
from agents.runtime.sizes import likely_tokens
from agents.runtime.types import ModelCall, Usage

#: What a provider adds to a request that we do not see: its own prompt for tools, roles, separators.
UNSEEN_TOKENS = 64
UNSEEN_TOKENS_WITH_TOOLS = 900
UNSEEN_TOKENS_A_MESSAGE = 12
PROVIDERS = {"openai": "openai", "openai-chat": "openai", "openai-responses": "openai", "anthropic": "anthropic"}
MILLION = Decimal(1_000_000)


class Prices:
    """Prices by model.

    Args:
        told: Per ``provider:name`` USD for a million tokens of input and of output. They go before genai-prices, which
            knows the public models of its day.
    """

    def __init__(self, told: Mapping[str, tuple[Decimal | float | str, Decimal | float | str]] | None = None) -> None:
        self._told: dict[str, tuple[Decimal, Decimal]] = {}
        self.learn(told or {})

    def learn(self, told: Mapping[str, tuple[Decimal | float | str, Decimal | float | str]]) -> None:
        """Add prices that somebody told; a later word on the same model goes before an earlier one."""
        self._told |= {name: (Decimal(str(given)), Decimal(str(taken))) for name, (given, taken) in told.items()}

    def cost(self, model: str, input_tokens: int, output_tokens: int, details: Any = None) -> Decimal | None:
        """Return what tokens cost in USD, None when the model's price is not known.

        ``details`` is a provider's own usage, where there is one: tokens read from a cache cost less.
        """
        if model == DEMO:
            return Decimal(0)
        if model in self._told:
            given, taken = self._told[model]
            return (given * input_tokens + taken * output_tokens) / MILLION
        provider, _, name = model.partition(":")
        # A second's work to load at most: only with the first real model.
        from genai_prices import Usage as Tokens
        from genai_prices import calc_price

        usage = details if details is not None else Tokens(input_tokens=input_tokens, output_tokens=output_tokens)
        try:
            return calc_price(usage, name, provider_id=PROVIDERS.get(provider, provider)).total_price
        except (LookupError, ValueError):
            return None

    def upper_bound(self, call: ModelCall) -> Decimal | None:
        """Return what a call cannot cost more than, None when the model's price is not known."""
        return self.cost(call.model, most_input_tokens(call), call.max_tokens)

    def estimate(self, call: ModelCall, text: str) -> Usage:
        """Return what a call without a bill has probably used: it was cut off, or its server keeps no count."""
        given, taken = likely_tokens(written(call)), likely_tokens(text)
        return Usage(input_tokens=given, output_tokens=taken, cost_usd=self.cost(call.model, given, taken))


def written(call: ModelCall) -> str:
    """Return all the text that goes with a request."""
    parts = [json.dumps(call.output)] if call.output else []
    parts += [json.dumps(spec.model_dump(mode="json"), ensure_ascii=False) for spec in call.tools]
    for message in call.messages:
        parts.append(message.text)
        parts += [json.dumps(asked.arguments, ensure_ascii=False) + asked.tool + asked.id for asked in message.calls]
        parts += [
            json.dumps(result.content, ensure_ascii=False) + result.call_id + (result.error or "")
            for result in message.results
        ]
    return "\n".join(parts)


def most_input_tokens(call: ModelCall) -> int:
    """Return how many tokens a request has at most.

    Tokens of byte-level vocabularies hold at least one byte each, so the bytes of the text are a bound that no
    tokenizer exceeds; usual text has a quarter of it.
    """
    unseen = UNSEEN_TOKENS_WITH_TOOLS if call.tools or call.output else UNSEEN_TOKENS
    return len(written(call).encode("utf-8", "replace")) + UNSEEN_TOKENS_A_MESSAGE * len(call.messages) + unseen
