from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts import roles
from agents.chat import conversations
from agents.models import Conversation, Message
from audit.models import AuditEntry
from jobs.models import Job
from tests.support.chats import CHATS, answered, failed, say
from tests.support.configs import loaded
from tests.support.people import bearer, person

pytestmark = pytest.mark.django_db

URL = "/api/v1/conversations"


class Caller:
    """A client of the API that sends a token."""

    def __init__(self, user: User, *scopes: str) -> None:
        self.user = user
        self.client = Client(headers=bearer(user, *scopes))

    def get(self, path: str = URL, **query: Any) -> tuple[int, Any]:
        return self._answer(self.client.get(path, query))

    def post(self, body: Any = None, **headers: str) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body)
        return self._answer(self.client.post(URL, content or b"", content_type="application/json", headers=headers))

    def patch(self, path: str, body: Any) -> tuple[int, Any]:
        return self._answer(self.client.patch(path, json.dumps(body), content_type="application/json"))

    def delete(self, path: str) -> tuple[int, Any]:
        return self._answer(self.client.delete(path))

    def begun(self, **more: Any) -> Conversation:
        status, body = self.post(more)
        assert status == 201, body
        return Conversation.objects.get(pk=body["conversation_id"])

    @staticmethod
    def _answer(response: Any) -> tuple[int, Any]:
        return response.status_code, response.json() if response.content else None


_loaded = loaded(CHATS)


@pytest.fixture
def alice(db: None) -> Caller:
    return Caller(person("alice"))


@pytest.fixture
def bob(db: None) -> Caller:
    return Caller(person("bob"))


def path_of(it: Conversation) -> str:
    return f"{URL}/{it.pk}"


def test_a_conversation_is_begun_and_says_where_to_go(alice: Caller) -> None:
    response = alice.client.post(URL, {}, content_type="application/json")
    it = Conversation.objects.get()
    assert response.status_code == 201
    assert response.json() == {
        "conversation_id": str(it.pk),
        "endpoint": "chat.v1",
        "links": {"self": f"/api/v1/conversations/{it.pk}", "socket": f"/ws/chat/{it.pk}/"},
    }
    assert response["Location"] == path_of(it)
    assert it.user == alice.user


def test_a_body_is_not_needed_and_may_name_another_endpoint(alice: Caller) -> None:
    assert alice.post()[1]["endpoint"] == "chat.v1"
    assert alice.post({"endpoint": "alone.v1"})[1]["endpoint"] == "alone.v1"


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"endpoint": "chat.v9"}, 422, "unknown-endpoint"),
        ({"endpoint": "help.v1"}, 409, "mode-not-allowed"),
        ({"endpoint": 3}, 422, "bad-input"),
        ({"endpiont": "chat.v1"}, 422, "bad-input"),
        ([], 422, "bad-input"),
    ],
)
def test_what_cannot_be_begun_is_refused_with_its_own_problem(alice: Caller, body: Any, status: int, slug: str) -> None:
    answer = alice.post(body)
    assert (answer[0], answer[1]["type"]) == (status, f"/problems/{slug}")
    assert not Conversation.objects.exists()


def test_too_many_conversations_are_refused_in_words(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "MAX_CONVERSATIONS", 1)
    alice.begun()
    status, problem = alice.post({})
    assert (status, problem["type"]) == (409, "/problems/too-many-conversations")


def test_the_same_key_answers_the_same_conversation(alice: Caller, bob: Caller) -> None:
    key = {"Idempotency-Key": "k-1"}
    first, again, other = (alice.post({"endpoint": name}, **key)[1] for name in ("chat.v1", "chat.v1", "alone.v1"))
    assert first == again
    assert bob.post({}, **key)[1]["conversation_id"] != first["conversation_id"] != other["conversation_id"]
    assert alice.post({}, **{"Idempotency-Key": "with blank"})[0] == 422


@pytest.mark.django_db(transaction=True)  # each deed at a time of its own
def test_only_ones_own_conversations_are_listed_the_last_used_first(alice: Caller, bob: Caller) -> None:
    first, second = alice.begun(), alice.begun()
    answered(first, "Where does the river end?")
    bob.begun()
    status, body = alice.get()
    assert status == 200
    assert [(item["conversation_id"], item["title"]) for item in body["items"]] == [
        (str(first.pk), "Where does the river end?"),
        (str(second.pk), ""),
    ]
    assert body["next_cursor"] is None
    assert set(body["items"][0]) == {"conversation_id", "endpoint", "links", "title", "created_at", "updated_at"}


