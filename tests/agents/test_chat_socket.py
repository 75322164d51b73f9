"""The chat's WebSocket on a real web process, as the public contract has it. The model is real HTTP."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

from accounts.models import ApiToken
from agents.chat import conversations
from agents.chat.conversations import Delete
from agents.models import Conversation, Message, Run
from audit.trail import Actor
from tests.support.apps import CONSTANTS
from tests.support.chat import Page, Shown, Web, sign_in, until
from tests.support.configs import load
from tests.support.openai_server import OpenAIServer, Says, fails, stalls
from tests.support.people import bearer, person
from tests.support.processes import Processes, database_for_a_module, eventually
from tests.support.websocket import BINARY, TEXT, Refused, WebSocket

CONFIG = """
programs: [tests.support.chat_programs]
agents:
  helper: {version: 1, instructions: Help., model: openai:test}
  looker: {version: 1, instructions: Look., model: openai:test, program: test-looks-first}
endpoints:
  chat.v1: {agent: helper, mode: streaming-sync}
  short.v1: {agent: helper, mode: streaming-sync, input: {type: string, maxLength: 20}}
  look.v1: {agent: looker, mode: streaming-sync}
"""
RECHECK_S, STALLED_S = 0.3, 5.0
MAX_SOCKETS, MAX_FRAMES = 40, 120
SHORT = {CONSTANTS: f"agents.chat.socket:RECHECK_S={RECHECK_S} agents.chat.socket:STALLED_S={STALLED_S}"}
WORDS = " ".join(f"word-{number}" for number in range(200))
#: A reply is found, shown and gone within that, however busy the machine. Seconds.
SOON_S = 20.0


_module_database, transactional_db, _database = database_for_a_module()


@pytest.fixture(scope="module")
def a_model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def web(_module_database: None, a_model: OpenAIServer) -> Iterator[Web]:
    """One web process for all tests; it looks again soon whether a page may still be there."""
    load(CONFIG)
    with Processes() as processes:
        yield Web(processes, a_model.base_url, environment=SHORT)


@pytest.fixture
def other_web(web: Web, a_model: OpenAIServer) -> Iterator[Web]:
    """A second web process on the same database."""
    with Processes() as processes:
        yield Web(processes, a_model.base_url, environment=SHORT)


@pytest.fixture
def model(a_model: OpenAIServer) -> OpenAIServer:
    """The model, which answers quickly and well unless the test says otherwise."""
    a_model.says, a_model.first_token_s, a_model.token_s = Says(WORDS), 0.0, 0.0
    a_model.script.clear()
    a_model.requests.clear()
    a_model.exchanges.clear()
    return a_model


@pytest.fixture
def alice() -> User:
    """Somebody who has said nothing yet."""
    return person(f"alice-{uuid4()}")


@pytest.fixture
def talk(alice: User) -> Conversation:
    return conversations.create(alice, "chat.v1")


@pytest.fixture
def open_page(web: Web, model: OpenAIServer, alice: User, talk: Conversation) -> Iterator[Callable[..., Page]]:
    """Opens pages of Alice's, on her conversation if no other is named."""
    opened: list[Page] = []
    cookie = sign_in(alice)

    def make(conversation: Conversation | UUID = talk, headers: dict[str, str] = cookie, **options: Any) -> Page:
        opened.append(Page(web, conversation, headers, **options))
        return opened[-1]

    yield make
    for page in opened:
        page.drop()


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()


def slow(model: OpenAIServer, text: str = WORDS, token_s: float = 0.02) -> None:
    """Let the model take its time: some seconds for the whole answer."""
    model.says, model.token_s = Says(text), token_s


def quick(model: OpenAIServer) -> None:
    """Let the model say the rest at once."""
    model.token_s = 0.0


def half(page: Page, shown: Shown) -> None:
    """Read until a reply is being written."""
    page.until(lambda: "word-5 " in shown.text, within_s=SOON_S)


def slug(error: dict[str, Any]) -> str:
    return str(error["problem"]["type"]).removeprefix("/problems/")


def kept(talk: Conversation) -> list[tuple[str, str, str]]:
    """Return what the database has of a conversation."""
    return list(Message.objects.filter(conversation=talk).order_by("place").values_list("role", "text", "status"))


