"""A server on loopback that speaks OpenAI's chat completions and Responses, well or badly, as a test says.

By hand: ``python -m tests.support.openai_server [PORT] [FIRST_TOKEN_S] [TOKEN_S]``.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_server import Exchange, HttpServer, serve_until_stopped

Fault = Callable[[Exchange], Awaitable[None]]
NEVER = 1_000_000


@dataclass
class Says:
    """What the model says. The ``after`` numbers are pieces of the stream: what goes wrong happens after so many."""

    text: str = "Hello from the test model."
    calls: list[tuple[str, dict[str, Any] | str]] = field(default_factory=list)
    finish: str = ""
    input_tokens: int = 40
    output_tokens: int = 12
    #: False: no bill, as many compatible servers do.
    usage: bool = True
    stall_after: int = NEVER
    cut_after: int = NEVER
    end_after: int = NEVER
    garbage_after: int = NEVER
    error_after: int = NEVER

    @property
    def reason(self) -> str:
        return self.finish or ("tool_calls" if self.calls else "stop")

    def pieces(self) -> list[str]:
        return re.findall(r"\S+\s*", self.text)

    def arguments(self, index: int) -> str:
        arguments = self.calls[index][1]
        return arguments if isinstance(arguments, str) else json.dumps(arguments)


def fails(
    status: int, message: str = "no", *, code: str | None = None, kind: str | None = None, retry_after: str = ""
) -> Fault:
    """Answer with an error of OpenAI's form."""

    async def answer(exchange: Exchange) -> None:
        headers = {"retry-after": retry_after} if retry_after else {}
        body = {"error": {"message": message, "type": kind, "code": code, "param": None}}
        await exchange.json(body, status=status, headers=headers)

    return answer


async def stalls(exchange: Exchange) -> None:
    """Say nothing."""
    await exchange.stall()


async def hangs_up(exchange: Exchange) -> None:
    """Break the connection off before a word."""
    exchange.cut()


async def bad_json(exchange: Exchange) -> None:
    """Answer with half a JSON object."""
    await exchange.reply('{"id": "x", "choices": [{"mess', media_type="application/json")


async def not_the_protocol(exchange: Exchange) -> None:
    """Answer with JSON that is no completion."""
    await exchange.json({"hello": "world"})


async def a_web_page(exchange: Exchange) -> None:
    """Answer 200 with a page, as proxies do."""
    await exchange.reply("<html>Please log in</html>")


