"""The one way to models: `PydanticAIPort` speaks to providers through pydantic-ai, and to the demo model directly."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agents.llm.choose import DEMO, environment
from agents.llm.demo import DemoModel
from agents.llm.prices import Prices
from agents.runtime.errors import BadReply, RunError
from agents.runtime.ports import Delta
from agents.runtime.types import ModelCall, Reply, ToolCall, Usage

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.models import Model


@dataclass(slots=True)
class _Connections:
    """What one event loop has open: one pooled client for all providers, and the models that use it."""

    client: httpx2.AsyncClient
    models: dict[str, Model[Any]] = field(default_factory=dict)


class PydanticAIPort:
    """A `ModelPort` over the providers that pydantic-ai speaks to.

    ``openai:NAME`` is the Responses API of OpenAI, or chat completions where `OPENAI_BASE_URL` is set, for that is what
    compatible servers speak; ``openai-chat:`` and ``openai-responses:`` say which. ``anthropic:NAME`` is the Messages
    API. ``demo`` needs nobody. A request is one attempt: trying again is the caller's business.

    Args:
        env: `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`; the site's by default.
        prices: Per ``provider:name`` USD for a million tokens of input and of output, before genai-prices.
        demo: The demo model, for one that streams at another speed.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        prices: Mapping[str, tuple[Decimal | float | str, Decimal | float | str]] | None = None,
        demo: DemoModel | None = None,
    ) -> None:
        self._env = dict(environment() if env is None else env)
        self.prices = Prices(prices)
        self._demo = demo or DemoModel()
        self._warm: set[str] = set()
        # By loop: a client belongs to the loop that it was first used in.
        self._open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Connections] = weakref.WeakKeyDictionary()
        self._opening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def request(self, call: ModelCall) -> Reply:
        """Ask, wait for the whole reply.

        Raises:
            ModelRefused, ModelUnavailable, ContextOverflow, BadReply: with what a person can do, where there is
                something; ``retry_after_s`` in `extra` where the provider said so.
        """
        if call.model == DEMO:
            return await self._demo.request(call)
        model = await self._model(call.model)
        from pydantic_ai.direct import model_request

        from agents.llm import dialect
        from agents.llm.faults import translate

        try:
            response = await model_request(
                model,
                dialect.history(call.messages),
                model_settings=dialect.settings(call),
                model_request_parameters=dialect.parameters(call, model),
            )
        except Exception as error:
            raise translate(error, call.model) from error
        return self._reply(call, response)

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta | ToolCall | Reply, None]:
        """Ask, yield pieces as they come, and the whole Reply at last. A Delta without text is a sign of life.

        A ToolCall comes as soon as the model begins to ask for it: its arguments are only in the Reply.
        Closing the generator, or cancelling the task that reads it, closes the HTTP request.

        Raises:
            RunError: as :meth:`request`; a stream that ends before the answer does is a BadReply.
        """
        if call.model == DEMO:
            async with contextlib.aclosing(self._demo.stream(call)) as stream:
                async for item in stream:
                    yield item
            return
        model = await self._model(call.model)
        from pydantic_ai.direct import model_request_stream

        from agents.llm import dialect
        from agents.llm.faults import translate

        came: list[str] = []
        try:
            async with model_request_stream(
                model,
                dialect.history(call.messages),
                model_settings=dialect.settings(call),
                model_request_parameters=dialect.parameters(call, model),
            ) as stream:
                async for event in stream:
                    piece = dialect.piece(event)
                    if isinstance(piece, Delta):
                        came.append(piece.text)
                    yield piece
                response = stream.get()
        except Exception as error:
            failure = translate(error, call.model)
            if failure.usage is None and (text := "".join(came)):
                failure.usage = self.prices.estimate(call, text)
            raise failure from error
        if dialect.is_cut_off(response):
            cut = BadReply(f"The answer of {call.model} broke off before its end. Try again in a moment.")
            cut.usage = self.prices.estimate(call, "".join(came))
            raise cut
        yield self._reply(call, response)

    def upper_bound_usd(self, call: ModelCall) -> Decimal | None:
        """Return what the call cannot cost more than, in USD; None when the model's price is not known."""
        return self.prices.upper_bound(call)

    def estimate(self, call: ModelCall, text: str) -> Usage:
        """Return what a call that was cut off after ``text`` has probably used: providers bill it and do not say so."""
        return self.prices.estimate(call, text)

    async def open(self, *models: str) -> None:
        """Load the libraries and open the client beside the loop, which the first request would hold up (about 1.5 s).

        A model that cannot be had says so when it is asked.
        """
        for name in models:
            if name != DEMO and name not in self._warm:
                with contextlib.suppress(RunError):
                    await self._model(name)
                await asyncio.to_thread(self.prices.cost, name, 1, 1)
                self._warm.add(name)

    async def aclose(self) -> None:
        """Close the client of the running loop. The port may be used again; it then opens another."""
        connections = self._open.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.client.aclose()

    def _reply(self, call: ModelCall, response: ModelResponse) -> Reply:
        from agents.llm import dialect

        usage = self._usage(call, response)
        try:
            return dialect.reply(call, response).model_copy(update={"usage": usage})
        except RunError as error:
            error.usage = usage
            raise

    def _usage(self, call: ModelCall, response: ModelResponse) -> Usage:
        used = response.usage
        if used.unmeasured_requests or not (used.input_tokens or used.output_tokens):
            return self.prices.estimate(call, "".join(str(getattr(part, "content", "")) for part in response.parts))
        return Usage(
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cost_usd=self.prices.cost(call.model, used.input_tokens, used.output_tokens, used),
        )

    async def _model(self, name: str) -> Model[Any]:
        loop = asyncio.get_running_loop()
        connections = self._open.get(loop)
        if connections is not None and name in connections.models:
            return connections.models[name]
        async with self._opening.setdefault(loop, asyncio.Lock()):
            connections = self._open.get(loop)
            if connections is None or name not in connections.models:
                # In a thread: importing the libraries and reading certificates takes the better part of a second.
                client, model = await asyncio.to_thread(self._make, name, connections)
                connections = self._open.setdefault(loop, _Connections(client))
                connections.models[name] = model
            return connections.models[name]

    def _make(self, name: str, connections: _Connections | None) -> tuple[httpx2.AsyncClient, Model[Any]]:
        from agents.llm import providers
        from agents.llm.faults import translate

        client = providers.client() if connections is None else connections.client
        try:
            return client, providers.model(name, self._env, client)
        except Exception as error:
            raise translate(error, name) from error
