"""Who shows a conversation, and which frames of another process they are to see: in order, none twice, none stale."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.chat.rooms import _KEPT, Room, Rooms
from agents.chat.stream import CLAIM_SEQS

RUN, OTHER = UUID(int=1), UUID(int=2)


class Page:
    """An open page that notes what it is sent."""

    def __init__(self, user_id: int = 1) -> None:
        self.user_id = user_id
        self.sent: list[str] = []
        self.code: int | None = None

    def put(self, text: str) -> None:
        self.sent.append(text)

    def send_away(self, code: int) -> None:
        self.code = code


def frame(kind: str, seq: int) -> dict[str, Any]:
    return {"type": f"run.{kind}", "seq": seq}


def room_at(seq: int) -> Room:
    """Return a room that has shown a reply up to ``seq``."""
    room = Room(uuid4())
    assert room.takes(RUN, frame("snapshot", seq))
    return room


# --- in order ----------------------------------------------------------------------------------------------------


def test_a_reply_that_is_followed_from_its_beginning_is_shown_whole() -> None:
    room = Room(uuid4())
    kinds = ["accepted", "step", "delta", "delta", "withdrawn", "delta", "step", "finished"]
    assert all(room.takes(RUN, frame(kind, seq)) for seq, kind in enumerate(kinds, 1))


@pytest.mark.parametrize("kind", ["delta", "step", "withdrawn", "heartbeat"])
def test_who_comes_into_the_middle_of_a_reply_misses_something(kind: str) -> None:
    assert Room(uuid4()).takes(RUN, frame(kind, 7)) is None


@pytest.mark.parametrize("kind", ["delta", "step", "withdrawn"])
def test_a_gap_is_noticed_until_a_snapshot_closes_it(kind: str) -> None:
    room = room_at(5)
    assert room.takes(RUN, frame(kind, 7)) is None
    assert room.takes(RUN, frame(kind, 8)) is None, "what follows a gap is not shown either"
    assert room.takes(RUN, frame("snapshot", 8))
    assert room.takes(RUN, frame(kind, 9))


@pytest.mark.parametrize("kind", ["accepted", "delta", "step", "withdrawn", "snapshot", "finished", "failed"])
def test_nothing_is_shown_twice(kind: str) -> None:
    room = room_at(5)
    assert room.takes(RUN, frame(kind, 6))
    assert room.takes(RUN, frame(kind, 6)) is False
    assert room.takes(RUN, frame(kind, 5)) is False


def test_replies_are_counted_apart() -> None:
    room = room_at(5)
    assert room.takes(OTHER, frame("accepted", 1))
    assert room.takes(OTHER, frame("delta", 2))
    assert room.takes(RUN, frame("delta", 6))


def test_only_the_last_replies_of_a_conversation_are_remembered() -> None:
    room = Room(uuid4())
    runs = [uuid4() for _ in range(_KEPT * 3)]
    for run in runs:
        room.want(run, 0)
        room.takes(run, frame("accepted", 1))
    assert list(room._seqs) == runs[-_KEPT:]
    assert room._wanted <= set(runs[-_KEPT:])


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["finished", "failed"])
def test_the_end_is_shown_whatever_is_missing_before_it(kind: str) -> None:
    assert room_at(5).takes(RUN, frame(kind, 60)), "it has the whole text"
    assert Room(uuid4()).takes(RUN, frame(kind, 60))


def test_after_the_end_nothing_of_that_claim_is_shown() -> None:
    room = room_at(5)
    assert room.takes(RUN, frame("finished", 9))
    for kind in ("delta", "step", "snapshot", "finished", "heartbeat"):
        for seq in (6, 8):
            assert room.takes(RUN, frame(kind, seq)) is False


def test_a_reply_that_is_redriven_is_shown_from_its_snapshot_on() -> None:
    room = room_at(5)
    assert room.takes(RUN, frame("failed", 6))
    assert room.takes(RUN, frame("delta", CLAIM_SEQS + 2)) is None
    assert room.takes(RUN, frame("snapshot", CLAIM_SEQS + 1))
    assert room.takes(RUN, frame("delta", CLAIM_SEQS + 2))


# --- heartbeats --------------------------------------------------------------------------------------------------


def test_a_heartbeat_is_shown_to_whoever_has_all_that_was_before_it() -> None:
    room = room_at(5)
    assert room.takes(RUN, frame("heartbeat", 5))
    assert room.takes(RUN, frame("heartbeat", 5)), "again and again"
    assert room.takes(RUN, frame("heartbeat", 6)) is None, "the last frame was lost"
    assert room.takes(RUN, frame("heartbeat", 4)) is False, "of an owner that is no more"
    assert room.takes(RUN, frame("delta", 6)), "heartbeats have no number of their own"


# --- snapshots ---------------------------------------------------------------------------------------------------


def test_an_answer_to_somebody_else_is_not_shown() -> None:
    assert room_at(5).takes(RUN, frame("snapshot", 5)) is False


def test_a_snapshot_that_is_wanted_is_shown_once_though_it_has_nothing_new() -> None:
    room = room_at(5)
    room.want(RUN, 3)  # a page came that holds what the database had
    assert room.takes(RUN, frame("snapshot", 5))
    assert room.takes(RUN, frame("snapshot", 5)) is False


def test_frames_go_on_while_a_snapshot_is_wanted() -> None:
    room = room_at(5)
    room.want(RUN, 3)
    assert room.takes(RUN, frame("delta", 6))
    assert room.takes(RUN, frame("snapshot", 6)), "the page that came last holds less"
    assert room.takes(RUN, frame("delta", 7))


def test_a_page_that_holds_what_the_database_has_follows_from_there() -> None:
    room = Room(uuid4())
    room.want(RUN, 5)
    assert room.takes(RUN, frame("delta", 7)) is None
    assert room.takes(RUN, frame("delta", 6))


# --- taken over --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["accepted", "delta", "step", "withdrawn", "heartbeat", "snapshot", "finished"])
@pytest.mark.parametrize("wanted", [False, True])
def test_after_a_take_over_nothing_of_the_old_claim_is_shown(kind: str, wanted: bool) -> None:
    room = room_at(57)
    assert room.takes(RUN, frame("snapshot", CLAIM_SEQS + 1))
    if wanted:
        room.want(RUN, 57)
    assert room.takes(RUN, frame(kind, 58)) is False
    assert room.takes(RUN, frame("delta", CLAIM_SEQS + 2)), "and the new one goes on"


def test_a_new_claims_frames_wait_for_its_snapshot() -> None:
    room = room_at(57)
    assert room.takes(RUN, frame("delta", CLAIM_SEQS + 2)) is None
    room.want(RUN, 0)
    assert room.takes(RUN, frame("snapshot", CLAIM_SEQS + 3))
    assert room.takes(RUN, frame("delta", CLAIM_SEQS + 4))


# --- whatever the way does to them -------------------------------------------------------------------------------


class Owner:
    """Says frames of a reply, of one claim after the other."""

    def __init__(self) -> None:
        self.seq, self.text = 0, ""
        self.texts = {0: ""}
        self.said: list[dict[str, Any]] = []

    def say(self, kind: str) -> None:
        word = f"<{len(self.said)}>"
        if kind == "take-over":
            self.seq = (self.seq // CLAIM_SEQS + 1) * CLAIM_SEQS + 1
            self.text = self.text[: len(self.text) // 2]
            self.said.append(self.snapshot())
        elif kind == "heartbeat":
            self.said.append(frame("heartbeat", self.seq))
        else:
            self.seq += 1
            self.text = self.text + word if kind == "delta" else self.text[: len(self.text) // 2]
            more = {"text": word if kind == "delta" else self.text}
            self.said.append({**frame("accepted" if not self.said else kind, self.seq), **more})
        self.texts[self.seq] = self.text

    def snapshot(self) -> dict[str, Any]:
        return {**frame("snapshot", self.seq), "text": self.text}


class Follower:
    """A room, and a page in it that takes what it is shown."""

    def __init__(self) -> None:
        self.room = Room(uuid4())
        self.seq, self.text = 0, ""

    def hear(self, one: dict[str, Any]) -> bool:
        """Take a frame. Returns whether a snapshot is wanted."""
        takes = self.room.takes(RUN, one)
        if takes is None:
            self.room.want(RUN, 0)
        if not takes:
            return takes is None
        assert one["seq"] >= self.seq, "never back"
        self.seq = one["seq"]
        if one["type"] in ("run.snapshot", "run.withdrawn"):
            self.text = one["text"]
        elif one["type"] == "run.delta":
            self.text += one["text"]
        return False


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_page_holds_what_the_owner_said_whatever_is_lost_doubled_or_late(data: st.DataObject) -> None:
    """What it holds after each frame is the owner's text at that number, of whatever claim."""
    owner, page = Owner(), Follower()
    owner.say("withdrawn")  # which accepts
    page.hear(owner.said[0])
    answer: dict[str, Any] | None = None
    kinds = st.sampled_from(["delta", "delta", "delta", "withdrawn", "heartbeat", "take-over"])
    for kind in data.draw(st.lists(kinds, min_size=5, max_size=40)):
        owner.say(kind)
        heard = [owner.said[-1]] * data.draw(st.sampled_from([1, 1, 1, 0, 2]), "times")
        if answer is not None and data.draw(st.booleans(), "answered"):
            heard, answer = [*heard, answer], None
        if data.draw(st.integers(0, 9), "late") == 0:
            heard.append(data.draw(st.sampled_from(owner.said), "again"))
        for one in heard:
            if page.hear(one):
                answer = owner.snapshot()
            assert page.text == owner.texts[page.seq]
    if page.hear(frame("heartbeat", owner.seq)) or answer is not None:
        page.hear(owner.snapshot())
    assert (page.seq, page.text) == (owner.seq, owner.text), "in the end it holds all"


