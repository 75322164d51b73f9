"""Replies that several real web processes share: killed, stopped, restarted, and cut off from their servers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import User
from pytest_django import DjangoDbBlocker

from agents import registry
from agents.chat import conversations
from agents.models import Conversation, Message
from astra_site.embedded import Servers
from astra_site.embedded.server import Server
from jobs import lease
from jobs.models import Job, JobEvent, Worker
from tests.support.chat import Page, Shown, Web, sign_in, until
from tests.support.configs import load
from tests.support.openai_server import OpenAIServer, Says
from tests.support.people import person
from tests.support.processes import Processes, eventually, moved_to, reconnect

CONFIG = """
programs: [tests.support.chat_programs]
agents:
  helper: {version: 1, instructions: Help., model: openai:test}
  looker: {version: 1, instructions: Look., model: openai:test, program: test-looks-first}
  killer: {version: 1, instructions: Help., model: openai:test, program: test-kills}
endpoints:
  chat.v1: {agent: helper, mode: streaming-sync}
  look.v1: {agent: looker, mode: streaming-sync}
  kill.v1: {agent: killer, mode: streaming-sync}
"""
WORDS = " ".join(f"word-{number}" for number in range(100))
GRACE_S = 2
#: Of random stories, so many after each other and beside each other.
ROUNDS, AT_ONCE = 9, 8
#: A reply is found, shown and gone within that, however busy the machine. Seconds.
SOON_S = 30.0
#: Until another process has what a dead one left: its lease, the next look of a scheduler, and some for a busy machine.
TAKEN_S = lease.LEASE_S + 1 + 3


@pytest.fixture(scope="module")
def own_servers(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """A PostgreSQL and a Valkey that no other test uses."""
    with django_db_blocker.unblock(), moved_to(tmp_path_factory.mktemp("servers")) as servers:
        yield servers
    registry.forget()


@pytest.fixture
def transactional_db() -> None:
    """Empty nothing after a test: the module's tests share the database."""


@pytest.fixture(autouse=True)
def _database(transactional_db: None, own_servers: Servers) -> None:
    """Let go of connections that a test which failed may have left broken."""
    reconnect()


@pytest.fixture(scope="module")
def a_model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def model(a_model: OpenAIServer) -> OpenAIServer:
    """The model, which answers quickly and well unless the test says otherwise."""
    a_model.says, a_model.first_token_s, a_model.token_s = Says(WORDS), 0.0, 0.0
    a_model.script.clear()
    a_model.requests.clear()
    return a_model


class Fleet:
    """A scheduler and two web processes; those that a test ended are started again for the next."""

    def __init__(self, processes: Processes, model_url: str) -> None:
        self.processes = processes
        self.model_url = model_url
        self.scheduler = processes.scheduler()
        self.webs = [self.start(), self.start()]

    def start(self) -> Web:
        return Web(self.processes, self.model_url, environment={"ASTRA_GRACE_S": str(GRACE_S)})

    def ready(self) -> tuple[Web, Web]:
        """Return two processes that serve the chat."""
        assert self.scheduler.is_alive
        self.webs = [web if web.process.is_alive else self.start() for web in self.webs]
        pids = {web.process.pid for web in self.webs}
        eventually(lambda: pids <= set(Worker.objects.alive().values_list("pid", flat=True)), within_s=SOON_S)
        return self.webs[0], self.webs[1]


@pytest.fixture(scope="module")
def fleet(own_servers: Servers, a_model: OpenAIServer) -> Iterator[Fleet]:
    load(CONFIG)
    with Processes() as processes:
        yield Fleet(processes, a_model.base_url)


@pytest.fixture
def webs(fleet: Fleet) -> tuple[Web, Web]:
    return fleet.ready()


@pytest.fixture
def alice() -> User:
    """Somebody who has said nothing yet."""
    return person(f"alice-{uuid4()}")


@pytest.fixture
def talk(alice: User) -> Conversation:
    return conversations.create(alice, "chat.v1")


