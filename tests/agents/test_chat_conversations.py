from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from accounts.problems import NotFound
from agents import registry
from agents.chat import conversations, escape
from agents.chat.conversations import Delete, Rename, create, next_place, owned_by, title_from
from agents.invoke import ModeNotAllowed, UnknownEndpoint
from agents.journal import RunJournal
from agents.models import Conversation, Message, Run, Score, Step
from agents.runtime.errors import BadInput
from agents.runtime.ports import StepRecord, Superseded
from agents.runtime.types import Usage
from audit.models import AuditEntry
from audit.trail import Actor
from jobs import script, wakeups
from jobs.actions import Redrive
from jobs.claim import finish
from jobs.handlers import Cancelled, Claim, Failed, HandedBack, Outcome, Succeeded
from jobs.models import Job, JobEvent
from jobs.pool import close_pool
from tests.jobs.drive import at_once, crash, taken, worker
from tests.support.chats import CHATS, PROBLEM, answered, conversation, end, failed, say, texts
from tests.support.configs import loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "the secret question"


_loaded = loaded(CHATS)


@pytest.fixture
def alice(db: None) -> User:
    return person("alice")


def delete(user: User, it: Conversation) -> object:
    Delete(act(user)).run(it.pk)
    return None


def act(user: User) -> Actor:
    return Actor(user=user)


def everything() -> str:
    """Return all that the tables hold of what was said, as text."""
    found = []
    with connection.cursor() as cursor:
        for table in (
            "agents_run",
            "agents_step",
            "agents_score",
            "agents_message",
            "agents_conversation",
            "jobs_job",
            "jobs_jobevent",
            "jobs_idempotencykey",
            "audit_auditentry",
        ):
            cursor.execute(f"SELECT to_jsonb(t)::text FROM {table} t")
            found += [text for (text,) in cursor.fetchall()]
    return "\n".join(found)


# --- begun -------------------------------------------------------------------------------------------------------


def test_a_conversation_belongs_to_who_began_it(alice: User) -> None:
    it = create(alice)
    assert it.endpoint.name == "chat.v1"
    assert list(owned_by(alice)) == [it]
    assert not owned_by(person("bob")).exists()


def test_an_endpoint_that_nobody_can_chat_with_is_refused(alice: User) -> None:
    with pytest.raises(UnknownEndpoint, match=r"did you mean chat\.v1"):
        create(alice, "chat.v2")
    with pytest.raises(ModeNotAllowed, match=r"help\.v1 is of mode async-queue"):
        create(alice, "help.v1")
    assert not Conversation.objects.exists()


def test_the_same_key_begins_one_conversation(alice: User) -> None:
    first = create(alice, key="k")
    assert create(alice, key="k") == first
    assert create(alice, "alone.v1", key="k") != first
    assert create(person("bob"), key="k") != first
    assert len({create(alice).pk, create(alice).pk, first.pk}) == 3


def test_the_same_key_at_once_begins_one_conversation(alice: User) -> None:
    made = at_once(*(lambda: create(alice, key="k").pk for _ in range(4)))
    assert len(set(made)) == 1
    assert isinstance(made[0], UUID)


def test_one_person_may_have_only_so_many_conversations(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "MAX_CONVERSATIONS", 2)
    first = create(alice, key="k")
    create(alice)
    with pytest.raises(conversations.TooManyConversations):
        create(alice)
    assert create(alice, key="k") == first, "it is there already"
    create(person("bob"))
    Delete(act(alice)).run(first.pk)
    create(alice)


def test_the_conversation_last_used_is_listed_first(alice: User) -> None:
    first, second = create(alice), create(alice)
    assert list(owned_by(alice)) == [second, first]
    answered(first)
    assert list(owned_by(alice)) == [first, second]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hello", "Hello"),
        ("\n \n  Two   blanks\tand more \nanother line", "Two blanks and more"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("word " * 12 + "end", "word " * 11 + "word…"),
        ("word " * 20, "word " * 11 + "word…"),
        ("a " + "x" * 100, "a " + "x" * 57 + "…"),
        (" \n ", ""),
        ("", ""),
    ],
)
def test_a_title_is_the_first_line_cut_at_a_word(text: str, title: str) -> None:
    assert title_from(text) == title
    assert len(title_from(text)) <= 60


# --- named -------------------------------------------------------------------------------------------------------


def test_one_renames_ones_own_conversation_only(alice: User) -> None:
    it = create(alice)
    assert Rename(act(alice)).run(it.pk, "  My \n river ").title == "My river"
    for stranger in (person("bob"), None):
        with pytest.raises(NotFound):
            Rename(Actor(user=stranger)).run(it.pk, "Mine")
    it.refresh_from_db()
    assert it.title == "My river"


@pytest.mark.parametrize("title", ["", " \n ", "x" * 121, "a\0b", "\ud800"])
def test_a_title_that_cannot_be_one_is_refused(alice: User, title: str) -> None:
    it = create(alice)
    with pytest.raises(BadInput):
        Rename(act(alice)).run(it.pk, title)


