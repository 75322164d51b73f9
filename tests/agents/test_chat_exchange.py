"""An exchange in a real PostgreSQL: its rows stand and fall together, and its limits hold however many come at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from accounts.problems import NotFound
from agents import registry, text_input
from agents.chat import exchange, stream
from agents.chat.conversations import Delete, channel, next_place
from agents.chat.exchange import Begun, Said, Written
from agents.chat.refusals import MessageTooLong, ReplyRunning, TooFast, TooManyReplies
from agents.chat.stream import CLAIM_SEQS, RunStream, Ticker
from agents.invoke import UnknownEndpoint
from agents.models import Conversation, Message, Run, Step
from agents.runtime.errors import BadInput
from audit.trail import SYSTEM, Actor
from jobs import holds, script, wakeups
from jobs.actions import Cancel, Discard, Redrive
from jobs.claim import finish
from jobs.handlers import Cancelled, Claim, Failed, HandedBack, Outcome, Succeeded
from jobs.ids import since
from jobs.models import Job, JobEvent
from jobs.script import After, Row, Script
from jobs.submit import HeldBack, NotLeased
from tests.jobs.drive import Waiter, ask, at_once, crash, pass_time, session, story, taken, worker
from tests.support.chats import CHATS, PROBLEM, answered, conversation, end, failed, say
from tests.support.configs import load, loaded
from tests.support.people import person
from tests.support.tasks import step

pytestmark = pytest.mark.django_db(transaction=True)

LONGEST = """
agents:
  helper: {version: 1, instructions: Help., model: demo}
endpoints:
  chat.v1:
    agent: helper
    mode: streaming-sync
    input:
      anyOf:
        - {type: string, maxLength: 10}
        - {type: object, properties: {message: {type: string, maxLength: 20}}, required: [message]}
"""


_loaded = loaded(CHATS)


@pytest.fixture
def alice(db: None) -> User:
    return person("alice")


@pytest.fixture
def it(alice: User) -> Conversation:
    return conversation()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was published after a commit."""
    messages: list[tuple[str, Any]] = []
    monkeypatch.setattr(wakeups, "tell", messages.extend)
    return messages


def process() -> UUID:
    return worker("chat", can=registry.capabilities())


def beginning(
    it: Conversation, text: str = "Hello?", client_id: str = "", *, user_id: int = 0, by: UUID | None = None
) -> Script[Begun]:
    said = Said(it.pk, user_id or it.user_id, text, client_id or str(uuid4()))
    return exchange.begin(said, registry.current(), by or process())


def begin(it: Conversation, text: str = "Hello?", client_id: str = "", **more: Any) -> Begun:
    return script.run(beginning(it, text, client_id, **more))


def rows() -> tuple[int, ...]:
    counted = (Job, JobEvent, Run, Message)
    return tuple(model.objects.count() for model in counted)


def reply(run_id: UUID) -> Message:
    return Message.objects.get(run_id=run_id, role="assistant")


def read(run_id: UUID, it: Conversation) -> exchange.Reply:
    found = script.run(exchange.read(run_id, it.pk))
    assert found is not None
    return found


def count(what: Script[Any]) -> int:
    """Run a script and return how many statements it has."""
    asked = 0

    def counted() -> Script[None]:
        nonlocal asked
        found: list[Row] | None = None
        while True:
            try:
                step = what.send(found)  # type: ignore[arg-type]
            except StopIteration:
                return
            asked += not isinstance(step, After)
            found = yield step

    script.run(counted())
    return asked


class Live:
    """A reply's stream in this process."""

    def __init__(self, claim: Claim) -> None:
        self.frames: list[dict[str, Any]] = []
        self.stream = RunStream(
            claim,
            conversation_id=UUID(claim.payload["conversation"]),
            message_id=UUID(claim.payload["message"]),
            say=lambda text: self.frames.append(json.loads(text)),
            ticker=Quiet(),
        )
        stream.keep(self.stream)

    def __enter__(self) -> RunStream:
        return self.stream

    def __exit__(self, *exception: object) -> None:
        stream.drop(self.stream)


class Quiet(Ticker):
    """Never ticks."""

    def add(self, stream: RunStream) -> None:
        """Leave it to the end."""


def says(written: RunStream, *deltas: str) -> None:
    async def say() -> None:
        for text in deltas:
            await written.delta(text)

    asyncio.run(say())


# --- begun -------------------------------------------------------------------------------------------------------


def test_a_message_is_written_with_its_reply_and_a_run_that_is_claimed(it: Conversation) -> None:
    by = process()
    begun = begin(it, "Where does\nthe river end?", "c-1", by=by)
    asked, answer = Message.objects.filter(conversation=it).order_by("place")
    assert (asked.role, asked.text, asked.status, asked.place) == ("user", "Where does\nthe river end?", "done", 1)
    assert (answer.role, answer.text, answer.status, answer.place) == ("assistant", "", "writing", 2)
    assert (asked.client_id, answer.client_id, answer.pk) == ("c-1", None, begun.message_id)
    assert asked.run_id == answer.run_id == begun.run_id
    run = Run.objects.get(pk=begun.run_id)
    assert (run.input, run.mode, run.user_id, run.endpoint.name) == (
        asked.text,
        "streaming-sync",
        it.user_id,
        "chat.v1",
    )
    job = Job.objects.get(pk=begun.run_id)
    assert (job.state, job.lane, job.home_lane, job.fence, job.worker_id) == ("running", "chat", "chat", 1, by)
    assert (job.partition_key, job.max_attempts) == (f"conversation:{it.pk}", exchange.MAX_ATTEMPTS)
    assert story(job.pk) == [("", "queued", "submitted"), ("queued", "running", "claimed")]
    it.refresh_from_db()
    assert it.title == "Where does"


