"""The chat of one web process: it begins replies, runs them, takes over what others left, and tells who watches."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

from django.contrib.auth.models import AbstractBaseUser
from django.db import DatabaseError
from psycopg.errors import UniqueViolation

from accounts.problems import NotFound
from agents import registry
from agents.chat import escape, exchange, stream
from agents.chat.audience import Audience
from agents.chat.database import ask, in_thread
from agents.chat.exchange import Begun, Reply, Said, Written
from agents.chat.refusals import ChatFull, ReplyRunning, paused, unavailable
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

#: So often it looks for replies that other processes left, in case nobody told it. Seconds.
LOOK_S = 2.0
#: Taken over at once, so that several processes share what one left.
MAX_TAKEN = 20
#: Replies of processes that died are begun one at a time until so many have gone well.
PROBES = 8
#: So often the text of replies is stored. Seconds.
SAVE_S = 1.0
#: Of so many in one transaction: one that ends meanwhile waits for it.
SAVED_AT_ONCE = 100
BEAT_S = 0.25
#: A message waits so long for a process that is still starting. Seconds.
START_S = 10.0
RESTARTED = "This part of the site is being restarted. Try again."
#: Close code of a socket that is to come back, to another process.
GO_ELSEWHERE = 4000


class ChatHost:
    """Everything the chat does in one web process. Its calls are for the event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.audience = Audience()
        self.slots = registry.CHAT_SLOTS
        self._host: Host | None = None
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._look = asyncio.Event()
        self._ticker = Ticker()
        #: Replies of a process that died which have yet to show that it was not for them, and how many there may be.
        self._probes: list[RunStream] = []
        self._trust = 1
        self._proven = 0
        #: Replies whose transaction is under way.
        self._beginning = 0
        #: One person's messages wait for each other here, not each with a connection to the database.
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    # --- its life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`."""
        self.slots = await in_thread(_slots)
        self._host = host = Host({lanes.CHAT: self.slots})
        if self._stopping.is_set() or not await host.begin():
            return
        # What was loaded until now stays: no collection is to walk through it while replies stream.
        gc.collect()
        gc.freeze()
        self._ready.set()
        logger.info("the chat writes %d replies at a time", self.slots, extra={"action": "chat_started"})
        await asyncio.gather(
            _again_and_again(lambda: host.listen({wakeups.CHAT: self._woken})),
            _again_and_again(host.look_for_orphans),
            _again_and_again(self._take_over),
            _again_and_again(self._beat),
            _again_and_again(self._save),
            _again_and_again(self.audience.run),
        )

    @property
    def is_stopping(self) -> bool:
        """Whether it takes nobody in any more."""
        return self._stopping.is_set()

    async def stop(self, grace_s: float) -> None:
        """Send the pages elsewhere, let replies finish for ``grace_s`` seconds, hand the rest back."""
        self._stopping.set()
        for socket in self.audience.rooms.sockets():
            socket.send_away(GO_ELSEWHERE)
        if self._host is None or not self._ready.is_set():
            if self._host is not None:
                self._host.stopping.set()
            return
        self._host.stopping.set()
        await self._host.runner.shut_down(grace_s)
        await self.audience.settled(2)
        await self._host.end()

    # --- what people do -----------------------------------------------------------------------------------------

    async def send(self, said: Said) -> Begun:
        """Begin the reply to a message; the run goes on whoever is still there to read it.

        Raises:
            Problem: it is refused, and nothing was written.
        """
        # Whoever asked may be gone before the answer: what is committed must be run all the same.
        return await asyncio.shield(self.audience.spawn(self._send(said)))

    async def _send(self, said: Said) -> Begun:
        host = await self._serving()
        async with self._turns.setdefault(said.user_id, asyncio.Lock()):
            if self._free(host) <= 0:
                return await self._sent_before(said)
            self._beginning += 1
            try:
                return await self._begin(host, said)
            finally:
                self._beginning -= 1

    async def _sent_before(self, said: Said) -> Begun:
        """Return what an earlier try of a message began. Nothing else can begin now."""
        try:
            if (earlier := await ask(lambda: exchange.sent_before(said))) is not None:
                return earlier
        except OUTAGE as error:
            logger.warning("a message could not be looked up: %s", error, extra={"action": "chat_unavailable"})
        raise ChatFull(
            "As many replies are being written as this site can. Try again in a few seconds.",
            headers={"Retry-After": "5"},
            retry_after_s=5,
        )

    def _free(self, host: Host) -> int:
        """Return how many replies more this process may write. Those about to begin count: many may come at once."""
        return self.slots - len(host.runner) - self._beginning

    async def _begin(self, host: Host, said: Said) -> Begun:
        try:
            known = await _registry()
            begun = await ask(lambda: exchange.begin(said, known, host.worker_id))
        except HeldBack as error:
            raise paused(error.reasons) from None
        except UniqueViolation:
            raise ReplyRunning("A reply is still being written in this conversation.") from None
        except (*OUTAGE, NotLeased, DatabaseError) as error:
            logger.warning("a message could not be written: %s", error, extra={"action": "chat_unavailable"})
            raise unavailable("The database does not answer now. Your message was not sent.") from None
        if begun.claim is not None:
            written = self._open(begun.claim, said.conversation_id)
            self.audience.reach_out(said.conversation_id)
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
        await asyncio.shield(self.audience.spawn(in_thread(_cancel, run_id, actor)))

    async def _check(self, run_id: UUID, conversation_id: UUID) -> None:
        written = stream.running(run_id)
        if written is not None and written.conversation_id == conversation_id:
            return
        if await self.audience.read(run_id, conversation_id) is None:
            raise NotFound("There is no such reply in this conversation.")

    async def _serving(self) -> Host:
        if not self._ready.is_set() and not self._stopping.is_set():
            try:
                async with asyncio.timeout(START_S):
                    await self._ready.wait()
            except TimeoutError:
                raise unavailable("The chat is still starting.") from None
        if self._stopping.is_set() or self._host is None:
            raise unavailable(RESTARTED, after_s=1)
        return self._host

    # --- replies ------------------------------------------------------------------------------------------------

    def _open(self, claim: Claim, conversation_id: UUID, steps: list[dict[str, Any]] | None = None) -> RunStream:
        made = RunStream(
            claim,
            conversation_id=conversation_id,
            message_id=UUID(claim.payload["message"]),
            say=lambda text: self.audience.say(conversation_id, text),
            ticker=self._ticker,
            steps=steps,
        )
        stream.keep(made)
        self.audience.follow(conversation_id)
        return made

    def _start(self, written: RunStream) -> None:
        assert self._host is not None
        task = self._host.runner.start(written.claim)
        task.add_done_callback(lambda _: self._ended(written))

    def _ended(self, written: RunStream) -> None:
        stream.drop(written)
        self.audience.spawn(self._conclude(written))

    async def _conclude(self, written: RunStream) -> None:
        """Say how a reply ended, once that is written. One that goes on elsewhere, or later, is told from there."""
        run_id, conversation_id = written.run_id, written.conversation_id
        reply: Reply | None = await persist(lambda: exchange.read(run_id, conversation_id))
        if reply is not None and reply.status == "failed" and await escape.hand_over(run_id) is not None:
            reply = await persist(lambda: exchange.read(run_id, conversation_id))  # its problem says where it went
        await self.audience.concluded(written, reply)

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
        """Claim what others left, one after the other.

        A process died of one of those that were running when it did, and nobody knows of which. So such replies are
        begun one at a time, each when the one before has something to say: a message that kills its process takes no
        others with it. After `PROBES` of them, twice as many as before at a time.
        """
        if self._probes and all(one.has_proven_itself for one in self._probes):
            self._proven += len(self._probes)
            self._probes.clear()
            if self._proven >= PROBES:
                self._trust *= 2
        for _ in range(min(self._free(host), MAX_TAKEN)):
            if len(self._probes) >= self._trust:
                return
            claims = await host.claim(lanes.CHAT, 1)
            if not claims:
                if not self._probes:
                    self._trust, self._proven = 1, 0
                return
            try:
                written = await self._resume(claims[0])
            except OUTAGE:
                raise  # it is handed back as an orphan
            except Exception:
                logger.exception("a reply could not be taken over", extra={"action": "take_over_failed"})
                continue
            if written.claim.crashes:
                self._probes.append(written)

    async def _forgive(self) -> None:
        """Forget the crashes of replies that have got on since."""
        innocent = [one for one in self._probes if one.has_written and not one.is_forgiven]
        if innocent:
            try:
                await script.arun(await get_pool(), exchange.forgive([one.claim for one in innocent]))
            except OUTAGE as error:
                logger.warning("replies could not be forgiven: %s", error, extra={"action": "database_outage"})
                return
            for one in innocent:
                one.is_forgiven = True
        if all(one.has_proven_itself for one in self._probes):
            self._look.set()

    async def _resume(self, claim: Claim) -> RunStream:
        steps = await script.arun(await get_pool(), exchange.steps_of(claim.job_id))
        conversation_id = UUID(claim.payload["conversation"])
        written = self._open(claim, conversation_id, steps)
        self.audience.reach_out(conversation_id)
        logger.info("reply %s is taken over", claim.job_id, extra={"action": "reply_taken_over"})
        self._start(written)
        return written

    async def _beat(self) -> None:
        """Let every page know that its reply is alive."""
        while True:
            await asyncio.sleep(BEAT_S)
            for written in stream.all_running():
                written.beat()
            self.audience.look_after_silent()
            if self._probes:
                await self._forgive()

    async def _save(self) -> None:
        """Store the text of the replies that are being written: one statement for many of them."""
        while True:
            await asyncio.sleep(SAVE_S)
            dirty = [one for one in stream.all_running() if one.seq > one.saved_seq and one.is_showing]
            for start in range(0, len(dirty), SAVED_AT_ONCE):
                await self._save_some(dirty[start : start + SAVED_AT_ONCE])

    async def _save_some(self, dirty: Sequence[RunStream]) -> None:
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


async def _again_and_again(work: Callable[[], Awaitable[None]]) -> None:
    """Go on with work that never ends, also after an error that nobody thought of: all replies rest on it."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("a part of the chat failed and begins anew", extra={"action": "chat_part_failed"})
        await asyncio.sleep(1)


async def _registry() -> registry.Registry:
    """Return what is loaded, asking in a thread when it is time to look again."""
    known = registry.fresh()
    return known if known is not None else await in_thread(registry.current)


def _slots() -> int:
    try:
        return registry.current().slots(lanes.CHAT)
    except DatabaseError:
        return registry.CHAT_SLOTS


def _cancel(run_id: UUID, actor: Actor) -> None:
    with contextlib.suppress(InvalidState, UnknownJob):  # it has ended by now
        Cancel(actor).run(run_id)


_current: ChatHost | None = None


def current() -> ChatHost:
    """Return this process's chat.

    Raises:
        Unavailable: it has none, or not yet, or no more.
    """
    if _current is None:
        raise unavailable("The chat is not served here.")
    if _current.is_stopping:
        raise unavailable(RESTARTED, after_s=1)
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
