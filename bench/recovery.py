"""`kill -9` of a worker in mid-task: how long until the task begins again in another process.

No peer: RQ's default worker finds such a job when its clean-up runs, every ten minutes or more; Celery on Redis when
the visibility time-out is over, an hour by default.
"""

from __future__ import annotations

import random
import time

from bench.contenders import Astra
from bench.stage import Stage
from bench.table import Row


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Kill a worker, round after round, each time at another moment of its lease."""
    took = [_once(stage) for _ in range(stage.rounds(7, quick=quick))]
    return [Row("kill -9 until it runs elsewhere", "s", "", took, (), more_is_better=False)]


def _once(stage: Stage) -> float:
    stage.clear()
    survivor = stage.manage("worker", "--lane", "queue:1", "--lane", "suspect:1")
    scheduler, victim = stage.manage("scheduler"), stage.manage("worker", "--lane", "queue:1")
    with stage.process(scheduler), stage.process(victim) as child:
        Astra(stage, 1).submit("hold")
        stage.next_start()
        with stage.process(survivor):
            stage.until_workers(2)
            time.sleep(random.uniform(0, 2))
            child.kill()
            killed = time.time()
            return stage.next_start() - killed


if __name__ == "__main__":
    from bench.__main__ import main

    main("recovery")
