"""One RQ worker for one lane, in a thread of a worker process: message, claim, and off to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.job import Job as Message

from jobs.rq_worker import MessageWorker

logger = logging.getLogger(__name__)

#: Idle slots look for themselves this often, so a lost wake-up costs no more. Seconds.
LOOK_S = 2.0

#: Claims a job of the lane and starts it, and calls the second argument when it has ended. False: there was none.
Take = Callable[[str, Callable[[], None]], Coroutine[Any, Any, bool]]


class LaneWorker(MessageWorker, SimpleWorker):
    """Takes a free slot, then a message, then claims the best row of the lane, which the message does not name."""

    def __init__(
        self, lane: str, slots: int, connection: redis.Redis, take: Take, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(lane, connection)
        self._free = threading.Semaphore(slots)
        self._take = take
        self._loop = loop
        self._looked_at = 0.0
        self._stopping = threading.Event()

    # --- The thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `stop`. An outage of Redis ends RQ's loop; it is begun again, and idle slots look meanwhile."""
        while not self._stopping.is_set():
            try:
                self.work(logging_level="WARNING")
            except redis.RedisError as error:
                logger.warning("lane %s: Redis does not answer: %s", self.lane, error, extra={"action": "redis_outage"})
            except Exception:
                logger.exception("lane %s: the worker's loop ended", self.lane, extra={"action": "lane_restarted"})
            self._look_while_redis_is_away()

    def stop(self) -> None:
        """Take nothing more."""
        self._stopping.set()
        self._stop_requested = True

    def _look_while_redis_is_away(self) -> None:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and not self._stopping.is_set():
            if not (self._free.acquire(timeout=0.1) and self._claim_into_slot()):
                self._stopping.wait(0.2)

    def _claim_into_slot(self) -> bool:
        """Claim a job into a slot that is already taken; give the slot back if there was none."""
        future = asyncio.run_coroutine_threadsafe(self._take(self.lane, self._free.release), self._loop)
        try:
            taken = future.result()
        except Exception as error:
            logger.warning("lane %s: could not claim: %s", self.lane, error, extra={"action": "claim_failed"})
            taken = False
            self._stopping.wait(0.5)
        if not taken:
            self._free.release()
        return taken

    # --- What RQ calls -----------------------------------------------------------------------------------------------

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Message, Queue] | None:
        """Wait for a free slot, then for a message; look at the database every two seconds meanwhile."""
        while not self._stop_requested:
            self.heartbeat()
            if not self._free.acquire(timeout=0.5):
                continue
            if time.monotonic() - self._looked_at >= LOOK_S:
                # As long as there is work without a message, slots fill without one.
                if not self._claim_into_slot():
                    self._looked_at = time.monotonic()
                continue
            try:
                if self.is_suspended():
                    self._stopping.wait(1.0)
                    message = None
                else:
                    message = self.next_message()
            except BaseException:
                self._free.release()
                raise
            if message is not None:
                return message
            self._free.release()
        return None

    def execute_job(self, job: Message, queue: Queue) -> None:
        """Claim the best job of the lane, then drop the message."""
        self._claim_into_slot()
        self.drop(job, queue)

    def _install_signal_handlers(self) -> None:
        """Nothing: the process has its own."""
