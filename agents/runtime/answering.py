"""Streaming an answer: what is held back, what is let through, and how long a silence may last."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

from agents.runtime.asking import sound
from agents.runtime.errors import ModelUnavailable
from agents.runtime.ports import JOINT, Delta, ModelPort, Transport
from agents.runtime.types import ModelCall, Reply


@dataclass(frozen=True, slots=True)
class Streaming:
    """How an answer streams. Times in seconds."""

    #: What a reply is held back at most while a tool call could still come.
    head_chars: int = 200
    head_s: float = 0.6
    #: Until the model's first sign of life.
    first_token_s: float = 120.0
    #: Between two signs of life.
    stall_s: float = 60.0
    #: Of the whole reply: long answers are no fault.
    timeout_s: float = 600.0


class Answer:
    """Sends an answer to the transport, one part after the other."""

    def __init__(self, port: ModelPort, transport: Transport, streaming: Streaming) -> None:
        self._port = port
        self._transport = transport
        self._streaming = streaming
        self._begun = False
        self._part: _Part | None = None

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
            ModelUnavailable: it was silent for too long; the usage is an estimate of what came before.
            RunError: the port's own, or the reply is not sound. In any case what was sent of it has been withdrawn.
        """
        part = self._part = _Part(self._transport, call, JOINT if self._begun else "", self._streaming)
        try:
            return await part.run(self._port)
        except Exception:
            await part.withdraw()
            raise

    def heard(self) -> str:
        """Return the text that has come of the reply which is being written, or was last."""
        return "".join(self._part.came) if self._part else ""


class _Patience:
    """Ends the wait for a model that is silent. Costs a reading of the clock for each sign of life, no timer."""

    def __init__(self, limit: asyncio.Timeout, streaming: Streaming) -> None:
        self._limit = limit
        self._streaming = streaming
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + streaming.first_token_s
        self._timer = self._loop.call_at(self._due, self._look)
        self.signs = 0

    def sign(self) -> None:
        self._due = self._loop.time() + self._streaming.stall_s
        if not self.signs:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._due, self._look)
        self.signs += 1

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._loop.time() >= self._due:
            self._limit.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_at(self._due, self._look)

    def error(self, model: str) -> ModelUnavailable:
        """Return what a wait that was ended is called."""
        given = self._streaming
        if self.signs:
            silent = f"{model} fell silent in the middle of its answer, for {given.stall_s:g} s."
        else:
            silent = f"{model} did not begin to answer within {given.first_token_s:g} s."
        return ModelUnavailable(f"{silent} Try again in a moment.")


class _Part:
    """One reply on its way through."""

    def __init__(self, transport: Transport, call: ModelCall, joint: str, streaming: Streaming) -> None:
        self._transport = transport
        self._call = call
        self._joint = joint
        self._streaming = streaming
        self._open = not call.tools or call.tool_choice == "none"
        self._held = ""
        self._sent = False
        #: A tool call came while the head was held back.
        self._called = False
        #: Ends the holding back; its work is a task, for the part itself waits for the model.
        self._timer: asyncio.TimerHandle | None = None
        self._releasing: asyncio.Task[None] | None = None
        #: The text so far, in pieces.
        self.came: list[str] = []

    async def run(self, port: ModelPort) -> Reply:
        """Read the stream from beginning to end, and close it, in one task: libraries tie their scopes to the task."""
        reply = await self._listen(port)
        if reply is None:
            raise ModelUnavailable("The model's stream ended before the reply was whole. Try again in a moment.")
        sound(reply, self._call)
        if reply.calls and not self._open:
            return reply.model_copy(update={"preamble": True})
        if not self._sent and not self._held:
            self._held = reply.text  # all there is of a port that does not stream
        await self._release()
        return reply

    async def _listen(self, port: ModelPort) -> Reply | None:
        patience: _Patience | None = None
        try:
            async with asyncio.timeout(None) as limit:
                patience = _Patience(limit, self._streaming)
                return await self._read(port, patience)
        except TimeoutError:
            if patience is None or not limit.expired():
                raise
            error = patience.error(self._call.model)
            error.usage = port.estimate(self._call, "".join(self.came)) if self.came else None
            raise error from None
        finally:
            if patience is not None:
                patience.close()
            await self._stop_holding()

    async def _read(self, port: ModelPort, patience: _Patience) -> Reply | None:
        reply: Reply | None = None
        async with aclosing(port.stream(self._call)) as stream:
            async for item in stream:
                patience.sign()
                if isinstance(item, Delta):
                    if item.text:
                        await self._text(item.text)
                elif isinstance(item, Reply):
                    reply = item
                elif not self._open:
                    self._called = True
                    await self._stop_holding()
        return reply

    async def withdraw(self) -> None:
        if self._sent:
            await self._transport.withdraw("The model failed in the middle of its answer.")

    async def _text(self, text: str) -> None:
        self.came.append(text)
        self._held += text
        if self._open:
            await self._release()
        elif self._called:
            return
        elif len(self._held) >= self._streaming.head_chars:
            await self._release()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._streaming.head_s, self._let_go)

    def _let_go(self) -> None:
        self._open = True
        self._releasing = asyncio.ensure_future(self._release())

    async def _stop_holding(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._releasing is not None:
            await asyncio.wait({self._releasing})

    async def _release(self) -> None:
        releasing = self._releasing
        if releasing is not None and releasing is not asyncio.current_task():
            await asyncio.wait({releasing})  # what came first goes out first
            self._releasing = None
        self._open = True
        if self._timer is not None:
            self._timer.cancel()
        held, self._held = self._held, ""
        if held:
            held = held if self._sent else self._joint + held
            self._sent = True
            await self._transport.delta(held)
