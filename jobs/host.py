"""What every process that runs jobs has: a lease, the runs in flight, an ear for orders, and an eye for orphans."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from django.db import OperationalError as DjangoOperationalError
from redis.exceptions import RedisError

from jobs import lease, script, wakeups
from jobs.claim import claim_some
from jobs.handlers import Claim
from jobs.heartbeat import Heartbeat
from jobs.pool import drop_broken, get_pool
from jobs.process import hooks
from jobs.runner import OUTAGE, Runner

logger = logging.getLogger(__name__)

#: A job that this process holds by the database, but does not run, is handed back after this long. Seconds.
ORPHAN_S = 6.0
#: So long after PostgreSQL was away at the start it is tried again. Seconds.
BEGIN_AGAIN_S = 1.0


class Host:
    """One process's place among those that run jobs. Its calls are for the event loop."""

    def __init__(self, slots: dict[str, int]) -> None:
        self.slots = dict(slots)
        self.runner = Runner()
        self.stopping = asyncio.Event()
        self.heartbeat: Heartbeat | None = None

    @property
    def worker_id(self) -> UUID:
        """The id that it has now; another one after its lease was lost."""
        assert self.heartbeat is not None and self.heartbeat.worker_id is not None
        return self.heartbeat.worker_id

    async def begin(self) -> bool:
        """Begin our lease as soon as PostgreSQL is there. Returns False if we are asked to stop before."""
        self.heartbeat = heartbeat = Heartbeat(
            asyncio.get_running_loop(),
            self.slots,
            hooks.version,
            capabilities=hooks.capabilities,
            on_stop=self.runner.cancel,
            on_lost=self.runner.lose,
        )
        while not self.stopping.is_set():
            try:
                await asyncio.to_thread(heartbeat.start)
            except (*OUTAGE, DjangoOperationalError) as error:
                logger.warning("the database does not answer: %s", error, extra={"action": "database_outage"})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), BEGIN_AGAIN_S)
            else:
                await get_pool()
                return True
        return False

    async def end(self) -> None:
        """End our lease. Whatever still runs is taken from us."""
        if self.heartbeat is not None:
            await asyncio.to_thread(self.heartbeat.stop)

    async def claim(self, lane: str, limit: int) -> list[Claim]:
        """Claim the best jobs of the lane; none once we are stopping."""
        if self.stopping.is_set():
            return []
        try:
            return await script.arun(await get_pool(), claim_some(self.worker_id, lane, limit))
        except OUTAGE:
            await drop_broken()
            raise

    async def listen(self, others: dict[str, Callable[[bytes], Awaitable[None]]] | None = None) -> None:
        """Hear of cancellations at once, and what is said on other channels. Never returns.

        Without Redis the heartbeat tells of cancellations, two seconds later.
        """
        channels = {wakeups.NUDGES: self._nudged, **(others or {})}
        while True:
            try:
                async with (
                    wakeups.listener() as client,
                    client.pubsub(ignore_subscribe_messages=True) as channel,
                ):
                    await channel.subscribe(*channels)
                    async for message in channel.listen():
                        await channels[message["channel"].decode()](message["data"])
            except (RedisError, OSError):
                await asyncio.sleep(1)

    async def _nudged(self, data: bytes) -> None:
        try:
            job_id = UUID(data.decode())
        except ValueError:
            logger.warning("a nudge that names no job", extra={"action": "bad_nudge"})
        else:
            await self._cancel_if_asked(job_id)

    async def _cancel_if_asked(self, job_id: UUID) -> None:
        """Cancel a job that runs here if its row says so: a nudge is only a reason to look."""
        if not self.runner.runs(job_id):
            return
        try:
            if job_id in await script.arun(await get_pool(), lease.asked_to_stop(self.worker_id)):
                self.runner.cancel(job_id)
        except OUTAGE as error:
            logger.warning("could not look at a cancellation: %s", error, extra={"action": "database_outage"})

    async def look_for_orphans(self) -> None:
        """Hand back orphans, again and again. Never returns."""
        while True:
            await asyncio.sleep(ORPHAN_S / 3)
            try:
                await self.hand_back_orphans()
            except OUTAGE as error:
                logger.warning("could not look for orphans: %s", error, extra={"action": "database_outage"})

    async def hand_back_orphans(self) -> None:
        """Hand back jobs that are ours by the database but not here: the answer to a claim or a finish was lost."""
        pool = await get_pool()
        for job_id, fence in await script.arun(pool, lease.held(self.worker_id, older_than_s=ORPHAN_S)):
            if self.runner.has(job_id, fence):
                continue
            try:
                await script.arun(pool, lease.hand_back(job_id, fence))
            except OUTAGE:
                raise
            except Exception:
                # Its handler's part failed, say. The others go on, and it is tried again at the next look.
                logger.exception("could not hand back job %s", job_id, extra={"action": "hand_back_failed"})
