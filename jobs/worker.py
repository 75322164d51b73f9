"""A worker process: one event loop for all runs, one RQ worker thread per lane, one lease."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from django.conf import settings

from jobs import lanes
from jobs.host import Host
from jobs.lane_worker import LaneWorker
from jobs.pool import close_pool
from jobs.process import hooks
from jobs.rq_worker import connect
from jobs.suspects import SuspectServer

logger = logging.getLogger(__name__)


class WorkerProcess:
    """Everything one `manage.py worker` does."""

    def __init__(self, slots: dict[str, int], *, grace_s: float = 20.0) -> None:
        self._host = Host(slots)
        self._grace_s = grace_s

    def request_stop(self) -> None:
        """Begin to stop. Call on the loop."""
        self._host.stopping.set()

    async def run(self) -> None:
        """Work until asked to stop; then finish or hand back what runs, and leave nothing behind."""
        loop = asyncio.get_running_loop()
        host = self._host
        if not await host.begin():
            return
        logger.info("worker %s serves %s", host.worker_id, host.slots, extra={"action": "worker_started"})
        connection = connect(settings.REDIS_URL)
        workers = [
            LaneWorker(lane, slots, connection, self._take, loop)
            for lane, slots in host.slots.items()
            if lane != lanes.SUSPECT
        ]
        threads = [threading.Thread(target=worker.run, name=f"lane-{worker.lane}", daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        suspects = SuspectServer(host.slots.get(lanes.SUSPECT, 0), self._grace_s)
        helpers = [
            asyncio.create_task(work) for work in (host.listen(), host.look_for_orphans(), suspects.keep_alive())
        ]
        try:
            await host.stopping.wait()
        finally:
            for worker in workers:
                worker.stop()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await asyncio.gather(
                suspects.stop(),
                host.runner.shut_down(self._grace_s),
                *(asyncio.to_thread(thread.join, 5) for thread in threads),
            )
            # A claim that was under way when we were told to stop may have come in since.
            await host.runner.shut_down(0)
            await host.end()
            await hooks.shut_down()
            await close_pool()
            connection.close()
            logger.info("worker stopped", extra={"action": "worker_stopped"})

    async def _take(self, lane: str, limit: int, release: Callable[[], None]) -> int:
        """Claim the best jobs of the lane and start them; ``release`` the slot of each when it has ended."""
        claims = await self._host.claim(lane, limit)
        for claimed in claims:
            self._host.runner.start(claimed).add_done_callback(lambda _: release())
        return len(claims)
