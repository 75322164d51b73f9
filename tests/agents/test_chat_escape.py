from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError

from agents import registry
from agents.chat import conversations, escape
from agents.invoke import invoke
from agents.models import Conversation, Endpoint, Message, Run
from audit.models import AuditEntry
from audit.trail import SYSTEM, Actor
from jobs import script, wakeups
from jobs.actions import Cancel, Discard, Redrive
from jobs.claim import finish
from jobs.handlers import Cancelled, Claim, Failed, Succeeded
from jobs.models import Job
from jobs.sweeps import registered
from tests.jobs.drive import at_once, pass_time, taken, worker
from tests.support.chats import CHATS, PROBLEM, answered, conversation, end, failed, say, texts
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = CHATS.replace(
    "mode: async-queue}",
    "mode: async-queue, input: {type: object, properties: {question: {type: string}}, required: [question]}}",
)


_loaded = loaded(CHATS)


@pytest.fixture
def it(db: None) -> Conversation:
    return conversation()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What open pages hear after each commit."""
    heard: list[Any] = []
    monkeypatch.setattr(wakeups, "tell", heard.extend)
    return heard


def tasks() -> list[Run]:
    return list(Run.objects.filter(mode="async-queue").select_related("job", "endpoint", "user"))


def reply(run_id: UUID) -> Message:
    return Message.objects.get(run_id=run_id, role="assistant")


def working(run_id: UUID) -> Claim:
    """Hand a failed reply's message over and let a worker take the task."""
    task_id = escape.hand_over_now(run_id)
    claim = taken(worker("queue", can=registry.capabilities()))
    assert claim.job_id == task_id
    return claim


# --- handed over -------------------------------------------------------------------------------------------------


def test_a_message_whose_answer_failed_becomes_a_task_of_the_same_user(it: Conversation) -> None:
    run_id = failed(it, "Where does the river end?")
    task_id = asyncio.run(escape.hand_over(run_id))
    (task,) = tasks()
    assert (task.pk, task.endpoint.name, task.input, task.user) == (
        task_id,
        "help.v1",
        "Where does the river end?",
        person("alice"),
    )
    message = reply(run_id)
    assert task.job.payload == {"conversation": str(it.pk), "reply_to": str(message.pk)}
    assert message.problem is not None
    assert message.problem["type"] == PROBLEM["type"]
    assert message.problem["handed_over"] == {"endpoint": "help.v1", "task_id": str(task_id)}
    assert AuditEntry.objects.get(action="task.submit").actor_name == "astra"


def test_a_message_is_written_as_the_task_takes_it(it: Conversation) -> None:
    load(QUESTION)
    escape.hand_over_now(failed(it, "Where?"))
    assert tasks()[0].input == {"question": "Where?"}


def test_a_message_is_handed_over_once_however_often_it_is_asked_for(it: Conversation) -> None:
    run_id = failed(it)
    made = at_once(*[partial(escape.hand_over_now, run_id)] * 4)
    assert len(set(made)) == 1
    escape.sweep()
    assert escape.hand_over_now(run_id) == tasks()[0].pk == made[0]
    assert len(tasks()) == 1


def test_a_message_that_was_handed_over_to_another_endpoint_is_not_handed_over_again(it: Conversation) -> None:
    run_id = failed(it)
    task_id = escape.hand_over_now(run_id)
    more = "  more.v1: {agent: helper, mode: async-queue}\n"
    load(CHATS.replace("escape: help.v1", "escape: more.v1") + more)
    assert escape.hand_over_now(run_id) == task_id
    assert len(tasks()) == 1


def test_a_failure_of_the_users_own_is_not_handed_over(it: Conversation) -> None:
    run_id = failed(it, users_own=True)
    assert escape.hand_over_now(run_id) is None
    escape.sweep()
    assert not tasks()


def test_what_has_not_failed_is_not_handed_over(it: Conversation) -> None:
    done = answered(it)
    begun, claim = say(it)
    end(claim, Cancelled())
    _, retried = say(conversation())
    end(retried, Failed(PROBLEM))
    for run_id in (done, begun.run_id, retried.job_id, uuid4()):
        assert escape.hand_over_now(run_id) is None
    escape.sweep()
    assert not tasks()


def test_an_endpoint_without_an_escape_keeps_its_failures() -> None:
    run_id = failed(conversation(endpoint="alone.v1"))
    assert escape.hand_over_now(run_id) is None
    escape.sweep()
    assert not tasks()


def test_a_failed_task_is_no_reply_to_hand_over() -> None:
    run_id = invoke("help.v1", "hello", user=person("alice"), actor=SYSTEM).run_id
    claim = taken(worker("queue", can=registry.capabilities()))
    end(claim, Failed(PROBLEM, retriable=False))
    assert escape.hand_over_now(run_id) is None


