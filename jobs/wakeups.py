"""How workers hear of work: one RQ message per job that became ready. A lost one costs two seconds, never a job."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from jobs.lanes import CHAT as CHAT_LANE

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The pub/sub channel on which owners of running jobs hear that one of them is to stop.
NUDGES = "astra:nudges"
#: The pub/sub channel on which web processes hear that a job of lane `chat` waits: no RQ worker serves that lane.
CHAT = "astra:chat"


def wake() -> None:
    """Do nothing: a wake-up is a message; the worker that takes it claims from the database."""


@functools.cache
def client() -> redis.Redis:
    """Return this process's client for messages: it gives up fast, for the database heals what is lost."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 1)
    )


#: A listener hears nothing for hours and must notice all the same that its line was cut without a word. Seconds until
#: the kernel asks, between two questions, and how many may go unanswered.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def listener() -> redis.asyncio.Redis:
    """Return a client to listen with on the event loop: it waits without end, and says so when its line is lost."""
    # One that reconnects by itself would not tell that something was missed.
    kwargs: dict[str, Any] = {"retry": AsyncRetry(NoBackoff(), 0)}
    if not settings.REDIS_URL.startswith("unix:"):
        options = {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
        kwargs |= {"socket_keepalive": True, "socket_keepalive_options": options}
    return redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=None, socket_connect_timeout=2, **kwargs)


@functools.cache
def queue(lane: str) -> Queue:
    """Return the RQ queue of a lane. One object for each: opening one costs a connection."""
    return Queue(lane, connection=client(), serializer=JSONSerializer)


#: After a failure nothing is pushed for this long: whoever submits does not wait for Redis again and again. Seconds.
SILENT_S = 2.0
_silent_until = 0.0


def push(lanes: Sequence[str]) -> None:
    """Push one wake-up for each lane named. Never raises for want of Redis: idle slots look for themselves."""
    with _quietly("could not push a wake-up; idle workers will look", "wakeup_not_pushed") as is_there:
        for lane in lanes if is_there else ():
            if lane == CHAT_LANE:
                client().publish(CHAT, "")
            else:
                queue(lane).enqueue(wake, job_timeout=-1, result_ttl=0, failure_ttl=0, description=lane)


_pusher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wakeups")


async def in_thread(say: Callable[[T], None], what: T) -> None:
    """Push from the event loop, in a thread of its own."""
    await asyncio.get_running_loop().run_in_executor(_pusher, say, what)


def tell(messages: Sequence[tuple[str, Any]]) -> None:
    """Publish messages, (channel, JSON) each. Never raises for want of Redis: what matters is in the database."""
    with _quietly("could not publish", "not_published") as is_there:
        for channel, message in messages if is_there else ():
            client().publish(channel, json.dumps(message))


@contextmanager
def _quietly(what: str, action: str) -> Iterator[bool]:
    """Keep the errors of Redis from whoever submits; gives whether it is worth a try now."""
    global _silent_until
    try:
        yield time.monotonic() >= _silent_until
    except redis.RedisError as error:
        _silent_until = time.monotonic() + SILENT_S
        logger.warning("%s: %s", what, error, extra={"action": action})


def nudge(job_id: object) -> None:
    """Tell whoever runs the job to look at its row now. Its next heartbeat would tell it anyway."""
    try:
        client().publish(NUDGES, str(job_id))
    except redis.RedisError as error:
        logger.warning("could not nudge; the heartbeat will: %s", error, extra={"action": "nudge_not_sent"})


def depth(lane: str) -> int | None:
    """Return how many wake-ups of the lane wait in Redis; None when Redis does not answer."""
    try:
        return queue(lane).count
    except redis.RedisError:
        return None