def test_the_claim_is_the_one_that_any_worker_would_get(it: Conversation) -> None:
    begun = begin(it)
    assert begun.claim is not None
    job = Job.objects.get(pk=begun.run_id)
    for name in Claim.__dataclass_fields__:
        column = {"job_id": "id"}.get(name, name)
        assert getattr(begun.claim, name) == getattr(job, column), name


def test_nobody_is_woken_for_a_reply_that_runs_already(it: Conversation, told: list[Any], valkey: Any) -> None:
    begin(it)
    assert wakeups.depth("chat") == 0
    assert told == []
    assert valkey.keys("*") == []


def test_a_begin_that_stops_anywhere_leaves_nothing(it: Conversation) -> None:
    by = process()
    with session() as whole:
        statements = sum(1 for _ in whole.steps(beginning(it, "Whole?", "c-1", by=by)))
    assert statements > 6
    for stop in range(statements + 1):
        with session() as dying:
            for number, _ in enumerate(dying.steps(beginning(it, "Cut?", "c-1", by=by)), 1):
                if number == stop:
                    break
        assert rows() == (0, 0, 0, 0), f"after {stop} statements"
    it.refresh_from_db()
    assert it.title == ""
    assert begin(it, "At last?", "c-1", by=by).claim is not None, "no lock is left"


def test_an_end_that_stops_anywhere_leaves_a_reply_that_is_being_written(it: Conversation) -> None:
    begun, claim = say(it)
    with session() as whole:
        statements = sum(1 for _ in whole.steps(finish(claim, Succeeded({"text": "In the sea."}))))
    for stop in range(statements + 1):
        with session() as dying:
            for number, _ in enumerate(dying.steps(finish(claim, Succeeded({"text": "In the sea."}))), 1):
                if number == stop:
                    break
        assert (reply(begun.run_id).status, reply(begun.run_id).text) == ("writing", "")
        assert Job.objects.get(pk=begun.run_id).state == "running"
    end(claim, Succeeded({"text": "In the sea."}))
    assert (reply(begun.run_id).status, reply(begun.run_id).text) == ("done", "In the sea.")


def test_the_first_message_names_the_conversation_and_no_later_one(it: Conversation) -> None:
    answered(it, "First?")
    answered(it, "Second?")
    it.refresh_from_db()
    assert it.title == "First?"
    Conversation.objects.filter(pk=it.pk).update(title="Mine")
    answered(it, "Third?")
    it.refresh_from_db()
    assert it.title == "Mine"


def test_messages_have_places_in_their_order(it: Conversation) -> None:
    for number in range(3):
        answered(it, f"{number}?", f"{number}.")
    places = Message.objects.filter(conversation=it).order_by("place").values_list("place", "text")
    assert list(places) == [(1, "0?"), (2, "0."), (3, "1?"), (4, "1."), (5, "2?"), (6, "2.")]


def test_a_message_that_comes_while_a_task_answers_stands_after_that_answer(it: Conversation) -> None:
    """Whoever waited for the conversation's lock must not count the messages of before it."""
    answered(it)
    with session() as task:
        task.do(next_place(it.pk))
        task.connection.execute(
            "INSERT INTO agents_message (id, conversation_id, place, role, text, status, seq)"
            " VALUES (%s, %s, 3, 'assistant', 'From the background.', 'done', 0)",
            [uuid4(), it.pk],
        )
        task.connection.execute("UPDATE agents_conversation SET updated_at = now() WHERE id = %s", [it.pk])
        waiter = Waiter(lambda: begin(it, "And then?"))
        assert waiter.blocked()
        task.connection.commit()
    begun = waiter.end()
    assert isinstance(begun, Begun), begun
    assert [place for place, _ in Message.objects.order_by("place").values_list("place", "text")] == [1, 2, 3, 4, 5]


# --- sent twice --------------------------------------------------------------------------------------------------


def test_a_repeated_message_is_answered_with_the_run_it_began(it: Conversation) -> None:
    begun = begin(it, "Once?", "c-1")
    before = rows()
    again = begin(it, "Whatever else it says", "c-1")
    assert (again.run_id, again.message_id, again.claim) == (begun.run_id, begun.message_id, None)
    assert rows() == before
    assert begun.claim is not None
    end(begun.claim, Succeeded({"text": "Yes."}))
    begin(it, "Twice?", "c-2")
    assert begin(it, "Once?", "c-1").run_id == begun.run_id, "while another reply is written"


