"""Frames between web processes, over a real Valkey: in order, counted, and again after any outage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from django.conf import settings

from agents.chat import relay
from agents.chat.conversations import channel
from agents.chat.relay import Relay
from astra_site import embedded
from astra_site.embedded import Servers
from astra_site.embedded.server import Server

HERE, THERE = UUID(int=1), UUID(int=2)


class Process:
    """A relay, and what it was told."""

    def __init__(self) -> None:
        self.heard: list[tuple[UUID, dict[str, Any]]] = []
        self.counts: list[tuple[UUID, int]] = []
        self.came_back = 0
        self.on_frame: Callable[[dict[str, Any]], None] = lambda frame: None
        self.joined: list[UUID] = []
        self.relay = Relay(self._hear, lambda *count: self.counts.append(count), self._back, self.joined.append)

    def _hear(self, conversation_id: UUID, text: str, frame: dict[str, Any]) -> None:
        assert json.loads(text) == frame
        self.on_frame(frame)
        self.heard.append((conversation_id, frame))

    def _back(self) -> None:
        self.came_back += 1

    def say(self, conversation_id: UUID, **frame: Any) -> None:
        self.relay.say(conversation_id, json.dumps(frame))

    def numbers(self, conversation_id: UUID = HERE) -> list[int]:
        return [frame["n"] for heard, frame in self.heard if heard == conversation_id]


@asynccontextmanager
async def running(count: int = 1) -> AsyncIterator[list[Process]]:
    """Relays that carry, each as in a process of its own; nothing of them is left in the end."""
    before = asyncio.all_tasks()
    processes = [Process() for _ in range(count)]
    tasks = [asyncio.create_task(process.relay.run()) for process in processes]
    try:
        yield processes
        assert [task for task in tasks if task.done()] == [], "a relay never ends by itself"
    finally:
        for task in tasks:
            task.cancel()
        _, hung = await asyncio.wait(tasks, timeout=30)
        assert not hung, "a relay ends when it is told to"
        assert asyncio.all_tasks() == before


async def until(condition: Callable[[], object], within_s: float = 10) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def listeners(conversation_id: UUID = HERE) -> int:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        return int(client.pubsub_numsub(channel(conversation_id))[0][1])


async def followed(*processes: Process, conversation_id: UUID = HERE) -> None:
    """Let processes follow a conversation, until Valkey knows and they know that it does."""
    for process in processes:
        process.relay.follow(conversation_id)
    await until(lambda: all(conversation_id in process.relay._confirmed for process in processes))


def publish(data: str | bytes, conversation_id: UUID | str = HERE) -> None:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.publish(channel(conversation_id), data)


# --- carried -----------------------------------------------------------------------------------------------------


async def test_a_process_hears_what_others_say_of_the_conversations_that_it_follows() -> None:
    async with running(3) as (owner, follower, elsewhere):
        await followed(follower)
        await followed(elsewhere, conversation_id=THERE)
        owner.say(HERE, n=1)
        owner.say(THERE, n=2)
        await until(lambda: follower.heard and elsewhere.heard)
        assert follower.heard == [(HERE, {"n": 1})]
        assert elsewhere.heard == [(THERE, {"n": 2})]
        assert owner.heard == []


async def test_a_process_is_told_when_it_hears_a_conversation_from_then_on() -> None:
    async with running(1) as (one,):
        one.relay.follow(HERE)
        await until(lambda: one.joined)
        assert listeners() == 1
        one.relay.follow(HERE)
        one.relay.unfollow(HERE)
        await until(lambda: listeners() == 0)
        one.relay.follow(HERE)
        await until(lambda: len(one.joined) == 2)
    assert one.joined == [HERE, HERE]


async def test_a_process_does_not_hear_itself() -> None:
    async with running(2) as (one, two):
        await followed(one, two)
        one.say(HERE, n=1)
        two.say(HERE, n=2)
        await until(lambda: one.heard and two.heard)
        assert (one.numbers(), two.numbers()) == ([2], [1])


async def test_what_is_said_before_it_runs_is_said_then() -> None:
    async with running() as (follower,):
        await followed(follower)
        early = Process()
        early.say(HERE, n=1)
        early.relay.follow(THERE)
        task = asyncio.create_task(early.relay.run())
        await until(lambda: follower.heard and THERE in early.relay._confirmed)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_process_that_unfollows_hears_no_more() -> None:
    async with running(2) as (owner, follower):
        await followed(follower)
        await followed(follower, conversation_id=THERE)
        follower.relay.unfollow(HERE)
        await until(lambda: listeners() == 0)
        owner.say(HERE, n=1)
        owner.say(THERE, n=2)
        await until(lambda: follower.heard)
        assert follower.heard == [(THERE, {"n": 2})]


async def test_a_process_may_change_its_mind_as_fast_as_it_likes() -> None:
    async with running(2) as (owner, follower):
        conversations = [UUID(int=n) for n in range(1, 201)]
        for conversation_id in conversations * 5:
            follower.relay.follow(conversation_id)
            follower.relay.unfollow(conversation_id)
            await asyncio.sleep(0)
        for conversation_id in conversations[::2]:
            follower.relay.follow(conversation_id)
        await until(lambda: follower.relay._confirmed == set(conversations[::2]))
        for conversation_id in conversations:
            owner.say(conversation_id, n=1)
        owner.say(conversations[-2], n=2)
        await until(lambda: follower.heard and follower.heard[-1][1] == {"n": 2})
        assert [conversation_id for conversation_id, _ in follower.heard[:-1]] == conversations[::2]


async def test_ten_thousand_messages_arrive_in_order() -> None:
    async with running(2) as (owner, follower):
        await followed(follower)
        for number in range(10_000):
            owner.say(HERE, n=number)
            if number % 1_000 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(follower.heard) == 10_000, within_s=30)
        assert follower.numbers() == list(range(10_000))
        await until(lambda: len(owner.counts) == 10_000)


async def test_more_than_may_wait_is_dropped_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay, "MAX_WAITING", 100)
    async with running(2) as (owner, follower):
        await followed(follower)
        for number in range(250):
            owner.say(HERE, n=number)
        await until(lambda: 249 in follower.numbers())
        assert follower.numbers() == list(range(200, 250))
    assert [record.message for record in caplog.records] == ["Redis is too slow: frames were dropped"] * 2


async def test_what_cannot_be_written_in_utf_8_stops_nobody() -> None:
    async with running(2) as (owner, follower):
        await followed(follower)
        owner.relay.say(HERE, json.dumps({"n": 1, "text": "half \ud83d"}, ensure_ascii=False))
        owner.say(HERE, n=2)
        await until(lambda: follower.numbers() == [1, 2])


# --- counted -----------------------------------------------------------------------------------------------------


async def test_the_others_are_counted_without_oneself() -> None:
    async with running(3) as (owner, one, two):
        await followed(owner)
        owner.say(HERE, n=1)
        await until(lambda: owner.counts)
        assert owner.counts.pop() == (HERE, 0), "only we follow"
        await followed(one, two)
        owner.say(HERE, n=2)
        owner.say(THERE, n=3)
        await until(lambda: len(owner.counts) == 2)
        assert owner.counts == [(HERE, 2), (THERE, 0)]


async def test_the_others_are_counted_by_one_who_does_not_follow() -> None:
    async with running(2) as (owner, one):
        await followed(one)
        owner.say(HERE, n=1)
        await until(lambda: owner.counts)
        assert owner.counts == [(HERE, 1)]


async def test_a_process_that_is_about_to_follow_never_takes_another_for_itself() -> None:
    """Its own subscription is not there yet: the only listener is somebody else, and would be forgotten."""
    async with running() as (one,):
        await followed(one)
        owner = Process()
        speaking = asyncio.create_task(owner.relay._speak())
        owner.relay.follow(HERE)
        owner.say(HERE, n=1)
        await until(lambda: owner.counts)
        assert owner.counts == [(HERE, 1)]
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)


async def test_while_a_process_comes_and_goes_the_others_are_never_counted_too_few() -> None:
    async with running(2) as (owner, one):
        for number in range(100):
            conversation_id = uuid4()
            await followed(one, conversation_id=conversation_id)
            owner.relay.follow(conversation_id)
            owner.say(conversation_id, n=number)
            if number % 2:
                await asyncio.sleep(0)
                owner.relay.unfollow(conversation_id)
            owner.say(conversation_id, n=number)
        await until(lambda: len(owner.counts) == 200)
        assert min(count for _, count in owner.counts) == 1


# --- what others may say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nobody\n",
        b"\xff\xfe not a text",
        b"[]\n[]",
        b'{"n": 1}' + b"\xff",
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5_000 + b"}",
        b"{" + b"x" * 20_000_000,
    ],
    ids=["empty", "cut", "nothing", "bytes", "no object", "half", "deep", "a number", "20 MB"],
)
async def test_a_message_that_is_none_is_noted_and_what_follows_is_heard(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as (follower,):
        follower.on_frame = lambda frame: frame["n"]
        await followed(follower)
        publish(data)
        publish('{"n": 2}')
        await until(lambda: follower.heard)
        assert follower.heard == [(HERE, {"n": 2})]
        assert follower.came_back == 0
    assert [record.message for record in caplog.records] == ["a frame could not be taken"]


async def test_a_message_from_outside_needs_no_sender() -> None:
    """What a transaction tells after its commit comes without one."""
    async with running() as (follower,):
        await followed(follower)
        publish('{"n": 1}')
        publish('somebody\n{"n": 2}')
        await until(lambda: len(follower.heard) == 2)
        assert follower.numbers() == [1, 2]


async def test_whoever_fails_at_a_frame_hears_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    def fail(frame: dict[str, Any]) -> None:
        if frame["n"] == 1:
            raise RuntimeError("a socket broke")

    async with running(2) as (owner, follower):
        follower.on_frame = fail
        await followed(follower)
        owner.say(HERE, n=1)
        owner.say(HERE, n=2)
        await until(lambda: follower.heard)
        assert follower.numbers() == [2]


# --- outages -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers that no other test uses."""
    with embedded.servers(tmp_path_factory.mktemp("servers"), durable=False) as servers:
        yield servers


