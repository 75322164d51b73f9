"""Many people at once on one chat server: a load generator in a process of its own, so that it is not in the way.

Run with `python -m bench.chat_load`; reads a `Plan` as JSON from standard input. Prints `connected`, `measuring` and
then what it saw, each as a line of JSON, and goes on to the next at a line of input: whoever started it can look at the
server meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from bench.sockets import Address, Socket
from bench.tokens import Wanted

#: Sockets that are being opened at a time.
OPENING = 16
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. Each address is of one person; the first ones talk, the last ``idle`` ones only listen.

    ``streams`` replies are in flight: as one has ended, its person, or the next one in turn, sends the next message.
    The first messages are spread over the time that a reply takes, and counting begins after the last of them.
    """

    addresses: Sequence[tuple[int, str, dict[str, str]]]
    streams: int
    idle: int
    wanted: str
    window_s: float
    #: What the frames of the server contain: text, the end of a reply, an end without a reply.
    text: str
    end: str
    fault: str

    def dump(self) -> str:
        """Return it as a line."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, line: str) -> Self:
        """Read it from a line."""
        return cls(**json.loads(line))


@dataclass(slots=True)
class Seen:
    """What came back. Seconds, bytes on the wire, and counts."""

    #: Of each message sent while it was counted: until its first text, the model's own time taken off.
    added_s: list[float] = field(default_factory=list)
    #: Of each reply that ended while it was counted.
    bytes_of_replies: list[int] = field(default_factory=list)
    #: Frames with text while it was counted, of all sockets.
    frames: int = 0
    tokens: int = 0
    #: Bytes of those frames.
    received: int = 0
    window_s: float = 0.0
    #: The share of its time that this process was busy: far from 1, or it measures itself.
    busy: float = 0.0


class NoReply(Exception):
    """Somebody was refused or cut off: nothing that was measured counts."""


class Person(Socket):
    """One socket and what is said over it."""

    plan: Plan
    crowd: Crowd

    def __init__(self) -> None:
        super().__init__()
        self._sent_at = 0.0
        self._counted = False
        self._bytes_before = 0
        self._text_came = False
        self._ended: asyncio.Future[None] | None = None

    async def say(self, number: int) -> None:
        """Send a message, and return when its reply has ended."""
        self._ended = asyncio.get_running_loop().create_future()
        self._counted, self._text_came = self.crowd.counting, False
        self._bytes_before = self.received
        self._sent_at = time.perf_counter()
        self.send({"type": "message", "text": self.plan.wanted, "client_id": f"{os.getpid()}-{number}"})
        if self._counted:
            self.crowd.awaited += 1
        async with asyncio.timeout(self.crowd.wanted.lasts_s + PATIENCE_S):
            await self._ended

    def frame_came(self, payload: bytes) -> None:
        """Look at a frame, as little as will do."""
        crowd = self.crowd
        if crowd.text in payload:
            if crowd.counting:
                crowd.seen.frames += 1
                crowd.seen.tokens += payload.count(b" w")
                crowd.seen.received += len(payload)
            if not self._text_came:
                self._text_came = True
                if self._counted:
                    crowd.heard()
                    took = time.perf_counter() - self._sent_at
                    crowd.seen.added_s.append(took - crowd.wanted.first_token_s)
        elif crowd.end in payload:
            if crowd.counting:
                crowd.seen.bytes_of_replies.append(self.received - self._bytes_before)
            self._settle()
        elif crowd.fault in payload:
            crowd.fail(payload[:500].decode("utf-8", "replace"))

    def closed(self) -> None:
        """Note that the server hung up."""
        self.crowd.fail("the server hung up")

    def _settle(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


class Crowd:
    """All of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.wanted = Wanted.read(plan.wanted)
        self.text, self.end, self.fault = plan.text.encode(), plan.end.encode(), plan.fault.encode()
        self.seen = Seen()
        self.counting = False
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        #: Counted messages whose first text has not come yet.
        self.awaited = 0
        self.answered: asyncio.Event | None = None
        self._people: list[Person] = []

    async def run(self) -> None:
        """Open the sockets, talk, count, and tell."""
        await self._open()
        await _tell({"connected": len(self._people)})
        talkers = self._people[: len(self._people) - self.plan.idle]
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._raise_failures())
            talking = [
                group.create_task(self._talk(number, talkers[number :: self.plan.streams]))
                for number in range(self.plan.streams)
            ]
            await asyncio.sleep(self.wanted.lasts_s * 1.2)
            await _tell({"measuring": True})
            await self._count()
            for task in [*talking, watching]:
                task.cancel()
        await _tell(asdict(self.seen))

    def fail(self, why: str) -> None:
        """Give up."""
        if not self._failed.done():
            self._failed.set_result(why)

    async def _raise_failures(self) -> None:
        raise NoReply(await self._failed)

    async def _open(self) -> None:
        room = asyncio.Semaphore(OPENING)
        loop = asyncio.get_running_loop()

        def person() -> Person:
            made = Person()
            made.plan, made.crowd = self.plan, self
            return made

        async def one(address: tuple[int, str, dict[str, str]]) -> Person:
            async with room:
                return await Person.open(Address(*address), person, loop)

        self._people = list(await asyncio.gather(*(one(address) for address in self.plan.addresses)))

    async def _talk(self, number: int, people: Sequence[Person]) -> None:
        await asyncio.sleep(self.wanted.lasts_s * number / self.plan.streams)
        turn = 0
        while True:
            for person in people:
                turn += 1
                await person.say(turn)
                await asyncio.sleep(random.uniform(0, 0.1))

    async def _count(self) -> None:
        began, worked = time.perf_counter(), time.process_time()
        self.counting = True
        await asyncio.sleep(self.plan.window_s)
        self.counting = False
        self.seen.window_s = time.perf_counter() - began
        self.seen.busy = (time.process_time() - worked) / self.seen.window_s
        async with asyncio.timeout(PATIENCE_S):
            await self._all_answered()  # those that were sent last count as well

    def heard(self) -> None:
        """Note the first text of a counted message."""
        self.awaited -= 1
        if self.awaited == 0 and self.answered is not None:
            self.answered.set()

    async def _all_answered(self) -> None:
        if self.awaited > 0:
            self.answered = asyncio.Event()
            await self.answered.wait()


async def _tell(news: dict[str, Any]) -> None:
    print(json.dumps(news), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def main() -> None:
    """Do what standard input says."""
    await Crowd(Plan.load(sys.stdin.readline())).run()


if __name__ == "__main__":
    asyncio.run(main())
