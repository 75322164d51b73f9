"""The benchmarks' tokens behind Astra's model port, where its `demo` model is otherwise."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from agents import services
from agents.chat import stream
from agents.llm.demo import DemoModel
from agents.runtime.ports import Delta
from agents.runtime.types import ModelCall, Reply, ToolCall, Usage
from bench import tokens

if TYPE_CHECKING:
    from agents.llm.port import PydanticAIPort

#: The environment's word on how far apart the chat's frames are, in seconds, instead of its own.
FRAME_S = "BENCH_FRAME_S"


class TimedModel(DemoModel):
    """Answers as `bench.tokens` says."""

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta | ToolCall | Reply, None]:
        """Answer token by token."""
        wanted = tokens.Wanted.read(call.messages[-1].text)
        async for token in tokens.stream(wanted):
            yield Delta(token)
        yield Reply(text=wanted.text(), model=call.model, usage=Usage(input_tokens=8, output_tokens=wanted.count))


@functools.cache
def _port() -> PydanticAIPort:
    from agents.llm.port import PydanticAIPort

    return PydanticAIPort(demo=TimedModel())


def install() -> None:
    """Give the runs of this process the timed model, and the chat another frame time if one is asked for."""
    services.model_port = _port
    if FRAME_S in os.environ:
        stream.FRAME_S = float(os.environ[FRAME_S])
