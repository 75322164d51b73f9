"""Follow the events of many jobs with one query: each stream says how far it has read, the hub fetches the rest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from jobs.pool import get_pool
from jobs.states import ENDED

logger = logging.getLogger(__name__)

POLL_S = 0.25
#: While PostgreSQL is away.
OUTAGE_POLL_S = 2.0
#: Events of one stream fetched at once; a long history comes in so many pieces.
PAGE = 200

# One index range per stream; the state comes from the same snapshot as the events, so that "ended, and nothing more to
# read" is true when it is said.
FETCH = """
SELECT w.job_id, w.after, j.state, e.id, e.at, e.kind, e.old, e.new, e.actor, e.reason, e.data
FROM unnest(%s::uuid[], %s::bigint[]) AS w(job_id, after)
JOIN jobs_job j ON j.id = w.job_id
LEFT JOIN LATERAL (
    SELECT * FROM jobs_jobevent e WHERE e.job_id = w.job_id AND e.id > w.after ORDER BY e.id LIMIT %s
) e ON true
ORDER BY e.id
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job."""

    id: int
    at: datetime
    kind: str
    old: str
    new: str
    actor: str
    reason: str
    data: Any


@dataclass(frozen=True, slots=True)
class End:
    """The job has ended in ``state`` and every event was told; or it is gone (``state`` None)."""

    state: str | None


@dataclass(eq=False, slots=True)
class Stream:
    """What one client has still to be told. A slow client is not fetched for until it has taken what it was given."""

    job_id: UUID
    after: int
    _hungry: asyncio.Event
    _items: asyncio.Queue[Event | End] = field(default_factory=asyncio.Queue)
    _more: bool = False

    async def next(self) -> Event | End:
        """Wait for the next event, or the end."""
        item = await self._items.get()
        if self._more and self.is_drained:
            self._more = False
            self._hungry.set()
        return item

    @property
    def is_drained(self) -> bool:
        """Whether everything fetched was taken."""
        return self._items.empty()

    def give(self, events: list[Event], state: str | None) -> None:
        """Hand over what was fetched."""
        for event in events:
            self.after = event.id
            self._items.put_nowait(event)
        self._more = len(events) == PAGE
        if state is None or (state in ENDED and not self._more):
            self._items.put_nowait(End(state))


class Hub:
    """All streams of one event loop."""

    def __init__(self) -> None:
        self._streams: set[Stream] = set()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def open(self, job_id: UUID, after: int) -> Stream:
        """Begin to follow a job after the event with the id ``after``."""
        stream = Stream(job_id, after, self._news)
        self._streams.add(stream)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll(), name="event hub")
        return stream

    def close(self, stream: Stream) -> None:
        """Stop following. With its last stream the hub comes to rest."""
        self._streams.discard(stream)
        if not self._streams and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _poll(self) -> None:
        is_out = False
        while True:
            self._news.clear()
            try:
                await self._fetch()
                is_out = False
            except Exception as error:  # the streams of a whole process hang on this loop: it goes on
                if not is_out:
                    logger.warning("event streams wait for the database: %s", error, extra={"action": "events_outage"})
                is_out = True
            if is_out:
                await asyncio.sleep(OUTAGE_POLL_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._news.wait()  # a new stream, or one that wants the rest of its history

    async def _fetch(self) -> None:
        ready = [stream for stream in self._streams if stream.is_drained]
        wanted = sorted({(stream.job_id, stream.after) for stream in ready})
        if not wanted:
            return
        pool = await get_pool()
        async with pool.connection() as connection:
            cursor = await connection.execute(FETCH, [[job for job, _ in wanted], [after for _, after in wanted], PAGE])
            rows = await cursor.fetchall()
        found: dict[tuple[UUID, int], tuple[str, list[Event]]] = {}
        for row in rows:
            _, events = found.setdefault((row["job_id"], row["after"]), (row["state"], []))
            if row["id"] is not None:
                events.append(Event(*(row[name] for name in Event.__slots__)))
        for stream in ready:
            state, events = found.get((stream.job_id, stream.after), (None, []))
            stream.give(events, state)


_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = weakref.WeakKeyDictionary()


def hub() -> Hub:
    """Return the running loop's hub."""
    loop = asyncio.get_running_loop()
    found = _hubs.get(loop)
    if found is None:
        found = _hubs[loop] = Hub()
    return found
