"""Enqueue tasks by RQ or Celery, in the peers' environment.

`python -m bench.peers.client rq|celery TASK COUNT [ARGUMENT]` prints what each call took, in seconds, as a JSON array;
for the task `stamp`, which says when it begins, the time from before the call to the task's start.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.peers import tasks


def enqueuer(system: str, task: str) -> Callable[..., Any]:
    """Return the system's usual call, on a connection that is open and kept, as a web process would have it."""
    if system == "celery":
        return tasks.celery_tasks[task].delay  # type: ignore[no-any-return]
    import redis
    from rq import Queue

    queue = Queue("default", connection=redis.Redis.from_url(tasks.REDIS_URL))
    function = getattr(tasks, task)
    return lambda *args: queue.enqueue(function, *args)


def calls(enqueue: Callable[..., Any], count: int, *args: str) -> list[float]:
    """Enqueue; the seconds that each call took."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        enqueue(*args)
        took.append(time.perf_counter() - began)
    return took


def starts(enqueue: Callable[..., Any], count: int) -> list[float]:
    """Enqueue one task after another to an idle worker; the seconds from the call to each one's start."""
    took = []
    for _ in range(count):
        began = time.time()
        enqueue()
        said: Any = tasks.valkey().blpop(["bench:starts"], 30)
        took.append(float(said[1]) - began)
        time.sleep(0.02)
    return took


def main(system: str, task: str, count: str, *args: str) -> None:
    """Enqueue and print."""
    enqueue = enqueuer(system, task)
    measured = starts(enqueue, int(count)) if task == "stamp" else calls(enqueue, int(count), *args)
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
