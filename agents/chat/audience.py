"""Who shows which reply, here and on other processes, and what each is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar
from uuid import UUID

from accounts.problems import NotFound
from agents.chat import exchange, frames, parking, stream
from agents.chat.database import ask
from agents.chat.exchange import Reply
from agents.chat.refusals import unavailable
from agents.chat.relay import Relay
from agents.chat.rooms import Room, Rooms, Socket
from agents.chat.stream import RunStream
from jobs.runner import OUTAGE, persist
from jobs.script import Script

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Nobody hears us: for so long after somebody asked, that is not believed. Seconds.
ASKED_S = 2.0
#: So often it is looked after replies that wait, in case nobody told that their wait is over. Seconds.
PARKED_S = 10.0
#: Close code of a socket whose conversation is no more.
GONE = 4404


class Audience:
    """The pages of one process, and its line to the other processes. Its calls are for the event loop."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self._relay = Relay(self._heard, self._counted, self._ask_again, self._joined)
        #: Conversations that other processes listen to.
        self._remote: set[UUID] = set()
        self._asked_at: dict[UUID, float] = {}
        self._looks_at = float("-inf")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Carry frames between processes. Never returns."""
        await self._relay.run()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something beside, and keep it until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settled(self, timeout_s: float) -> None:
        """Wait for what is done beside."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    # --- who watches --------------------------------------------------------------------------------------------

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
        return any(written.conversation_id == conversation_id for written in stream.all_running())

    def follow(self, conversation_id: UUID) -> None:
        """Hear of a conversation that is written here: others may ask for it."""
        self._relay.follow(conversation_id)

    def reach_out(self, conversation_id: UUID) -> None:
        """Speak to other processes too, until it shows that none listens."""
        self._remote.add(conversation_id)

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
        run_id = await _asked(lambda: exchange.last_run(conversation_id))
        return await self._shown(run_id, conversation_id) if run_id is not None else []

    async def _shown(self, run_id: UUID, conversation_id: UUID) -> list[str]:
        written = stream.running(run_id)
        if written is not None and written.conversation_id == conversation_id and written.is_showing:
            return [written.snapshot()]
        reply = await self.read(run_id, conversation_id)
        if reply is None:
            raise NotFound("There is no such reply in this conversation.")
        if reply.has_ended:
            return [frames.snapshot(reply), await frames.last(reply)]
        room = self.rooms.get(conversation_id)
        if reply.is_parked:
            if room is not None:
                room.saw(run_id, reply.seq, parked=True)
            return [frames.snapshot(reply), frames.waiting(reply)]
        if room is not None:
            room.want(run_id, reply.seq)
        self._ask(conversation_id)
        return [frames.snapshot(reply)]

    async def read(self, run_id: UUID, conversation_id: UUID) -> Reply | None:
        """Return a reply as the database has it; None if there is none such in that conversation.

        Raises:
            Unavailable: the database does not answer.
        """
        return await _asked(lambda: exchange.read(run_id, conversation_id))

    # --- what they are told -------------------------------------------------------------------------------------

    def say(self, conversation_id: UUID, text: str) -> None:
        """Send a frame of a reply that is written here to all who watch."""
        room = self.rooms.get(conversation_id)
        if room is not None:
            room.say(text)
        if conversation_id in self._remote:
            self._relay.say(conversation_id, text)

    async def concluded(self, written: RunStream, reply: Reply | None) -> None:
        """Say how a reply ended that was written here, or that it waits; what goes on elsewhere is told from there."""
        run_id, conversation_id = written.run_id, written.conversation_id
        if reply is not None and reply.has_ended:
            self.say(conversation_id, await frames.last(reply))
        is_parked = reply is not None and reply.is_parked and stream.running(run_id) is None
        if reply is not None and is_parked:
            self.say(conversation_id, frames.waiting(reply))
        room = self.rooms.get(conversation_id)
        if reply is not None and room is not None:
            if reply.has_ended or is_parked:
                room.saw(run_id, reply.seq, parked=is_parked)
            elif stream.running(run_id) is None:
                room.want(run_id, written.seq)
        if not self._is_written(conversation_id):
            self._remote.discard(conversation_id)
            self._asked_at.pop(conversation_id, None)
        self._unfollow(conversation_id)

    def look_after_silent(self) -> None:
        """Look up replies of other processes that nothing was heard of: their end may have been lost on the way."""
        for room in self.rooms:
            for run_id in room.silent():
                if stream.running(run_id) is None:
                    self.spawn(self._tell_state(room.conversation_id, run_id))
        if time.monotonic() - self._looks_at > PARKED_S:
            self._look_after_parked()

    def _look_after_parked(self) -> None:
        """Look whether replies that wait do so still: one statement for all of them."""
        self._looks_at = time.monotonic()
        parked = {run_id: room.conversation_id for room in self.rooms for run_id in room.parked}
        if parked:
            self.spawn(self._tell_of_those_that_go_on(parked))

    async def _tell_of_those_that_go_on(self, parked: Mapping[UUID, UUID]) -> None:
        try:
            gone_on = await ask(lambda: parking.no_longer_parked(list(parked)))
        except OUTAGE as error:
            logger.warning("could not look after replies that wait: %s", error, extra={"action": "database_outage"})
            return
        for run_id in gone_on:
            if stream.running(run_id) is None:
                await self._tell_state(parked[run_id], run_id)

    def _counted(self, conversation_id: UUID, others: int) -> None:
        if others <= 0 and time.monotonic() - self._asked_at.get(conversation_id, float("-inf")) > ASKED_S:
            self._remote.discard(conversation_id)

    def _ask(self, conversation_id: UUID) -> None:
        self._relay.say(conversation_id, '{"type":"ask"}')

    def _joined(self, conversation_id: UUID) -> None:
        """Ask for what another process may be writing already, for the page that has just been opened here."""
        if self.rooms.get(conversation_id) is not None:
            self._ask(conversation_id)
            self.spawn(self._tell_if_parked(conversation_id))

    async def _tell_if_parked(self, conversation_id: UUID) -> None:
        """Say that a reply waits that parked before this process heard of the conversation: nobody writes it any more.

        It may have begun and parked between the loading of a page and this.
        """
        try:
            run_id = await ask(lambda: parking.parked_run(conversation_id))
        except OUTAGE as error:
            logger.warning("could not look for a reply that waits: %s", error, extra={"action": "database_outage"})
            return
        room = self.rooms.get(conversation_id)
        if run_id is not None and room is not None and run_id not in room.parked and stream.running(run_id) is None:
            await self._tell_state(conversation_id, run_id)

    def _ask_again(self) -> None:
        for room in self.rooms:
            self._ask(room.conversation_id)
        self._look_after_parked()

    def _heard(self, conversation_id: UUID, text: str, frame: dict[str, Any]) -> None:
        """Take what another process says of a conversation."""
        kind = frame["type"]
        room = self.rooms.get(conversation_id)
        if kind == "ask":
            self._answer(conversation_id)
        elif room is None:
            return
        elif kind in ("ended", "changed"):
            self.spawn(self._tell_state(conversation_id, UUID(frame["run_id"])))
        elif kind == "conversation.deleted":
            room.say(frames.error(NotFound("This conversation was deleted.")))
            for socket in tuple(room.sockets):
                socket.send_away(GONE)
        elif kind == "conversation.message":
            self.spawn(self._tell_message(conversation_id, UUID(frame["message_id"])))
        else:
            self._pass_on(room, UUID(frame["run_id"]), frame, text)

    def _pass_on(self, room: Room, run_id: UUID, frame: dict[str, Any], text: str) -> None:
        own = stream.running(run_id)
        if own is not None and int(frame["seq"]) <= own.seq:
            return  # of whoever wrote it before us, and does not know yet
        takes = room.takes(run_id, frame)
        if takes:
            room.say(text)
        elif takes is None and frame["type"] == "run.waiting":
            self.spawn(self._tell_state(room.conversation_id, run_id))  # nobody writes it who could be asked
        elif takes is None:
            room.want(run_id, 0)
            self._ask(room.conversation_id)

    def _answer(self, conversation_id: UUID) -> None:
        for written in stream.all_running():
            if written.conversation_id == conversation_id:
                self._remote.add(conversation_id)
                self._asked_at[conversation_id] = time.monotonic()
                if written.is_showing:
                    self._relay.say(conversation_id, written.snapshot())

    async def _tell_state(self, conversation_id: UUID, run_id: UUID) -> None:
        """Say how another process's reply has ended, or that it waits; any other is asked for."""
        reply = await persist(lambda: exchange.read(run_id, conversation_id))
        last = await frames.last(reply) if reply is not None and reply.has_ended else None
        room = self.rooms.get(conversation_id)
        if room is None:
            return
        if reply is None:
            room.forget(run_id)
        elif last is not None:
            room.saw(run_id, reply.seq)
            room.say(last)
        elif stream.running(run_id) is not None:
            return  # it goes on here
        elif reply.is_parked:
            room.saw(run_id, reply.seq, parked=True)
            room.say(frames.snapshot(reply))
            room.say(frames.waiting(reply))
        else:
            room.want(run_id, 0)
            self._ask(conversation_id)
            # Nobody may be writing it just now: the line to the page stands all the same.
            room.say(frames.unheard(reply))

    async def _tell_message(self, conversation_id: UUID, message_id: UUID) -> None:
        said = await persist(lambda: exchange.message(message_id))
        room = self.rooms.get(conversation_id)
        if said is not None and room is not None:
            room.say(await frames.message(message_id, said["role"], said["text"]))


async def _asked(make: Callable[[], Script[T]]) -> T:
    try:
        return await ask(make)
    except OUTAGE:
        raise unavailable("The database does not answer now.") from None
