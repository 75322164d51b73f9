"""The lane of suspects: a job whose worker died runs again alone in a process, forked by RQ's own worker.

Only a crash there counts against the job. The forking server is a process of its own, so that it forks while it has one
thread and no connection to the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process

from django.conf import settings
from django.db import connection
from rq import Queue, Worker
from rq.job import Job as Message

from jobs import lanes, lease, script
from jobs.claim import claim
from jobs.heartbeat import Heartbeat
from jobs.pool import close_pool, get_pool
from jobs.process import hooks
from jobs.rq_worker import MessageWorker, connect
from jobs.runner import Runner

logger = logging.getLogger(__name__)


class SuspectServer:
    """The forking servers of a worker process, one per slot, begun again when they end."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._processes: list[Process | None] = [None] * slots

    async def keep_alive(self) -> None:
        """Keep every server running until cancelled."""
        await asyncio.gather(*(self._keep(index) for index in range(self._slots)))

    async def _keep(self, index: int) -> None:
        while True:
            # Its standard input is our sign of life: when we die or stop, it reads the end and stops as well.
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "jobs.suspects", stdin=PIPE)
            self._processes[index] = process
            code = await process.wait()
            logger.warning("the suspects' server ended with %s", code, extra={"action": "suspect_server_ended"})
            await asyncio.sleep(1)

    async def stop(self, timeout_s: float) -> None:
        """Ask the servers to stop, wait for them, end those that do not."""
        processes = [process for process in self._processes if process is not None and process.returncode is None]
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        try:
            await asyncio.wait_for(asyncio.gather(*(process.wait() for process in processes)), timeout_s)
        except TimeoutError:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


class SuspectWorker(MessageWorker, Worker):
    """RQ's forking worker on lane `suspect`: one job, one process."""

    def told_to_stop(self) -> bool:
        """Tell whether the worker process that began us is gone or wants us to stop."""
        readable, _, _ = select.select([sys.stdin], [], [], 0)
        return bool(readable)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Message, Queue] | None:
        """Wait for a message until told to stop."""
        while not (self._stop_requested or self.told_to_stop()):
            self.heartbeat()
            if self.is_suspended():
                time.sleep(1.0)
            elif (message := self.next_message()) is not None:
                return message
        self._stop_requested = True
        return None

    def execute_job(self, job: Message, queue: Queue) -> None:
        """Drop the message and fork: the process that comes of it claims a row."""
        self.drop(job, queue)
        self.fork_work_horse(job, queue)
        self.monitor_work_horse(job, queue)

    def monitor_work_horse(self, job: Message, queue: Queue) -> None:
        """Wait for the process; if it died, take its job at once instead of waiting for its lease."""
        asked = False
        while True:
            pid, status = os.waitpid(self.horse_pid, os.WNOHANG)
            if pid:
                break
            if not asked and (self._stop_requested or self.told_to_stop()):
                asked = True
                os.kill(self.horse_pid, signal.SIGTERM)
            self.heartbeat()
            time.sleep(0.05)
        self._horse_pid = 0
        if status != 0:
            logger.warning("a suspect's process ended with status %s", status, extra={"action": "suspect_died"})
            try:
                lease.release_dead(pid=pid)
            finally:
                connection.close()
                connection.close_pool()  # type: ignore[attr-defined]  # its threads must not be there when we fork again

    def perform_job(self, job: Message, queue: Queue) -> bool:
        """Claim one suspect and run it. This is the forked process."""
        asyncio.run(run_one())
        return True

    def setup_work_horse_signals(self) -> None:
        """Leave Ctrl-C to the supervisor; SIGTERM is handled on the loop."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


async def run_one(grace_s: float = 10.0) -> None:
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = SuspectWorker(lanes.SUSPECT, connect(settings.REDIS_URL))
    while True:
        try:
            worker.work(logging_level="WARNING")
        except Exception:
            logger.exception("the suspects' loop ended", extra={"action": "lane_restarted"})
        if worker.told_to_stop() or worker._stop_requested:
            return
        time.sleep(1.0)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "astra_site.settings")
    main()
