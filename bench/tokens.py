"""The model of the chat benchmarks: the same tokens at the same times for every side, made in its own process.

The message says what is wanted, so that one server serves any load: `FIRST_TOKEN_S COUNT SECONDS_BETWEEN`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reply: seconds until its first token, how many tokens, seconds between two of them."""

    first_token_s: float
    count: int
    gap_s: float

    @classmethod
    def read(cls, message: str) -> Self:
        """Read it from a message."""
        first_token_s, count, gap_s = message.split()
        return cls(float(first_token_s), int(count), float(gap_s))

    def __str__(self) -> str:
        return f"{self.first_token_s:g} {self.count} {self.gap_s:g}"

    @property
    def lasts_s(self) -> float:
        """How long the model takes for it."""
        return self.first_token_s + self.count * self.gap_s

    def text(self) -> str:
        """Return the whole of it."""
        return "".join(map(token, range(self.count)))


def token(number: int) -> str:
    """Return one token: about as long as a model's."""
    return f" w{number:03d}"


async def stream(wanted: Wanted) -> AsyncGenerator[str, None]:
    """Yield the tokens when they are due. Who is late with one gets the next ones no later for that."""
    loop = asyncio.get_running_loop()
    due = loop.time() + wanted.first_token_s
    for number in range(wanted.count):
        await asyncio.sleep(max(0.0, due - loop.time()))
        yield token(number)
        due += wanted.gap_s
