"""Tasks that wait a second for a model: 64 in flight, so 64 tasks a second are all there is to have."""

from __future__ import annotations

import threading
import time

from bench import memory
from bench.contenders import Astra, Celery, Contender, Rq
from bench.rounds import interleave, rows
from bench.runs import AstraRuns
from bench.stage import Stage
from bench.table import Row

IN_FLIGHT = 64
MIB = 2**20


class Peak(threading.Thread):
    """Watches the memory of a process and its children, and keeps the most it saw."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most = pid, 0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.5):
            self.most = max(self.most, memory.of_tree(self.pid))

    def stop(self) -> int:
        """Stop watching; the most there was, in bytes."""
        self._end.set()
        self.join()
        return self.most


def measure(stage: Stage, *, quick: bool) -> list[Row]:
    """Run all systems in turn, round after round."""
    waves = 3 if quick else 10
    with stage.model_server() as url:
        flights: dict[Contender, int] = {
            Astra(stage, IN_FLIGHT): IN_FLIGHT,
            AstraRuns(stage, IN_FLIGHT, url=url): IN_FLIGHT,
            Rq(stage, "RQ, 1 process", "rq.SimpleWorker"): 1,
            Celery(stage, "Celery threads 64", "threads", IN_FLIGHT): IN_FLIGHT,
            Celery(stage, "Celery gevent 64", "gevent", IN_FLIGHT): IN_FLIGHT,
        }
        if not quick:
            flights[Rq(stage, "RQ, 64 processes", "rq.SimpleWorker", processes=IN_FLIGHT)] = IN_FLIGHT

        def once(contender: Contender) -> dict[str, float]:
            count = flights[contender] * waves
            stage.clear()
            contender.enqueue("call_model", count, url)
            with contender.worker() as process:
                peak = Peak(process.pid)
                peak.start()
                rate = contender.rate(count)
                mib = peak.stop() / MIB
            time.sleep(0.5)  # let the connections of the dead drain
            return {"rate": rate, "memory": mib / flights[contender]}

        results = interleave(list(flights), stage.rounds(3, quick=quick), once)
    found = rows(results, "Tasks of 1 s, 64 in flight", "rate", "/s", more_is_better=True)
    if memory.can_measure():
        found += rows(results, "Memory per task in flight", "memory", "MiB", more_is_better=False)
    return found


if __name__ == "__main__":
    from bench.__main__ import main

    main("io_bound")