# --- places ------------------------------------------------------------------------------------------------------


def test_places_are_given_out_one_after_the_other(alice: User) -> None:
    it = create(alice)
    assert script.run(next_place(it.pk)) == 1
    answered(it)
    assert script.run(next_place(it.pk)) == 3
    assert script.run(next_place(uuid4())) is None


def test_two_at_once_never_get_the_same_place(alice: User) -> None:
    it = create(alice)

    def add() -> int:
        with transaction.atomic():
            place = script.run(next_place(it.pk))
            assert place is not None
            Message.objects.create(conversation=it, place=place, role="assistant")
            return place

    assert sorted(at_once(add, add, add, add)) == [1, 2, 3, 4]  # type: ignore[type-var]


# --- deleted -----------------------------------------------------------------------------------------------------


def worked(claim: Claim) -> None:
    """Write all that a run writes of what was said."""
    now = timezone.now()

    async def record() -> None:
        journal = RunJournal(claim, 1)
        usage = Usage(input_tokens=7, output_tokens=5)
        try:
            for key, ok in (("a", True), ("b", False)):
                await journal.record(
                    StepRecord(
                        key,
                        "ask",
                        "model",
                        "h",
                        {"about": SECRET},
                        {"text": SECRET},
                        now,
                        now,
                        ok=ok,
                        summary=SECRET,
                        problem=None if ok else {**PROBLEM, "detail": SECRET},
                        usage=usage,
                        is_final=True,
                    )
                )
            await journal.progress(1, 2, SECRET)
        finally:
            await close_pool()

    asyncio.run(record())


def test_a_deleted_conversation_leaves_what_it_cost_and_nothing_that_was_said(alice: User) -> None:
    it = create(alice)
    answered(it, SECRET, f"You asked {SECRET}.")
    dead = failed(it, f"Again {SECRET}", detail=SECRET)
    begun, claim = say(it, f"Third {SECRET}")
    worked(claim)
    end(claim, Succeeded({"text": SECRET}))
    run = Run.objects.get(pk=begun.run_id)
    Score.objects.create(run=run, rubric="r", value=0.5, judge="j", reason=SECRET, mode=run.mode)
    assert everything().count(SECRET) > 10
    spent = (run.input_tokens, run.output_tokens, run.steps_done, run.created_at)
    assert spent[:3] == (14, 10, 1)
    events = JobEvent.objects.count()

    Delete(act(alice)).run(it.pk)

    assert SECRET not in everything()
    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
    run.refresh_from_db()
    assert (run.input_tokens, run.output_tokens, run.steps_done, run.created_at) == spent
    assert (Run.objects.count(), JobEvent.objects.count(), Step.objects.count()) == (3, events, 1)
    assert Score.objects.get().value == 0.5
    step = JobEvent.objects.get(kind="step", reason="failed")
    assert step.data is not None
    assert step.data["problem"]["type"] == "/problems/model-unavailable"
    assert (step.data["summary"], step.data["input_tokens"], step.data["final"]) == ("", 7, True)
    error = Job.objects.get(pk=dead).error
    assert error is not None
    assert (error["type"], error["title"]) == (PROBLEM["type"], PROBLEM["title"])


def test_a_deletion_is_written_down_without_a_word_of_what_was_said(alice: User) -> None:
    it = create(alice)
    answered(it, SECRET)
    Delete(Actor(user=alice, request_id="r-1")).run(it.pk)
    entry = AuditEntry.objects.get(action="conversation.delete")
    assert (entry.actor_name, entry.target_id, entry.request_id) == ("alice", str(it.pk), "r-1")
    assert entry.before == {"endpoint": "chat.v1", "messages": 2, "runs": 1}


def test_nobody_deletes_the_conversation_of_another(alice: User) -> None:
    it = create(alice)
    answered(it)
    for stranger in (person("bob"), None):
        with pytest.raises(NotFound):
            Delete(Actor(user=stranger)).run(it.pk)
    assert len(texts(it)) == 2
    Delete(act(alice)).run(it.pk)
    with pytest.raises(NotFound):
        Delete(act(alice)).run(it.pk)


def test_only_the_deleted_conversation_is_forgotten(alice: User) -> None:
    it, other = create(alice), create(alice)
    answered(it, SECRET)
    answered(other, "What stays?", "This.")
    Delete(act(alice)).run(it.pk)
    assert texts(other) == [("user", "What stays?", "done"), ("assistant", "This.", "done")]
    assert Run.objects.filter(output={"text": "This."}, input="What stays?").exists()


