"""Parking: a run of which every line waits for the world outside leaves its worker until the wait is over.

A *line* is one line of execution: the program's own task, or a coroutine of `ctx.gather`. A line that waits is parked:
it never goes on in this claim. When no line can go on, the run is quiescent, and its waits are all it is about.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from agents.runtime.ports import Waiting

#: A wait's key fits into its row.
MAX_KEY = 200


class RunParked(BaseException):
    """The run is quiescent: it goes on, from its journal, when its waits are resolved.

    It is no error of the run. A BaseException, so that a program's `except Exception` cannot swallow it.
    """

    def __init__(self, waits: tuple[Waiting, ...]) -> None:
        super().__init__(", ".join(f"{wait.kind} {wait.key}" for wait in waits))
        self.waits = waits


class Parking:
    """The lines of one claim that can go on, and the waits of those that cannot."""

    def __init__(self) -> None:
        #: Set once no line can go on, and for good: nothing in this claim can change that.
        self.quiet = asyncio.Event()
        self._lines = 1
        self._waits: dict[str, Waiting] = {}

    @property
    def waits(self) -> tuple[Waiting, ...]:
        """Return what the parked lines wait for."""
        return tuple(self._waits.values())

    def begin(self) -> None:
        """A line begins, or goes on after the gather in which it stood still."""
        self._lines += 1

    def end(self) -> None:
        """A line ends, or stands still in a gather."""
        self._lines -= 1
        if self._lines == 0:
            self.quiet.set()

    async def park(self, *waits: Waiting) -> None:
        """Wait for all of them. Never returns: the claim ends when nothing else goes on, or the line is cancelled."""
        self._waits |= {wait.key: wait for wait in waits}
        self.end()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if not self.quiet.is_set():  # a line beside it failed: this one is cut off, and nobody is to be asked
                for wait in waits:
                    del self._waits[wait.key]
                self.begin()


class Room:
    """The lines of one gather: let in in their order, so many at a time. A parked one keeps its place.

    The line that gathers stands still until the last of them has left, or one has failed.
    """

    def __init__(self, parking: Parking, size: int, limit: int | None) -> None:
        loop = asyncio.get_running_loop()
        self._parking = parking
        self._doors: list[asyncio.Future[None]] = [loop.create_future() for _ in range(size)]
        self._next = 0
        self._inside = size
        for _ in range(min(limit or size, size)):
            self._open()
        self._stands_still = size > 0
        if self._stands_still:
            parking.end()

    def _open(self) -> None:
        while self._next < len(self._doors):
            door = self._doors[self._next]
            self._next += 1
            if not door.done():
                self._parking.begin()
                door.set_result(None)
                return

    def door(self, place: int) -> asyncio.Future[None]:
        """Return what is done once the line of that place may begin."""
        return self._doors[place]

    def left(self, place: int, task: asyncio.Task[Any]) -> None:
        """The line of that place has come to its end. Called before whoever waits for it goes on."""
        self._inside -= 1
        failed = not task.cancelled() and task.exception() is not None
        if self._stands_still and (failed or not self._inside):
            self._stands_still = False
            self._parking.begin()
        door = self._doors[place]
        if door.done() and not door.cancelled():
            self._open()
            self._parking.end()
        else:
            door.cancel()


def wait_key(key: str) -> str:
    """Return the key of a step's wait."""
    return key if len(key) <= MAX_KEY else f"~{hashlib.sha256(key.encode()).hexdigest()}"
