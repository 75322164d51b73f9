"""Replies that wait for people: they hold no process, every page says so, and they go on by themselves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from pytest_django import DjangoDbBlocker

from agents import registry
from agents.chat import conversations
from agents.models import Conversation, Message, Run
from approvals.deciding import Decide
from approvals.models import Approval
from astra_site.embedded import Servers
from jobs import script
from jobs.models import Job, JobEvent, Wait, Worker
from jobs.states import State
from jobs.transitions import MAX_CHAT_CLAIMS, lock, release
from tests.support.approvals import paid, reviewer
from tests.support.chat import Page, Shown, Web, sign_in, until
from tests.support.configs import load
from tests.support.openai_server import OpenAIServer, Says
from tests.support.people import person
from tests.support.processes import Processes, eventually, moved_to, reconnect

CONFIG = """
programs: [tests.support.programs, tests.support.chat_programs]
agents:
  payer: {version: 1, instructions: Pay., model: openai:test, tools: [test_pay]}
  napper: {version: 1, instructions: Help., model: openai:test, program: test-naps}
endpoints:
  chat.v1: {agent: payer, mode: streaming-sync}
  nap.v1: {agent: napper, mode: streaming-sync}
approvals:
  - {when: {tool: test_pay, "amount_usd >": 100}}