@pytest.fixture
def open_page(alice: User, talk: Conversation, model: OpenAIServer) -> Iterator[Callable[..., Page]]:
    """Opens pages of Alice's, on her conversation if no other is named, that have heard from their process."""
    opened: list[Page] = []
    cookie = sign_in(alice)

    def make(web: Web, conversation: Conversation = talk) -> Page:
        page = Page(web, conversation, cookie)
        opened.append(page)
        page.send({"type": "ping"})
        page.until(lambda: page.of("pong"), within_s=SOON_S)
        return page

    yield make
    for page in opened:
        page.drop()


def row(shown: Shown) -> Job:
    return Job.objects.get(pk=UUID(shown.run_id))


def reply(shown: Shown) -> Message:
    return Message.objects.get(run_id=UUID(shown.run_id), role="assistant")


def is_over(shown: Shown) -> Callable[[], bool]:
    run_id = UUID(shown.run_id)
    return lambda: not Message.objects.filter(run_id=run_id, status="writing").exists()


def half(pages: list[Page], shown: Shown) -> None:
    """Read until every page shows the beginning of a reply."""
    until(
        pages,
        lambda: all((one := page.replies.get(shown.run_id)) and "word-5 " in one.text for page in pages),
        within_s=SOON_S,
    )


def all_end_with(pages: list[Page], shown: Shown, text: str, *, within_s: float = SOON_S) -> None:
    """See that every page and the database end with the text, and that every page was told so once."""
    until(pages, lambda: all(page.replies[shown.run_id].end for page in pages), within_s=within_s)
    assert [page.replies[shown.run_id].text for page in pages] == [text] * len(pages)
    assert (reply(shown).text, reply(shown).status) == (text, "done")
    assert Message.objects.filter(run_id=UUID(shown.run_id)).count() == 2


def claims(shown: Shown) -> list[int]:
    """Return the fences under which a reply was claimed by a process that took it over."""
    found = JobEvent.objects.filter(job_id=UUID(shown.run_id), reason="claimed").order_by("id")
    return list(found.values_list("fence", flat=True))


# --- one reply, two processes ------------------------------------------------------------------------------------


