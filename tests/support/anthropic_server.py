"""A server on loopback that speaks Anthropic's Messages API, well or badly, as a test says.

By hand: ``python -m tests.support.anthropic_server [PORT] [FIRST_TOKEN_S] [TOKEN_S]``.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

from tests.support.http_server import Exchange, serve_until_stopped
from tests.support.openai_server import Fault, OpenAIServer, Says, bad_json, hangs_up, stalls

__all__ = ["AnthropicServer", "Fault", "Says", "bad_json", "fails", "hangs_up", "stalls"]

_REASONS = {"tool_calls": "tool_use", "stop": "end_turn", "length": "max_tokens"}


def fails(status: int, message: str = "no", *, kind: str = "api_error", retry_after: str = "") -> Fault:
    """Answer with an error of Anthropic's form."""

    async def answer(exchange: Exchange) -> None:
        headers = {"retry-after": retry_after} if retry_after else {}
        await exchange.json(
            {"type": "error", "error": {"type": kind, "message": message}}, status=status, headers=headers
        )

    return answer


@dataclass
class AnthropicServer(OpenAIServer):
    """Answers with what was scripted, else with `says`."""

    async def handle(self, exchange: Exchange) -> None:
        answer = self.script.popleft() if self.script else self.says
        if not isinstance(answer, Says):
            await answer(exchange)
            return
        await asyncio.sleep(self.first_token_s)
        if exchange.request.json().get("stream"):
            await _stream(exchange, answer, exchange.request.json(), self.token_s)
        else:
            await asyncio.sleep(self.token_s * len(answer.pieces()))
            await exchange.json(_message(answer, exchange.request.json()))


def _message(says: Says, asked: dict[str, Any]) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": says.text}] if says.text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": arguments}
        for i, (name, arguments) in enumerate(says.calls)
    ]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": content,
        "stop_reason": _REASONS.get(says.reason, says.reason),
        "stop_sequence": None,
        "usage": {"input_tokens": says.input_tokens, "output_tokens": says.output_tokens},
    }


async def _stream(exchange: Exchange, says: Says, asked: dict[str, Any], token_s: float) -> None:
    async def event(kind: str, **data: Any) -> None:
        await exchange.event({"type": kind, **data}, kind)

    whole = _message(says, asked)
    await exchange.begin()
    begun: dict[str, Any] = {
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": says.input_tokens, "output_tokens": 1},
    }
    await event("message_start", message=whole | begun)
    sent = 0
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            await event("content_block_start", index=index, content_block={"type": "text", "text": ""})
            deltas = [{"type": "text_delta", "text": piece} for piece in says.pieces()]
        else:
            await event("content_block_start", index=index, content_block=block | {"input": {}})
            written = says.arguments(int(block["id"].removeprefix("toolu_")))
            deltas = [{"type": "input_json_delta", "partial_json": half} for half in (written[:5], written[5:])]
        for delta in deltas:
            if await _misbehaves(exchange, says, sent):
                return
            await asyncio.sleep(token_s)
            await event("content_block_delta", index=index, delta=delta)
            sent += 1
        await event("content_block_stop", index=index)
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    await event("message_delta", delta=stop, usage={"output_tokens": says.output_tokens})
    await event("message_stop")
    await exchange.end()


async def _misbehaves(exchange: Exchange, says: Says, sent: int) -> bool:
    if sent >= says.stall_after:
        await exchange.stall()
    elif sent >= says.cut_after:
        exchange.cut()
    elif sent >= says.end_after:
        await exchange.end()
    elif sent == says.garbage_after:
        await exchange.event('{"type": "content_block_del', "content_block_delta")
        return False
    elif sent == says.error_after:
        fault = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        await exchange.event(fault, "error")
        await exchange.end()
    else:
        return False
    return True


if __name__ == "__main__":
    port, first, each = [*sys.argv[1:], "0", "0", "0"][:3]
    serve_until_stopped(AnthropicServer(port=int(port), first_token_s=float(first), token_s=float(each)))