# --- a reply, from its beginning to its end ----------------------------------------------------------------------


def test_a_reply_is_accepted_streams_and_ends_whole(page: Page, model: OpenAIServer, talk: Conversation) -> None:
    text = f"**Well** <script>alert(1)</script> [x](javascript:alert(2)) <b hx-get='/'>b</b> {WORDS}"
    model.says = Says(text, input_tokens=40, output_tokens=12)
    client_id = page.say("Where does the river end?")
    page.until(lambda: page.of("run.finished"), within_s=SOON_S)
    (shown,) = page.replies.values()
    frames = [frame for frame in page.frames if frame["type"] != "run.heartbeat"]

    assert [frame["run_id"] for frame in frames] == [shown.run_id] * len(frames)
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    message = Message.objects.get(conversation=talk, role="assistant")
    assert frames[0] == {
        "type": "run.accepted",
        "run_id": shown.run_id,
        "seq": 1,
        "client_id": client_id,
        "text": "Where does the river end?",
        "message_id": str(message.pk),
    }
    assert {"run.step", "run.delta"} == {frame["type"] for frame in frames[1:-1]}
    assert all({"name", "kind", "status", "summary"} <= step.keys() for step in page.of("run.step"))
    assert "".join(delta["text"] for delta in page.of("run.delta")) == text

    last = frames[-1]
    assert (last["text"], last["message_id"], last["stopped"]) == (text, str(message.pk), False)
    assert last["usage"].keys() == {"input_tokens", "output_tokens", "cost_usd"}
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (40, 12)
    assert "<strong>Well</strong>" in last["html"]
    assert not [bad for bad in ("<script", 'href="javascript', "<b hx-get") if bad in last["html"]]
    assert kept(talk) == [("user", "Where does the river end?", "done"), ("assistant", text, "done")]
    assert Run.objects.get(job_id=shown.run_id).first_token_ms is not None


def test_the_first_words_come_at_once_and_what_follows_in_frames(page: Page, model: OpenAIServer) -> None:
    slow(model, token_s=0.001)
    shown = page.begin()
    page.ended(shown)
    deltas = page.of("run.delta", shown)
    assert deltas[0]["text"] == "word-0 "
    assert len(deltas) < 60  # of 200 pieces
    assert page.replies[shown.run_id].repeats == shown.gaps == 0


def test_tool_steps_are_told_by_key_and_the_parts_of_an_answer_are_joined(
    open_page: Callable[..., Page], alice: User, model: OpenAIServer, tmp_path: Path
) -> None:
    model.will(Says("One half"), Says("and the other."))
    page = open_page(conversations.create(alice, "look.v1"))
    shown = page.begin(str(tmp_path / "log"))
    end = page.ended(shown)
    told = [(step["name"], step["status"]) for step in page.of("run.step", shown) if step["kind"] == "step"]
    assert told == [(name, status) for name in ("look", "look-again") for status in ("started", "finished")]
    assert len({step["key"] for step in page.of("run.step", shown) if step["kind"] == "step"}) == 2
    assert end["text"] == "One half\n\nand the other."
    assert "".join(delta["text"] for delta in page.of("run.delta", shown)) == end["text"]


def test_a_silent_reply_is_said_to_be_alive_every_two_seconds(page: Page, model: OpenAIServer) -> None:
    model.first_token_s = 4.6
    shown = page.begin()
    page.ended(shown)
    beats = [(at, frame) for at, frame in zip(page.times, page.frames, strict=True) if frame["type"] == "run.heartbeat"]
    assert len(beats) == 2
    last = max(frame["seq"] for frame in page.frames[: page.frames.index(beats[0][1])])
    assert [frame["seq"] for _, frame in beats] == [last, last]
    assert 1.5 < beats[1][0] - beats[0][0] < 3
    assert 1900 < beats[1][1]["elapsed_ms"] - beats[0][1]["elapsed_ms"] < 2600


def test_a_reply_that_fails_says_what_to_do_and_the_next_message_is_answered(
    page: Page, model: OpenAIServer, talk: Conversation
) -> None:
    model.will(fails(401, "The key is wrong."))
    shown = page.begin()
    end = page.ended(shown)
    assert end["type"] == "run.failed"
    assert end["problem"]["type"].startswith("/problems/")
    assert end["problem"]["title"] and len(end["problem"]["detail"]) > 20
    assert (end["text"], end["html"].strip()) == ("", "")
    assert kept(talk)[-1] == ("assistant", "", "failed")
    again = page.begin("And now?")
    assert page.ended(again)["text"] == WORDS


