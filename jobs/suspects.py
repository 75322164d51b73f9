"""The lane of suspects: a job whose worker died runs again alone in a process, forked by RQ's own worker.

Only a crash there counts against the job. The forking server is a process of its own, so that it forks while it has one
thread and no connection to the database.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import select
import signal
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from types import FrameType

import psycopg
import redis
from django.conf import settings
from django.db import connection
from rq import Queue, Worker
from rq.job import Job as Message

from jobs import lanes, lease, script
from jobs.claim import claim
from jobs.heartbeat import Heartbeat
from jobs.pool import close_pool, conninfo, get_pool
from jobs.process import hooks
from jobs.rq_worker import MessageWorker, connect
from jobs.runner import Runner

logger = logging.getLogger(__name__)

#: What a suspect's process may take beyond its grace time to write what became of it. Seconds.
SETTLE_S = 3.0
#: With so many forks a server imports once what each would import for itself: the next ones begin sooner.
MANY = 3


class SuspectServer:
    """The forking servers of a worker process, one per slot, begun again when they end."""

    def __init__(self, slots: int, grace_s: float) -> None:
        self._grace_s = grace_s
        self._slots = slots
        self._processes: list[Process | None] = [None] * slots

    async def keep_alive(self) -> None:
        """Keep every server running until cancelled."""
        await asyncio.gather(*(self._keep(index) for index in range(self._slots)))

    async def _keep(self, index: int) -> None:
        while True:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "jobs.suspects", "--grace", str(self._grace_s)),
                    # Our sign of life: when we die or stop, it reads the end and stops as well.
                    stdin=PIPE,
                    cwd=settings.BASE_DIR,
                )
            except OSError as error:
                # The machine is short of memory or processes now; the lane is ours for longer than that.
                logger.error(
                    "the suspects' server does not start: %s", error, extra={"action": "suspect_server_failed"}
                )
            else:
                self._processes[index] = process
                code = await process.wait()
                logger.warning("the suspects' server ended with %s", code, extra={"action": "suspect_server_ended"})
            await asyncio.sleep(1)

    async def stop(self) -> None:
        """Ask the servers to stop, wait as long as their grace time allows, end those that do not."""
        processes = [process for process in self._processes if process is not None and process.returncode is None]
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        try:
            await asyncio.wait_for(
                asyncio.gather(*(process.wait() for process in processes)), self._grace_s + SETTLE_S + 4
            )
        except TimeoutError:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


def told_to_stop() -> bool:
    """Tell whether the worker process that began us is gone or wants us to stop: our standard input has ended."""
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable)


class SuspectWorker(MessageWorker, Worker):
    """RQ's forking worker on lane `suspect`: one job, one process."""

    def __init__(self, connection: redis.Redis, grace_s: float) -> None:
        super().__init__(lanes.SUSPECT, connection)
        self._grace_s = grace_s
        self._forks = 0

    def is_stopping(self) -> bool:
        """Tell whether to take no more, and to end what runs."""
        return self._stop_requested or told_to_stop()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Message, Queue] | None:
        """Wait for a message until told to stop; look at the database while Redis is away."""
        while not self.is_stopping():
            self.heartbeat()
            if self.is_suspended():
                select.select([sys.stdin], [], [], 1.0)
            elif (message := self.next_message()) is not None:
                return message
            elif self.is_away():
                if is_anyone_suspect():
                    return Message("no-message", connection=self.connection), self.queues[0]
                select.select([sys.stdin], [], [], 0.5)
        self._stop_requested = True
        return None

    def execute_job(self, job: Message, queue: Queue) -> None:
        """Drop the message and fork: the process that comes of it claims a row."""
        self.drop(job, queue)
        if self.is_stopping():
            return  # the reconciler wakes another server: a fork of ours would be told to stop at once
        self.fork_work_horse(job, queue)
        self._forks += 1
        if self._forks == MANY:
            try:
                hooks.prepare_forks()
            except Exception:
                logger.exception("could not prepare for forks", extra={"action": "forks_not_prepared"})
        self.monitor_work_horse(job, queue)

    def monitor_work_horse(self, job: Message, queue: Queue) -> None:
        """Wait for the process. If it died, take its job at once instead of waiting for its lease."""
        kill_at = None
        while True:
            pid, status = os.waitpid(self.horse_pid, os.WNOHANG)
            if pid:
                break
            if kill_at is None and self.is_stopping():
                kill_at = time.monotonic() + self._grace_s + SETTLE_S
            if kill_at is not None and time.monotonic() > kill_at:
                os.kill(self.horse_pid, signal.SIGKILL)
            self.heartbeat()
            time.sleep(0.05)
        self._horse_pid = 0
        if status != 0:
            logger.warning("a suspect's process ended with status %s", status, extra={"action": "suspect_died"})
            try:
                # One that did not end when it was told to has not crashed.
                lease.release_dead(pid=pid, how="died" if kill_at is None else "stopped")
            finally:
                connection.close()
                connection.close_pool()  # type: ignore[attr-defined]  # its threads must not be there when we fork again

    def perform_job(self, job: Message, queue: Queue) -> bool:
        """Claim one suspect and run it. This is the forked process."""
        threading.Thread(target=follow, args=(os.getppid(), self._grace_s), name="parent", daemon=True).start()
        asyncio.run(run_one(self._grace_s))
        return True

    def setup_work_horse_signals(self) -> None:
        """Leave the forked process the handlers of ours, until it has its own."""

    def _install_signal_handlers(self) -> None:
        """Leave Ctrl-C to the worker process that began us; on SIGTERM end in order."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._stop_requested = True


def is_anyone_suspect() -> bool:
    """Tell whether a job waits in the lane. On a connection that is closed again: soon there may be a fork."""
    try:
        with psycopg.connect(conninfo(), autocommit=True) as database:
            found = database.execute(
                "SELECT 1 FROM jobs_job WHERE lane = %s AND state = 'queued' LIMIT 1", [lanes.SUSPECT]
            )
            return found.fetchone() is not None
    except psycopg.Error:
        return False


def follow(server: int, grace_s: float) -> None:
    """End this forked process when its server is gone or told to stop: first in order, then by force."""
    while os.getppid() == server and not told_to_stop():
        time.sleep(0.1)
    give_up_at = time.monotonic() + grace_s + SETTLE_S + 1
    while time.monotonic() < give_up_at:
        os.kill(os.getpid(), signal.SIGTERM)  # more than once: the first may come before anyone listens
        time.sleep(0.5)
    os._exit(1)


async def run_one(grace_s: float) -> None:
    """Claim the best suspect and run it to its outcome; on SIGTERM hand it back within the grace time."""
    loop = asyncio.get_running_loop()
    runner = Runner()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    heartbeat = Heartbeat(
        loop, {}, hooks.version, capabilities=hooks.capabilities, on_stop=runner.cancel, on_lost=runner.lose
    )
    await asyncio.to_thread(heartbeat.start)
    assert heartbeat.worker_id is not None
    try:
        claimed = await script.arun(await get_pool(), claim(heartbeat.worker_id, lanes.SUSPECT))
        if claimed is not None:
            task = runner.start(claimed)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await runner.shut_down(grace_s)
    finally:
        await asyncio.to_thread(heartbeat.stop)
        await hooks.shut_down()
        await close_pool()


def main() -> None:
    """Serve lane `suspect` until standard input ends."""
    import django

    django.setup()
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, default=10.0)
    worker = SuspectWorker(connect(settings.REDIS_URL), parser.parse_args().grace)
    while not worker.is_stopping():
        try:
            worker.work(logging_level="WARNING")
        except Exception:
            logger.exception("the suspects' loop ended", extra={"action": "lane_restarted"})
            time.sleep(1.0)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")
    main()
