"""The chat of one web process: it begins replies, runs them, takes over what others left, and tells who watches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.db import DatabaseError
from psycopg.errors import UniqueViolation

from accounts.problems import NotFound, Unavailable
from agents import registry
from agents.chat import escape, exchange, frames, stream
from agents.chat.database import ask, in_thread
from agents.chat.exchange import Begun, Reply, Said, Written
from agents.chat.refusals import ChatFull, Paused, ReplyRunning
from agents.chat.relay import Relay
from agents.chat.rooms import Room, Rooms, Socket
from agents.chat.stream import RunStream, Ticker
from audit.trail import Actor
from jobs import lanes, script, wakeups
from jobs.actions import Cancel, InvalidState, UnknownJob
from jobs.handlers import Claim
from jobs.host import Host
from jobs.pool import get_pool
from jobs.runner import OUTAGE, persist
from jobs.submit import HeldBack, NotLeased

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Replies that one web process writes at a time, unless `astra.yml` says otherwise (`lanes.chat.slots`).
DEFAULT_SLOTS = 250
#: So often it looks for replies that other processes left, in case nobody told it. Seconds.
LOOK_S = 2.0
#: Taken over at once, so that several processes share what one left.
MAX_TAKEN = 20
#: So often the text of replies is stored. Seconds.
SAVE_S = 1.0
BEAT_S = 0.25
#: A message waits so long for a process that is still starting. Seconds.
START_S = 10.0
#: Nobody hears us: for so long after somebody asked, that is not believed. Seconds.
ASKED_S = 2.0
#: Close code of a socket that is to come back, to another process.
GO_ELSEWHERE = 4000
#: Close code of a socket whose conversation is no more.
GONE = 4404


class ChatHost:
    """Everything the chat does in one web process. Its calls are for the event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rooms = Rooms()
        self.slots = DEFAULT_SLOTS
        self._host: Host | None = None
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._look = asyncio.Event()
        self._ticker = Ticker()
        self._relay = Relay(self._heard, self._counted, self._ask_again)
        self._remote: set[UUID] = set()
        self._asked_at: dict[UUID, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: set[RunStream] = set()

    # --- its life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`."""
        self.slots = await in_thread(_slots)
        self._host = host = Host({lanes.CHAT: self.slots})
        if self._stopping.is_set() or not await host.begin():
            return
        self._ready.set()
        logger.info("the chat writes %d replies at a time", self.slots, extra={"action": "chat_started"})
        await asyncio.gather(
            _again_and_again(lambda: host.listen({wakeups.CHAT: self._woken})),
            _again_and_again(host.look_for_orphans),
            _again_and_again(self._take_over),
            _again_and_again(self._beat),
            _again_and_again(self._save),
            _again_and_again(self._relay.run),
        )

    async def stop(self, grace_s: float) -> None:
        """Send the pages elsewhere, let replies finish for ``grace_s`` seconds, hand the rest back."""
        self._stopping.set()
        for socket in self.rooms.sockets():
            socket.send_away(GO_ELSEWHERE)
        if self._host is None or not self._ready.is_set():
            if self._host is not None:
                self._host.stopping.set()
            return
        self._host.stopping.set()
        await self._host.runner.shut_down(grace_s)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
        await self._host.end()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- what people do -----------------------------------------------------------------------------------------

    def join(self, conversation_id: UUID, socket: Socket) -> Room:
        """Let a page follow a conversation."""
        self._relay.follow(conversation_id)
        return self.rooms.join(conversation_id, socket)

    def leave(self, conversation_id: UUID, socket: Socket) -> None:
        """A page is gone."""
        if self.rooms.leave(conversation_id, socket):
            self._unfollow(conversation_id)

    def _unfollow(self, conversation_id: UUID) -> None:
        """Hear no more of a conversation that is neither shown nor written here. Who writes it must hear who asks."""
        if self.rooms.get(conversation_id) is None and not self._is_written(conversation_id):
            self._relay.unfollow(conversation_id)

    def _is_written(self, conversation_id: UUID) -> bool:
        return any(written.conversation_id == conversation_id for written in self._streams)

    async def send(self, said: Said) -> Begun:
        """Begin the reply to a message; the run goes on whoever is still there to read it.

        Raises:
            Problem: it is refused, and nothing was written.
        """
        # Whoever asked may be gone before the answer: what is committed must be run all the same.
        return await asyncio.shield(self._spawn(self._send(said)))

    async def _send(self, said: Said) -> Begun:
        host = await self._serving()
        if len(host.runner) >= self.slots:
            raise ChatFull(
                "As many replies are being written as this site can. Try again in a few seconds.",
                headers={"Retry-After": "5"},
                retry_after_s=5,
            )
        try:
            known = await _registry()
            begun = await ask(lambda: exchange.begin(said, known, host.worker_id))
        except HeldBack as error:
            raise Paused(f"Messages wait for: {', '.join(error.reasons)}. Try again later.") from None
        except UniqueViolation:
            raise ReplyRunning("A reply is still being written in this conversation.") from None
        except (*OUTAGE, NotLeased, DatabaseError) as error:
            logger.warning("a message could not be written: %s", error, extra={"action": "chat_unavailable"})
            raise unavailable("The database does not answer now. Your message was not sent.") from None
        if begun.claim is not None:
            written = self._open(begun.claim, said.conversation_id)
            self._remote.add(said.conversation_id)  # until we hear that nobody else listens
            written.accept(said.client_id, said.text)
            self._start(written)
        return begun

    async def stop_run(self, run_id: UUID, conversation_id: UUID, actor: Actor) -> None:
        """Stop a reply, wherever it is written. One that has ended is left as it is.

        Raises:
            Problem: there is no such reply in that conversation, or the database does not answer.
        """
        await self._check(run_id, conversation_id)
        if self._host is not None and self._host.runner.runs(run_id):
            self._host.runner.cancel(run_id)  # at once; what follows makes sure of it
        await asyncio.shield(self._spawn(in_thread(_cancel, run_id, actor)))

    async def show(self, run_id: UUID, conversation_id: UUID, socket: Socket) -> None:
        """Send a page what there is of a reply; what follows comes by itself.

        Raises:
            Problem: there is no such reply in that conversation, or the database does not answer.
        """
        for text in await self._shown(run_id, conversation_id):
            socket.put(text)

    async def catch_up(self, conversation_id: UUID) -> list[str]:
        """Return for a page that missed something what there is of the conversation's last reply.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            run_id = await ask(lambda: exchange.last_run(conversation_id))
            return await self._shown(run_id, conversation_id) if run_id is not None else []
        except OUTAGE:
            raise unavailable("The database does not answer now.") from None

    async def _shown(self, run_id: UUID, conversation_id: UUID) -> list[str]:
        written = stream.running(run_id)
        if written is not None and written.conversation_id == conversation_id and written.is_showing:
            return [written.snapshot()]
        reply = await self._read(run_id, conversation_id)
        if reply is None:
            raise NotFound("There is no such reply in this conversation.")
        if reply.has_ended:
            return [frames.snapshot(reply), await frames.last(reply)]
        room = self.rooms.get(conversation_id)
        if room is not None:
            room.want(run_id, reply.seq)
        self._ask(conversation_id)
        return [frames.snapshot(reply)]

    async def _check(self, run_id: UUID, conversation_id: UUID) -> None:
        written = stream.running(run_id)
        if written is not None and written.conversation_id == conversation_id:
            return
        if await self._read(run_id, conversation_id) is None:
            raise NotFound("There is no such reply in this conversation.")

    async def _read(self, run_id: UUID, conversation_id: UUID) -> Reply | None:
        try:
            return await ask(lambda: exchange.read(run_id, conversation_id))
        except OUTAGE:
            raise unavailable("The database does not answer now.") from None

    async def _serving(self) -> Host:
        if not self._ready.is_set() and not self._stopping.is_set():
            try:
                async with asyncio.timeout(START_S):
                    await self._ready.wait()
            except TimeoutError:
                raise unavailable("The chat is still starting.") from None
        if self._stopping.is_set() or self._host is None:
            raise unavailable("This part of the site is being restarted. Try again.", after_s=1)
        return self._host

    # --- replies ------------------------------------------------------------------------------------------------

    def _open(self, claim: Claim, conversation_id: UUID, steps: list[dict[str, Any]] | None = None) -> RunStream:
        made = RunStream(
            claim,
            conversation_id=conversation_id,
            message_id=UUID(claim.payload["message"]),
            say=lambda text: self._say(conversation_id, text),
            ticker=self._ticker,
            steps=steps,
        )
        stream.keep(made)
        self._streams.add(made)
        self._relay.follow(conversation_id)
        return made

    def _start(self, written: RunStream) -> None:
        assert self._host is not None
        task = self._host.runner.start(written.claim)
        task.add_done_callback(lambda _: self._ended(written))

    def _ended(self, written: RunStream) -> None:
        stream.drop(written)
        self._streams.discard(written)
        self._spawn(self._conclude(written))

    async def _conclude(self, written: RunStream) -> None:
        """Say how a reply ended, once that is written. One that goes on elsewhere, or later, is told from there."""
        run_id, conversation_id = written.run_id, written.conversation_id
        reply: Reply | None = await persist(lambda: exchange.read(run_id, conversation_id))
        if reply is not None and reply.status == "failed" and await escape.hand_over(run_id) is not None:
            reply = await persist(lambda: exchange.read(run_id, conversation_id))  # its problem says where it went
        if reply is not None and reply.has_ended:
            self._say(conversation_id, await frames.last(reply))
        room = self.rooms.get(conversation_id)
        if reply is not None and room is not None:
            if reply.has_ended:
                room.saw(run_id, reply.seq)
            else:
                room.want(run_id, written.seq)
        if not self._is_written(conversation_id):
            self._remote.discard(conversation_id)
            self._asked_at.pop(conversation_id, None)
        self._unfollow(conversation_id)

    async def _woken(self, data: bytes) -> None:
        self._look.set()

    async def _take_over(self) -> None:
        """Run what other processes left."""
        assert self._host is not None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._take_some(self._host)
            except OUTAGE as error:
                logger.warning("could not look for replies: %s", error, extra={"action": "database_outage"})

    async def _take_some(self, host: Host) -> None:
        free = self.slots - len(host.runner)
        if free <= 0:
            return
        for claim in await host.claim(lanes.CHAT, min(free, MAX_TAKEN)):
            try:
                await self._resume(claim)
            except OUTAGE:
                raise  # it is handed back as an orphan
            except Exception:
                logger.exception("a reply could not be taken over", extra={"action": "take_over_failed"})

    async def _resume(self, claim: Claim) -> None:
        steps = await script.arun(await get_pool(), exchange.steps_of(claim.job_id))
        conversation_id = UUID(claim.payload["conversation"])
        written = self._open(claim, conversation_id, steps)
        self._remote.add(conversation_id)
        logger.info("reply %s is taken over", claim.job_id, extra={"action": "reply_taken_over"})
        self._start(written)

    async def _beat(self) -> None:
        """Let every page know that its reply is alive."""
        while True:
            await asyncio.sleep(BEAT_S)
            for written in tuple(self._streams):
                written.beat()
            for room in self.rooms:
                for run_id in room.silent():
                    if stream.running(run_id) is None:
                        self._spawn(self._tell_end(room.conversation_id, run_id))

    async def _save(self) -> None:
        """Store the text of the replies that are being written: one statement for all of them."""
        while True:
            await asyncio.sleep(SAVE_S)
            dirty = [one for one in self._streams if one.seq > one.saved_seq and one.is_showing]
            if not dirty:
                continue
            for one in dirty:
                one.flush()
            written = [Written(one.claim, one.message_id, one.text, one.seq) for one in dirty]
            try:
                await script.arun(await get_pool(), exchange.save(written))
            except OUTAGE as error:
                logger.warning("replies could not be stored: %s", error, extra={"action": "database_outage"})
            except Exception:
                logger.exception("replies could not be stored", extra={"action": "save_failed"})
            else:
                for one, saved in zip(dirty, written, strict=True):
                    one.saved_seq = saved.seq

    # --- who is told --------------------------------------------------------------------------------------------

    def _say(self, conversation_id: UUID, text: str) -> None:
        room = self.rooms.get(conversation_id)
        if room is not None:
            room.say(text)
        if conversation_id in self._remote:
            self._relay.say(conversation_id, text)

    def _counted(self, conversation_id: UUID, others: int) -> None:
        if others <= 0 and time.monotonic() - self._asked_at.get(conversation_id, float("-inf")) > ASKED_S:
            self._remote.discard(conversation_id)

    def _ask(self, conversation_id: UUID) -> None:
        self._relay.say(conversation_id, '{"type":"ask"}')

    def _ask_again(self) -> None:
        for room in self.rooms:
            self._ask(room.conversation_id)

    def _heard(self, conversation_id: UUID, text: str, frame: dict[str, Any]) -> None:
        """Take what another process says of a conversation."""
        kind = frame["type"]
        room = self.rooms.get(conversation_id)
        if kind == "ask":
            self._answer(conversation_id)
        elif room is None:
            return
        elif kind == "ended":
            self._spawn(self._tell_end(conversation_id, UUID(frame["run_id"])))
        elif kind == "conversation.deleted":
            room.say(frames.error(NotFound("This conversation was deleted.")))
            for socket in tuple(room.sockets):
                socket.send_away(GONE)
        elif kind == "conversation.message":
            self._spawn(self._tell_message(conversation_id, UUID(frame["message_id"])))
        else:
            self._pass_on(room, UUID(frame["run_id"]), frame, text)

    def _pass_on(self, room: Room, run_id: UUID, frame: dict[str, Any], text: str) -> None:
        own = stream.running(run_id)
        if own is not None and int(frame["seq"]) <= own.seq:
            return  # of whoever wrote it before us, and does not know yet
        takes = room.takes(run_id, frame)
        if takes:
            room.say(text)
        elif takes is None:
            room.want(run_id, 0)
            self._ask(room.conversation_id)

    def _answer(self, conversation_id: UUID) -> None:
        for written in self._streams:
            if written.conversation_id == conversation_id:
                self._remote.add(conversation_id)
                self._asked_at[conversation_id] = time.monotonic()
                if written.is_showing:
                    self._relay.say(conversation_id, written.snapshot())

    async def _tell_end(self, conversation_id: UUID, run_id: UUID) -> None:
        """Say how another process's reply has ended; one that has not is asked for."""
        reply = await persist(lambda: exchange.read(run_id, conversation_id))
        last = await frames.last(reply) if reply is not None and reply.has_ended else None
        room = self.rooms.get(conversation_id)
        if reply is None or room is None:
            return
        if last is not None:
            room.saw(run_id, reply.seq)
            room.say(last)
        else:
            room.want(run_id, 0)
            self._ask(conversation_id)

    async def _tell_message(self, conversation_id: UUID, message_id: UUID) -> None:
        said = await persist(lambda: exchange.message(message_id))
        room = self.rooms.get(conversation_id)
        if said is not None and room is not None:
            room.say(await frames.message(message_id, said["role"], said["text"]))


async def _again_and_again(work: Callable[[], Awaitable[None]]) -> None:
    """Go on with work that never ends, also after an error that nobody thought of: all replies rest on it."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("a part of the chat failed and begins anew", extra={"action": "chat_part_failed"})
        await asyncio.sleep(1)


def unavailable(detail: str, *, after_s: int = 3) -> Unavailable:
    """Return the refusal of whoever comes while a part is away."""
    return Unavailable(detail, headers={"Retry-After": str(after_s)}, retry_after_s=after_s)


async def _registry() -> registry.Registry:
    """Return what is loaded, asking in a thread when it is time to look again."""
    known = registry.fresh()
    return known if known is not None else await in_thread(registry.current)


def _slots() -> int:
    try:
        return registry.current().lanes.get(lanes.CHAT, {}).get("slots") or DEFAULT_SLOTS
    except DatabaseError:
        return DEFAULT_SLOTS


def _cancel(run_id: UUID, actor: Actor) -> None:
    with contextlib.suppress(InvalidState, UnknownJob):  # it has ended by now
        Cancel(actor).run(run_id)


_current: ChatHost | None = None


def current() -> ChatHost:
    """Return this process's chat.

    Raises:
        Unavailable: it has none, or not yet.
    """
    if _current is None:
        raise unavailable("The chat is not served here.")
    return _current


async def start() -> None:
    """Serve the chat in this process, for as long as its loop runs."""
    global _current
    _current = ChatHost()
    await _current.run()


async def stop(grace_s: float) -> None:
    """Stop serving it."""
    if _current is not None:
        await _current.stop(grace_s)


def send_from_thread(conversation_id: UUID, user: AbstractBaseUser, text: str, client_id: str) -> UUID:
    """Send a message from a Django view; return the id of the run that answers it.

    Raises:
        Problem: it is refused.
    """
    host = current()
    said = Said(conversation_id, user.pk, exchange.check_text(text), client_id)
    return asyncio.run_coroutine_threadsafe(host.send(said), host.loop).result(timeout=30).run_id