def test_words_that_a_broken_model_said_are_withdrawn_when_it_is_asked_again(page: Page, model: OpenAIServer) -> None:
    model.will(Says("Nonsense that " * 50, cut_after=60))
    shown = page.begin()
    end = page.ended(shown)
    assert (end["type"], end["text"]) == ("run.finished", WORDS)
    (withdrawn,) = page.of("run.withdrawn", shown)
    assert withdrawn["reason"] and withdrawn["text"] == ""
    assert shown.gaps == shown.repeats == 0
    assert len(model.requests) == 2


# --- stop --------------------------------------------------------------------------------------------------------


def test_stop_keeps_what_was_written_and_closes_the_models_connection_at_once(
    page: Page, model: OpenAIServer, talk: Conversation
) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    began = time.monotonic()
    page.stop(shown.run_id)
    end = page.ended(shown)
    took_s = time.monotonic() - began
    assert model.wait_until(lambda server: server.exchanges[0].abandoned)
    left_at = model.exchanges[0].left_at
    assert left_at is not None and left_at - began < 5  # and not when the model has ended
    assert took_s < 5
    assert (end["type"], end["stopped"]) == ("run.finished", True)
    assert "word-5 " in end["text"] and WORDS.startswith(end["text"]) and end["text"] != WORDS
    assert end["seq"] > max(frame["seq"] for frame in page.frames[:-1])
    assert kept(talk)[-1] == ("assistant", end["text"], "stopped")
    assert end["usage"]["output_tokens"] > 0


def test_stop_before_the_first_word_ends_in_an_empty_reply(page: Page, model: OpenAIServer) -> None:
    model.will(stalls)
    shown = page.begin()
    assert model.wait_until(lambda server: server.busy == 1)
    page.stop(shown.run_id)
    end = page.ended(shown)
    assert (end["stopped"], end["text"]) == (True, "")
    assert model.wait_until(lambda server: server.busy == 0)


def test_a_reply_that_was_stopped_twice_or_has_ended_is_left_as_it_is(
    page: Page, model: OpenAIServer, talk: Conversation
) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    page.stop(shown.run_id)
    page.stop(shown.run_id)
    end = page.ended(shown)
    page.stop(shown.run_id)
    before = kept(talk)
    quick(model)
    again = page.begin("And now?")
    assert page.ended(again)["text"] == WORDS
    page.stop(again.run_id)
    page.send({"type": "ping"})
    page.until(lambda: page.of("pong"))
    assert page.errors == []
    assert [frame["text"] for frame in page.of("run.finished")] == [end["text"], WORDS]
    assert kept(talk)[:2] == before


