"""The thread that keeps a process's lease: it beats only while the event loop does."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from django.db import close_old_connections

from jobs import lease, script
from jobs.pool import conninfo
from jobs.script import Script

logger = logging.getLogger(__name__)

#: A loop that has not ticked for this long does no work: its lease is left to run out. Seconds.
STALL_S = 4.0
#: After a failure it tries again sooner than it would renew. Seconds.
RETRY_S = 0.5
#: It does not wait longer than this for an answer. Milliseconds.
PATIENCE_MS = 5000

T = TypeVar("T")


class Heartbeat:
    """Register the process as a worker, renew its lease, and say what the database says back.

    Callbacks run on the event loop. It has a connection of its own: no crowd at a pool keeps it from renewing.

    Args:
        capabilities: what the process has loaded. Asked every two seconds, in a thread where it may take its time.
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
        self._stalled = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self._loaded: Sequence[str] = ()
        self._loading = threading.Thread(target=self._load_until_stopped, name="capabilities", daemon=True)
        self._connection: psycopg.Connection[Any] | None = None
        self.worker_id: UUID | None = None

    def start(self) -> None:
        """Register, then beat in a thread. Raises what the database raises if it is away."""
        self._loaded = self._capabilities()
        close_old_connections()
        self.register()
        self._loop.call_soon_threadsafe(self._tick)
        self._thread.start()
        self._loading.start()

    def register(self) -> UUID:
        """Begin a lease of our own."""
        self.worker_id = self._do(lease.register(self._slots, self._loaded, self._version))
        return self.worker_id

    def stop(self) -> None:
        """End the lease in good order. Jobs that are still held are taken from it. Call from a thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if self.worker_id is not None:
            try:
                self._do(lease.end(self.worker_id, "stopped"))
            except psycopg.Error:
                logger.warning("could not say goodbye; the lease will run out", extra={"action": "goodbye_failed"})
        if self._connection is not None:
            self._connection.close()

    def _do(self, what: Script[T]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(conninfo(statement_timeout=PATIENCE_MS), autocommit=True)
        try:
            return script.run_on(self._connection, what)
        except psycopg.Error:
            self._connection.close()
            raise

    def _tick(self) -> None:
        self._ticked_at = self._clock()
        if not self._stopping.is_set():
            self._loop.call_later(0.5, self._tick)

    def _beat_until_stopped(self) -> None:
        wait_s = lease.RENEW_S
        while not self._stopping.wait(wait_s):
            beaten = False
            try:
                beaten = self.beat()
            except psycopg.Error as error:
                logger.warning("could not renew the lease: %s", error, extra={"action": "renewal_failed"})
            except Exception:
                logger.exception("the heartbeat failed", extra={"action": "heartbeat_failed"})
            wait_s = lease.RENEW_S if beaten else RETRY_S

    def _load_until_stopped(self) -> None:
        while not self._stopping.wait(lease.RENEW_S):
            try:
                self._loaded = self._capabilities()
            except Exception as error:
                logger.warning("could not see what is loaded: %s", error, extra={"action": "capabilities_unknown"})
            close_old_connections()

    def beat(self) -> bool:
        """Renew once. Returns False if the loop has stalled, so nothing was renewed."""
        assert self.worker_id is not None
        stalled_s = self._clock() - self._ticked_at
        if stalled_s > STALL_S:
            if not self._stalled:
                logger.error(
                    "the event loop has not moved for %.1f s; the lease is not renewed",
                    stalled_s,
                    extra={"action": "loop_stalled"},
                )
            self._stalled = True
            return False
        self._stalled = False
        stops = self._do(lease.renew(self.worker_id))
        if stops is None:
            lost = self.worker_id
            logger.error("our lease was declared lost; beginning a new one", extra={"action": "own_lease_lost"})
            self._loop.call_soon_threadsafe(self._on_lost, lost)
            self.register()
            return True
        for job_id in stops:
            self._loop.call_soon_threadsafe(self._on_stop, job_id)
        self._do(lease.update_capabilities(self.worker_id, self._loaded))
        return True