def test_open_pages_hear_that_their_conversation_is_gone(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    it = create(alice)
    told: list[Any] = []
    monkeypatch.setattr(wakeups, "tell", told.extend)
    Delete(act(alice)).run(it.pk)
    assert told == [(conversations.channel(it.pk), {"type": "conversation.deleted"})]


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded({"text": SECRET}),
        Failed({**PROBLEM, "detail": SECRET}),
        Failed({**PROBLEM, "detail": SECRET}, retriable=False),
        Cancelled(),
        HandedBack(),
    ],
    ids=lambda it: type(it).__name__,
)
def test_a_reply_that_ends_after_its_conversation_was_deleted_brings_no_word_back(
    alice: User, outcome: Outcome
) -> None:
    it = create(alice)
    begun, claim = say(it, SECRET)
    worked(claim)
    Delete(act(alice)).run(it.pk)
    assert SECRET not in everything()
    job = Job.objects.get(pk=begun.run_id)
    assert job.cancel_requested_at is not None, "its process is told to stop"
    worked_on = job.state == "running"
    assert worked_on
    late(claim)  # its process has not heard of it yet
    assert SECRET in everything()
    assert script.run(finish(claim, outcome))
    assert SECRET not in everything()
    assert Job.objects.get(pk=begun.run_id).state in ("succeeded", "cancelled")
    assert not Message.objects.exists()
    with pytest.raises(Superseded):
        late(claim)
    assert SECRET not in everything()


def late(claim: Claim) -> None:
    """Record another step of a run."""
    now = timezone.now()

    async def record() -> None:
        try:
            await RunJournal(claim, 1).record(
                StepRecord(f"late-{uuid4()}", "ask", "model", "h", None, {"text": SECRET}, now, now, summary=SECRET)
            )
        finally:
            await close_pool()

    asyncio.run(record())


def test_a_reply_whose_process_dies_after_its_conversation_was_deleted_brings_no_word_back(alice: User) -> None:
    it = create(alice)
    begun, claim = say(it, SECRET)
    Delete(act(alice)).run(it.pk)
    late(claim)
    crash(claim.worker_id)
    assert Job.objects.get(pk=begun.run_id).state == "cancelled"
    assert SECRET not in everything()


def test_a_forgotten_reply_that_is_redriven_has_nothing_to_answer(alice: User) -> None:
    it = create(alice)
    run_id = failed(it, SECRET)
    Delete(act(alice)).run(it.pk)
    Redrive(act(alice)).run(run_id)
    claim = taken(worker("chat", can=registry.capabilities()), "chat")
    assert claim.job_id == run_id
    assert Run.objects.get(pk=run_id).input == ""
    end(claim, Failed({**PROBLEM, "detail": SECRET}, retriable=False))
    assert SECRET not in everything()


def test_a_task_that_a_message_was_handed_over_to_is_stopped_and_forgotten_too(alice: User) -> None:
    it = create(alice)
    task_id = escape.hand_over_now(failed(it, SECRET))
    assert task_id is not None
    Delete(act(alice)).run(it.pk)
    assert Job.objects.get(pk=task_id).state == "cancelled"
    assert SECRET not in everything()


def test_a_task_that_runs_while_its_conversation_is_deleted_brings_no_word_back(alice: User) -> None:
    it = create(alice)
    task_id = escape.hand_over_now(failed(it, SECRET))
    claim = taken(worker("queue", can=registry.capabilities()))
    assert claim.job_id == task_id
    Delete(act(alice)).run(it.pk)
    late(claim)
    end(claim, Succeeded({"text": SECRET}))
    assert SECRET not in everything()
    assert not Message.objects.exists()


def test_deleting_and_ending_at_once_leave_nothing_and_never_wait_in_a_ring(alice: User) -> None:
    for _ in range(8):
        it = create(alice)
        _, claim = say(it, SECRET)
        results = at_once(partial(delete, alice, it), partial(end, claim, Succeeded({"text": SECRET})))
        assert not [result for result in results if isinstance(result, Exception)], results
        assert SECRET not in everything()
        assert not Message.objects.exists()


def test_deleting_and_handing_over_at_once_leave_no_task_behind(alice: User) -> None:
    for _ in range(8):
        it = create(alice)
        run_id = failed(it, SECRET)
        results = at_once(partial(delete, alice, it), partial(escape.hand_over_now, run_id))
        assert not [result for result in results if isinstance(result, Exception)], results
        assert SECRET not in everything()
        assert not Job.objects.filter(state="queued").exists()


def test_a_message_sent_while_its_conversation_is_deleted_is_refused_or_forgotten(alice: User) -> None:
    for _ in range(8):
        it = create(alice)
        results = at_once(partial(delete, alice, it), partial(say, it, SECRET))
        assert not [r for r in results if isinstance(r, Exception) and not isinstance(r, NotFound)], results
        assert SECRET not in everything()
        Job.objects.filter(user=alice).update(user=None)  # no limit of messages a minute here


def test_everything_looks_into_every_table_that_keeps_words() -> None:
    it = conversation()
    _, claim = say(it, SECRET)
    worked(claim)
    assert json.dumps(SECRET) in everything()