def test_nobody_stops_or_reads_the_reply_of_another(
    page: Page, open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    bob = person(f"bob-{uuid4()}")
    other = open_page(conversations.create(bob, "chat.v1"), sign_in(bob))
    other.stop(shown.run_id)
    other.send({"type": "resume", "run_id": shown.run_id, "last_seq": 0})
    other.until(lambda: len(other.errors) == 2)
    assert [slug(error) for error in other.errors] == ["not-found", "not-found"]
    quick(model)
    assert page.ended(shown)["text"] == WORDS
    assert other.replies == {}


# --- resume ------------------------------------------------------------------------------------------------------


def test_a_page_that_lost_its_line_goes_on_where_the_reply_is(page: Page, model: OpenAIServer) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    page.drop()
    missed = page.web
    page.open(missed)
    page.until(lambda: shown.snapshots == 1)
    assert "word-5 " in shown.text and WORDS.startswith(shown.text)
    quick(model)
    assert page.ended(shown)["text"] == WORDS
    assert shown.gaps == shown.repeats == 0


def test_a_page_that_lost_its_line_goes_on_at_a_process_that_does_not_write_the_reply(
    page: Page, model: OpenAIServer, other_web: Web
) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    page.drop()  # now nobody shows the reply where it is written
    page.open(other_web)
    page.until(lambda: "word-50 " in shown.text, within_s=SOON_S)
    assert shown.end is None
    quick(model)
    assert page.ended(shown)["text"] == WORDS


def test_a_reply_that_ended_while_the_line_was_lost_is_shown_whole(page: Page, model: OpenAIServer) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    page.drop()
    quick(model)
    eventually(lambda: Message.objects.filter(run_id=UUID(shown.run_id), status="done").exists(), within_s=SOON_S)
    page.open()
    assert page.ended(shown)["text"] == WORDS
    assert shown.snapshots == 1


def test_another_tab_shows_the_same_with_and_without_asking(
    page: Page, open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    watching = open_page()
    watching.send({"type": "ping"})
    watching.until(lambda: watching.of("pong"))
    slow(model)
    shown = page.begin("Where, please?")
    half(page, shown)
    late = open_page()  # hears a frame, sees that others were before it, and asks
    asking = open_page()
    asking.resume(shown.run_id)
    until([late, asking], lambda: late.replies and asking.replies[shown.run_id].snapshots, within_s=SOON_S)
    quick(model)
    pages = [page, watching, late, asking]
    until(pages, lambda: all(len(each.of("run.finished")) == 1 for each in pages), within_s=SOON_S)
    assert {each.replies[shown.run_id].text for each in pages} == {WORDS}
    assert watching.of("run.accepted")[0]["text"] == "Where, please?"
    assert watching.replies[shown.run_id].gaps == watching.replies[shown.run_id].repeats == 0


# --- the same message again --------------------------------------------------------------------------------------


def test_a_repeated_client_id_answers_the_run_it_started_while_it_goes_on_and_after(
    page: Page, model: OpenAIServer, talk: Conversation
) -> None:
    slow(model)
    shown = page.begin()
    assert shown.accepted is not None
    client_id = shown.accepted["client_id"]
    half(page, shown)
    page.say("Something else", client_id)
    page.until(lambda: len(page.of("run.accepted")) == 2)
    page.until(lambda: shown.snapshots == 1)
    quick(model)
    end = page.ended(shown)
    page.say("Where does the river end?", client_id)
    page.until(lambda: len(page.of("run.finished")) == 2)
    assert {frame["run_id"] for frame in page.frames} == {shown.run_id}
    assert {frame["message_id"] for frame in page.of("run.accepted")} == {end["message_id"]}
    assert {frame["text"] for frame in page.of("run.accepted")} == {"Where does the river end?"}
    assert [frame["text"] for frame in page.of("run.finished")] == [WORDS, WORDS]
    assert len(model.requests) == 1
    assert len(kept(talk)) == 2


def test_a_message_sent_by_two_tabs_at_once_is_answered_once(
    page: Page, open_page: Callable[..., Page], model: OpenAIServer, talk: Conversation
) -> None:
    other = open_page()
    other.send({"type": "ping"})
    other.until(lambda: other.of("pong"))
    client_id = str(uuid4())
    for each in (page, other, page, other):
        each.say(client_id=client_id)
    until([page, other], lambda: page.of("run.finished") and other.of("run.finished"), within_s=SOON_S)
    assert page.errors == other.errors == []
    assert {*page.replies} == {*other.replies} and len(page.replies) == 1
    assert [shown.text for each in (page, other) for shown in each.replies.values()] == [WORDS, WORDS]
    assert len(model.requests) == 1
    assert len(kept(talk)) == 2


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "expected", "status"),
    [
        (b"{", "bad-frame", 400),
        (b"[]", "bad-frame", 400),
        (b'"message"', "bad-frame", 400),
        (b"[" * 100_000, "bad-frame", 400),
        (b"{}", "bad-frame", 400),
        (b'{"type": "dance", "client_id": "mine"}', "bad-frame", 400),
        (b'{"type": ["message"], "client_id": "mine"}', "bad-frame", 400),
        (b'{"type": "message", "text": "Hello"}', "bad-frame", 400),
        (b'{"type": "message", "text": "Hello", "client_id": 7}', "bad-frame", 400),
        (b'{"type": "message", "text": "Hello", "client_id": ""}', "bad-frame", 400),
        (b'{"type": "message", "text": "Hello", "client_id": "a\\u0000b"}', "bad-frame", 400),
        (b'{"type": "message", "text": "", "client_id": "mine"}', "bad-input", 422),
        (b'{"type": "message", "text": " \\n", "client_id": "mine"}', "bad-input", 422),
        (b'{"type": "message", "text": null, "client_id": "mine"}', "bad-input", 422),
        (b'{"type": "message", "client_id": "mine"}', "bad-input", 422),
        (b'{"type": "stop"}', "bad-frame", 400),
        (b'{"type": "stop", "run_id": "7"}', "bad-frame", 400),
        (b'{"type": "resume", "run_id": {}, "last_seq": 3}', "bad-frame", 400),
        (b'{"type": "stop", "run_id": "00000000-0000-0000-0000-000000000000"}', "not-found", 404),
        (b'{"type": "resume", "run_id": "00000000-0000-0000-0000-000000000000"}', "not-found", 404),
    ],
)
def test_a_frame_that_cannot_be_taken_is_refused_in_words(page: Page, frame: bytes, expected: str, status: int) -> None:
    assert page.socket is not None
    page.socket.send_frame(TEXT, frame)
    page.until(lambda: page.errors)
    (error,) = page.errors
    assert (slug(error), error["problem"]["status"]) == (expected, status)
    assert error["problem"]["title"] and len(str(error["problem"]["detail"])) > 15
    given = json.loads(frame).get("client_id") if frame.startswith(b'{"') else None
    assert error.get("client_id") == (given if isinstance(given, str) else None)
    assert kept(Conversation.objects.get(pk=page.conversation_id)) == []
    page.send({"type": "ping"})
    page.until(lambda: page.of("pong"))


