"""The demo model: offline, deterministic, free. It picks tools by what the user writes and quotes what they return."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from decimal import Decimal

from agents.llm import demo_answers, demo_calls, demo_data
from agents.llm.choose import DEMO
from agents.llm.prices import written
from agents.runtime.ports import Delta
from agents.runtime.sizes import likely_tokens
from agents.runtime.types import ModelCall, Reply, ToolCall, Usage

_TOKEN = re.compile(r"\s*\S{1,8}|\s+$")


class DemoModel:
    """A `ModelPort` for the model named ``demo``.

    Args:
        delay_s: Seconds between two tokens of a stream.
        first_token_s: Seconds until the first one; also the whole time of a request that is not streamed.
    """

    def __init__(self, *, delay_s: float = 0.02, first_token_s: float = 0.15) -> None:
        self._delay_s = delay_s
        self._first_token_s = first_token_s

    async def request(self, call: ModelCall) -> Reply:
        """Answer."""
        await asyncio.sleep(self._first_token_s)
        return await asyncio.to_thread(answer, call)

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta | ToolCall | Reply, None]:
        """Answer token by token."""
        reply = await asyncio.to_thread(answer, call)
        await asyncio.sleep(self._first_token_s)
        for token in _TOKEN.findall(reply.text):
            yield Delta(token)
            await asyncio.sleep(self._delay_s)
        for asked in reply.calls:
            yield asked
        yield reply

    def upper_bound_usd(self, call: ModelCall) -> Decimal:
        """Return zero: it costs nothing."""
        return Decimal(0)


def answer(call: ModelCall) -> Reply:
    """Return the demo model's reply: the same call always gets the same one."""
    asked = _with_ids(call, demo_calls.wanted(call)) if call.tools and call.tool_choice != "none" else ()
    data = None
    if asked:
        text = ""
    elif call.output is not None:
        data = demo_data.fill(call.output, call)
        text = json.dumps(data, ensure_ascii=False)
    else:
        text = demo_answers.text(call)
    tokens = likely_tokens(text) + sum(likely_tokens(json.dumps(one.arguments)) + 8 for one in asked)
    finish = "tool_calls" if asked else "stop"
    if tokens > call.max_tokens and text:
        text, data, tokens, finish = text[: 4 * call.max_tokens].rsplit(" ", 1)[0], None, call.max_tokens, "length"
    usage = Usage(input_tokens=likely_tokens(written(call)), output_tokens=max(1, tokens))
    return Reply.model_validate(
        {"text": text, "calls": asked, "data": data, "usage": usage, "model": DEMO, "finish": finish}
    )


def _with_ids(call: ModelCall, wanted: list[tuple[str, dict[str, object]]]) -> tuple[ToolCall, ...]:
    made = []
    for position, (tool, arguments) in enumerate(wanted):
        seed = json.dumps([len(call.messages), position, tool, arguments], sort_keys=True, default=str)
        made.append(
            ToolCall(id="demo-" + hashlib.sha256(seed.encode()).hexdigest()[:12], tool=tool, arguments=arguments)
        )
    return tuple(made)