def test_a_message_of_a_deleted_conversation_is_not_handed_over(it: Conversation) -> None:
    run_id = failed(it)
    conversations.Delete(Actor(user=person("alice"))).run(it.pk)
    assert escape.hand_over_now(run_id) is None
    escape.sweep()
    assert not tasks()


def test_an_escape_that_takes_no_such_message_any_more_is_asked_once(
    it: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = failed(it)
    registry.current()
    load(CHATS.replace("  help.v1: {agent: helper, mode: async-queue}\n", "").replace(", escape: help.v1", ""))
    chat = registry.current().endpoints["chat.v1"]
    assert chat.escape is None
    assert escape.hand_over_now(run_id) is None
    assert "handed_over" not in (reply(run_id).problem or {})
    _undeclare_escape()
    for _ in range(3):
        escape.sweep()
    assert "is no endpoint" in (reply(run_id).problem or {})["handed_over"]["refused"]
    assert len([record for record in caplog.records if "does not take over" in record.message]) == 1


def _undeclare_escape() -> None:
    """Leave an escape declared whose endpoint takes no new work: two loads at once could."""
    chat = Endpoint.objects.get(name="chat.v1")
    chat.definition["escape"] = "help.v1"
    chat.save()
    registry.forget()


def test_a_full_queue_is_tried_again(it: Conversation) -> None:
    run_id = failed(it)
    load(CHATS + "lanes: {queue: {max_depth: 1}}\n")
    first = invoke("help.v1", "hello", user=person("bob"), actor=SYSTEM).run_id
    assert escape.hand_over_now(run_id) is None
    assert "handed_over" not in (reply(run_id).problem or {})
    Cancel(SYSTEM).run(first)
    escape.sweep()
    assert {task.user for task in tasks()} == {person("bob"), person("alice")}


# --- what a dead process left ------------------------------------------------------------------------------------


def test_the_reconciler_hands_over_what_a_dead_process_left(it: Conversation) -> None:
    assert "messages to hand over" in {sweep.name for sweep in registered()}
    run_id = failed(it)
    escape.sweep()
    assert reply(run_id).problem is not None
    assert len(tasks()) == 1


def test_two_reconcilers_hand_over_each_message_once(it: Conversation) -> None:
    for name in ("alice", "bob", "carol"):
        failed(conversation(name))
    assert at_once(escape.sweep, escape.sweep, escape.sweep) == [None] * 3
    assert sorted(task.user.username for task in tasks() if task.user) == ["alice", "bob", "carol"]


def test_a_message_that_nobody_waits_for_any_more_is_left_alone(it: Conversation) -> None:
    failed(it)
    pass_time(escape.TRY_FOR_H * 3600 + 60)
    escape.sweep()
    assert not tasks()


def test_one_message_that_cannot_be_handed_over_does_not_stop_the_others(
    it: Conversation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = failed(it), failed(conversation("bob"))
    really = escape.hand_over_now

    def hand_over(run_id: UUID) -> UUID | None:
        if run_id == broken:
            raise ValueError("no")
        return really(run_id)

    monkeypatch.setattr(escape, "hand_over_now", hand_over)
    escape.sweep()
    assert [task.pk for task in tasks()] == [UUID(reply(sound).problem["handed_over"]["task_id"])]  # type: ignore[index]
    assert "could not hand over" in caplog.text


def test_a_database_that_is_away_leaves_the_message_to_the_reconciler(
    it: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = failed(it)

    def away(run_id: UUID) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    with monkeypatch.context() as broken:
        broken.setattr(escape, "hand_over_now", away)
        assert asyncio.run(escape.hand_over(run_id)) is None
    escape.sweep()
    assert len(tasks()) == 1


# --- how it ended ------------------------------------------------------------------------------------------------


def test_the_answer_of_the_task_is_the_next_message_of_the_conversation(it: Conversation, told: list[Any]) -> None:
    run_id = failed(it, "Where?")
    claim = working(run_id)
    used = Conversation.objects.get(pk=it.pk).updated_at
    told.clear()
    end(claim, Succeeded({"text": "In the **sea**."}))
    assert texts(it) == [
        ("user", "Where?", "done"),
        ("assistant", "", "failed"),
        ("assistant", "In the **sea**.", "done"),
    ]
    message = Message.objects.get(conversation=it, place=3)
    assert message.run_id == claim.job_id
    assert told == [
        (conversations.channel(it.pk), {"type": "conversation.message", "message_id": str(message.pk)}),
    ]
    assert Conversation.objects.get(pk=it.pk).updated_at > used


def test_the_sources_of_an_answer_come_with_it() -> None:
    output = {
        "report": "It ends in the sea [1].",
        "citations": [
            {"n": 1, "url": "https://example.org/a b>", "title": "Rivers [and]\nseas", "quote": "…"},
            {"n": 3, "url": "javascript:alert(1)", "title": "A *book*", "quote": "…"},
        ],
    }
    assert escape.text_of(output) == (
        "It ends in the sea [1].\n\n**Sources**\n\n"
        "- \\[1\\] [Rivers \\[and\\] seas](<https://example.org/a b%3E>)\n- \\[3\\] A \\*book\\*"
    )


def test_an_answer_without_a_text_is_shown_as_it_is() -> None:
    assert escape.text_of({"rows": 3}) == '```json\n{\n  "rows": 3\n}\n```'
    assert escape.text_of("plain") == "plain"


def test_a_task_that_fails_is_told_in_words(it: Conversation) -> None:
    claim = working(failed(it))
    end(claim, Failed({**PROBLEM, "detail": "No provider answers."}, retriable=False))
    message = Message.objects.get(conversation=it, place=3)
    told = "The task in the background for “Where does the river end?” failed too."
    assert (message.text, message.status) == (told, "failed")
    assert message.problem is not None
    assert message.problem["type"] == PROBLEM["type"]
    assert message.problem["detail"] == "No provider answers."


def test_a_long_question_is_quoted_in_part_and_its_marks_mark_nothing(it: Conversation) -> None:
    claim = working(failed(it, "Is *this*\nso? " + "Tell me more. " * 20))
    end(claim, Failed(PROBLEM, retriable=False))
    text = Message.objects.get(conversation=it, place=3).text
    assert text.startswith("The task in the background for “Is \\*this\\* so? Tell me more.")
    assert text.endswith("…” failed too.")
    assert len(text) < 140


def test_a_task_that_somebody_cancels_is_told_in_words(it: Conversation) -> None:
    task_id = escape.hand_over_now(failed(it))
    assert task_id is not None
    Cancel(SYSTEM).run(task_id)
    assert texts(it)[-1] == ("assistant", "The task in the background was cancelled before it had an answer.", "failed")


def test_a_failed_attempt_and_a_discarded_task_are_not_told(it: Conversation) -> None:
    claim = working(failed(it))
    end(claim, Failed(PROBLEM))
    assert len(texts(it)) == 2
    task_id = claim.job_id
    Cancel(SYSTEM).run(task_id)
    Redrive(SYSTEM).run(task_id)
    again = taken(worker("queue", can=registry.capabilities()))
    end(again, Failed(PROBLEM, retriable=False))
    assert len(texts(it)) == 4
    Discard(SYSTEM, note="enough").run(task_id)
    assert len(texts(it)) == 4


def test_a_task_that_is_redriven_tells_its_answer_too(it: Conversation) -> None:
    claim = working(failed(it))
    end(claim, Failed(PROBLEM, retriable=False))
    Redrive(SYSTEM).run(claim.job_id)
    end(taken(worker("queue", can=registry.capabilities())), Succeeded({"text": "In the sea."}))
    assert texts(it)[-1] == ("assistant", "In the sea.", "done")


def test_an_answer_for_a_deleted_conversation_ends_its_task_all_the_same(it: Conversation, told: list[Any]) -> None:
    claim = working(failed(it))
    Message.objects.all().delete()
    it.delete()
    told.clear()
    end(claim, Succeeded({"text": "In the sea."}))
    assert Job.objects.get(pk=claim.job_id).state == "succeeded"
    assert Run.objects.get(pk=claim.job_id).output is None
    assert told == []


def test_tasks_that_end_at_once_each_get_a_place_of_their_own(it: Conversation) -> None:
    claims = [working(failed(it, f"Question {number}")) for number in range(4)]
    results = at_once(
        *(partial(script.run, finish(claim, Succeeded({"text": f"{n}"}))) for n, claim in enumerate(claims))
    )
    assert results == [True] * 4
    assert sorted(text for role, text, status in texts(it)[8:]) == ["0", "1", "2", "3"]


def test_a_redriven_reply_that_fails_again_is_not_handed_over_twice(it: Conversation) -> None:
    run_id = failed(it)
    task_id = escape.hand_over_now(run_id)
    Redrive(SYSTEM).run(run_id)
    again = taken(worker("chat", can=registry.capabilities()), "chat")
    end(again, Failed(PROBLEM, retriable=False))
    escape.sweep()
    assert [task.pk for task in tasks()] == [task_id]