def test_a_binary_frame_is_refused_in_words(page: Page) -> None:
    assert page.socket is not None
    page.socket.send_frame(BINARY, b'{"type": "ping"}')
    page.until(lambda: page.errors)
    assert slug(page.errors[0]) == "bad-frame"


def test_a_message_while_a_reply_is_written_is_refused_and_leaves_it_alone(
    page: Page, model: OpenAIServer, talk: Conversation
) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    client_id = page.say("And then?")
    page.until(lambda: page.errors)
    assert [(slug(error), error["client_id"]) for error in page.errors] == [("reply-running", client_id)]
    quick(model)
    assert page.ended(shown)["text"] == WORDS
    assert len(kept(talk)) == 2


def test_a_message_that_is_too_long_is_refused_with_the_greatest_length(
    open_page: Callable[..., Page], alice: User
) -> None:
    page = open_page(conversations.create(alice, "short.v1"))
    client_id = page.say("x" * 21)
    page.until(lambda: page.errors)
    (error,) = page.errors
    assert (slug(error), error["client_id"]) == ("message-too-long", client_id)
    assert "20" in error["problem"]["detail"]
    assert page.ended(page.begin("x" * 20))["text"] == WORDS


def test_messages_that_come_too_fast_are_refused_with_the_seconds_to_wait(
    open_page: Callable[..., Page], alice: User, model: OpenAIServer
) -> None:
    model.says = Says("Yes.")
    page = open_page()
    for _ in range(30):
        page.ended(page.begin("Again?"))
    client_id = page.say("And again?")
    page.until(lambda: page.errors)
    (error,) = page.errors
    assert (slug(error), error["client_id"]) == ("too-fast", client_id)
    assert 0 < error["problem"]["retry_after_s"] <= 60


def test_one_person_has_a_few_replies_at_a_time(
    open_page: Callable[..., Page], alice: User, model: OpenAIServer
) -> None:
    slow(model)
    pages = [open_page(conversations.create(alice, "chat.v1")) for _ in range(5)]
    shown = [each.begin() for each in pages[:4]]
    pages[4].say()
    pages[4].until(lambda: pages[4].errors)
    assert slug(pages[4].errors[0]) == "too-many-replies"
    for each, reply in zip(pages, shown, strict=False):
        each.stop(reply.run_id)
        each.ended(reply)
    pages[4].until(lambda: pages[4].is_open)
    quick(model)
    assert pages[4].ended(pages[4].begin())["text"] == WORDS


# --- who may be there --------------------------------------------------------------------------------------------


