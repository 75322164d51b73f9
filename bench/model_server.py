"""A model on loopback: it answers each chat completion after a second, any number at once.

Run in a process of its own: `python -m bench.model_server`. Prints its URL, serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

THINKS_S = 1.0
TEXT = "A second has passed."
USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def _completion() -> bytes:
    message = {"role": "assistant", "content": TEXT}
    body = json.dumps(_answer("chat.completion", {"message": message, "finish_reason": "stop"}) | {"usage": USAGE})
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body.encode()
    )


def _stream() -> bytes:
    chunks: list[dict[str, Any]] = [
        _answer("chat.completion.chunk", {"delta": {"role": "assistant", "content": TEXT}, "finish_reason": None}),
        _answer("chat.completion.chunk", {"delta": {}, "finish_reason": "stop"}),
        _answer("chat.completion.chunk") | {"usage": USAGE},
    ]
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(events)
    return head + events.encode()


def _answer(kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
    numbered = [{"index": index, **choice} for index, choice in enumerate(choices)]
    return {"id": "bench", "object": kind, "created": 0, "model": "bench", "choices": numbered}


COMPLETION, STREAM = _completion(), _stream()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection, one after another."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = json.loads(await reader.readexactly(int(length.group(1)) if length else 0))
            await asyncio.sleep(THINKS_S)
            writer.write(STREAM if body.get("stream") else COMPLETION)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve() -> None:
    """Serve until standard input ends: so this process goes with the one that started it."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
