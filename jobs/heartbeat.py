"""The thread that keeps a process's lease: it beats only while the event loop does."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from django.db import Error as DatabaseError
from django.db import connection
from psycopg import Error as PsycopgError

from jobs import lease, script

logger = logging.getLogger(__name__)

#: A loop that has not ticked for this long does no work: its lease is left to run out. Seconds.
STALL_S = 4.0


class Heartbeat:
    """Register the process as a worker, renew its lease, and say what the database says back.

    All callbacks run on the event loop.

    Args:
        capabilities: what the process has loaded, asked at each beat.
        on_stop: one of our jobs was asked to stop.
        on_lost: a lease of ours was declared lost; its jobs are no longer ours. A new one is begun at once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        slots: dict[str, int],
        version: str,
        *,
        capabilities: Callable[[], Sequence[str]],
        on_stop: Callable[[UUID], None],
        on_lost: Callable[[UUID], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._slots = slots
        self._version = version
        self._capabilities = capabilities
        self._on_stop = on_stop
        self._on_lost = on_lost
        self._clock = clock
        self._ticked_at = clock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self.worker_id: UUID | None = None

    def start(self) -> None:
        """Register, then beat in a thread. Raises what the database raises if it is away."""
        self.register()
        self._loop.call_soon_threadsafe(self._tick)
        self._thread.start()

    def register(self) -> UUID:
        """Begin a lease of our own."""
        self.worker_id = script.run(lease.register(self._slots, self._capabilities(), self._version))
        return self.worker_id

    def stop(self) -> None:
        """End the lease in good order. Jobs that are still held are taken from it. Call from a thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if self.worker_id is not None:
            try:
                script.run(lease.end(self.worker_id, "stopped"))
            except DatabaseError:
                logger.warning("could not say goodbye; the lease will run out", extra={"action": "goodbye_failed"})

    def _tick(self) -> None:
        self._ticked_at = self._clock()
        if not self._stopping.is_set():
            self._loop.call_later(0.5, self._tick)

    def _beat_until_stopped(self) -> None:
        while not self._stopping.wait(lease.RENEW_S):
            try:
                self.beat()
            except (DatabaseError, PsycopgError) as error:
                connection.close()
                logger.warning("could not renew the lease: %s", error, extra={"action": "renewal_failed"})
            except Exception:
                logger.exception("the heartbeat failed", extra={"action": "heartbeat_failed"})
        connection.close()

    def beat(self) -> bool:
        """Renew once. Returns False if the loop has stalled, so nothing was renewed."""
        assert self.worker_id is not None
        stalled_s = self._clock() - self._ticked_at
        if stalled_s > STALL_S:
            logger.error(
                "the event loop has not moved for %.1f s; the lease is not renewed",
                stalled_s,
                extra={"action": "loop_stalled"},
            )
            return False
        stops = script.run(lease.renew(self.worker_id))
        if stops is None:
            lost = self.worker_id
            logger.error("our lease was declared lost; beginning a new one", extra={"action": "own_lease_lost"})
            self._loop.call_soon_threadsafe(self._on_lost, lost)
            self.register()
            return True
        for job_id in stops:
            self._loop.call_soon_threadsafe(self._on_stop, job_id)
        script.run(lease.update_capabilities(self.worker_id, self._capabilities()))
        return True
