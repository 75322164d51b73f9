"""What a chat costs beyond the model: time to the first token, memory and bytes on the wire, at several sizes.

Astra's web process stands next to the least that a chat on the same server can be. The model is the same for both and
made inside each process, so the figures are the chat's own and not those of a provider's library.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.chat_sides import AstraChat, BareChat, Measured, Side
from bench.rounds import Results, interleave, percentiles, rows
from bench.stage import Stage
from bench.table import Row
from bench.tokens import Wanted

KIB, MIB = 2**10, 2**20
#: Seconds until the model's first token, for everybody.
THINKS_S = 0.3


@dataclass(frozen=True, slots=True)
class Size:
    """A load: replies in flight, sockets that only listen, and what each reply is.

    The replies are the slower the more of them there are: 3,000 to 4,000 tokens a second in all, which is less than
    half of what the bare consumer can send, and 15 to 25 messages a second.
    """

    streams: int
    tokens: int
    gap_s: float
    window_s: float
    idle: int = 0

    @property
    def name(self) -> str:
        streams = f"{self.streams:,} {'stream' if self.streams == 1 else 'streams'}"
        return f"{streams}, {self.idle:,} idle" if self.idle else streams

    @property
    def wanted(self) -> Wanted:
        return Wanted(THINKS_S, self.tokens, self.gap_s)

    @property
    def people(self) -> int:
        """Few streams are shared by more people: nobody may send more than thirty messages a minute."""
        return max(self.streams, 4)


SIZES = (
    Size(1, tokens=20, gap_s=0.02, window_s=20),
    Size(100, tokens=200, gap_s=1 / 30, window_s=12),
    Size(500, tokens=200, gap_s=1 / 8, window_s=12),
    Size(1000, tokens=160, gap_s=1 / 4, window_s=12),
    Size(100, tokens=200, gap_s=1 / 30, window_s=12, idle=2000),
)
QUICK = (
    Size(1, tokens=20, gap_s=0.02, window_s=5),
    Size(100, tokens=30, gap_s=1 / 30, window_s=5),
    Size(20, tokens=30, gap_s=1 / 30, window_s=5, idle=200),
)


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Run both sides in turn, size after size, round after round."""
    sides: list[Side] = [AstraChat(stage), BareChat(stage)]
    found: list[Row] = []
    for size in QUICK if quick else SIZES:

        def once(side: Side, size: Size = size) -> dict[str, float]:
            stage.clear()
            with side.server() as server:
                return _figures(
                    server.load(size.streams, size.wanted, window_s=size.window_s, people=size.people, idle=size.idle)
                )

        results = interleave(sides, stage.rounds(3, quick=quick), once)
        found += _rows(results, size)
    return found


def _figures(load: Measured) -> dict[str, float]:
    added = percentiles(load.seen.added_s)
    return {
        "p50": added["p50"],
        "p95": added["p95"],
        "whole p95": added["p95"] + THINKS_S * 1000,
        "cpu": 100 * load.cpu_s / load.seen.window_s,
        "process": load.memory_at_work / MIB,
        "socket": (load.memory_at_work - load.memory_before) / load.sockets / KIB,
        "wire": statistics.median(load.seen.bytes_of_replies) / KIB,
    }


def _rows(results: Results, size: Size) -> list[Row]:
    kinds = [
        ("First token, added to the model's time, p50", "p50", "ms"),
        ("First token, added to the model's time, p95", "p95", "ms"),
        (f"First token, the model's {THINKS_S * 1000:.0f} ms with it, p95", "whole p95", "ms"),
        ("Processor", "cpu", "%"),
        ("Memory of the process", "process", "MiB"),
        ("Bytes on the wire per reply", "wire", "KiB"),
    ]
    if size.streams + size.idle >= 100:
        kinds.append(("Memory per socket", "socket", "KiB"))
    return [
        row
        for measure, key, unit in kinds
        for row in rows(results, f"{size.name}: {measure}", key, unit, more_is_better=False)
    ]


if __name__ == "__main__":
    from bench.__main__ import main

    main("chat_first_token")
