"""What waits for one reader of the chat: all of it in order, or a snapshot; never more than it may, never a hole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from accounts.problems import Unavailable
from agents.chat import host, socket
from agents.chat.socket import MAX_BACKLOG, STALLED_S, Outbox
from tests.support import virtual_time


class Line:
    """What the server knows of a connection."""

    def __init__(self) -> None:
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def paused(self) -> bool:
        return not self._writable.is_set()

    async def writable(self) -> None:
        await self._writable.wait()

    def pause(self) -> None:
        self._writable.clear()

    def go_on(self) -> None:
        self._writable.set()


class Reader:
    """One reader, and what it was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.codes: list[int | None] = []
        self.cuts = 0
        self.refreshed = 0
        #: What brings it up to date, or why nothing does.
        self.news: list[str] | Exception = ["snapshot"]
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.line = Line()
        self.box = Outbox(self._write, self._refresh, self._cut)
        self.box.flow = self.line

    async def _write(self, text: str | None, code: int | None = None) -> None:
        await self.may_write.wait()
        if text is None:
            self.codes.append(code)
        else:
            self.sent.append(text)

    async def _refresh(self) -> list[str]:
        self.refreshed += 1
        if isinstance(self.news, Exception):
            raise self.news
        return self.news

    def _cut(self) -> None:
        self.cuts += 1


@asynccontextmanager
async def reading() -> AsyncIterator[Reader]:
    reader = Reader()
    task = asyncio.create_task(reader.box.run())
    yield reader
    await settle()
    if not task.done():
        task.cancel()
    assert not [error for error in await asyncio.gather(task, return_exceptions=True) if isinstance(error, Exception)]


async def settle() -> None:
    """Let everybody do what they can do now."""
    for _ in range(20):
        await asyncio.sleep(0)


