from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client

from accounts import roles, tokens
from agents import event_hub, registry, sse
from agents.event_hub import PAGE, hub
from agents.invoke import invoke
from audit.trail import SYSTEM, Actor
from jobs import pool
from jobs.actions import Cancel, Redrive
from jobs.models.job import Job, JobEvent
from tests.support.configs import load
from tests.support.people import bearer, person

P = ParamSpec("P")
T = TypeVar("T")
DEADLINE_S = 10.0
COMMUNICATOR: Any = ApplicationCommunicator  # it has no types


@pytest.fixture(autouse=True)
async def _world(transactional_db: None) -> AsyncIterator[None]:
    await db(load)
    yield
    await db(registry.forget)
    await pool.close_pool()


async def db(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do ORM work off the loop."""
    return await sync_to_async(work)(*args, **kwargs)


@dataclass
class Frame:
    event: str
    data: dict[str, Any]
    id: int | None


@dataclass
class Listener:
    """A client of the event stream, as an ASGI server would be one."""

    path: str
    headers: dict[str, str]
    method: str = "GET"
    frames: list[Frame] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    text: str = ""
    is_over: bool = False

    async def __aenter__(self) -> Listener:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        scope = {"type": "http", "method": self.method, "path": self.path, "headers": headers}
        self.server = COMMUNICATOR(sse.app, scope)
        await self.server.send_input({"type": "http.request", "body": b"", "more_body": False})
        self.start = await self.server.receive_output(DEADLINE_S)
        self.status = self.start["status"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        await self.server.send_input({"type": "http.disconnect"})
        await self.server.wait(DEADLINE_S)

    @property
    def sent_headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.start["headers"]}

    async def read(self) -> None:
        """Take one piece of the body."""
        piece = await self.server.receive_output(DEADLINE_S)
        self.text += piece["body"].decode()
        self.is_over = not piece["more_body"]
        while "\n\n" in self.text:
            block, self.text = self.text.split("\n\n", 1)
            lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if block.startswith(":"):
                self.comments.append(block)
            elif "event" in lines:
                number = int(lines["id"]) if "id" in lines else None
                self.frames.append(Frame(lines["event"], json.loads(lines["data"]), number))

    async def until(self, event: str) -> Frame:
        """Read until an event of this name comes."""
        while not any(frame.event == event for frame in self.frames):
            await self.read()
        return next(frame for frame in self.frames if frame.event == event)

    async def to_the_end(self) -> list[Frame]:
        while not self.is_over:
            await self.read()
        return self.frames

    async def problem(self) -> dict[str, Any]:
        await self.to_the_end()
        found: dict[str, Any] = json.loads(self.text)
        return found


@dataclass
class Task:
    id: UUID
    user: User
    token: dict[str, str]

    @classmethod
    def make(cls, name: str = "alice") -> Task:
        user = person(name)
        made = invoke("help.v1", "hello", user=user, actor=Actor(user))
        return cls(made.run_id, user, bearer(user))

    def listen(self, *, since: int | str | None = None, **headers: str) -> Listener:
        last = {"Last-Event-ID": str(since)} if since is not None else {}
        return Listener(f"/api/v1/tasks/{self.id}/events", {**self.token, **last, **headers})

    async def note(self, kind: str = "progress", count: int = 1, **data: Any) -> list[int]:
        """Write events as the task's worker would."""
        rows = [JobEvent(job_id=self.id, kind=kind, data=data or {"n": n}) for n in range(count)]
        return [row.pk for row in await db(JobEvent.objects.bulk_create, rows)]

    async def cancel(self) -> None:
        await db(Cancel(SYSTEM).run, self.id)


@pytest.fixture
async def task() -> Task:
    return await db(Task.make)


async def test_what_has_happened_is_replayed_and_what_happens_follows_until_the_end(task: Task) -> None:
    async with task.listen() as listener:
        assert listener.status == 200
        assert listener.sent_headers["content-type"] == "text/event-stream; charset=utf-8"
        assert listener.sent_headers["x-accel-buffering"] == "no"
        assert listener.sent_headers["x-content-type-options"] == "nosniff"
        first = await listener.until("state")
        assert (first.data["from"], first.data["status"], first.data["reason"]) == (None, "queued", "submitted")
        await task.note("step", name="fetch", ms=3)
        step = await listener.until("step")
        assert step.data["name"] == "fetch"
        assert step.id is not None
        assert first.id is not None
        assert step.id > first.id
        await task.cancel()
        frames = await listener.to_the_end()
    assert [frame.event for frame in frames] == ["state", "step", "state", "end"]
    assert frames[2].data["status"] == "cancelled"
    assert frames[3].data == {"status": "cancelled"}
    assert frames[3].id is None, "a client that reconnects goes on after the last real event"


async def test_a_task_that_has_ended_is_told_whole_at_once(task: Task) -> None:
    await task.note("progress", 3)
    await task.cancel()
    async with task.listen() as listener:
        frames = await listener.to_the_end()
    assert [frame.event for frame in frames] == ["state", *["progress"] * 3, "state", "end"]


async def test_a_client_goes_on_after_the_last_event_it_has(task: Task) -> None:
    ids = await task.note("progress", 3)
    async with task.listen(since=ids[0]) as listener:
        await listener.until("progress")
        await task.cancel()
        frames = await listener.to_the_end()
    assert [frame.id for frame in frames[:2]] == ids[1:]
    assert [frame.event for frame in frames] == ["progress", "progress", "state", "end"]


async def test_a_client_that_has_everything_of_an_ended_task_is_told_not_to_come_back(task: Task) -> None:
    await task.cancel()
    last = await db(lambda: JobEvent.objects.filter(job_id=task.id).latest("id").pk)
    async with task.listen(since=last) as listener:
        assert listener.status == 204
        assert await listener.to_the_end() == []


async def test_an_event_id_that_is_none_begins_at_the_beginning(task: Task) -> None:
    for since in ("", "x", "-1", "1.5", "9" * 40, "²"):
        async with task.listen(since=since) as listener:
            assert (await listener.until("state")).data["reason"] == "submitted", since


async def test_a_long_history_comes_whole_in_order_and_without_a_pause(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_hub, "POLL_S", 60.0)
    ids = await task.note("progress", 2 * PAGE + 7)
    await task.cancel()
    async with task.listen() as listener:
        frames = await listener.to_the_end()
    assert [frame.id for frame in frames if frame.event == "progress"] == ids


async def test_a_client_that_does_not_read_is_not_fetched_for(task: Task) -> None:
    await task.note("progress", 3 * PAGE)
    fetched = 0

    class CountingHub(event_hub.Hub):
        async def _fetch(self) -> None:
            nonlocal fetched
            await super()._fetch()
            fetched += 1
            self._news.set()  # do not pause
            await asyncio.sleep(0)

    busy = CountingHub()
    stream = busy.open(task.id, 0)
    async with asyncio.timeout(DEADLINE_S):
        while fetched < 5:
            await asyncio.sleep(0)
    assert stream._items.qsize() == PAGE
    busy.close(stream)


async def test_a_history_of_exactly_one_page_ends_too(task: Task) -> None:
    await task.note("progress", PAGE - 2)
    await task.cancel()
    assert await db(JobEvent.objects.filter(job_id=task.id).count) == PAGE
    async with task.listen() as listener:
        frames = await listener.to_the_end()
    assert len(frames) == PAGE + 1


async def test_a_redriven_task_is_followed_past_its_earlier_end(task: Task) -> None:
    await task.cancel()
    await db(Redrive(SYSTEM).run, task.id)
    async with task.listen() as listener:
        while [frame.data.get("status") for frame in listener.frames] != ["queued", "cancelled", "queued"]:
            await listener.read()
        assert not listener.is_over
        await task.cancel()
        assert (await listener.to_the_end())[-1].event == "end"


async def test_a_task_that_is_deleted_ends_its_stream(task: Task) -> None:
    async with task.listen() as listener:
        await listener.until("state")
        await db(Job.objects.filter(pk=task.id).delete)
        frames = await listener.to_the_end()
    assert (frames[-1].event, frames[-1].data) == ("end", {"status": None})


async def test_many_streams_get_their_own_events_each(task: Task) -> None:
    other = await db(Task.make, "bob")
    async with task.listen() as one, task.listen() as two, other.listen() as three:
        for listener in (one, two, three):
            await listener.until("state")
        await task.note("emit", about="alice")
        await other.note("emit", about="bob")
        assert [(await listener.until("emit")).data["about"] for listener in (one, two, three)] == [
            "alice",
            "alice",
            "bob",
        ]


async def test_one_query_serves_all_streams(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    original = event_hub.Hub._fetch

    async def counting(self: event_hub.Hub) -> None:
        fetched.append(len(self._streams))
        await original(self)

    async with task.listen() as one, task.listen() as two, task.listen() as three:
        for listener in (one, two, three):
            await listener.until("state")
        monkeypatch.setattr(event_hub.Hub, "_fetch", counting)
        await task.note("emit", about="all")
        for listener in (one, two, three):
            await listener.until("emit")
    assert fetched
    assert set(fetched) == {3}


async def test_a_client_that_leaves_is_forgotten_and_the_hub_comes_to_rest(task: Task) -> None:
    async with task.listen() as listener:
        await listener.until("state")
        assert hub()._streams
    assert not hub()._streams
    assert hub()._task is None
    async with task.listen() as listener:
        await listener.until("state")


async def test_silence_is_broken_by_comments(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.01)
    async with task.listen() as listener:
        while len(listener.comments) < 3:
            await listener.read()


async def test_a_token_revoked_meanwhile_ends_the_stream(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(sse, "RECHECK_S", 0.0)
    async with task.listen() as listener:
        await listener.until("state")
        token = await db(task.user.api_tokens.get)
        await db(tokens.revoke, token, actor=SYSTEM)
        frames = await listener.to_the_end()
    assert [frame.event for frame in frames] == ["state"], "cut off, not ended"


async def test_streams_outlive_an_outage_of_the_database(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_hub, "OUTAGE_POLL_S", 0.01)
    failures = 0

    async def away() -> pool.Pool:
        nonlocal failures
        failures += 1
        raise psycopg.OperationalError("gone")

    async with task.listen() as listener:
        await listener.until("state")
        with monkeypatch.context() as patched:
            patched.setattr(event_hub, "get_pool", away)
            await task.note("emit", about="meanwhile")
            async with asyncio.timeout(DEADLINE_S):
                while failures < 3:
                    await asyncio.sleep(0.01)
        assert (await listener.until("emit")).data["about"] == "meanwhile"


async def test_a_session_may_listen_and_a_stranger_may_not(task: Task) -> None:
    def session(user: User) -> dict[str, str]:
        client = Client()
        client.force_login(user)
        return {"Cookie": f"theme=dark; sessionid={client.cookies['sessionid'].value}"}

    task.token = await db(session, task.user)
    async with task.listen() as listener:
        await listener.until("state")
    for headers in (await db(session, await db(person, "bob")), await db(bearer, await db(person, "bob"))):
        task.token = headers
        async with task.listen() as listener:
            assert (listener.status, (await listener.problem())["type"]) == (404, "/problems/not-found")
    task.token = await db(session, await db(person, "boss", roles.OPERATOR))
    async with task.listen() as listener:
        assert listener.status == 200


async def test_nobody_hears_nothing(task: Task) -> None:
    for task.token in (
        {},
        {"Authorization": "Bearer nope"},
        {"Cookie": "sessionid=" + "a" * 32},
        {"Cookie": "sessionid=a\0b"},
        {"Cookie": ";;=;"},
    ):
        async with task.listen() as listener:
            assert listener.status == 401
            assert listener.sent_headers["content-type"] == "application/problem+json"
            assert listener.sent_headers["www-authenticate"].startswith("Bearer")
            assert (await listener.problem())["type"] == "/problems/unauthenticated"


async def test_a_session_that_was_logged_out_hears_nothing(task: Task) -> None:
    def stale() -> str:
        client = Client()
        client.force_login(task.user)
        key = client.cookies["sessionid"].value
        SessionStore(key).delete()
        return key

    task.token = {"Cookie": f"sessionid={await db(stale)}"}
    async with task.listen() as listener:
        assert listener.status == 401


async def test_a_token_without_the_scope_hears_nothing(task: Task) -> None:
    task.token = await db(bearer, task.user, "tasks:write", "agents:read")
    async with task.listen() as listener:
        assert (listener.status, (await listener.problem())["type"]) == (403, "/problems/forbidden")


async def test_a_task_that_is_not_there_is_not_found(task: Task) -> None:
    for task_id in ("x", "1", str(uuid4()), "%00"):
        async with Listener(f"/api/v1/tasks/{task_id}/events", task.token) as listener:
            assert (listener.status, (await listener.problem())["type"]) == (404, "/problems/not-found")


async def test_another_method_is_refused(task: Task) -> None:
    async with Listener(f"/api/v1/tasks/{task.id}/events", task.token, method="POST") as listener:
        assert (listener.status, listener.sent_headers["allow"]) == (405, "GET")