def test_a_page_of_another_site_is_refused_though_it_has_the_cookie(web: Web, alice: User, talk: Conversation) -> None:
    Page(web, talk, sign_in(alice)).drop()
    with pytest.raises(Refused) as refused:
        Page(web, talk, {**sign_in(alice), "Origin": "http://evil.example"})
    assert refused.value.status == 403


def closed(page: Page) -> tuple[list[int | None], list[str]]:
    page.until(lambda: not page.is_open)
    return page.closes, [slug(error) for error in page.errors]


def test_whoever_is_not_signed_in_or_no_owner_is_told_and_sent_away(
    open_page: Callable[..., Page], talk: Conversation
) -> None:
    assert closed(open_page(headers={})) == ([4401], ["unauthenticated"])
    assert closed(open_page(headers={"Cookie": f"{settings.SESSION_COOKIE_NAME}=abc"})) == ([4401], ["unauthenticated"])
    bob = person(f"bob-{uuid4()}")
    assert closed(open_page(headers=sign_in(bob))) == ([4404], ["not-found"])
    assert closed(open_page(uuid4())) == ([4404], ["not-found"])


def test_a_token_needs_the_scope_to_read_and_another_one_to_write(
    open_page: Callable[..., Page], alice: User, model: OpenAIServer, web: Web, talk: Conversation
) -> None:
    writer = open_page(headers=bearer(alice, "chat:read", "chat:write"))
    reader = open_page(headers=bearer(alice, "chat:read"))
    slow(model)
    shown = writer.begin()
    seen = reader.resume(shown.run_id)
    client_id = reader.say()
    reader.stop(shown.run_id)
    reader.until(lambda: len(reader.errors) == 2)
    assert [(slug(error), error.get("client_id")) for error in reader.errors] == [
        ("forbidden", client_id),
        ("forbidden", None),
    ]
    assert "chat:write" in reader.errors[0]["problem"]["detail"]
    quick(model)
    assert reader.ended(seen)["text"] == writer.ended(shown)["text"] == WORDS
    for headers in (bearer(alice, "chat:write"), bearer(alice, "tasks:read"), {"Authorization": "Bearer no"}):
        with pytest.raises(Refused) as refused:
            WebSocket(web.port, f"/ws/chat/{talk.pk}/", headers)
        assert refused.value.status == 403


def test_whoever_was_signed_out_meanwhile_sends_nothing_more(
    open_page: Callable[..., Page], alice: User, talk: Conversation
) -> None:
    session, token = open_page(headers=sign_in(alice)), open_page(headers=bearer(alice))
    Session.objects.filter(session_key=session.headers["Cookie"].partition("=")[2]).delete()
    ApiToken.objects.filter(user=alice).update(revoked_at=timezone.now())
    for page in (session, token):
        page.say("Is it still me?")
        assert closed(page) == ([4401], ["unauthenticated"])
    assert not Message.objects.filter(conversation=talk).exists()


def test_a_page_is_closed_soon_after_its_session_or_token_has_ended(
    open_page: Callable[..., Page], alice: User, model: OpenAIServer
) -> None:
    session, stays, token = open_page(headers=sign_in(alice)), open_page(), open_page(headers=bearer(alice))
    slow(model)
    shown = stays.begin()
    until([session, token], lambda: session.replies and token.replies)
    key = session.headers["Cookie"].partition("=")[2]
    assert Session.objects.filter(session_key=key).delete()[0] == 1
    assert ApiToken.objects.filter(user=alice).delete()[0] == 1
    assert closed(session) == ([4401], ["unauthenticated"])
    assert closed(token) == ([4401], ["unauthenticated"])
    quick(model)
    assert stays.ended(shown)["text"] == WORDS
    assert stays.is_open


def test_a_conversation_that_is_deleted_is_closed_and_its_reply_stopped(
    page: Page, alice: User, model: OpenAIServer, talk: Conversation
) -> None:
    slow(model)
    shown = page.begin()
    half(page, shown)
    Delete(Actor(user=alice)).run(talk.pk)
    page.until(lambda: not page.is_open)
    assert (page.closes, slug(page.errors[-1])) == ([4404], "not-found")
    assert model.wait_until(lambda server: server.exchanges[0].abandoned)
    page.open()
    page.until(lambda: not page.is_open)
    assert page.closes == [4404, 4404]


