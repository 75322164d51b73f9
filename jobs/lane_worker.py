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

#: The most jobs that one claim takes. While work piles up it saves commits; a lane that is hardly used claims one by
#: one, so that its jobs spread over all processes.
AT_ONCE = 8

#: Claims up to that many jobs of the lane and starts them, and calls the last argument when one has ended. Returns how
#: many there were.
Take = Callable[[str, int, Callable[[], None]], Coroutine[Any, Any, int]]


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
        self._at_once = 1
        self._stopping = threading.Event()

    # --- The thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `stop`. Nothing is known that ends RQ's loop before; if something does, it is begun again."""
        while not self._stopping.is_set():
            try:
                self.work(logging_level="WARNING")
            except Exception:
                logger.exception("lane %s: the worker's loop ended", self.lane, extra={"action": "lane_restarted"})
            self._stopping.wait(1.0)

    def stop(self) -> None:
        """Take nothing more."""
        self._stopping.set()
        self._stop_requested = True

    def _more_slots(self) -> int:
        """Take more slots, if they are free, as long as claims bring in all they may. Returns how many."""
        more = 0
        while more < self._at_once - 1 and self._free.acquire(blocking=False):
            more += 1
        return more

    def _claim_into(self, slots: int) -> int:
        """Claim jobs into slots that are already taken, give back those that stay empty. Returns how many jobs."""
        future = asyncio.run_coroutine_threadsafe(self._take(self.lane, slots, self._free.release), self._loop)
        try:
            claimed = future.result()
        except Exception as error:
            logger.warning("lane %s: could not claim: %s", self.lane, error, extra={"action": "claim_failed"})
            claimed = 0
            self._stopping.wait(0.5)
        self._give_back(slots - claimed)
        self._at_once = min(AT_ONCE, 2 * slots) if claimed == slots else 1
        return claimed

    def _give_back(self, slots: int) -> None:
        for _ in range(slots):
            self._free.release()

    def _forget_messages(self, count: int) -> None:
        """Take messages off the queue that the next claim stands for: it sees every row they were pushed for."""
        if count == 0 or self.is_away():
            return
        try:
            found: Any = self.connection.lpop(self.queues[0].key, count)
            if found:
                self.connection.delete(*(self.job_class.key_for(message_id.decode()) for message_id in found))
        except redis.RedisError as error:
            self.note_outage(error)

    # --- What RQ calls -----------------------------------------------------------------------------------------------

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Message, Queue] | None:
        """Wait for a free slot, then for a message; look at the database every two seconds meanwhile.

        While Redis is away there is nothing but to look.
        """
        while not self._stop_requested:
            self.heartbeat()
            if not self._free.acquire(timeout=0.5):
                continue
            if self.is_suspended():
                self._give_back(1)
                self._stopping.wait(1.0)
            elif self.is_away() or time.monotonic() - self._looked_at >= LOOK_S:
                if not self._look() and self.is_away():
                    self._stopping.wait(0.5)
            elif (message := self.next_message()) is not None:
                return message
            else:
                self._give_back(1)
        return None

    def _look(self) -> int:
        """Claim into the slot that is taken, message or none. As long as there is work, slots fill like this."""
        more = self._more_slots()
        self._forget_messages(1 + more)
        claimed = self._claim_into(1 + more)
        if not claimed:
            self._looked_at = time.monotonic()
        return claimed

    def execute_job(self, job: Message, queue: Queue) -> None:
        """Claim the best jobs of the lane, then drop the message."""
        more = self._more_slots()
        self._forget_messages(more)
        self._claim_into(1 + more)
        self.drop(job, queue)

    def _install_signal_handlers(self) -> None:
        """Nothing: the process has its own."""