@dataclass
class OpenAIServer(HttpServer):
    """Answers with what was scripted, else with `says`."""

    says: Says = field(default_factory=Says)
    script: deque[Says | Fault] = field(default_factory=deque)
    first_token_s: float = 0.0
    token_s: float = 0.0

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """What points a process at it."""
        return {"ASTRA_MODEL": "openai:test", "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": self.base_url}

    def will(self, *answers: Says | Fault) -> None:
        """Script the next answers."""
        self.script.extend(answers)

    async def handle(self, exchange: Exchange) -> None:
        answer = self.script.popleft() if self.script else self.says
        if not isinstance(answer, Says):
            await answer(exchange)
            return
        await asyncio.sleep(self.first_token_s)
        asked = exchange.request.json()
        if exchange.request.path.endswith("/responses"):
            speak = self._stream_response if asked.get("stream") else _response
        else:
            speak = self._stream if asked.get("stream") else self._whole
        await speak(exchange, answer, asked)

    async def _whole(self, exchange: Exchange, says: Says, asked: dict[str, Any]) -> None:
        await asyncio.sleep(self.token_s * len(says.pieces()))
        message: dict[str, Any] = {"role": "assistant", "content": says.text or None}
        if says.calls:
            message["tool_calls"] = [
                {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": says.arguments(i)}}
                for i, (name, _) in enumerate(says.calls)
            ]
        choice = {"index": 0, "message": message, "finish_reason": says.reason}
        await exchange.json(_head("chat.completion", asked) | {"choices": [choice]} | _usage(says))

    async def _stream(self, exchange: Exchange, says: Says, asked: dict[str, Any]) -> None:
        head = _head("chat.completion.chunk", asked)

        def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        deltas: list[dict[str, Any]] = [{"content": piece} for piece in says.pieces()]
        for i, (name, _) in enumerate(says.calls):
            begin = {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": ""}}
            deltas.append({"tool_calls": [begin]})
            whole = says.arguments(i)
            halves = (whole[: len(whole) // 2], whole[len(whole) // 2 :])
            deltas += [{"tool_calls": [{"index": i, "function": {"arguments": part}}]} for part in halves]
        await exchange.begin()
        await exchange.event(chunk({"role": "assistant", "content": ""}))
        for sent, delta in enumerate(deltas):
            if await _misbehaves(exchange, says, sent):
                return
            await asyncio.sleep(self.token_s)
            await exchange.event(chunk(delta))
        if await _misbehaves(exchange, says, len(deltas)):
            return
        await exchange.event(chunk({}, says.reason))
        if says.usage and (asked.get("stream_options") or {}).get("include_usage"):
            await exchange.event(head | {"choices": []} | _usage(says))
        await exchange.event("[DONE]")
        await exchange.end()

    async def _stream_response(self, exchange: Exchange, says: Says, asked: dict[str, Any]) -> None:
        number = 0

        async def event(kind: str, **data: Any) -> None:
            nonlocal number
            await exchange.event({"type": kind, "sequence_number": number, **data}, kind)
            number += 1

        await exchange.begin()
        await event("response.created", response=_response_body(says, asked, "in_progress"))
        at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        if says.text:
            await event("response.output_item.added", output_index=0, item=item)
            await event("response.content_part.added", **at, part=part)
        for sent, piece in enumerate(says.pieces()):
            if await _misbehaves(exchange, says, sent):
                return
            await asyncio.sleep(self.token_s)
            await event("response.output_text.delta", **at, delta=piece, logprobs=[])
        for i, made in enumerate(_response_body(says, asked, "completed")["output"]):
            if made["type"] == "function_call":
                await event("response.output_item.added", output_index=i, item={**made, "arguments": ""})
                where = {"item_id": made["id"], "output_index": i}
                await event("response.function_call_arguments.delta", **where, delta=made["arguments"])
                await event(
                    "response.function_call_arguments.done", **where, arguments=made["arguments"], name=made["name"]
                )
            await event("response.output_item.done", output_index=i, item=made)
        await event(f"response.{_status(says)}", response=_response_body(says, asked, _status(says)))
        await exchange.end()


async def _misbehaves(exchange: Exchange, says: Says, sent: int) -> bool:
    """Do what the answer says goes wrong after so many pieces; return whether the answer is over with it."""
    if sent >= says.stall_after:
        await exchange.stall()
        return True
    if sent >= says.cut_after:
        exchange.cut()
        return True
    if sent >= says.end_after:
        await exchange.end()
        return True
    if sent == says.garbage_after:
        await exchange.event('{"choices": [{"del')
    if sent == says.error_after:
        await exchange.event({"error": {"message": "overloaded", "type": "server_error", "code": "server_error"}})
        await exchange.end()
        return True
    return False


def _head(kind: str, asked: dict[str, Any]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_790_000_000, "model": asked["model"]}


def _usage(says: Says) -> dict[str, Any]:
    total = says.input_tokens + says.output_tokens
    counts = {"prompt_tokens": says.input_tokens, "completion_tokens": says.output_tokens, "total_tokens": total}
    return {"usage": counts} if says.usage else {}


def _response_body(says: Says, asked: dict[str, Any], status: str) -> dict[str, Any]:
    content = {"type": "output_text", "text": says.text, "annotations": []}
    output: list[dict[str, Any]] = []
    if says.text:
        output.append(
            {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
        )
    output += [
        {"id": f"fc_{i}", "type": "function_call", "call_id": f"call_{i}", "name": name, "arguments": says.arguments(i)}
        for i, (name, _) in enumerate(says.calls)
    ]
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": asked["model"],
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": [] if status == "in_progress" else output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": says.input_tokens,
            "output_tokens": says.output_tokens,
            "total_tokens": says.input_tokens + says.output_tokens,
            **details,
        },
    }


async def _response(exchange: Exchange, says: Says, asked: dict[str, Any]) -> None:
    await exchange.json(_response_body(says, asked, _status(says)))


def _status(says: Says) -> str:
    return "incomplete" if says.reason == "length" else "completed"


if __name__ == "__main__":
    port, first, each = [*sys.argv[1:], "0", "0", "0"][:3]
    serve_until_stopped(OpenAIServer(port=int(port), first_token_s=float(first), token_s=float(each)))
