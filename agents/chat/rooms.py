"""Who shows which conversation in this process, and how far they have seen each reply that others write."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any, Protocol
from uuid import UUID

#: Replies of a conversation whose numbers are kept.
_KEPT = 8
#: Nothing was heard for so long of a reply that another process writes: it may have ended unheard. Heartbeats come
#: more often. Seconds.
SILENT_S = 3.0


class Socket(Protocol):
    """One open page."""

    user_id: int

    def put(self, text: str) -> None:
        """Send a frame. It returns at once; a reader that is too slow gets a snapshot later."""

    def send_away(self, code: int) -> None:
        """Close it, so that it goes to another process or does not come back."""


class Room:
    """The open pages of one conversation in this process."""

    def __init__(self, conversation_id: UUID) -> None:
        self.conversation_id = conversation_id
        self.sockets: set[Socket] = set()
        self._seqs: OrderedDict[UUID, int] = OrderedDict()
        self._wanted: set[UUID] = set()
        #: When something was last heard of replies that others write.
        self._heard_at: dict[UUID, float] = {}
        #: Replies that wait, as far as is known here: nothing is to be heard of them until that is over.
        self.parked: set[UUID] = set()

    def say(self, text: str) -> None:
        """Send a frame to every page."""
        for socket in tuple(self.sockets):
            socket.put(text)

    def want(self, run_id: UUID, seq: int) -> None:
        """Note that a page has seen a reply up to ``seq`` and wants a snapshot, though the others hold as much."""
        self._wanted.add(run_id)
        self.parked.discard(run_id)
        self._heard_at[run_id] = time.monotonic()
        self._note(run_id, max(seq, self._seqs.get(run_id, 0)))

    def saw(self, run_id: UUID, seq: int, *, parked: bool = False) -> None:
        """Note that this process itself has shown a reply up to ``seq``, its end, or that it is parked."""
        self._heard_at.pop(run_id, None)
        self._keep_parked(run_id, parked)
        self._wanted.discard(run_id)
        self._note(run_id, max(seq, self._seqs.get(run_id, 0)))

    def silent(self) -> list[UUID]:
        """Return the replies of others that went silent, each once until it is wanted or heard of again."""
        since = time.monotonic() - SILENT_S
        found = [run_id for run_id, at in self._heard_at.items() if at < since]
        for run_id in found:
            del self._heard_at[run_id]
        return found

    def takes(self, run_id: UUID, frame: dict[str, Any]) -> bool | None:
        """Tell whether another process's frame is to be shown. None: something is missing before it."""
        kind = frame["type"]
        taken = self._takes(run_id, kind, int(frame["seq"]))
        if taken:
            self._keep_parked(run_id, kind == "run.waiting")
            if kind in ("run.finished", "run.failed", "run.waiting"):
                self._heard_at.pop(run_id, None)
            else:
                self._heard_at[run_id] = time.monotonic()
        return taken

    def forget(self, run_id: UUID) -> None:
        """Look no more after a reply: it is gone."""
        self._heard_at.pop(run_id, None)
        self.parked.discard(run_id)

    def _keep_parked(self, run_id: UUID, parked: bool) -> None:
        if parked:
            self.parked.add(run_id)
        else:
            self.parked.discard(run_id)

    def _takes(self, run_id: UUID, kind: str, seq: int) -> bool | None:
        last = self._seqs.get(run_id)
        if kind == "run.snapshot":
            if last is not None and (seq < last or (seq == last and run_id not in self._wanted)):
                return False
            self._wanted.discard(run_id)
        elif kind in ("run.finished", "run.failed"):
            if last is not None and seq <= last:
                return False
        elif kind == "run.heartbeat":
            return None if last is None or seq > last else seq == last
        elif last is None:
            if kind != "run.accepted":
                return None
        elif seq != last + 1:
            return None if seq > last else False
        self._note(run_id, seq)
        return True

    def _note(self, run_id: UUID, seq: int) -> None:
        self._seqs[run_id] = seq
        self._seqs.move_to_end(run_id)
        while len(self._seqs) > _KEPT:
            old, _ = self._seqs.popitem(last=False)
            self._wanted.discard(old)
            self.forget(old)


class Rooms:
    """All rooms of a process."""

    def __init__(self) -> None:
        self._rooms: dict[UUID, Room] = {}
        self._by_user: Counter[int] = Counter()

    def get(self, conversation_id: UUID) -> Room | None:
        """Return the room of a conversation that somebody shows."""
        return self._rooms.get(conversation_id)

    def join(self, conversation_id: UUID, socket: Socket) -> Room:
        """Add a page."""
        room = self._rooms.get(conversation_id)
        if room is None:
            room = self._rooms[conversation_id] = Room(conversation_id)
        room.sockets.add(socket)
        self._by_user[socket.user_id] += 1
        return room

    def leave(self, conversation_id: UUID, socket: Socket) -> bool:
        """Remove a page. Returns whether it was the last one."""
        room = self._rooms.get(conversation_id)
        if room is None or socket not in room.sockets:
            return False
        room.sockets.discard(socket)
        self._by_user[socket.user_id] -= 1
        if not self._by_user[socket.user_id]:
            del self._by_user[socket.user_id]
        if room.sockets:
            return False
        del self._rooms[conversation_id]
        return True

    def __iter__(self) -> Iterator[Room]:
        return iter(tuple(self._rooms.values()))

    def sockets(self) -> list[Socket]:
        """Return every open page."""
        return [socket for room in self for socket in room.sockets]

    def count_of(self, user_id: int) -> int:
        """Return how many pages a person has open."""
        return self._by_user[user_id]
