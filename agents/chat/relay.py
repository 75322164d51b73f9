"""Carry frames between web processes: Redis passes them on and keeps nothing.

Each conversation has a channel. A process follows those that its sockets show, and says something on one only while
another process follows it. Whoever misses a frame sees so by the numbers and asks the owner for a snapshot; what is
in the database is the truth all along.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import redis.asyncio
from django.conf import settings
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agents.chat.conversations import channel
from jobs import wakeups

logger = logging.getLogger(__name__)

#: Messages that wait for Redis at most; when more come, all are dropped and whoever misses them asks.
MAX_WAITING = 20_000
#: So many go out in one pipeline.
PAGE = 500
TIMEOUT_S = 2.0
AGAIN_S = 0.5
_PREFIX = channel("")
#: What it looks like when Redis is away.
AWAY = (RedisError, OSError)

#: The conversation, the text of the message, and the message.
Heard = Callable[[UUID, str, dict[str, Any]], None]
#: Is told how many other processes got a message.
Counted = Callable[[UUID, int], None]


class Relay:
    """One process's ear and mouth. Its calls are for the event loop.

    Args:
        heard: is called with what other processes say.
        counted: is called after each message with the number of other processes that heard it, never too small.
        came_back: is called when Redis answers again after an outage: what was said meanwhile, here or elsewhere, is
            lost. The ear and the mouth have a line each: it may be called for both.
        joined: is called when a conversation is followed from now on: what was said before was said to others.
    """

    def __init__(
        self,
        heard: Heard,
        counted: Counted,
        came_back: Callable[[], None],
        joined: Callable[[UUID], None] = lambda conversation_id: None,
    ) -> None:
        self.id = uuid4().hex
        self._heard = heard
        self._counted = counted
        self._came_back = came_back
        self._joined = joined
        self._own = f"astra:process:{self.id}"
        self._followed: set[UUID] = set()
        #: Those that Redis counts us as a listener of, for sure.
        self._confirmed: set[UUID] = set()
        self._changed = asyncio.Event()
        self._waiting: deque[tuple[UUID, bytes]] = deque()
        self._has_waiting = asyncio.Event()

    def follow(self, conversation_id: UUID) -> None:
        """Hear what is said of a conversation."""
        self._followed.add(conversation_id)
        self._changed.set()

    def unfollow(self, conversation_id: UUID) -> None:
        """Hear no more of it."""
        self._followed.discard(conversation_id)
        self._changed.set()

    def say(self, conversation_id: UUID, text: str) -> None:
        """Send a frame to the other processes, some time soon."""
        if len(self._waiting) >= MAX_WAITING:
            logger.warning("Redis is too slow: frames were dropped", extra={"action": "relay_dropped"})
            self._waiting.clear()
        self._waiting.append((conversation_id, f"{self.id}\n{text}".encode("utf-8", "replace")))
        self._has_waiting.set()

    async def run(self) -> None:
        """Carry. Never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._speak())
            group.create_task(self._listen())

    async def _speak(self) -> None:
        client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        async with client:
            while _goes_on():
                await self._has_waiting.wait()
                self._has_waiting.clear()
                while self._waiting:
                    page = [self._waiting.popleft() for _ in range(min(PAGE, len(self._waiting)))]
                    ours = [conversation_id in self._confirmed for conversation_id, _ in page]
                    try:
                        pipeline = client.pipeline(transaction=False)
                        for conversation_id, text in page:
                            pipeline.publish(channel(conversation_id), text)
                        counts = await pipeline.execute()
                    except AWAY:
                        # Among what is lost may be what we asked; the listener's own line need not have been cut.
                        self._waiting.clear()
                        await self._answers(client)
                        self._came_back()
                        break
                    for (conversation_id, _), count, is_ours in zip(page, counts, ours, strict=True):
                        # While we begin or end to follow it we may be counted or not: rather one too many.
                        self._counted(conversation_id, count - (is_ours and conversation_id in self._confirmed))

    async def _answers(self, client: redis.asyncio.Redis) -> None:
        """Wait until Redis answers."""
        while _goes_on():
            with contextlib.suppress(*AWAY):
                await client.ping()
                return
            await asyncio.sleep(AGAIN_S)

    async def _listen(self) -> None:
        was_away = False
        while _goes_on():
            try:
                async with (
                    wakeups.listener() as client,
                    client.pubsub() as ear,
                ):
                    self._changed.clear()
                    held = set(self._followed)
                    # Our own comes last: when it is confirmed, all are.
                    await ear.subscribe(*map(channel, held), self._own)
                    subscribing = asyncio.create_task(self._subscribe(ear, held))
                    try:
                        async for message in ear.listen():
                            if was_away and self._is_complete(message):
                                was_away = False
                                self._came_back()
                            self._take(message)
                    finally:
                        self._confirmed.clear()
                        subscribing.cancel()
                        await asyncio.gather(subscribing, return_exceptions=True)
            except AWAY as error:
                if not was_away:
                    logger.warning("frames wait for Redis: %s", error, extra={"action": "relay_outage"})
                was_away = True
                await asyncio.sleep(AGAIN_S)

    def _is_complete(self, message: dict[str, Any]) -> bool:
        return (message["type"], message["channel"]) == ("subscribe", self._own.encode())

    async def _subscribe(self, ear: PubSub, held: set[UUID]) -> None:
        """Keep the subscriptions of one connection what they should be."""
        with contextlib.suppress(*AWAY):  # the listener notices as well, and begins anew
            while _goes_on():
                await self._changed.wait()
                self._changed.clear()
                wanted = set(self._followed)
                if fresh := wanted - held:
                    await ear.subscribe(*map(channel, fresh))
                if gone := held - wanted:
                    self._confirmed -= gone
                    await ear.unsubscribe(*map(channel, gone))
                held = wanted

    def _take(self, message: dict[str, Any]) -> None:
        try:
            name = message["channel"].decode()
            if not name.startswith(_PREFIX):
                return
            conversation_id = UUID(name.removeprefix(_PREFIX))
            if message["type"] == "message":
                self._hear(conversation_id, message["data"].decode())
            elif message["type"] == "subscribe" and conversation_id in self._followed:
                self._confirmed.add(conversation_id)
                self._joined(conversation_id)
            else:
                self._confirmed.discard(conversation_id)
        except Exception:
            logger.exception("a frame could not be taken", extra={"action": "relay_failed"})

    def _hear(self, conversation_id: UUID, data: str) -> None:
        sender, _, text = data.rpartition("\n") if not data.startswith("{") else ("", "", data)
        if sender != self.id:
            self._heard(conversation_id, text, json.loads(text))


def _goes_on() -> bool:
    """Return True, unless the task was cancelled and that was kept from it: redis-py does so while it disconnects.

    Raises:
        CancelledError: it was.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return True