def test_a_page_of_another_process_follows_a_reply_from_its_first_word_and_another_may_come_late(
    webs: tuple[Web, Web], open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    model.token_s = 0.02
    page, remote = open_page(webs[0]), open_page(webs[1])
    shown = page.begin("Where, please?")
    half([page, remote], shown)
    late = open_page(webs[1])
    late.resume(shown.run_id)
    page.drop()
    page.open(webs[1])  # the same tab, at another process
    half([page, remote, late], shown)
    model.token_s = 0.0
    all_end_with([page, remote, late], shown, WORDS)
    seen = remote.replies[shown.run_id]
    assert seen.gaps == seen.repeats == 0
    assert seen.accepted is not None and seen.accepted["text"] == "Where, please?"
    assert len(model.requests) == 1


def test_a_reply_is_stopped_from_another_process_at_once(
    webs: tuple[Web, Web], open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    model.says = Says(WORDS, stall_after=20)
    page, remote = open_page(webs[0]), open_page(webs[1])
    shown = page.begin()
    half([page, remote], shown)
    began = time.monotonic()
    remote.stop(shown.run_id)
    remote.ended(remote.replies[shown.run_id])
    assert time.monotonic() - began < 10  # and not when the model goes on
    page.ended(shown)
    assert model.wait_until(lambda server: server.busy == 0)
    assert page.replies[shown.run_id].text == remote.replies[shown.run_id].text == reply(shown).text
    assert reply(shown).status == "stopped"
    assert WORDS.startswith(reply(shown).text) and "word-5 " in reply(shown).text


def test_a_repeated_message_at_another_process_is_answered_with_the_same_reply(
    webs: tuple[Web, Web], open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    model.token_s = 0.02
    page, remote = open_page(webs[0]), open_page(webs[1])
    client_id = str(uuid4())
    for each in (page, remote, remote, page):
        each.say(client_id=client_id)
    until([page, remote], lambda: page.replies and remote.replies, within_s=SOON_S)
    model.token_s = 0.0
    (shown,) = page.replies.values()
    all_end_with([page, remote], shown, WORDS)
    assert page.errors == remote.errors == []
    assert len(model.requests) == 1


# --- a process dies ----------------------------------------------------------------------------------------------


def test_a_message_that_kills_every_process_falls_alone(fleet: Fleet, model: OpenAIServer) -> None:
    webs = fleet.ready()
    model.says = Says(WORDS, stall_after=20)
    opened: list[Page] = []
    shown: list[Shown] = []
    for number in range(6):
        user = person(f"neighbour-{uuid4()}")
        page = Page(webs[number % 2], conversations.create(user, "kill.v1"), sign_in(user))
        opened.append(page)
        shown.append(page.begin())
        half([page], shown[-1])
    poisoner = person(f"poisoner-{uuid4()}")
    page = Page(webs[0], conversations.create(poisoner, "kill.v1"), sign_in(poisoner))
    page.say("poison")
    eventually(lambda: Message.objects.filter(text="poison").exists(), within_s=SOON_S)
    poison = Message.objects.get(role="assistant", conversation__user=poisoner)
    known_dead: set[int] = set()

    def has_fallen() -> bool:
        for web in fleet.webs:
            if not web.process.is_alive and web.process.pid not in known_dead:
                known_dead.add(web.process.pid)
                lease.release_dead(pid=web.process.pid)  # as `up` does, and it starts another one
        fleet.ready()
        return Message.objects.get(pk=poison.pk).status == "failed"

    eventually(has_fallen, within_s=2 * SOON_S)
    model.says = Says(WORDS)
    for one in shown:
        eventually(is_over(one), within_s=SOON_S)
    assert [(reply(one).status, reply(one).text) for one in shown] == [("done", WORDS)] * len(shown)
    assert 1 < len(known_dead) <= 4
    for each in (*opened, page):
        each.drop()


@pytest.mark.parametrize("known", [False, True], ids=["by its lease", "at once"])
def test_what_a_killed_process_was_writing_is_finished_whole_by_another(
    known: bool,
    webs: tuple[Web, Web],
    alice: User,
    open_page: Callable[..., Page],
    model: OpenAIServer,
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    model.will(Says("The first part."), Says(WORDS, stall_after=20), Says(WORDS))
    talk = conversations.create(alice, "look.v1")
    page, remote = open_page(webs[0], talk), open_page(webs[1], talk)
    shown = page.begin(str(log))
    half([page, remote], shown)
    webs[0].process.kill()
    if known:
        lease.release_dead(pid=webs[0].process.pid)  # as `up` does
    page.until(lambda: not page.is_open)
    page.open(webs[1])
    all_end_with([page, remote], shown, f"The first part.\n\n{WORDS}")
    assert Counter(line.split()[0] for line in log.read_text().splitlines()) == {"looked": 1, "looked-again": 1}
    assert len(model.requests) == 3
    assert row(shown).fence == 2
    for each in (page, remote):
        steps = each.replies[shown.run_id].steps.values()
        assert Counter(step["name"] for step in steps)["look"] == 1
        assert {step["status"] for step in steps} == {"finished"}


def test_a_process_that_stood_still_past_its_lease_changes_nothing_when_it_goes_on(
    webs: tuple[Web, Web], open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    model.says, model.token_s = Says(WORDS), 0.02
    stale, remote = open_page(webs[0]), open_page(webs[1])
    shown = stale.begin()
    half([stale, remote], shown)
    other = "Another answer. " * 20
    model.says, model.token_s = Says(other), 0.0
    webs[0].process.stop()
    try:
        all_end_with([remote], shown, other, within_s=TAKEN_S + 10)
        assert row(shown).fence == 2
    finally:
        webs[0].process.go_on()
    all_end_with([stale, remote], shown, other)
    # Its own lease is a new one: what it does from here on counts.
    eventually(lambda: Worker.objects.alive().filter(pid=webs[0].process.pid).exists(), within_s=SOON_S)
    model.says = Says("And a third.")
    after = len(remote.frames)
    again = stale.begin("And now?")
    all_end_with([stale, remote], again, "And a third.")
    assert {frame["run_id"] for frame in remote.frames[after:]} == {again.run_id}
    assert reply(shown).text == other


# --- a process is restarted --------------------------------------------------------------------------------------


def test_a_process_that_is_asked_to_stop_sends_its_pages_away_and_finishes_a_short_reply(
    webs: tuple[Web, Web], open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    model.token_s = 0.02
    page = open_page(webs[0])
    shown = page.begin()
    half([page], shown)
    webs[0].process.terminate()
    page.until(lambda: not page.is_open)
    assert page.closes == [4000]
    page.open(webs[1])
    page.until(lambda: shown.snapshots)
    model.token_s = 0.0
    all_end_with([page], shown, WORDS)
    assert webs[0].process.ends_within(15) == 0
    assert row(shown).fence == 1
    assert len(model.requests) == 1


def test_a_process_that_is_asked_to_stop_hands_over_a_long_reply(
    webs: tuple[Web, Web], open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    model.will(Says(WORDS, stall_after=20))
    page, remote = open_page(webs[0]), open_page(webs[1])
    shown = page.begin()
    half([page, remote], shown)
    webs[0].process.terminate()
    page.until(lambda: not page.is_open)
    page.open(webs[1])
    all_end_with([page, remote], shown, WORDS)
    assert webs[0].process.ends_within(15) == 0
    assert row(shown).fence == 2
    assert (row(shown).attempt, row(shown).crashes) == (0, 0)
    assert page.errors == remote.errors == []


# --- the servers go away -----------------------------------------------------------------------------------------


def server(servers: Servers, name: str) -> Server:
    return next(each for each in servers.servers if each.name == name)


def end(it: Server, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill or stop a server and wait until it is gone."""
    pid = it.read_pid()
    assert pid is not None
    os.kill(pid, number)
    eventually(lambda: not it.is_alive(), within_s=20)


def test_without_valkey_pages_of_the_same_process_notice_nothing_and_others_come_back(
    webs: tuple[Web, Web], own_servers: Servers, open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    text = " ".join(f"word-{number}" for number in range(400))
    model.says, model.token_s = Says(text), 0.02
    page, remote = open_page(webs[0]), open_page(webs[1])
    shown = page.begin()
    half([page, remote], shown)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushall()
    end(server(own_servers, "valkey"))
    page.until(lambda: "word-60 " in shown.text, within_s=SOON_S)
    assert own_servers.revive() == ["valkey"]
    seen = remote.replies[shown.run_id]
    until([page, remote], lambda: seen.snapshots or seen.end, within_s=SOON_S)
    assert seen.end is None
    model.token_s = 0.0
    all_end_with([page, remote], shown, text)
    assert (shown.gaps, shown.repeats, shown.snapshots) == (0, 0, 0)
    assert page.closes == remote.closes == []


def test_a_reply_that_ends_while_valkey_is_away_is_told_to_pages_of_other_processes_all_the_same(
    webs: tuple[Web, Web], own_servers: Servers, open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    model.token_s = 0.02
    page, remote = open_page(webs[0]), open_page(webs[1])
    shown = page.begin()
    half([page, remote], shown)
    end(server(own_servers, "valkey"))
    model.token_s = 0.0
    all_end_with([page, remote], shown, WORDS)
    assert own_servers.revive() == ["valkey"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "restarted"])
def test_a_reply_outlives_postgresql_and_messages_are_refused_in_words_meanwhile(
    how: signal.Signals,
    webs: tuple[Web, Web],
    own_servers: Servers,
    open_page: Callable[..., Page],
    model: OpenAIServer,
    alice: User,
) -> None:
    model.token_s = 0.02
    page, remote = open_page(webs[0]), open_page(webs[1])
    idle = open_page(webs[0], conversations.create(alice, "chat.v1"))
    shown = page.begin()
    half([page, remote], shown)
    reconnect()
    end(server(own_servers, "postgres"), how)
    client_id = str(uuid4())
    for count in (1, 2):
        idle.say("Is anybody there?", client_id)
        # Not when PostgreSQL is there again, but the pool may first wait its ten seconds for a connection.
        idle.until(lambda count=count: len(idle.errors) == count, within_s=20)  # type: ignore[misc]
        error = idle.errors[-1]
        assert (error["problem"]["type"], error["client_id"]) == ("/problems/unavailable", client_id)
        assert "not sent" in error["problem"]["detail"]
    model.token_s = 0.0
    assert own_servers.revive() == ["postgres"]
    reconnect()
    all_end_with([page, remote], shown, WORDS, within_s=60)
    assert idle.is_open
    idle.say("Is anybody there?", client_id)
    until([idle], lambda: idle.answer_to(client_id), within_s=SOON_S)
    again = idle.answer_to(client_id)
    assert again is not None
    all_end_with([idle], again, WORDS)
    assert Message.objects.filter(conversation_id=UUID(str(idle.conversation_id))).count() == 2
    # No connection that the outage broke is left to whoever comes next.
    for web in webs:
        for _ in range(10):
            assert not open_page(web).errors


# --- everything at once ------------------------------------------------------------------------------------------


class Story:
    """A message, its reply, and three tabs that come and go as they like."""

    def __init__(self, webs: tuple[Web, Web], chance: random.Random) -> None:
        self.webs, self.chance = webs, chance
        user = person(f"alice-{uuid4()}")
        self.talk, self.cookie = conversations.create(user, "chat.v1"), sign_in(user)
        self.client_id = str(uuid4())
        self.speaker = self.page()
        self.pages = [self.speaker, self.page(), self.page()]
        self.speaker.say(client_id=self.client_id)
        self.was_stopped = False

    def page(self) -> Page:
        return Page(self.chance.choice(self.webs), self.talk, self.cookie)

    @property
    def run_id(self) -> str:
        return next((run_id for page in self.pages for run_id in page.replies), "")

    def come_back(self, page: Page) -> None:
        """Open a page again, anywhere. What was not accepted is sent again; what it knows of, it resumes."""
        page.open(self.chance.choice(self.webs))
        if page is self.speaker and not page.replies:
            page.say(client_id=self.client_id)

    def go_on(self) -> None:
        """Let one thing happen to each page."""
        for page in self.pages:
            what = self.chance.random()
            if not page.is_open:
                if what < 0.4:
                    self.come_back(page)
            elif what < 0.12:
                page.drop()
            elif what < 0.16 and self.run_id:
                page.resume(self.run_id)
            elif what < 0.175 and self.run_id:
                page.stop(self.run_id)
                self.was_stopped = True
            elif what < 0.19:
                self.speaker.say(client_id=self.client_id) if self.speaker.is_open else None
            else:
                page.read(0.002)

    def settle(self) -> None:
        """Let every page be there, and know of the reply."""
        for page in self.pages:
            if not page.is_open:
                self.come_back(page)
        until(self.pages, lambda: self.run_id, within_s=SOON_S)
        for page in self.pages:
            if self.run_id not in page.replies:
                page.resume(self.run_id)

    def check(self, text: str) -> None:
        """See that all pages hold what the database holds, and that this is what the model said, or how it began."""
        run_id = self.run_id
        until(self.pages, lambda: all(page.replies[run_id].end for page in self.pages), within_s=SOON_S)
        said, answer = Message.objects.filter(conversation=self.talk).order_by("place")
        assert [page.replies[run_id].text for page in self.pages] == [answer.text] * len(self.pages)
        assert [page.errors for page in self.pages] == [[]] * len(self.pages)
        assert {len(page.replies) for page in self.pages} == {1}
        assert (str(answer.run_id), said.client_id) == (run_id, self.client_id)
        assert answer.text == text or (answer.status == "stopped" and text.startswith(answer.text))
        assert answer.status == "done" or self.was_stopped


def test_whatever_happens_to_pages_they_all_end_with_what_was_written(
    webs: tuple[Web, Web], model: OpenAIServer
) -> None:
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        model.token_s = chance.choice([0.0, 0.002, 0.01])
        stories = [Story(webs, chance) for _ in range(AT_ONCE)]
        for _ in range(chance.randrange(5, 40)):
            for story in stories:
                story.go_on()
        model.token_s = 0.0
        for story in stories:
            story.settle()
        for story in stories:
            story.check(WORDS)
            for page in story.pages:
                page.drop()
    # Once for each message, but for those that were stopped before.
    assert 0.9 * ROUNDS * AT_ONCE < len(model.requests) <= ROUNDS * AT_ONCE
