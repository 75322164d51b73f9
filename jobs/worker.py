"""A worker process: one event loop for all runs, one RQ worker thread per lane, one lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from uuid import UUID

import redis.asyncio
from django.conf import settings
from django.db import OperationalError as DjangoOperationalError
from redis.exceptions import RedisError

from jobs import lanes, lease, script, wakeups
from jobs.claim import claim_some
from jobs.heartbeat import Heartbeat
from jobs.lane_worker import LaneWorker
from jobs.pool import close_pool, drop_broken, get_pool
from jobs.process import hooks
from jobs.rq_worker import connect
from jobs.runner import OUTAGE, Runner
from jobs.suspects import SuspectServer

logger = logging.getLogger(__name__)

#: A job that this process holds by the database, but does not run, is handed back after this long. Seconds.
ORPHAN_S = 6.0
#: So long after PostgreSQL was away at the start it is tried again. Seconds.
BEGIN_AGAIN_S = 1.0


class WorkerProcess:
    """Everything one `manage.py worker` does."""

    def __init__(self, slots: dict[str, int], *, grace_s: float = 20.0) -> None:
        self._slots = dict(slots)
        self._grace_s = grace_s
        self._stop = asyncio.Event()
        self.runner = Runner()
        self.heartbeat: Heartbeat | None = None

    def request_stop(self) -> None:
        """Begin to stop. Call on the loop."""
        self._stop.set()

    async def run(self) -> None:
        """Work until asked to stop; then finish or hand back what runs, and leave nothing behind."""
        loop = asyncio.get_running_loop()
        self.heartbeat = heartbeat = Heartbeat(
            loop,
            self._slots,
            hooks.version,
            capabilities=hooks.capabilities,
            on_stop=self.runner.cancel,
            on_lost=self.runner.lose,
        )
        if not await self._begin(heartbeat):
            return
        await get_pool()
        logger.info("worker %s serves %s", heartbeat.worker_id, self._slots, extra={"action": "worker_started"})
        connection = connect(settings.REDIS_URL)
        workers = [
            LaneWorker(lane, slots, connection, self._take, loop)
            for lane, slots in self._slots.items()
            if lane != lanes.SUSPECT
        ]
        threads = [threading.Thread(target=worker.run, name=f"lane-{worker.lane}", daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        suspects = SuspectServer(self._slots.get(lanes.SUSPECT, 0), self._grace_s)
        helpers = [
            asyncio.create_task(work) for work in (self._listen(), self._look_for_orphans(), suspects.keep_alive())
        ]
        try:
            await self._stop.wait()
        finally:
            for worker in workers:
                worker.stop()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await asyncio.gather(
                suspects.stop(),
                self.runner.shut_down(self._grace_s),
                *(asyncio.to_thread(thread.join, 5) for thread in threads),
            )
            # A claim that was under way when we were told to stop may have come in since.
            await self.runner.shut_down(0)
            await asyncio.to_thread(heartbeat.stop)
            await hooks.shut_down()
            await close_pool()
            connection.close()
            logger.info("worker stopped", extra={"action": "worker_stopped"})

    async def _begin(self, heartbeat: Heartbeat) -> bool:
        """Begin our lease as soon as PostgreSQL is there. Returns False if we are asked to stop before."""
        while not self._stop.is_set():
            try:
                await asyncio.to_thread(heartbeat.start)
            except (*OUTAGE, DjangoOperationalError) as error:
                logger.warning("the database does not answer: %s", error, extra={"action": "database_outage"})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), BEGIN_AGAIN_S)
            else:
                return True
        return False

    async def _take(self, lane: str, limit: int, release: Callable[[], None]) -> int:
        """Claim the best jobs of the lane and start them; ``release`` the slot of each when it has ended."""
        assert self.heartbeat is not None and self.heartbeat.worker_id is not None
        if self._stop.is_set():
            return 0
        try:
            claims = await script.arun(await get_pool(), claim_some(self.heartbeat.worker_id, lane, limit))
        except OUTAGE:
            await drop_broken()
            raise
        for claimed in claims:
            self.runner.start(claimed).add_done_callback(lambda _: release())
        return len(claims)

    async def _listen(self) -> None:
        """Hear of cancellations at once. Without Redis the heartbeat tells of them, two seconds later."""
        while True:
            try:
                async with (
                    redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=None) as client,
                    client.pubsub(ignore_subscribe_messages=True) as channel,
                ):
                    await channel.subscribe(wakeups.NUDGES)
                    async for message in channel.listen():
                        await self._cancel_if_asked(UUID(message["data"].decode()))
            except (RedisError, OSError):
                await asyncio.sleep(1)
            except ValueError:
                logger.warning("a nudge that names no job", extra={"action": "bad_nudge"})

    async def _cancel_if_asked(self, job_id: UUID) -> None:
        """Cancel a job that runs here if its row says so: a nudge is only a reason to look."""
        if not self.runner.runs(job_id):
            return
        assert self.heartbeat is not None and self.heartbeat.worker_id is not None
        try:
            if job_id in await script.arun(await get_pool(), lease.asked_to_stop(self.heartbeat.worker_id)):
                self.runner.cancel(job_id)
        except OUTAGE as error:
            logger.warning("could not look at a cancellation: %s", error, extra={"action": "database_outage"})

    async def _look_for_orphans(self) -> None:
        while True:
            await asyncio.sleep(ORPHAN_S / 3)
            try:
                await self.hand_back_orphans()
            except OUTAGE as error:
                logger.warning("could not look for orphans: %s", error, extra={"action": "database_outage"})

    async def hand_back_orphans(self) -> None:
        """Hand back jobs that are ours by the database but not here: the answer to a claim or a finish was lost."""
        assert self.heartbeat is not None and self.heartbeat.worker_id is not None
        pool = await get_pool()
        for job_id, fence in await script.arun(pool, lease.held(self.heartbeat.worker_id, older_than_s=ORPHAN_S)):
            if self.runner.has(job_id, fence):
                continue
            try:
                await script.arun(pool, lease.hand_back(job_id, fence))
            except OUTAGE:
                raise
            except Exception:
                # Its handler's part failed, say. The others go on, and it is tried again at the next look.
                logger.exception("could not hand back job %s", job_id, extra={"action": "hand_back_failed"})
