"""The systems that do the same work: Astra, RQ and Celery, each with the command that runs its worker."""

from __future__ import annotations

import json
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.stage import ROOT, Stage, wait_until

WORK_S = 300.0
Worker = AbstractContextManager["subprocess.Popen[bytes]"]


class Contender(ABC):
    """One system under one set of options."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage, self.name = stage, name

    @abstractmethod
    def enqueue(self, task: str, count: int, *args: str) -> list[float]:
        """Enqueue tasks by the system's usual call; the seconds that each call took."""

    @abstractmethod
    def starts(self, count: int) -> list[float]:
        """Enqueue tasks to the idle worker one by one; the seconds from before the call to each one's start."""

    @abstractmethod
    def worker(self) -> Worker:
        """Run its worker."""

    @abstractmethod
    def rate(self, count: int) -> float:
        """Wait until the ``count`` tasks have ended; tasks a second of all but the first tenth, which warms up."""


class Astra(Contender):
    """One `manage.py worker` process."""

    def __init__(self, stage: Stage, slots: int, name: str = "Astra") -> None:
        super().__init__(stage, name)
        self._slots = slots
        self._env: dict[str, str] = {}

    def enqueue(self, task: str, count: int, *args: str) -> list[float]:
        return [self.submit(task, *args) for _ in range(count)]

    def submit(self, task: str, *args: str) -> float:
        """Submit a job; the seconds it took."""
        from jobs.submit import Submission, submit

        payload = {"url": args[0]} if args else {}
        began = time.perf_counter()
        submit(Submission(handler=f"bench.{task}", payload=payload, lane="queue"))
        return time.perf_counter() - began

    def starts(self, count: int) -> list[float]:
        took = []
        for _ in range(count):
            began = time.time()
            self.submit("stamp")
            took.append(self.stage.next_start() - began)
            time.sleep(0.02)
        return took

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        command = self.stage.manage("worker", "--lane", f"queue:{self._slots}")
        with self.stage.process(command, **self._env) as child:
            yield child

    def rate(self, count: int) -> float:
        def ended() -> list[float]:
            return self.stage.column(
                "SELECT extract(epoch FROM finished_at)::float8 FROM jobs_job WHERE state = 'succeeded' ORDER BY 1"
            )

        wait_until(lambda: len(ended()) == count, f"{self.name} at work", seconds=WORK_S, every_s=0.3)
        times, warm = ended(), max(1, count // 10)
        return (count - warm) / (times[-1] - times[warm - 1])


class Peer(Contender):
    """A system that runs in the peers' environment, on the same Valkey."""

    system: str

    def __init__(self, stage: Stage, name: str, *, synced: bool = False) -> None:
        super().__init__(stage, f"{name}, Valkey synced" if synced else name)
        self._synced = synced
        self._env: dict[str, str] = {}

    @abstractmethod
    def remaining(self) -> int:
        """Return how many tasks have not ended, by the system's own keys."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs its worker."""

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._durability(), self.stage.process(self.stage.peer(*self.command()), **self._env) as child:
            yield child

    def enqueue(self, task: str, count: int, *args: str) -> list[float]:
        command = self.stage.peer("bench.peers.client", self.system, task, str(count), *args)
        with self._durability():
            done = subprocess.run(
                command, cwd=ROOT, env={**self.stage.env_of_peers, **self._env}, stdout=subprocess.PIPE, check=True
            )
        took: list[float] = json.loads(done.stdout)
        return took

    def starts(self, count: int) -> list[float]:
        return self.enqueue("stamp", count)

    def rate(self, count: int) -> float:
        warm = count - max(1, count // 10)
        wait_until(lambda: self.remaining() <= warm, f"{self.name}'s start", seconds=WORK_S, every_s=0.01)
        began, left = time.perf_counter(), self.remaining()
        wait_until(lambda: self.remaining() == 0, f"{self.name} at work", seconds=WORK_S, every_s=0.01)
        return left / (time.perf_counter() - began)

    @contextmanager
    def _durability(self) -> Iterator[None]:
        """Have Valkey sync each write to disk before it answers, as PostgreSQL does each commit; or once a second."""
        self.stage.valkey.config_set("appendfsync", "always" if self._synced else "everysec")
        try:
            yield
        finally:
            self.stage.valkey.config_set("appendfsync", "everysec")


class Rq(Peer):
    """RQ's workers: `SimpleWorker` runs tasks in its process, `Worker`, the usual one, forks for each."""

    system = "rq"

    def __init__(self, stage: Stage, name: str, worker_class: str, *, processes: int = 1, synced: bool = False) -> None:
        super().__init__(stage, name, synced=synced)
        self._worker_class, self._processes = worker_class, processes

    def command(self) -> list[str]:
        url = ["--url", self.stage.env["REDIS_URL"], "--worker-class", self._worker_class]
        if self._processes > 1:
            return ["rq.cli", "worker-pool", *url, "--num-workers", str(self._processes), "default"]
        return ["rq.cli", "worker", *url, "default"]

    def remaining(self) -> int:
        # Between the queue and those at work a task lies in a list of its own; all are read at once.
        with self.stage.valkey.pipeline() as pipeline:
            pipeline.llen("rq:queue:default")
            pipeline.llen("rq:queue:default:intermediate")
            pipeline.zcard("rq:wip:default")
            return sum(pipeline.execute())


class Celery(Peer):
    """`celery worker` with a pool and its size, acknowledging late, or as fast as it can."""

    system = "celery"

    def __init__(
        self, stage: Stage, name: str, pool: str, size: int, *, fastest: bool = False, synced: bool = False
    ) -> None:
        super().__init__(stage, name, synced=synced)
        self._pool, self._size = pool, size
        self._env = {"BENCH_CELERY": "fastest"} if fastest else {}

    def command(self) -> list[str]:
        pool = ["--pool", self._pool, "--concurrency", str(self._size)]
        return ["celery", "--app", "bench.peers.tasks:app", "worker", *pool]

    def remaining(self) -> int:
        return int(self.stage.valkey.llen("celery")) + int(self.stage.valkey.hlen("unacked"))