def test_a_repeated_message_is_answered_whatever_would_be_refused_now(
    it: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(it, "Once?", "c-1")
    monkeypatch.setattr(exchange, "MAX_MINUTE", 0)
    monkeypatch.setattr(exchange, "MAX_REPLIES", 0)
    script.run(holds.place("all", "paused", by="ada"))
    again = begin(it, "Something else", "c-1")
    assert (again.run_id, again.text, again.claim) == (begun.run_id, "Once?", None)


def test_a_message_that_was_sent_before_is_found_by_its_sender_alone(it: Conversation) -> None:
    begun = begin(it, "Once?", "c-1")
    said = Said(it.pk, it.user_id, "Once?", "c-1")
    assert script.run(exchange.sent_before(said)) == Begun(begun.run_id, begun.message_id, "Once?", None)
    assert script.run(exchange.sent_before(replace(said, client_id="c-2"))) is None
    assert script.run(exchange.sent_before(replace(said, user_id=person("bob").pk))) is None
    assert script.run(exchange.sent_before(replace(said, conversation_id=conversation().pk))) is None


def test_the_same_message_twice_at_once_begins_one_run(it: Conversation) -> None:
    for number in range(5):
        known, by = registry.current(), process()
        said = Said(it.pk, it.user_id, "Once?", f"c-{number}")
        made = at_once(*[lambda said=said, known=known, by=by: script.run(exchange.begin(said, known, by))] * 4)
        begun = [one for one in made if isinstance(one, Begun)]
        assert len(begun) == 4, made
        assert len({one.run_id for one in begun}) == 1
        (claim,) = (one.claim for one in begun if one.claim is not None)
        end(claim, Succeeded({"text": "."}))
    assert Message.objects.count() == 10


def test_the_same_id_in_another_conversation_is_another_message(it: Conversation) -> None:
    assert begin(it, client_id="c-1").run_id != begin(conversation(), client_id="c-1").run_id


# --- refused -----------------------------------------------------------------------------------------------------


def refused(it: Conversation, kind: type[Exception], **more: Any) -> Exception:
    """See that nothing is written."""
    before = rows()
    with pytest.raises(kind) as error:
        begin(it, **more)
    assert rows() == before
    return error.value


def test_the_conversation_of_another_looks_as_if_it_did_not_exist(it: Conversation) -> None:
    begin(it, client_id="c-1")
    theirs = refused(it, NotFound, user_id=person("bob").pk, client_id="c-1")
    nowhere = refused(Conversation(pk=uuid4(), user=it.user, endpoint=it.endpoint), NotFound)
    assert str(theirs) == str(nowhere)


def test_while_a_reply_is_written_the_conversation_takes_no_other_message(it: Conversation) -> None:
    begun = begin(it)
    refused(it, ReplyRunning)
    assert begun.claim is not None
    end(begun.claim, HandedBack())
    refused(it, ReplyRunning)
    crash(taken(process(), "chat").worker_id)
    refused(it, ReplyRunning)
    end(taken(process(), "chat"), Cancelled())
    assert begin(it).claim is not None


def test_a_reply_that_is_redriven_is_one_that_is_written(it: Conversation) -> None:
    run_id = failed(it)
    Redrive(SYSTEM).run(run_id)
    refused(it, ReplyRunning)


def test_of_many_messages_at_once_a_conversation_takes_one(it: Conversation) -> None:
    for _ in range(5):
        known, by = registry.current(), process()
        made = at_once(*[partial(send, it, known, by) for _ in range(4)])
        begun = [one for one in made if isinstance(one, Begun)]
        assert len(begun) == 1, made
        assert all(isinstance(one, ReplyRunning) for one in made if one not in begun)
        assert begun[0].claim is not None
        end(begun[0].claim, Succeeded({"text": "."}))
        ask("UPDATE jobs_job SET user_id = NULL")


def send(it: Conversation, known: registry.Registry, by: UUID) -> Begun:
    return script.run(exchange.begin(Said(it.pk, it.user_id, "Hello?", str(uuid4())), known, by))


def test_a_person_has_only_so_many_replies_at_a_time(alice: User) -> None:
    claims = [say(conversation())[1] for _ in range(exchange.MAX_REPLIES)]
    error = refused(conversation(), TooManyReplies)
    assert str(exchange.MAX_REPLIES) in str(error)
    assert begin(conversation("bob")).claim is not None, "others are not held up"
    end(claims[0], HandedBack())
    refused(conversation(), TooManyReplies)
    end(claims[1], Succeeded({"text": "."}))
    assert begin(conversation()).claim is not None


@pytest.mark.parametrize(("limit", "kind"), [("MAX_REPLIES", TooManyReplies), ("MAX_MINUTE", TooFast)])
def test_a_persons_limit_holds_in_several_conversations_at_once(
    limit: str, kind: type[Exception], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, limit, 2)
    for _ in range(4):
        its = [conversation() for _ in range(4)]
        known, by = registry.current(), process()
        made = at_once(*[partial(send, one, known, by) for one in its])
        assert sorted(type(one).__name__ for one in made) == sorted(["Begun", "Begun", kind.__name__, kind.__name__])
        ask("UPDATE jobs_job SET user_id = NULL")


def test_a_person_sends_only_so_many_messages_a_minute(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_MINUTE", 3)
    its = [conversation() for _ in range(3)]
    answered(its[0])
    back_in_time(20)
    answered(its[1])
    answered(its[0])
    error = refused(its[2], TooFast)
    assert isinstance(error, TooFast)
    wait_s = int(error.headers["Retry-After"])
    assert wait_s == error.body()["retry_after_s"]
    assert 38 <= wait_s <= 40, "the first of the three was 20 seconds ago"
    assert f"Try again in {wait_s} s" in str(error)
    assert begin(conversation("bob")).claim is not None
    back_in_time(wait_s)
    answered(its[2])
    assert isinstance(refused(its[2], TooFast), TooFast)


def back_in_time(seconds: float) -> None:
    """Let time pass: ids are times too."""
    pass_time(seconds)
    for job in Job.objects.filter(home_lane="chat").order_by("id"):
        older = UUID(int=job.pk.int - (round(seconds * 1000) << 80))
        ask(
            "WITH copy AS (INSERT INTO jobs_job SELECT (jsonb_populate_record(j,"
            " jsonb_build_object('id', %(new)s::uuid, 'partition_key', NULL))).* FROM jobs_job j WHERE id = %(old)s)"
            " UPDATE jobs_job SET user_id = NULL WHERE id = %(old)s",
            {"new": older, "old": job.pk},
        )


def test_tasks_in_the_background_do_not_count(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_MINUTE", 1)
    monkeypatch.setattr(exchange, "MAX_REPLIES", 1)
    ask(
        "INSERT INTO jobs_job (id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag, hold_keys,"
        " blocked_on, attempt, max_attempts, crashes, generation, fence)"
        " SELECT gen_random_uuid(), 'test.noop', '{}', %s, 'queued', 'queue', 'queue', 1, n, '{}', '{}', 0, 3, 0, 1, 0"
        " FROM generate_series(1, 5) n",
        [alice.pk],
    )
    assert begin(conversation()).claim is not None


@pytest.mark.parametrize("key", ["all", "lane:chat", "agent:helper", "endpoint:chat.v1"])
def test_while_an_operator_holds_it_nothing_is_written(key: str, it: Conversation) -> None:
    script.run(holds.place(key, "paused", by="ada"))
    error = refused(it, HeldBack)
    assert isinstance(error, HeldBack)
    assert error.reasons == [f"hold:{key}"]
    it.refresh_from_db()
    assert it.title == ""
    script.run(holds.lift(key, "paused"))
    assert begin(it).claim is not None


def test_a_process_without_a_lease_begins_nothing(it: Conversation) -> None:
    late, dead = process(), process()
    ask("UPDATE jobs_worker SET lease_until = now() - interval '1 ms' WHERE id = %s", [late])
    crash(dead)
    for by in (late, dead, uuid4()):
        refused(it, NotLeased, by=by)


def test_a_lease_cannot_be_lost_in_the_middle_of_a_begin(it: Conversation) -> None:
    by = process()
    with session() as beginning_:
        beginning_.do(beginning(it, by=by))
        waiter = Waiter(lambda: crash(by))
        assert waiter.blocked()
        beginning_.connection.commit()
    waiter.end()
    assert Job.objects.get().state == "queued", "it was seen, and is taken from the dead one"


def test_an_endpoint_that_is_no_more_takes_no_message(it: Conversation) -> None:
    load("agents:\n  helper: {version: 1, instructions: Help., model: demo}\nendpoints: {}\n")
    refused(it, UnknownEndpoint)


# --- texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000", None, 7, ["x"], {"text": "x"}, True])
def test_a_message_has_a_text(text: Any) -> None:
    with pytest.raises(BadInput) as refusal:
        exchange.check_text(text)
    assert refusal.value.as_problem()["errors"][0]["loc"] == ["text"]


def test_no_message_is_longer_than_any_endpoint_takes() -> None:
    longest = "x" * text_input.LONGEST
    assert exchange.check_text(longest) == longest
    with pytest.raises(MessageTooLong, match="32,001"):
        exchange.check_text(longest + "x")


@pytest.mark.parametrize("text", ["a\0b", "half \ud83d", "\0", "\udfff"])
def test_what_the_database_cannot_hold_is_shown_as_such(text: str, it: Conversation) -> None:
    checked = exchange.check_text(text)
    assert len(checked) == len(text)
    begun = begin(it, checked)
    assert Message.objects.get(run_id=begun.run_id, role="user").text == checked


def test_white_space_is_part_of_a_message() -> None:
    assert exchange.check_text("  def f():\n      pass\n") == "  def f():\n      pass\n"


def test_an_endpoint_says_how_long_its_messages_are(alice: User) -> None:
    load(LONGEST)
    it = conversation()
    error = refused(it, MessageTooLong, text="x" * 21)
    assert isinstance(error, MessageTooLong)
    assert error.body()["max"] == 20
    short, claim = say(it, "x" * 10)
    end(claim, Succeeded({"text": "."}))
    long, claim = say(it, "x" * 11)
    end(claim, Succeeded({"text": "."}))
    assert Run.objects.get(pk=short.run_id).input == "x" * 10
    assert Run.objects.get(pk=long.run_id).input == {"message": "x" * 11}


def test_a_message_is_as_long_as_the_page_says_where_the_endpoint_says_nothing(it: Conversation) -> None:
    longest = registry.current().endpoints["chat.v1"].longest_message
    assert longest == text_input.LONGEST
    refused(it, MessageTooLong, text="x" * (longest + 1))
    begun, _ = say(it, "x" * longest)
    assert Run.objects.get(pk=begun.run_id).input == "x" * longest


# --- stored while it is written ----------------------------------------------------------------------------------


def save(claim: Claim, message_id: UUID, text: str, seq: int) -> None:
    script.run(exchange.save([Written(claim, message_id, text, seq)]))


def test_a_text_is_stored_while_it_is_written_and_never_an_older_one(it: Conversation) -> None:
    begun, claim = say(it)
    for text, seq, kept in [("In", 2, "In"), ("In the", 5, "In the"), ("In", 3, "In the"), ("Other", 5, "In the")]:
        save(claim, begun.message_id, text, seq)
        assert (reply(begun.run_id).text, reply(begun.run_id).seq) == (kept, max(seq, reply(begun.run_id).seq))


def test_the_text_of_a_claim_that_is_over_is_not_stored(it: Conversation) -> None:
    begun, old = say(it)
    save(old, begun.message_id, "In the", 5)
    crash(old.worker_id)
    save(old, begun.message_id, "Nobody's", 6)
    assert reply(begun.run_id).text == "In the", "nobody owns it"
    new = taken(process(), "chat")
    save(old, begun.message_id, "The old one's", 7)
    assert reply(begun.run_id).text == "In the"
    save(new, begun.message_id, "In the sea", CLAIM_SEQS + 1)
    assert reply(begun.run_id).text == "In the sea"


@pytest.mark.parametrize("outcome", [Succeeded({"text": "The end."}), Cancelled(), Failed(PROBLEM, retriable=False)])
def test_the_text_of_a_reply_that_has_ended_is_not_touched(outcome: Outcome, it: Conversation) -> None:
    begun, claim = say(it)
    save(claim, begun.message_id, "Before", 5)
    end(claim, outcome)
    before = Message.objects.filter(run_id=begun.run_id).values()
    kept = list(before)
    save(claim, begun.message_id, "Late", 10 * CLAIM_SEQS)
    assert list(before.all()) == kept


def test_one_statement_stores_the_texts_of_all_replies_and_leaves_out_those_that_are_over(alice: User) -> None:
    its = [say(conversation()) for _ in range(3)]
    end(its[1][1], Cancelled())
    written = [Written(claim, begun.message_id, f"text {n}", 9) for n, (begun, claim) in enumerate(its)]
    assert count(exchange.save(written)) == 2  # the other one lets the commit not wait for the disk
    assert [reply(begun.run_id).text for begun, _ in its] == ["text 0", "", "text 2"]


def test_a_save_that_waited_for_the_end_changes_nothing(it: Conversation) -> None:
    begun, claim = say(it)
    with session() as ending:
        ending.do(finish(claim, Succeeded({"text": "The end."})))
        waiter = Waiter(lambda: save(claim, begun.message_id, "Late", 10 * CLAIM_SEQS))
        assert waiter.blocked()
        ending.connection.commit()
    assert waiter.end() is None
    assert (reply(begun.run_id).text, reply(begun.run_id).status) == ("The end.", "done")


# --- how it ends -------------------------------------------------------------------------------------------------


ENDS = [
    (Succeeded({"text": "The end."}), "done"),
    (Cancelled(), "stopped"),
    (Failed(PROBLEM, retriable=False), "failed"),
]


@pytest.mark.parametrize(("outcome", "status"), ENDS)
def test_a_reply_that_is_written_here_ends_with_the_text_that_was_shown(
    outcome: Outcome, status: str, it: Conversation, told: list[Any]
) -> None:
    begun, claim = say(it)
    live = Live(claim)
    with live as written:
        says(written, "In the", " sea")
        end(claim, outcome)
    message = reply(begun.run_id)
    assert (message.status, message.text) == (status, "In the sea")
    assert "".join(frame["text"] for frame in live.frames) == "In the sea"
    assert message.seq == live.frames[-1]["seq"] + 1
    assert (message.problem == PROBLEM) is (status == "failed")
    assert Run.objects.get(pk=begun.run_id).first_token_ms is not None
    assert told == [], "who writes it tells it"


@pytest.mark.parametrize(("outcome", "status"), ENDS)
def test_of_a_reply_that_is_written_nowhere_the_pages_are_told_to_look(
    outcome: Outcome, status: str, it: Conversation, told: list[Any]
) -> None:
    begun, claim = say(it)
    save(claim, begun.message_id, "In the", 5)
    end(claim, outcome)
    message = reply(begun.run_id)
    assert message.status == status
    assert message.text == ("The end." if status == "done" else "In the")
    assert told == [(channel(it.pk), {"type": "ended", "run_id": str(begun.run_id)})]


def test_the_last_number_of_a_reply_is_later_than_any_that_a_page_may_have_seen(it: Conversation) -> None:
    """What a process that died had told since its last save nobody knows."""
    begun, claim = say(it)
    save(claim, begun.message_id, "In the", 5)
    Cancel(SYSTEM).run(begun.run_id)
    crash(claim.worker_id)
    assert (reply(begun.run_id).status, reply(begun.run_id).text) == ("stopped", "In the")
    assert reply(begun.run_id).seq >= CLAIM_SEQS
    Redrive(SYSTEM).run(begun.run_id)
    again = taken(process(), "chat")
    with Live(again) as written:
        assert written.seq >= reply(begun.run_id).seq, "and earlier than those of a later claim"


def test_an_answer_without_a_text_is_shown_as_it_is(it: Conversation) -> None:
    begun, claim = say(it)
    end(claim, Succeeded({"total": 3, "names": ["é"]}))
    assert json.loads(reply(begun.run_id).text) == {"total": 3, "names": ["é"]}
    assert "é" in reply(begun.run_id).text


@pytest.mark.parametrize("outcome", [Cancelled(), Failed(PROBLEM, retriable=False)])
def test_a_reply_that_was_taken_over_and_stopped_before_it_came_as_far_keeps_what_was_written(
    outcome: Outcome, it: Conversation
) -> None:
    begun, old = say(it)
    save(old, begun.message_id, "In the", 5)
    crash(old.worker_id)
    new = taken(process(), "chat")
    with Live(new) as written:
        asyncio.run(written.part("In"))
        end(new, outcome)
    assert reply(begun.run_id).text == "In the"


def test_a_reply_that_was_taken_over_and_finished_has_the_later_text(it: Conversation) -> None:
    begun, old = say(it)
    save(old, begun.message_id, "What was said and is no more", 5)
    crash(old.worker_id)
    new = taken(process(), "chat")
    with Live(new) as written:
        asyncio.run(written.part("In the sea."))
        end(new, Succeeded({"text": "In the sea."}))
    assert reply(begun.run_id).text == "In the sea."
    assert reply(begun.run_id).seq > CLAIM_SEQS


def test_a_reply_that_took_something_back_does_not_keep_it(it: Conversation) -> None:
    begun, old = say(it)
    save(old, begun.message_id, "What was wrong", 5)
    crash(old.worker_id)
    new = taken(process(), "chat")
    with Live(new) as written:
        asyncio.run(written.withdraw("It was wrong."))
        end(new, Failed(PROBLEM, retriable=False))
    assert reply(begun.run_id).text == ""


def test_an_end_that_is_tried_again_after_an_outage_ends_the_same(it: Conversation) -> None:
    begun, claim = say(it)
    live = Live(claim)
    with live as written:
        says(written, "In the", " sea")
        with session() as broken:
            broken.do(finish(claim, Cancelled()))
        assert reply(begun.run_id).status == "writing"
        end(claim, Cancelled())
    assert (reply(begun.run_id).text, reply(begun.run_id).seq) == ("In the sea", live.frames[-1]["seq"] + 1)


def test_a_reply_that_goes_on_elsewhere_is_still_being_written(it: Conversation, told: list[Any]) -> None:
    begun, claim = say(it)
    save(claim, begun.message_id, "In the", 5)
    with Live(claim) as written:
        says(written, "In the", " sea")
        end(claim, HandedBack())
        assert not written.closed
    assert (reply(begun.run_id).status, reply(begun.run_id).text) == ("writing", "In the")
    crash(taken(process(), "chat").worker_id)
    assert reply(begun.run_id).status == "writing"
    assert told == []


def test_a_reply_whose_processes_die_each_time_is_a_failed_one(it: Conversation, told: list[Any]) -> None:
    begun, claim = say(it)
    save(claim, begun.message_id, "In the", 5)
    for _ in range(exchange.MAX_ATTEMPTS):
        crash(claim.worker_id)
        if Job.objects.get(pk=begun.run_id).state == "queued":
            claim = taken(process(), "chat")
    message = reply(begun.run_id)
    assert (message.status, message.text) == ("failed", "In the")
    assert message.problem is not None
    assert message.problem["type"] == "/problems/worker-died"
    assert told == [(channel(it.pk), {"type": "ended", "run_id": str(begun.run_id)})]


@pytest.mark.parametrize("start", ["checkpoint", "start"])
def test_a_reply_that_is_redriven_is_written_again(start: Literal["checkpoint", "start"], it: Conversation) -> None:
    run_id = failed(it)
    Redrive(SYSTEM, start).run(run_id)
    assert (reply(run_id).status, reply(run_id).problem) == ("writing", None)
    claim = taken(process(), "chat")
    with Live(claim) as written:
        says(written, "Now", " it works.")
        end(claim, Succeeded({"text": "Now it works."}))
    assert (reply(run_id).status, reply(run_id).text) == ("done", "Now it works.")


def test_a_dead_letter_that_is_discarded_keeps_its_message_as_it_was(it: Conversation, told: list[Any]) -> None:
    run_id = failed(it)
    mark = {**PROBLEM, "handed_over": {"task_id": str(uuid4()), "endpoint": "help.v1"}}
    Message.objects.filter(run_id=run_id, role="assistant").update(problem=mark)
    before = list(Message.objects.values())
    told.clear()
    Discard(SYSTEM, "It is of no use.").run(run_id)
    assert list(Message.objects.values()) == before
    assert told == []


def test_a_reply_whose_conversation_is_gone_ends_all_the_same(it: Conversation, alice: User, told: list[Any]) -> None:
    begun, claim = say(it)
    with Live(claim) as written:
        says(written, "In the", " sea")
        Delete(Actor(user=alice)).run(it.pk)
        end(claim, Succeeded({"text": "In the sea"}))
    assert Job.objects.get(pk=begun.run_id).state == "succeeded"
    assert not Message.objects.exists()
    assert [message["type"] for _, message in told] == ["conversation.deleted"]


# --- history -----------------------------------------------------------------------------------------------------


def test_a_program_gets_the_message_and_what_was_said_before(it: Conversation) -> None:
    _, claim = say(it, "First?")
    assert script.run(exchange.run_input(claim, "First?")) == "First?", "nothing was"
    end(claim, Succeeded({"text": "One."}))
    failed(it, "Lost?")
    _, claim = say(it, "Second?")
    before = [
        {"role": "user", "text": "First?"},
        {"role": "assistant", "text": "One."},
        {"role": "user", "text": "Lost?"},
    ]
    for given in ("Second?", {"message": "Second?"}):
        assert script.run(exchange.run_input(claim, given)) == {"message": "Second?", "history": before}


def test_a_program_of_a_deleted_conversation_gets_the_message_alone(it: Conversation, alice: User) -> None:
    answered(it)
    _, claim = say(it, "Second?")
    Delete(Actor(user=alice)).run(it.pk)
    assert script.run(exchange.run_input(claim, "Second?")) == "Second?"


@pytest.mark.parametrize(("outcome", "is_kept"), [(ENDS[0][0], True), (ENDS[1][0], False), (ENDS[2][0], False)])
def test_the_summary_that_a_program_made_is_kept_once_it_has_succeeded(
    outcome: Outcome, is_kept: bool, it: Conversation
) -> None:
    for number in range(3):
        answered(it, f"{number}?", f"{number}.")
    begun, claim = say(it, "And now?")
    for messages, text in ((2, "an earlier one"), (4, "They counted.")):
        Step.objects.create(
            run_id=begun.run_id,
            epoch=1,
            key=str(messages),
            name="conversation.compacted",
            kind="emit",
            output={"messages": messages, "text": text},
            fence=1,
            started_at=timezone.now(),
            finished_at=timezone.now(),
        )
    end(claim, outcome)
    it.refresh_from_db()
    assert (it.summary, it.summary_through) == (("They counted.", 4) if is_kept else ("", 0))


# --- read --------------------------------------------------------------------------------------------------------


def test_a_reply_is_read_in_its_own_conversation_only(it: Conversation) -> None:
    run_id = answered(it, answer="In the sea.")
    found = read(run_id, it)
    assert (found.text, found.status, found.has_ended, found.state) == ("In the sea.", "done", True, "succeeded")
    assert found.usage == {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
    assert script.run(exchange.read(run_id, conversation().pk)) is None
    assert script.run(exchange.read(uuid4(), it.pk)) is None


def test_the_last_reply_is_the_one_with_the_last_place(it: Conversation) -> None:
    assert script.run(exchange.last_run(it.pk)) is None
    answered(it)
    last = answered(it, "Second?")
    assert script.run(exchange.last_run(it.pk)) == last


def test_a_reply_shows_the_newest_of_its_steps(it: Conversation) -> None:
    begun, _ = say(it)
    shown = stream.MAX_STEPS + 20
    ask(
        "INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, actor, reason, data)"
        " SELECT %s, 'step', '', '', 1, '', 'finished', jsonb_build_object('key', n::text, 'name', 'look', 'kind',"
        " CASE WHEN n %% 10 = 0 THEN 'value' ELSE 'tool' END, 'summary', '', 'ms', 5, 'final', n %% 7 > 0)"
        " FROM generate_series(1, %s) n",
        [begun.run_id, shown * 2],
    )
    steps = script.run(exchange.steps_of(begun.run_id))
    told = [n for n in range(1, shown * 2 + 1) if n % 10 and n % 7]
    assert [int(step["key"]) for step in steps] == told[-stream.MAX_STEPS :]
    assert {step["kind"] for step in steps} == {"tool"}


def test_a_step_of_before_is_told_in_the_same_words_as_when_it_happened(it: Conversation) -> None:
    begun, _ = say(it)
    made = step(
        Run.objects.get(pk=begun.run_id),
        "order_lookup",
        kind="tool",
        input={"tool": "order_lookup", "arguments": {"order_id": "A-1005"}},
        output={"tool": "order_lookup", "ok": True, "content": {"refunds": [{"refund": "7"}]}},
    )
    ask(
        "INSERT INTO jobs_jobevent (job_id, kind, old, new, fence, actor, reason, data)"
        " SELECT %s, 'step', '', '', 1, '', 'finished', jsonb_build_object('key', %s::text, 'name', 'order_lookup',"
        " 'kind', 'tool', 'summary', '1 refunds', 'ms', 5, 'final', true)",
        [begun.run_id, made.key],
    )
    assert [step["words"] for step in script.run(exchange.steps_of(begun.run_id))] == ["Looked up order A-1005"]


# --- all at once -------------------------------------------------------------------------------------------------


def test_beginning_saving_ending_and_deleting_at_once_never_wait_in_a_ring(alice: User) -> None:
    known = registry.current()

    def rounds(its: list[tuple[Conversation, Begun, Claim]], one: int) -> None:
        it, _, claim = its[one]
        other = its[1 - one][0]
        for n in range(5):
            written = [Written(c, b.message_id, f"text {n}", n + 1) for _, b, c in (its if one else its[::-1])]
            script.run(exchange.save(written))
        script.run(finish(claim, Succeeded({"text": "."})))
        with refusals():
            send(other, known, by)
        if one:
            Delete(Actor(user=alice)).run(it.pk)

    for _ in range(10):
        by = process()
        its = [(it, *say(it)) for it in (conversation(), conversation())]
        results = at_once(partial(rounds, its, 0), partial(rounds, its, 1), partial(send_and_end, known, by))
        assert results == [None, None, None], results
        ask("UPDATE jobs_job SET user_id = NULL")
    assert not Job.objects.filter(state="blocked").exists()


def send_and_end(known: registry.Registry, by: UUID) -> None:
    it = conversation()
    for _ in range(3):
        with refusals():
            begun = send(it, known, by)
            assert begun.claim is not None
            script.run(finish(begun.claim, Cancelled()))


def refusals() -> contextlib.suppress:
    return contextlib.suppress(NotFound, ReplyRunning, TooManyReplies, TooFast)


# --- how much it takes -------------------------------------------------------------------------------------------


def test_a_message_takes_as_many_statements_in_a_long_conversation_as_in_a_short_one(it: Conversation) -> None:
    def statements() -> tuple[int, ...]:
        said = Said(it.pk, it.user_id, "Hello?", str(uuid4()))
        by, begun = process(), []

        def keep() -> Script[None]:
            begun.append((yield from exchange.begin(said, registry.current(), by)))

        begins = count(keep())
        claim = begun[0].claim
        assert claim is not None
        save_ = count(exchange.save([Written(claim, begun[0].message_id, "text", 1)]))
        given = count(exchange.run_input(claim, "Hello?"))
        ends = count(finish(claim, Succeeded({"text": "."})))
        return begins, save_, given, ends, count(exchange.read(begun[0].run_id, it.pk))

    answered(it)
    short = statements()
    ask(
        "INSERT INTO agents_message (id, conversation_id, place, role, text, status, seq)"
        " SELECT gen_random_uuid(), %s, n, 'user', 'x', 'done', 0 FROM generate_series(5, 3000) n",
        [it.pk],
    )
    assert statements() == short
    assert sum(short) < 40


def test_the_messages_of_a_minute_are_counted_by_an_index(it: Conversation) -> None:
    """Among a hundred thousand jobs of others, many of them of the last minutes."""
    old, fresh = UUID("0198c000-0000-7000-8000-000000000000"), since(600)
    for user_id, first, jobs in ((it.user_id, old, 2_000), (person("bob").pk, old, 70_000), (None, fresh, 30_000)):
        ask(
            "INSERT INTO jobs_job (id, handler, payload, user_id, state, lane, home_lane, priority, fair_tag,"
            " hold_keys, blocked_on, attempt, max_attempts, crashes, generation, fence, finished_at)"
            " SELECT (left(%s::text, 24) || lpad(to_hex(n + %s * 100000), 12, '0'))::uuid, 'agent-run', '{}', %s,"
            " 'succeeded', 'chat', 'chat', 0, n, '{}', '{}', 0, 3, 0, 1, 1, now() FROM generate_series(1, %s) n",
            [first, user_id or 0, user_id or person("carol").pk, jobs],
        )
        if first == old:
            ask("ANALYZE jobs_job")
    plans = [step["QUERY PLAN"][0]["Plan"] for step in explained(exchange._look(Said(it.pk, it.user_id, "?", "c")))]
    nodes = [node for plan in plans for node in walk(plan)]
    jobs_read = [node for node in nodes if node.get("Relation Name") == "jobs_job"]
    assert len(jobs_read) == 2
    assert "job_by_user" in {node.get("Index Name") for node in nodes}
    assert "Seq Scan" not in {node["Node Type"] for node in jobs_read}
    assert sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in jobs_read) < 10


def explained(what: Script[Any]) -> list[Row]:
    """Return the plans of a script's statements."""
    plans: list[Row] = []

    def explain() -> Script[None]:
        found: list[Row] | None = None
        while True:
            try:
                step = what.send(found)  # type: ignore[arg-type]
            except StopIteration:
                return
            assert not isinstance(step, After)
            plans.extend((yield f"EXPLAIN (ANALYZE, FORMAT JSON) {step[0]}", step[1]))
            found = yield step

    script.run(explain())
    return plans


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from walk(inner)