def test_one_page_too_many_is_sent_away_and_comes_when_another_has_gone(
    open_page: Callable[..., Page], talk: Conversation
) -> None:
    pages = [open_page() for _ in range(MAX_SOCKETS)]
    for each in pages:
        each.send({"type": "ping"})
        each.until(lambda each=each: each.of("pong"))  # type: ignore[misc]
    assert closed(open_page()) == ([4429], ["too-many-sockets"])
    pages[0].drop()

    def fits() -> bool:
        one = open_page()
        one.send({"type": "ping"})
        one.until(lambda: one.of("pong") or not one.is_open)
        return one.is_open

    assert eventually(fits, within_s=5)


def test_a_page_that_floods_is_told_and_cut_off(page: Page, open_page: Callable[..., Page]) -> None:
    for _ in range(MAX_FRAMES):
        page.send({"type": "ping"})
    page.until(lambda: len(page.of("pong")) == MAX_FRAMES, within_s=SOON_S)
    assert page.is_open
    page.send({"type": "ping"})
    page.until(lambda: not page.is_open)
    assert (page.closes, [slug(error) for error in page.errors]) == ([4429], ["too-fast"])
    again = open_page()
    again.send({"type": "ping"})
    again.until(lambda: again.of("pong"))


# --- who reads slowly --------------------------------------------------------------------------------------------


def memory(web: Web) -> int:
    """Return the bytes of memory that the process uses."""
    return int(Path(f"/proc/{web.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def long_text(megabytes: float) -> str:
    return " ".join(f"{number:<10000}".replace(" ", "x") for number in range(int(megabytes * 100)))


def test_who_does_not_read_costs_no_memory_slows_nobody_and_gets_a_snapshot_when_it_reads_again(
    web: Web, page: Page, open_page: Callable[..., Page], model: OpenAIServer
) -> None:
    text = long_text(2)
    slow(model, text, token_s=0.002)
    page.ended(page.begin(), within_s=30)  # what it takes in any case is taken
    sleepers = [open_page(receive_buffer=8192) for _ in range(20)]
    for sleeper in sleepers:
        sleeper.send({"type": "ping"})
        sleeper.until(lambda sleeper=sleeper: sleeper.of("pong"))  # type: ignore[misc]
    model.will(Says(text, stall_after=199))
    before = memory(web)
    shown = page.begin("And now?")
    page.until(lambda: len(shown.text) >= 199 * 10_000, within_s=30)
    grown = memory(web) - before
    assert grown < 20 << 20, f"{grown >> 20} MiB"  # what was not read is 40
    assert shown.gaps == 0
    deltas = [at for at, frame in zip(page.times, page.frames, strict=True) if frame["type"] == "run.delta"]
    assert max(later - earlier for earlier, later in pairwise(deltas[-30:])) < 1

    seen = [until(sleepers, lambda sleeper=sleeper: sleeper.replies.get(shown.run_id)) for sleeper in sleepers]  # type: ignore[misc]
    until(sleepers, lambda: all(one.snapshots for one in seen), within_s=30)
    page.stop(shown.run_id)
    end = page.ended(shown, within_s=60)
    until(sleepers, lambda: all(one.end for one in seen), within_s=60)
    assert {one.text for one in seen} == {end["text"]}
    assert text.startswith(end["text"]) and len(end["text"]) >= 199 * 10_000


def test_who_never_reads_again_is_cut_off(page: Page, open_page: Callable[..., Page], model: OpenAIServer) -> None:
    dead = open_page(receive_buffer=8192)
    dead.send({"type": "ping"})
    dead.until(lambda: dead.of("pong"))
    slow(model, long_text(1), token_s=0.0)
    began = time.monotonic()
    page.ended(page.begin(), within_s=60)
    eventually(lambda: is_gone(dead), within_s=STALLED_S + 15)
    assert time.monotonic() - began > STALLED_S
    dead.until(lambda: not dead.is_open)
    assert dead.closes == [None]
    page.send({"type": "ping"})
    page.until(lambda: page.of("pong"))


def is_gone(page: Page) -> bool:
    """Tell whether the server has cut the line, without reading from it."""
    assert page.socket is not None
    poll = select.poll()
    poll.register(page.socket.socket, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
