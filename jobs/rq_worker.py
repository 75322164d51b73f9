"""What Astra's two kinds of RQ worker share: messages are dropped once taken, for the row is the truth."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.job import Job as Message
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now as rq_now
from rq.worker.base import BaseWorker

if TYPE_CHECKING:
    Base = BaseWorker
else:
    Base = object

logger = logging.getLogger(__name__)

#: After Redis failed to answer it is asked again after this long. Seconds.
AWAY_S = 5.0
#: It answers within this time or is away; the longest wait for a message is a second. Seconds.
PATIENCE_S = 3


def connect(url: str) -> redis.Redis:
    """Return a connection for workers. It does not try again: the database is looked at meanwhile."""
    return redis.Redis.from_url(url, socket_timeout=PATIENCE_S, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


class MessageWorker(Base):
    """A mixin for RQ's workers, on one queue, without RQ's own results, retries, registries and commands.

    RQ's loop never sees an outage of Redis: the wait for a message goes on without it.
    """

    _beat_at = 0.0
    _asked_at = 0.0
    _suspended = False
    _away_until: float | None = None

    def __init__(self, lane: str, connection: redis.Redis) -> None:
        queue = Queue(lane, connection=connection, serializer=JSONSerializer)
        super().__init__([queue], connection=connection, serializer=JSONSerializer, log_job_description=False)
        self.lane = lane

    def next_message(self) -> tuple[Message, Queue] | None:
        """Wait up to a second for a message, but not while Redis is away."""
        if self.is_away():
            return None
        try:
            message: tuple[Message, Queue] | None = self.queue_class.dequeue_any(
                self._ordered_queues,
                1,
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
            )
        except DequeueTimeout:
            message = None
        except redis.RedisError as error:
            self.note_outage(error)
            return None
        if self._away_until is not None:
            self._away_until = None
            logger.info("lane %s: Redis answers again", self.lane, extra={"action": "redis_back"})
        return message

    def is_away(self) -> bool:
        """Tell whether Redis did not answer a moment ago and is to be left alone for now."""
        return self._away_until is not None and time.monotonic() < self._away_until

    def note_outage(self, error: redis.RedisError) -> None:
        """Leave Redis alone for a while; say so once."""
        if self._away_until is None:
            logger.warning(
                "lane %s: Redis does not answer, looking without it: %s",
                self.lane,
                error,
                extra={"action": "redis_outage"},
            )
        self._away_until = time.monotonic() + AWAY_S

    def drop(self, message: Message, queue: Queue) -> None:
        """Forget a message: what it stood for is in the database. One that Redis keeps is dropped at maintenance."""
        with contextlib.suppress(redis.RedisError), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 1, message.id)
            pipeline.delete(message.key)
            pipeline.execute()

    def is_suspended(self) -> bool:
        """Tell whether somebody suspended RQ's workers; asked once a second, for each answer is a round trip."""
        if time.monotonic() - self._asked_at >= 1 and not self.is_away():
            try:
                self._suspended = bool(is_suspended(self.connection, self))
            except redis.RedisError as error:
                self.note_outage(error)
            self._asked_at = time.monotonic()
        return self._suspended

    @property
    def connection_timeout(self) -> int:
        """Seconds that a command may take."""
        return PATIENCE_S

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Show up in RQ's own pages, at most every ten seconds; come back after a flush."""
        if time.monotonic() - self._beat_at < 10:
            return
        self._beat_at = time.monotonic()
        with contextlib.suppress(redis.RedisError):
            if not self.connection.exists(self.key):
                super().register_birth()  # type: ignore[no-untyped-call]
            self.connection.expire(self.key, 90)

    def run_maintenance_tasks(self) -> None:
        """Drop messages whose taker died between pop and claim. The rows they stood for are found without them."""
        self.last_cleaned_at: Any = rq_now()
        with contextlib.suppress(redis.RedisError):
            self._drop_stuck_messages()

    def _drop_stuck_messages(self) -> None:
        queue = self.queues[0]
        stuck = queue.intermediate_queue.get_job_ids()
        with self.connection.pipeline(transaction=False) as pipeline:
            for message_id in stuck:
                pipeline.lrem(queue.intermediate_queue_key, 1, message_id)
                pipeline.delete(self.job_class.key_for(message_id))
            pipeline.execute()

    def register_birth(self) -> None:
        """Leave it to the heartbeat, which registers whenever we are not in RQ's list."""

    def _set_ip_address(self, connection: redis.Redis) -> None:
        """Ask Redis nothing: it may be away when we begin."""
        self.ip_address = "unknown"

    def teardown(self) -> None:
        """Leave RQ's list, if Redis is there to be told."""
        if self.is_horse:
            return
        with contextlib.suppress(redis.RedisError):
            self.register_death()  # type: ignore[no-untyped-call]

    def check_for_suspension(self, burst: bool) -> None:
        """Nothing here: the wait for a message looks at it, so that a suspended lane still stops when told."""

    def set_state(self, state: Any, pipeline: Any = None) -> None:
        """Nothing: a lane is busy and idle at once."""

    def procline(self, message: str) -> None:
        """Nothing: the process keeps its name."""

    def subscribe(self) -> None:
        """Nothing: commands come through the database."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed to."""