def test_a_long_list_comes_in_pages_that_leave_nothing_out(alice: Caller) -> None:
    made = [str(alice.begun().pk) for _ in range(7)]
    Conversation.objects.update(updated_at="2026-11-21T02:00:00.123456Z")
    newest = alice.begun()
    found: list[str] = []
    cursor = ""
    while True:
        body = alice.get(limit=3, cursor=cursor)[1]
        found += [item["conversation_id"] for item in body["items"]]
        if (cursor := body["next_cursor"]) is None:
            break
    assert found == [str(newest.pk), *sorted(made, reverse=True)]


#: A moment before the first year, in UTC.
_TOO_EARLY = "MDAwMS0wMS0wMVQwMDowMDowMCsxNDowMCAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMA"


@pytest.mark.parametrize("cursor", ["x", "MQ", "bm90LWEtZGF0ZSBhYmM", "OTk5OTktMDEtMDEgeA", _TOO_EARLY])
def test_a_cursor_of_another_list_is_refused(alice: Caller, cursor: str) -> None:
    it = alice.begun()
    assert alice.get(cursor=cursor)[0] == 422
    assert alice.get(path_of(it), cursor="LTE")[0] == 422
    assert alice.get(path_of(it), cursor="x")[0] == 422


def test_a_conversation_is_read_with_its_messages_newest_first(alice: Caller) -> None:
    it = alice.begun()
    done = answered(it, "Where?", "In the sea.")
    broken = failed(it, "Why?")
    begun, _ = say(it, "When?")
    status, body = alice.get(path_of(it))
    assert status == 200
    assert (body["title"], body["endpoint"], body["next_cursor"]) == ("Where?", "chat.v1", None)
    assert [(m["role"], m["text"], m["status"], m["run_id"]) for m in body["messages"]] == [
        ("assistant", "", "writing", str(begun.run_id)),
        ("user", "When?", "done", str(begun.run_id)),
        ("assistant", "", "failed", str(broken)),
        ("user", "Why?", "done", str(broken)),
        ("assistant", "In the sea.", "done", str(done)),
        ("user", "Where?", "done", str(done)),
    ]
    assert body["messages"][2]["problem"]["type"] == "/problems/model-unavailable"
    first = alice.get(path_of(it), limit=4)[1]
    rest = alice.get(path_of(it), limit=4, cursor=first["next_cursor"])[1]
    assert [*first["messages"], *rest["messages"]] == body["messages"]
    assert rest["next_cursor"] is None


def test_how_many_queries_a_list_takes_does_not_grow_with_it(alice: Caller) -> None:
    it = alice.begun()

    def queries(path: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as found:
            alice.get(path)
        return len(found)

    queries(URL)
    few = queries(URL), queries(path_of(it))
    for _ in range(5):
        alice.begun()
        answered(it)
    assert (queries(URL), queries(path_of(it))) == few


def test_a_conversation_is_renamed(alice: Caller) -> None:
    it = alice.begun()
    status, body = alice.patch(path_of(it), {"title": " My  river "})
    assert (status, body["title"], body["conversation_id"]) == (200, "My river", str(it.pk))
    assert alice.get(path_of(it))[1]["title"] == "My river"
    for title in ("", " ", "x" * 121, 3):
        status, problem = alice.patch(path_of(it), {"title": title})
        assert (status, problem["errors"][0]["loc"]) == (422, ["title"])


def test_a_conversation_is_deleted_with_what_was_said(alice: Caller) -> None:
    it = alice.begun()
    answered(it)
    begun, _ = say(it)
    assert alice.delete(path_of(it)) == (204, None)
    assert alice.get(path_of(it))[0] == 404
    assert not Message.objects.exists()
    assert Job.objects.get(pk=begun.run_id).cancel_requested_at is not None
    assert AuditEntry.objects.get(action="conversation.delete").actor_name == "alice"


def test_what_is_not_yours_looks_as_if_it_did_not_exist_to_operators_too(alice: Caller, bob: Caller) -> None:
    it = alice.begun()
    answered(it)
    boss = Caller(person("boss", roles.OPERATOR))
    for stranger, path in ((bob, path_of(it)), (boss, path_of(it)), (alice, f"{URL}/{uuid4()}")):
        for status, problem in (stranger.get(path), stranger.patch(path, {"title": "x"}), stranger.delete(path)):
            assert (status, problem["type"]) == (404, "/problems/not-found")
    assert boss.get()[1]["items"] == []
    assert Message.objects.count() == 2
