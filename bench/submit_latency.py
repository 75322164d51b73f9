"""What a caller waits for: the call that enqueues a task, without a worker; and the time until an idle worker begins.

Astra's call returns when the task is on disk. RQ's and Celery's return when Valkey has it in memory, which is on disk
within a second; "Valkey synced" has it on disk, like Astra.
"""

from __future__ import annotations

from bench.contenders import Astra, Celery, Contender, Rq
from bench.rounds import Results, interleave, percentiles, rows
from bench.runs import AstraRuns
from bench.stage import Stage
from bench.table import Row


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Run all systems in turn, round after round."""
    rounds = stage.rounds(5, quick=quick)
    calls, starts = (200, 30) if quick else (1000, 200)
    peers: list[Contender] = [
        Rq(stage, "RQ", "rq.SimpleWorker"),
        Rq(stage, "RQ", "rq.SimpleWorker", synced=True),
        Celery(stage, "Celery", "prefork", 2),
        Celery(stage, "Celery", "prefork", 2, synced=True),
    ]

    def call(contender: Contender) -> dict[str, float]:
        stage.clear()
        return percentiles(contender.enqueue("noop", calls))

    def start(contender: Contender) -> dict[str, float]:
        stage.clear()
        with contender.worker():
            contender.starts(5)  # the worker is up and warm
            return percentiles(contender.starts(starts))

    astra = Astra(stage, 16)
    called = interleave([astra, AstraRuns(stage, 16), *peers], rounds, call)
    started = interleave([astra, *peers[::2]], rounds, start)
    return [
        *_both(called, "Submit a task"),
        *_both(started, "From submit to start, idle worker"),
    ]


def _both(results: Results, measure: str) -> list[Row]:
    return [
        row for key in ("p50", "p95") for row in rows(results, f"{measure}, {key}", key, "ms", more_is_better=False)
    ]


if __name__ == "__main__":
    from bench.__main__ import main

    main("submit_latency")
