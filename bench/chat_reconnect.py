"""A dropped line in mid-reply: from the new socket's first byte until its page has all there is, and goes on.

No peer: a bare consumer loses the reply. The other process stands next to the same one.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from bench.chat_sides import AstraChat
from bench.rounds import Results, percentiles, rows
from bench.sockets import Address, Socket
from bench.stage import Stage
from bench.table import Row
from bench.tokens import Wanted

WANTED = Wanted(0.3, 600, 0.05)
PEOPLE = 20
#: Between the drop and the new socket. Seconds.
AWAY_S = 0.5
PATIENCE_S = 20.0


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Drop and resume, each person several times, to the process that writes the reply and to another."""
    results: Results = {"Astra": [], "the other process": []}
    drops = 2 if quick else 8
    for _ in range(stage.rounds(3, quick=quick)):
        for name, found in results.items():
            stage.clear()
            side = AstraChat(stage)
            with side.server() as here, side.server() as there:
                to = there.port if name == "the other process" else here.port
                addresses = zip(side.addresses(here.port, PEOPLE), side.addresses(to, PEOPLE), strict=True)
                pairs = [(Address(*first), Address(*again)) for first, again in addresses]
                found.append(percentiles(asyncio.run(_drop_all(pairs, drops))))
    name = f"{PEOPLE} streams: from a new socket to all that was missed"
    return [row for key in ("p50", "p95") for row in rows(results, f"{name}, {key}", key, "ms", more_is_better=False)]


class Page(Socket):
    """A page, as far as it matters here: how many tokens it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.run_id = ""
        self.text = ""
        self.seq = 0
        self.fault = ""
        self._changed = asyncio.Event()

    def frame_came(self, payload: bytes) -> None:
        """Take a frame."""
        frame: dict[str, Any] = json.loads(payload)
        self.run_id = frame.get("run_id", self.run_id)
        self.seq = frame.get("seq", self.seq)
        if frame["type"] == "run.delta":
            self.text += frame["text"]
        elif frame["type"] == "run.snapshot":
            self.text = frame["text"]
        elif "problem" in frame:
            self.fault = frame["problem"]["detail"]
        self._changed.set()

    async def until_it_has(self, tokens: int) -> None:
        """Wait until it shows so many tokens, none missing and none twice."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.text.split()) < tokens and not self.fault:
                self._changed.clear()
                await self._changed.wait()
        if self.fault:
            raise RuntimeError(self.fault)
        if not WANTED.text().startswith(self.text):
            raise RuntimeError(f"not what was written: {self.text[-200:]}")


async def _drop_all(pairs: list[tuple[Address, Address]], drops: int) -> list[float]:
    found = await asyncio.gather(*(_drop(first, again, drops, n) for n, (first, again) in enumerate(pairs)))
    return [took for one in found for took in one]


async def _drop(first: Address, again: Address, drops: int, number: int) -> list[float]:
    """Begin a reply, then lose its socket and come back, again and again."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(number / PEOPLE)
    took = []
    page = await Page.open(first, Page, loop)
    page.send({"type": "message", "text": str(WANTED), "client_id": "1"})
    await page.until_it_has(1)
    # The first token came just now: so many have been written at any time.
    began = time.perf_counter()
    for _ in range(drops):
        await asyncio.sleep(AWAY_S)
        page.cut()
        await asyncio.sleep(AWAY_S)
        opened = time.perf_counter()
        fresh = await Page.open(again, Page, loop)
        fresh.send({"type": "resume", "run_id": page.run_id, "last_seq": page.seq})
        await fresh.until_it_has(int((opened - began) / WANTED.gap_s))
        took.append(time.perf_counter() - opened)
        page = fresh
    page.cut()
    return took


if __name__ == "__main__":
    from bench.__main__ import main

    main("chat_reconnect")
