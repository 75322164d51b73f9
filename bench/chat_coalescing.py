"""What gathering tokens into frames saves: Astra's chat as it is, 30 ms apart, next to a frame for each token."""

from __future__ import annotations

from bench.chat_model import FRAME_S
from bench.chat_sides import AstraChat, Measured
from bench.rounds import interleave, rows
from bench.stage import Stage
from bench.table import Row
from bench.tokens import Wanted

STREAMS = 40
#: As fast as the fastest models write: 100 tokens a second.
WANTED = Wanted(0.3, 500, 0.01)


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Run both in turn, round after round."""
    sides = [AstraChat(stage), AstraChat(stage, "a frame for each token", **{FRAME_S: "0"})]
    streams, window_s = (10, 4.0) if quick else (STREAMS, 15.0)

    def once(side: AstraChat) -> dict[str, float]:
        stage.clear()
        with side.server() as server:
            return _figures(server.load(streams, WANTED, window_s=window_s), streams)

    results = interleave(sides, stage.rounds(3, quick=quick), once)
    name = f"{streams} streams of 100 tokens/s"
    return [
        *rows(results, f"{name}: frames a second of each", "frames", "/s", more_is_better=False),
        *rows(results, f"{name}: processor per 1,000 tokens", "cpu", "ms", more_is_better=False),
        *rows(results, f"{name}: bytes on the wire per token", "wire", "B", more_is_better=False),
    ]


def _figures(load: Measured, streams: int) -> dict[str, float]:
    seen = load.seen
    return {
        "frames": seen.frames / seen.window_s / streams,
        "cpu": 1000 * load.cpu_s / (seen.tokens / 1000),
        "wire": seen.received / seen.tokens,
    }


if __name__ == "__main__":
    from bench.__main__ import main

    main("chat_coalescing")
