"""No-op tasks a second through one worker: what the queue itself costs, and nothing else.

The queue is filled before the worker starts, so enqueuing costs nothing here.
"""

from __future__ import annotations

from bench.contenders import Astra, Celery, Contender, Rq
from bench.rounds import interleave, rows
from bench.stage import Stage
from bench.table import Row

SLOTS = 16


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Run all systems in turn, round after round."""
    tasks: dict[Contender, int] = {
        Astra(stage, SLOTS): 3000,
        Rq(stage, "RQ SimpleWorker", "rq.SimpleWorker"): 2000,
        Rq(stage, "RQ SimpleWorker", "rq.SimpleWorker", synced=True): 1000,
        Rq(stage, "RQ Worker (forks)", "rq.Worker"): 300,
        Celery(stage, "Celery solo, acks late", "solo", 1): 3000,
        Celery(stage, "Celery prefork 2, acks late", "prefork", 2): 3000,
        Celery(stage, "Celery prefork 2, acks late", "prefork", 2, synced=True): 1500,
        Celery(stage, "Celery prefork 2, acks early, no results", "prefork", 2, fastest=True): 3000,
    }

    def once(contender: Contender) -> dict[str, float]:
        count = tasks[contender] // (5 if quick else 1)
        stage.clear()
        contender.enqueue("noop", count)
        with contender.worker():
            return {"rate": contender.rate(count)}

    results = interleave(list(tasks), stage.rounds(5, quick=quick), once)
    return rows(results, "No-op tasks, one worker", "rate", "/s", more_is_better=True)


if __name__ == "__main__":
    from bench.__main__ import main

    main("throughput")
