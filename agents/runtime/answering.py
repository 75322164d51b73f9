"""Streaming an answer: what is held back, what is let through."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from agents.runtime.asking import sound
from agents.runtime.errors import ModelUnavailable
from agents.runtime.ports import JOINT, Delta, ModelPort, Transport
from agents.runtime.types import ModelCall, Reply, ToolCall

Item = Delta | ToolCall | Reply


class Answer:
    """Sends an answer to the transport, one part after the other."""

    def __init__(self, port: ModelPort, transport: Transport, head_chars: int, head_s: float) -> None:
        self._port = port
        self._transport = transport
        self._head_chars = head_chars
        self._head_s = head_s
        self._begun = False

    async def finish(self, reply: Reply) -> None:
        """Tell that a part is out, in this claim or one before: the next one stands apart from it."""
        if reply.text and not reply.preamble:
            self._begun = True
            await self._transport.part(reply.text)

    async def say(self, text: str) -> None:
        """Send a part whole."""
        if text:
            await self._transport.delta((JOINT if self._begun else "") + text)

    async def stream(self, call: ModelCall) -> Reply:
        """Ask, and send the reply's text on while it comes.

        Where tools are offered the head of the text is held back, for so many characters or seconds at most: if a tool
        call comes in that time, the text was a preamble and is shown to nobody. After it the text is the answer, and a
        later tool call is only returned: nothing runs while an answer streams.

        Raises:
            RunError: the port's own, or the reply is not sound; what was sent of it has been withdrawn.
        """
        part = _Part(self._transport, call, JOINT if self._begun else "", self._head_chars, self._head_s)
        try:
            return await part.run(self._port)
        except Exception:
            await part.withdraw()
            raise


class _Part:
    """One reply on its way through."""

    def __init__(self, transport: Transport, call: ModelCall, joint: str, head_chars: int, head_s: float) -> None:
        self._transport = transport
        self._call = call
        self._joint = joint
        self._head_chars = head_chars
        self._head_s = head_s
        self._open = not call.tools or call.tool_choice == "none"
        self._held = ""
        self._sent = False
        #: When the held text goes out, in the loop's time. None: no text yet, or a tool call came first.
        self._deadline: float | None = None
        self._called = False

    async def run(self, port: ModelPort) -> Reply:
        queue: asyncio.Queue[Item | None] = asyncio.Queue()
        # One task reads the stream from beginning to end, and closes it: libraries tie their scopes to the task.
        reader = asyncio.create_task(self._read(port, queue))
        reply: Reply | None = None
        try:
            while (item := await self._next(queue)) is not None:
                if isinstance(item, Reply):
                    reply = item
                elif isinstance(item, Delta):
                    await self._text(item.text)
                else:
                    self._called, self._deadline = True, None
            await reader
        finally:
            reader.cancel()
            await asyncio.wait({reader})
            if not reader.cancelled():
                reader.exception()  # looked at, so that asyncio does not complain of it
        if reply is None:
            raise ModelUnavailable("The model's stream ended before the reply was whole.")
        sound(reply, self._call)
        if reply.calls and not self._open:
            return reply.model_copy(update={"preamble": True})
        if not self._sent and not self._held:
            self._held = reply.text  # all there is of a port that does not stream
        await self._release()
        return reply

    async def withdraw(self) -> None:
        if self._sent:
            await self._transport.withdraw("The model failed in the middle of its answer.")

    async def _read(self, port: ModelPort, queue: asyncio.Queue[Item | None]) -> None:
        try:
            async with aclosing(port.stream(self._call)) as stream:
                async for item in stream:
                    queue.put_nowait(item)
        finally:
            queue.put_nowait(None)

    async def _next(self, queue: asyncio.Queue[Item | None]) -> Item | None:
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    return await queue.get()
            except TimeoutError:
                await self._release()

    async def _text(self, text: str) -> None:
        self._held += text
        if self._open or (not self._called and len(self._held) >= self._head_chars):
            await self._release()
        elif not self._called and self._held and self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._head_s

    async def _release(self) -> None:
        self._open, self._deadline = True, None
        held, self._held = self._held, ""
        if held:
            held = held if self._sent else self._joint + held
            self._sent = True
            await self._transport.delta(held)