"""
#: However busy the machine. Seconds.
SOON_S = 60.0


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
    reconnect()


@pytest.fixture(scope="module")
def a_model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


class Fleet:
    """A scheduler and two web processes; those that a test ended are started again for the next."""

    def __init__(self, processes: Processes, model_url: str) -> None:
        self.processes, self.model_url = processes, model_url
        self.scheduler = processes.scheduler()
        self.webs = [self.start(), self.start()]

    def start(self) -> Web:
        return Web(self.processes, self.model_url, environment={"ASTRA_GRACE_S": "2"})

    def ready(self) -> list[Web]:
        self.webs = [web if web.process.is_alive else self.start() for web in self.webs]
        pids = {web.process.pid for web in self.webs}
        eventually(lambda: pids <= set(Worker.objects.alive().values_list("pid", flat=True)), within_s=SOON_S)
        return self.webs


@pytest.fixture(scope="module")
def fleet(own_servers: Servers, a_model: OpenAIServer) -> Iterator[Fleet]:
    load(CONFIG)
    with Processes() as processes:
        yield Fleet(processes, a_model.base_url)


class Talk:
    """Somebody who asks the agent to pay, with a page at each of two processes."""

    def __init__(self, fleet: Fleet, model: OpenAIServer, notes: Path, endpoint: str = "chat.v1") -> None:
        self.fleet, self.model, self.notes = fleet, model, notes
        model.script.clear()
        model.requests.clear()
        model.says, model.token_s = Says("It is paid."), 0.0
        self.user: User = person(f"alice-{uuid4()}", "user")
        self.conversation: Conversation = conversations.create(self.user, endpoint)
        self.pages = [Page(web, self.conversation, sign_in(self.user)) for web in fleet.ready()]
        for page in self.pages:
            page.send({"type": "ping"})
        until(self.pages, lambda: all(page.of("pong") for page in self.pages), within_s=SOON_S)
        self.shown: Shown

    def asks_for(self, *amounts: float) -> Approval:
        """Ask for payments; return the request, once every page says that the reply waits for it."""
        self.model.will(*(Says("", calls=[self.call(amount)]) for amount in amounts))
        self.shown = self.pages[0].begin("Pay them.")
        return self.parked()

    def call(self, amount: float) -> tuple[str, dict[str, object]]:
        return ("test_pay", {"file": str(self.notes), "amount_usd": amount})

    def parked(self) -> Approval:
        """Return what people are asked, once every page says so."""
        found = eventually(
            lambda: Approval.objects.filter(run_id=self.run_id, state="pending").first(), within_s=SOON_S
        )
        assert found is not None
        until(
            self.pages, lambda: all(self.waits_of(page)[-1:] == [str(found.pk)] for page in self.pages), within_s=SOON_S
        )
        eventually(lambda: self.job.state == "waiting", within_s=SOON_S)
        return found

    def waits_of(self, page: Page) -> list[str]:
        return [frame["approval_id"] for frame in page.of("run.waiting") if frame["run_id"] == self.shown.run_id]

    @property
    def run_id(self) -> UUID:
        return UUID(self.shown.run_id)

    @property
    def job(self) -> Job:
        return Job.objects.get(pk=self.run_id)

    @property
    def reply(self) -> Message:
        return Message.objects.get(run_id=self.run_id, role="assistant")

    def ends_with(self, text: str) -> None:
        """See that every page and the database end with the text."""
        until(self.pages, lambda: all(page.replies[self.shown.run_id].end for page in self.pages), within_s=SOON_S)
        assert self.job.error is None, self.job.error
        assert [page.replies[self.shown.run_id].text for page in self.pages] == [text] * len(self.pages)
        assert (self.reply.text, self.reply.status) == (text, "done")


@pytest.fixture
def talk(fleet: Fleet, a_model: OpenAIServer, tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """Begins a talk."""
    begun: list[Talk] = []

    def make(endpoint: str = "chat.v1") -> Talk:
        begun.append(Talk(fleet, a_model, tmp_path / "notes", endpoint))
        return begun[-1]

    yield make
    for one in begun:
        for page in one.pages:
            page.drop()


def decide(approval: Approval, decision: str = "approve", comment: str = "") -> None:
    Decide(reviewer(f"rita-{uuid4()}"), decision, approval.plan_hash, comment).run(approval.pk)  # type: ignore[arg-type]


def forged_by(days: int, run_id: UUID) -> None:
    """Let all that happened to a run have happened so many days ago."""
    with connection.cursor() as cursor:
        for table, column, key in [
            ("jobs_job", "created_at", "id"),
            ("jobs_jobevent", "at", "job_id"),
            ("agents_run", "created_at", "job_id"),
        ]:
            cursor.execute(
                f"UPDATE {table} SET {column} = {column} - make_interval(days => %s) WHERE {key} = %s", [days, run_id]
            )


# --- it waits ----------------------------------------------------------------------------------------------------


def test_a_reply_that_waits_says_so_on_every_page_in_turn_and_holds_nothing(talk: Callable[..., Talk]) -> None:
    it = talk()
    approval = it.asks_for(150)
    assert approval.requested_by == it.user
    for page in it.pages:
        shown = page.replies[it.shown.run_id]
        frame = page.of("run.waiting")[-1]
        assert (shown.gaps, shown.repeats, shown.seq) == (0, 0, frame["seq"])
        (wait,) = frame["waits"]
        assert wait["words"] == f"Waits for a reviewer: {approval.title}"
        assert (wait["kind"], wait["approval_id"]) == ("person", str(approval.pk))
    assert (it.job.state, it.job.worker_id, it.job.fence) == ("waiting", None, 1)
    assert (it.reply.status, it.reply.seq) == ("writing", it.shown.seq)
    assert paid(it.notes) == []


def test_a_page_that_comes_later_is_told_the_same(talk: Callable[..., Talk]) -> None:
    it = talk()
    approval = it.asks_for(150)
    for web in it.fleet.webs:
        with Page(web, it.conversation, sign_in(it.user)) as late:
            shown = late.resume(it.shown.run_id)
            late.until(lambda late=late: late.of("run.waiting"), within_s=SOON_S)  # type: ignore[misc]
            assert late.of("run.waiting")[0]["approval_id"] == str(approval.pk)
            assert (shown.seq, shown.gaps) == (it.shown.seq, 0)


def test_what_is_said_meanwhile_is_refused_with_why(talk: Callable[..., Talk]) -> None:
    it = talk()
    it.asks_for(150)
    it.pages[1].say("And something else.")
    it.pages[1].until(lambda: it.pages[1].errors, within_s=SOON_S)
    problem = it.pages[1].errors[0]["problem"]
    assert (problem["type"], "waits" in problem["detail"]) == ("/problems/reply-running", True)


def test_stopping_it_drops_the_request_and_lets_the_conversation_go_on(talk: Callable[..., Talk]) -> None:
    it = talk()
    approval = it.asks_for(150)
    it.pages[1].stop(it.shown.run_id)
    until(it.pages, lambda: all(page.replies[it.shown.run_id].end for page in it.pages), within_s=SOON_S)
    assert [page.replies[it.shown.run_id].end["stopped"] for page in it.pages] == [True, True]  # type: ignore[index]
    assert (it.reply.status, it.job.state) == ("stopped", "cancelled")
    approval.refresh_from_db()
    assert (approval.state, approval.decision) == ("superseded", "")
    it.shown = it.pages[0].begin("Never mind.")
    it.ends_with("It is paid.")
    assert paid(it.notes) == []


# --- it goes on --------------------------------------------------------------------------------------------------


def test_once_approved_it_goes_on_in_the_same_reply_on_every_page(talk: Callable[..., Talk]) -> None:
    it = talk()
    approval = it.asks_for(150)
    waited = it.shown.seq
    decide(approval, comment="Fine.")
    it.ends_with("It is paid.")
    assert paid(it.notes) == ["paid-150"]
    for page in it.pages:
        seqs = [f["seq"] for f in page.frames if f.get("run_id") == it.shown.run_id and f["type"] != "run.heartbeat"]
        assert seqs == sorted(set(seqs)) and seqs[-1] > waited
        assert page.replies[it.shown.run_id].gaps == 0
        assert page.errors == []
        steps = page.replies[it.shown.run_id].steps
        assert [step["words"] for step in steps.values() if step["kind"] == "wait"] == [
            f"Approved by {Approval.objects.get(pk=approval.pk).decided_by[0]}: Fine."
        ]
    assert (it.job.crashes, it.job.attempt, it.job.fence) == (0, 0, 2)


def test_one_that_is_rejected_is_read_by_the_model_which_answers_so(talk: Callable[..., Talk]) -> None:
    it = talk()
    approval = it.asks_for(150)
    it.model.says = Says("They do not want it.")
    decide(approval, "reject", "Too dear.")
    it.ends_with("They do not want it.")
    assert paid(it.notes) == []
    assert "Too dear." in json.dumps(it.model.requests[-1].json())


def test_it_may_wait_twice_and_each_wait_is_told(talk: Callable[..., Talk]) -> None:
    it = talk()
    first = it.asks_for(150, 160)
    decide(first)
    second = it.parked()
    assert second.pk != first.pk
    assert paid(it.notes) == ["paid-150"]
    decide(second)
    it.ends_with("It is paid.")
    assert paid(it.notes) == ["paid-150", "paid-160"]
    # A page may be told twice of one wait, never of another.
    told = [list(dict.fromkeys(it.waits_of(page))) for page in it.pages]
    assert told == [[str(first.pk), str(second.pk)]] * 2
    assert all(page.replies[it.shown.run_id].gaps == 0 for page in it.pages)


def test_a_page_whose_process_hears_of_the_conversation_only_then_is_told_that_its_reply_waits(
    talk: Callable[..., Talk],
) -> None:
    it = talk()
    late = it.pages.pop()
    late.drop()
    found = it.asks_for(150)
    # It shows the conversation as it was before the reply began, and knows of nothing that it could ask for.
    page = Page(late.web, it.conversation, sign_in(it.user))
    until([page], lambda: it.waits_of(page) == [str(found.pk)], within_s=SOON_S)
    it.pages.append(page)
    decide(found)
    it.ends_with("It is paid.")


def test_a_nap_is_a_wait_too_which_nobody_decides(talk: Callable[..., Talk]) -> None:
    it = talk("nap.v1")
    it.shown = it.pages[0].begin("Sleep on it.")
    until(it.pages, lambda: all(page.of("run.waiting") for page in it.pages), within_s=SOON_S)
    frame = it.pages[1].of("run.waiting")[0]
    assert (frame["approval_id"], [wait["kind"] for wait in frame["waits"]]) == (None, ["time"])
    Wait.objects.filter(job=it.run_id).update(until="2020-01-01T00:00:00Z")
    it.ends_with("Before.\n\nIt is paid.")


def test_days_of_waiting_count_against_no_budget_of_the_chat(talk: Callable[..., Talk]) -> None:
    it = talk()
    approval = it.asks_for(150)
    forged_by(3, it.run_id)
    decide(approval)
    it.ends_with("It is paid.")
    assert paid(it.notes) == ["paid-150"]


# --- what happens meanwhile --------------------------------------------------------------------------------------


def test_it_goes_on_though_every_web_process_died_while_it_waited(talk: Callable[..., Talk]) -> None:
    it = talk()
    approval = it.asks_for(150)
    for web in it.fleet.webs:
        web.process.end()
    until(it.pages, lambda: not any(page.is_open for page in it.pages), within_s=SOON_S)
    decide(approval)
    assert it.job.state == "queued"
    for page, web in zip(it.pages, it.fleet.ready(), strict=True):
        page.open(web)
    it.ends_with("It is paid.")
    assert paid(it.notes) == ["paid-150"]
    assert (it.job.crashes, it.job.attempt) == (0, 0)


def test_it_goes_on_though_redis_lost_everything_while_it_waited(
    talk: Callable[..., Talk], own_servers: Servers
) -> None:
    it = talk()
    approval = it.asks_for(150)
    valkey = next(each for each in own_servers.servers if each.name == "valkey")
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushall()
    pid = valkey.read_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not valkey.is_alive(), within_s=SOON_S)
    decide(approval)
    assert own_servers.revive() == ["valkey"]
    it.ends_with("It is paid.")
    assert paid(it.notes) == ["paid-150"]


def test_a_page_that_nobody_told_of_the_decision_finds_out_by_itself(
    talk: Callable[..., Talk], own_servers: Servers
) -> None:
    """All that was said of it was said while Redis was away; nobody writes it any more who could be asked."""
    it = talk()
    approval = it.asks_for(150)
    valkey = next(each for each in own_servers.servers if each.name == "valkey")
    pid = valkey.read_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not valkey.is_alive(), within_s=SOON_S)
    decide(approval)
    eventually(lambda: self_status(it) == "done", within_s=SOON_S)
    it.ends_with("It is paid.")
    assert own_servers.revive() == ["valkey"]


def self_status(it: Talk) -> str:
    return it.reply.status


# --- what the pages and the database say -------------------------------------------------------------------------


def test_the_page_without_a_script_says_what_it_waits_for_and_links_only_whoever_may_look(
    talk: Callable[..., Talk],
) -> None:
    it = talk()
    approval = it.asks_for(150)
    client = Client()
    client.force_login(it.user)
    page = client.get(f"/chat/{it.conversation.pk}/").content.decode()
    assert f"Waits for a reviewer: {approval.title}." in page
    assert f"/approvals/{approval.pk}/" not in page
    assert "The last answer waits. Stop it to say something else now." in page
    assert ", the last answer waits" in page
    it.user.groups.add(*reviewer().user.groups.all())  # type: ignore[union-attr]
    assert f'href="/approvals/{approval.pk}/"' in client.get(f"/chat/{it.conversation.pk}/").content.decode()


def chat_job(fence: int, parked: int) -> Job:
    """Write a reply that is being written under that fence, after it has parked so often."""
    run = Run.objects.filter(mode="streaming-sync").latest("job_id")
    Job.objects.filter(pk=run.pk).update(
        state="running", fence=fence, crashes=0, worker=Worker.objects.alive().first(), finished_at=None, lane="chat"
    )
    JobEvent.objects.filter(job=run.pk).delete()
    JobEvent.objects.bulk_create(
        JobEvent(job=run.job, kind="state", old="running", new="waiting", reason="parked") for _ in range(parked)
    )
    return Job.objects.get(pk=run.pk)


@pytest.mark.parametrize(("parked", "state"), [(0, State.DEAD), (1, State.QUEUED)])
def test_going_on_after_a_wait_is_no_crash_that_its_process_died_of(
    talk: Callable[..., Talk], parked: int, state: State
) -> None:
    it = talk()
    it.shown = it.pages[0].begin("Hello.")
    it.ends_with("It is paid.")
    for web in it.fleet.webs:
        web.process.end()  # nobody is to take it over
    job = chat_job(MAX_CHAT_CLAIMS, parked)
    row = script.run(lock(job.pk))
    assert row is not None
    assert script.run(release(row, how="worker-died")) is state
    Job.objects.filter(pk=job.pk).update(state="cancelled", finished_at=job.created_at)