def fill(reader: Reader) -> int:
    """Put as much as may wait; return how many frames that are."""
    frames = [f"{number:06}" * 100 for number in range(MAX_BACKLOG // 600)]
    for text in frames:
        reader.box.put(text)
    return len(frames)


async def test_frames_go_out_in_their_order_as_they_come() -> None:
    async with reading() as reader:
        for text in ("a", "b"):
            reader.box.put(text)
        await settle()
        assert reader.sent == ["a", "b"]
        reader.box.put("c")
        await settle()
        assert reader.sent == ["a", "b", "c"]


async def test_what_is_put_while_another_frame_is_written_follows_it() -> None:
    async with reading() as reader:
        reader.may_write.clear()
        reader.box.put("a")
        await settle()
        reader.box.put("b")
        reader.may_write.set()
        await settle()
        assert reader.sent == ["a", "b"]


async def test_a_reader_that_pauses_gets_all_that_may_wait_when_it_goes_on() -> None:
    async with reading() as reader:
        reader.line.pause()
        count = fill(reader)
        await settle()
        assert reader.sent == []
        reader.line.go_on()
        await settle()
        assert len(reader.sent) == count
        assert reader.sent == sorted(reader.sent)
        assert reader.refreshed == 0


async def test_for_a_reader_that_is_too_slow_a_snapshot_takes_the_place_of_all_that_waited() -> None:
    async with reading() as reader:
        reader.line.pause()
        for _ in range(50):
            fill(reader)
            assert reader.box._size <= MAX_BACKLOG
            assert sum(map(len, reader.box._frames)) <= MAX_BACKLOG
        reader.line.go_on()
        await settle()
        assert reader.sent == ["snapshot"]
        reader.box.put("next")
        await settle()
        assert reader.sent == ["snapshot", "next"]
        assert reader.refreshed == 1


async def test_what_comes_while_the_snapshot_is_fetched_follows_it() -> None:
    async with reading() as reader:
        reader.line.pause()
        fill(reader)
        fill(reader)
        reader.may_write.clear()
        reader.line.go_on()
        await settle()
        assert reader.refreshed == 1
        reader.box.put("next")
        reader.may_write.set()
        await settle()
        assert reader.sent == ["snapshot", "next"]


async def test_a_reader_that_is_too_slow_for_its_snapshot_gets_another() -> None:
    async with reading() as reader:
        reader.line.pause()
        fill(reader)
        fill(reader)
        reader.may_write.clear()
        reader.line.go_on()
        await settle()
        fill(reader)
        fill(reader)
        reader.news = ["a later snapshot"]
        reader.may_write.set()
        await settle()
        assert reader.sent == ["snapshot", "a later snapshot"]


async def test_one_frame_is_taken_however_long_it_is() -> None:
    async with reading() as reader:
        long = "x" * (MAX_BACKLOG * 3)
        reader.box.put(long)
        await settle()
        assert reader.sent == [long]
        reader.line.pause()
        reader.box.put(long)
        reader.box.put("and another")
        reader.line.go_on()
        await settle()
        assert reader.sent == [long, "snapshot"]


async def test_nothing_waits_twice_for_the_same_room() -> None:
    """What was sent makes room: a long reply does not add up."""
    async with reading() as reader:
        for _ in range(20):
            count = fill(reader)
            await settle()
            while len(reader.sent) % count:
                await settle()
        assert reader.refreshed == 0
        assert reader.box._size == 0


async def test_a_reader_that_cannot_be_brought_up_to_date_is_sent_away_to_come_back() -> None:
    async with reading() as reader:
        reader.news = Unavailable("The database does not answer now.")
        reader.line.pause()
        fill(reader)
        fill(reader)
        reader.line.go_on()
        await settle()
        reader.box.put("behind the hole")
        await settle()
        assert reader.sent == []
        assert reader.codes == [host.GO_ELSEWHERE]


async def test_a_socket_is_closed_after_what_waits_and_takes_no_more() -> None:
    async with reading() as reader:
        reader.line.pause()
        reader.box.put("last words")
        reader.box.end(4404)
        reader.box.end(4000)
        reader.box.put("too late")
        reader.line.go_on()
        await settle()
        assert (reader.sent, reader.codes) == (["last words"], [4404])


async def test_a_socket_with_nothing_to_say_is_closed_at_once() -> None:
    async with reading() as reader:
        await settle()
        reader.box.end(4000)
        await settle()
        assert reader.codes == [4000]


@pytest.mark.parametrize("lags", [False, True])
def test_a_reader_that_takes_nothing_for_long_is_cut_off(lags: bool) -> None:
    async def work() -> None:
        async with reading() as reader:
            reader.line.pause()
            for _ in range(1 + lags * MAX_BACKLOG // 100):
                reader.box.put("x" * 100)
            await asyncio.sleep(STALLED_S - 0.1)
            assert reader.cuts == 0
            await asyncio.sleep(0.2)
            assert reader.cuts == 1
            reader.line.go_on()
            await asyncio.sleep(1)
            assert (reader.sent, reader.codes) == ([], [])

    virtual_time.run(work())


def test_a_slow_reader_that_takes_a_little_now_and_then_is_not_cut_off() -> None:
    async def work() -> None:
        async with reading() as reader:
            for number in range(10):
                reader.line.pause()
                reader.box.put(str(number))
                await asyncio.sleep(STALLED_S - 1)
                reader.line.go_on()
                await asyncio.sleep(0.01)
            assert (len(reader.sent), reader.cuts) == (10, 0)

    virtual_time.run(work())


async def test_a_server_that_waits_by_itself_needs_no_word_on_the_line() -> None:
    async with reading() as reader:
        reader.box.flow = None
        reader.may_write.clear()
        reader.box.put("a")
        await settle()
        fill(reader)
        fill(reader)
        reader.may_write.set()
        await settle()
        assert reader.sent == ["a", "snapshot"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_its_line_does_a_reader_holds_the_whole_text_in_the_end(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that adds what follows and takes a snapshot for all that was before never finds a hole."""
    monkeypatch.setattr(socket, "MAX_BACKLOG", 80)
    chance = random.Random(seed)

    async def work() -> None:
        text: list[str] = []

        class Following(Reader):
            async def _refresh(self) -> list[str]:
                await asyncio.sleep(chance.choice([0, 0.01]))
                return [f"0-{len(text)}"]

        reader = Following()
        task = asyncio.create_task(reader.box.run())
        for number in range(400):
            if chance.random() < 0.1:
                (reader.line.pause if chance.random() < 0.7 else reader.line.go_on)()
            text.append(str(number))
            reader.box.put(f"{number}-{number + 1}")
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.02]))
        reader.line.go_on()
        await asyncio.sleep(1)
        held = 0
        for frame in reader.sent:
            first, last = map(int, frame.split("-"))
            assert first == 0 or first <= held, "a hole"
            held = max(held, last)
        assert held == 400
        assert any(frame.startswith("0-") for frame in reader.sent[1:])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(work())