@pytest.fixture
def own_valkey(own_servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A Valkey that a test may kill."""
    monkeypatch.setattr(settings, "REDIS_URL", embedded.redis_url(own_servers.layout.data))
    own_servers.revive()
    return next(server for server in own_servers.servers if server.name == "valkey")


def kill(server: Server) -> None:
    pid = server.read_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def revived(servers: Servers) -> None:
    assert await asyncio.to_thread(servers.revive) == ["valkey"]


async def test_after_an_outage_it_follows_again_and_says_that_something_was_missed(
    own_servers: Servers, own_valkey: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def outage(number: int) -> None:
        kill(own_valkey)
        await until(lambda: not own_valkey.is_alive())
        await until(lambda: not follower.relay._confirmed and not owner.relay._confirmed)
        before = owner.came_back, follower.came_back
        owner.say(HERE, n=0)  # lost
        follower.relay.follow(UUID(int=10 + number))  # while nobody can be asked
        await revived(own_servers)
        await until(lambda: owner.came_back > before[0] and follower.came_back > before[1])
        assert follower.relay._confirmed == {HERE, *(UUID(int=11 + n) for n in range(number))}
        await until(lambda: HERE in owner.relay._confirmed)
        owner.counts.clear()
        owner.say(HERE, n=number)
        await until(lambda: number in follower.numbers())
        await until(lambda: (HERE, 1) in owner.counts)

    async with running(2) as (owner, follower):
        await followed(follower, owner)
        for number in range(1, 4):
            await outage(number)
    assert follower.numbers() == [1, 2, 3]
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 6, "each told of each outage once"


async def test_a_connection_that_is_cut_for_a_moment_is_an_outage_too(own_servers: Servers, own_valkey: Server) -> None:
    """Valkey cuts off who reads too slowly: what was said before it came back is lost, and nobody else would tell."""
    async with running() as (follower,):
        await followed(follower)
        with redis.Redis.from_url(settings.REDIS_URL) as client:
            client.client_kill_filter(_type="pubsub")
        await until(lambda: follower.came_back == 1)
        assert follower.relay._confirmed == {HERE}
        publish('{"n": 1}')
        await until(lambda: follower.heard)


async def test_what_was_lost_on_the_way_out_can_be_asked_again_though_nothing_was_missed(
    own_servers: Servers, own_valkey: Server
) -> None:
    """Each has two lines, cut and mended apart. A question sent into the one that is dead must not be the last."""
    async with running(2) as (owner, follower):
        await followed(owner)
        follower.relay._came_back = lambda: follower.say(HERE, n=7)
        follower.say(HERE, n=0)
        await until(lambda: owner.numbers() == [0])
        for _ in range(3):
            owner.heard.clear()
            with redis.Redis.from_url(settings.REDIS_URL) as client:
                client.client_kill_filter(_type="normal", skipme=True)
            follower.say(HERE, n=1)
            await until(lambda: owner.numbers())
            assert owner.numbers() == [7]
    assert owner.came_back == 0


async def test_whoever_hears_that_it_is_back_can_ask_and_hears_the_answer(
    own_servers: Servers, own_valkey: Server
) -> None:
    async with running(2) as (owner, follower):
        owner.on_frame = lambda frame: owner.say(HERE, n=frame["ask"]) if "ask" in frame else None
        await followed(owner, follower)
        follower.say(HERE, n=0)  # so that each has a connection to lose
        owner.say(HERE, n=0)
        await until(lambda: owner.counts and follower.counts)
        follower.relay._came_back = lambda: follower.say(HERE, ask=7)
        for _ in range(3):
            follower.heard.clear()
            with redis.Redis.from_url(settings.REDIS_URL) as client:
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub")
            await until(lambda: 7 in follower.numbers())


async def test_a_valkey_that_was_never_there_is_waited_for(own_servers: Servers, own_valkey: Server) -> None:
    kill(own_valkey)
    await until(lambda: not own_valkey.is_alive())
    async with running() as (follower,):
        follower.relay.follow(HERE)
        follower.say(THERE, n=1)
        await until(lambda: not follower.relay._waiting, within_s=5)
        await revived(own_servers)
        await until(lambda: HERE in follower.relay._confirmed)


async def test_it_ends_when_told_though_the_library_keeps_that_to_itself(
    own_servers: Servers, own_valkey: Server
) -> None:
    kill(own_valkey)
    await until(lambda: not own_valkey.is_alive())
    asked = asyncio.Event()

    async def swallow(client: object) -> None:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

    async with running() as (follower,):
        follower.relay._answers = swallow  # type: ignore[method-assign]
        follower.say(THERE, n=1)
        async with asyncio.timeout(20):
            await asked.wait()
    # `running` has cancelled it, and waited for its end.


async def test_a_valkey_that_hangs_holds_up_nobody(own_servers: Servers, own_valkey: Server) -> None:
    pid = own_valkey.read_pid()
    assert pid is not None
    async with running(2) as (owner, follower):
        await followed(follower)
        os.kill(pid, signal.SIGSTOP)
        try:
            for number in range(5):
                owner.say(HERE, n=number)
            await until(lambda: not owner.relay._waiting, within_s=5)
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: listeners() == 1)
        owner.say(HERE, n=99)
        with contextlib.suppress(TimeoutError):
            await until(lambda: 99 in follower.numbers(), within_s=2)
        owner.say(HERE, n=100)
        await until(lambda: 100 in follower.numbers())


async def test_a_relay_that_is_cancelled_leaves_nothing_behind(own_servers: Servers, own_valkey: Server) -> None:
    for is_away in (False, True):
        if is_away:
            kill(own_valkey)
            await until(lambda: not own_valkey.is_alive())
        async with running(2) as processes:  # which looks at the tasks
            for process in processes:
                process.relay.follow(HERE)
                process.say(HERE, n=1)
            await asyncio.sleep(0)
    await revived(own_servers)
    assert listeners() == 0