# --- pages -------------------------------------------------------------------------------------------------------


def test_every_page_of_a_room_is_told_and_no_other() -> None:
    rooms, here, there = Rooms(), uuid4(), uuid4()
    pages = [Page(), Page(2), Page()]
    for page, conversation in zip(pages, (here, here, there), strict=True):
        rooms.join(conversation, page)
    room = rooms.get(here)
    assert room is not None
    room.say("x")
    assert [page.sent for page in pages] == [["x"], ["x"], []]


def test_a_page_that_leaves_while_the_room_is_told_breaks_nothing() -> None:
    rooms, here = Rooms(), uuid4()

    class Leaving(Page):
        def put(self, text: str) -> None:
            super().put(text)
            rooms.leave(here, self)

    pages = [Leaving(), Leaving(), Leaving()]
    for page in pages:
        room = rooms.join(here, page)
    room.say("x")
    assert [page.sent for page in pages] == [["x"]] * 3
    assert rooms.get(here) is None


def test_the_last_page_to_leave_closes_the_room() -> None:
    rooms, here = Rooms(), uuid4()
    first, second = Page(), Page()
    rooms.join(here, first)
    rooms.join(here, second)
    assert not rooms.leave(here, first)
    assert not rooms.leave(here, first), "it had left"
    assert rooms.leave(here, second)
    assert not rooms.leave(here, second)
    assert rooms.get(here) is None
    assert rooms.sockets() == []


def test_a_persons_pages_are_counted_over_all_rooms() -> None:
    rooms, here, there = Rooms(), uuid4(), uuid4()
    mine, also_mine, yours = Page(1), Page(1), Page(2)
    rooms.join(here, mine)
    rooms.join(there, also_mine)
    rooms.join(here, yours)
    assert (rooms.count_of(1), rooms.count_of(2), rooms.count_of(3)) == (2, 1, 0)
    assert len(rooms.sockets()) == 3
    rooms.leave(there, also_mine)
    rooms.leave(there, also_mine)
    assert rooms.count_of(1) == 1
    rooms.leave(here, mine)
    assert rooms.count_of(1) == 0
    assert dict(rooms._by_user) == {2: 1}, "who is gone takes no room"
