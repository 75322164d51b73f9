"""The pages of the chat as the server makes them: whose they are, what they show, what works without scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles
from accounts.problems import Unavailable
from agents import registry
from agents.chat import conversations, host, transcript
from agents.models import Conversation, Message
from jobs.models import Job, JobEvent
from tests.console.conftest import CONFIG
from tests.support.configs import load
from tests.support.people import person
from tests.support.talks import answer, say, talk, with_chat
from tests.support.tasks import step, task

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    '<div hx-get="/x" hx-trigger="load">x</div>',
    "[click](javascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "<a href='javascript:alert(1)'>x</a>",
    "</textarea></div></article><h1>out</h1>",
    "`</code><script>alert(1)</script>`",
    "![x](https://elsewhere.example/pixel.png)",
]


class Elements(HTMLParser):
    """What a browser makes elements of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))


@pytest.fixture(autouse=True)
def _loaded(db: None) -> Iterator[None]:
    load(with_chat(CONFIG))
    transcript._rendered.cache_clear()
    yield
    registry.forget()


@pytest.fixture
def ulla() -> User:
    return person("ulla", roles.USER)


@pytest.fixture
def client(ulla: User) -> Client:
    found = Client()
    found.force_login(ulla)
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[UUID, User, str, str]]:
    """What the pages hand to the chat of the web process: this one runs none."""
    found: list[tuple[UUID, User, str, str]] = []

    def send(conversation_id: UUID, user: User, text: str, client_id: str) -> UUID:
        found.append((conversation_id, user, text, client_id))
        return uuid4()

    monkeypatch.setattr(host, "send_from_thread", send)
    return found


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(*_: object) -> UUID:
        raise Unavailable("This part is being restarted.", headers={"Retry-After": "3"})

    monkeypatch.setattr(host, "send_from_thread", send)


def html(client: Client, address: str, status: int = 200) -> str:
    response = client.get(address)
    assert response.status_code == status
    return response.content.decode()


# --- a new chat ---


def test_the_first_page_is_a_new_chat(client: Client) -> None:
    page = html(client, "/")
    assert 'action="/chat/"' in page
    assert "What can you do?" in page
    assert 'aria-current="page"' in page


def test_who_is_not_signed_in_comes_back_after_signing_in(ulla: User) -> None:
    there = f"/chat/{talk(ulla).pk}/"
    assert Client().get(there)["Location"] == f"/accounts/login/?next={there}"


def test_the_first_message_begins_a_conversation(client: Client, ulla: User, sent: list[Any]) -> None:
    response = client.post("/chat/", {"text": "Hello", "client_id": "mine"})
    made = Conversation.objects.get()
    assert response["Location"] == f"/chat/{made.pk}/"
    assert sent == [(made.pk, ulla, "Hello", "mine")]


def test_the_first_message_sent_twice_begins_one_conversation(
    client: Client, ulla: User, sent: list[tuple[UUID, User, str, str]]
) -> None:
    first = client.post("/chat/", {"text": "Hello", "client_id": "mine"})
    second = client.post("/chat/", {"text": "Hello", "client_id": "mine"})
    made = Conversation.objects.get()
    assert first["Location"] == second["Location"] == f"/chat/{made.pk}/"
    assert sent == [(made.pk, ulla, "Hello", "mine")] * 2  # which is one message: it has one client_id


@pytest.mark.usefixtures("sent")
def test_another_first_message_from_the_same_form_is_not_lost(client: Client) -> None:
    client.post("/chat/", {"text": "Hello", "client_id": "mine"})
    client.post("/chat/", {"text": "Something else", "client_id": "mine"})
    assert Conversation.objects.count() == 2


@pytest.mark.usefixtures("refusing")
def test_a_refusal_takes_no_conversation_away_in_which_something_was_said(client: Client, ulla: User) -> None:
    begun = conversations.create(ulla, "chat.v1", key="mine\nHello")
    say(begun, "Hello")
    assert client.post("/chat/", {"text": "Hello", "client_id": "mine"}).status_code == 503
    assert [message.text for message in begun.messages.all()] == ["Hello"]


def test_an_example_is_sent_as_it_is(client: Client, sent: list[Any]) -> None:
    client.post("/chat/", {"text": "half a thought", "example": "What can you do?"})
    assert sent[0][2] == "What can you do?"


def test_a_conversation_can_begin_without_a_message(client: Client, sent: list[Any]) -> None:
    response = client.post("/chat/", {})
    assert response["Location"] == f"/chat/{Conversation.objects.get().pk}/"
    assert sent == []


@pytest.mark.usefixtures("refusing")
def test_a_refused_first_message_is_not_lost_and_leaves_no_empty_conversation(client: Client) -> None:
    response = client.post("/chat/", {"text": "Do not <b>lose</b> this"})
    assert response.status_code == 503
    assert response["Retry-After"] == "3"
    page = response.content.decode()
    assert "Do not &lt;b&gt;lose&lt;/b&gt; this</textarea>" in page
    assert "This part is being restarted." in page
    assert not Conversation.objects.exists()


def test_without_an_endpoint_to_chat_with_the_page_says_so(client: Client) -> None:
    load(CONFIG.replace("dig.v1", "other.v1"))
    page = html(client, "/")
    assert "No endpoint that one can chat with is loaded." in page
    assert client.post("/chat/", {"text": "Hello"}).status_code == 503


# --- whose it is ---


ADDRESSES = ["", "transcript/", "rename/", "delete/", "text/{message}/", "steps/{run}/a%231/"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_somebody_elses_conversation_does_not_exist(client: Client, address: str) -> None:
    theirs = talk(person("otto", roles.USER), "A secret")
    reply = answer(theirs, "Another secret")
    assert reply.run is not None
    step(reply.run, "a", kind="tool", key="a#1")
    path = f"/chat/{theirs.pk}/" + address.format(message=reply.pk, run=reply.run_id)
    assert client.get(path).status_code == 404
    owner = Client()
    owner.force_login(theirs.user)
    assert owner.get(path).status_code == 200


@pytest.mark.parametrize("verb", ["send", "stop", "rename", "delete"])
def test_nobody_acts_on_somebody_elses_conversation(client: Client, sent: list[Any], verb: str) -> None:
    theirs = talk(person("otto", roles.USER), "A secret")
    answer(theirs, "half", state="running")
    assert client.post(f"/chat/{theirs.pk}/{verb}/", {"text": "x", "title": "x"}).status_code == 404
    theirs.refresh_from_db()
    assert theirs.title == "A talk"
    assert sent == []
    assert not Job.objects.exclude(cancel_requested_at=None).exists()


def test_an_operator_reads_nobody_elses_conversation(ulla: User) -> None:
    operator = Client()
    operator.force_login(person("olga", roles.OPERATOR))
    assert operator.get(f"/chat/{talk(ulla, 'A secret').pk}/").status_code == 404


def test_a_step_of_another_conversation_is_not_shown(client: Client, ulla: User) -> None:
    theirs = answer(talk(person("otto", roles.USER), "A secret"), "x")
    assert theirs.run is not None
    step(theirs.run, "look", kind="tool", key="look#1", output={"secret": "hidden"})
    mine = talk(ulla)
    assert client.get(f"/chat/{mine.pk}/steps/{theirs.run_id}/look%231/").status_code == 404
    assert client.get(f"/chat/{mine.pk}/text/{theirs.pk}/").status_code == 404


# --- the transcript ---


def test_a_reply_that_is_being_written_is_in_the_page_with_what_a_script_needs(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Where does the river end?")
    reply = answer(conversation, "In the <sea", state="running", seq=17)
    page = html(client, f"/chat/{conversation.pk}/")
    assert f'data-status="writing" data-run-id="{reply.run_id}" data-seq="17"' in page
    assert '<div class="reply-text live" dir="auto">In the &lt;sea</div>' in page
    assert "data-running" in page
    assert '<meta http-equiv="refresh" content="3">' in page


def test_how_an_answer_ended_is_said_in_words(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "One")
    answer(conversation, "Half of", state="cancelled")
    say(conversation, "Two")
    answer(conversation, state="cancelled")
    say(conversation, "Three")
    problem = {"type": "/problems/wall-clock", "title": "It took too long", "detail": "More than <600> s."}
    answer(conversation, "Some of", state="dead", problem=problem)
    say(conversation, "Four")
    answer(conversation, state="dead", problem={"type": "https://evil.example/problems/", "title": "T", "detail": "D"})
    page = html(client, f"/chat/{conversation.pk}/")
    assert "Stopped. What it had written is kept." in page
    assert "Stopped before it had written anything." in page
    assert "It took too long" in page
    assert "More than &lt;600&gt; s." in page
    assert "What it had written is above. It is not complete." in page
    assert 'href="/problems/wall-clock"' in page
    assert "evil.example" not in page
    assert page.count("Try again") >= 2


def test_a_message_that_goes_on_as_a_task_leads_there_and_is_not_asked_again(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Research it")
    goes_on = task("running", user=ulla)
    problem = {"title": "It took too long", "handed_over": {"task_id": str(goes_on.pk), "endpoint": "help.v1"}}
    answer(conversation, state="dead", problem=problem)
    page = html(client, f"/chat/{conversation.pk}/")
    assert f'as <a href="/console/tasks/{goes_on.pk}/">a task</a>' in page
    assert not re.search(r'<button class="button" type="submit">[^<]*<svg[^>]*>.*?</svg>Try again', page)
    for nonsense in ("x", {"task_id": "x"}, {"task_id": None}, {}):
        Message.objects.filter(role="assistant").update(problem={"handed_over": nonsense})
        assert "Try again</button>" in html(client, f"/chat/{conversation.pk}/")


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_stays_text(client: Client, ulla: User, evil: str) -> None:
    conversation = talk(ulla, evil, evil, title=evil[:100])
    reply = answer(conversation, evil)
    assert reply.run is not None
    step(reply.run, evil[:50], kind="tool", key=evil[:50], input={"tool": evil, "arguments": {"url": evil, evil: evil}})
    elements = Elements()
    elements.feed(html(client, f"/chat/{conversation.pk}/"))
    assert elements.found
    for name, attributes in elements.found:
        assert name != "script" or attributes["src"].startswith("/static/")
        assert name != "img" or attributes["src"].startswith("/static/")
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("hx-get") != "/x"
        assert not re.match(r"\s*(javascript|data):", attributes.get("href", ""), re.I)
    assert [name for name, _ in elements.found].count("h1") == 1


@pytest.mark.parametrize(
    ("written", "levels"),
    [("# A\n## B\n### C", "345"), ("## A\n#### B\n# C\n## D", "3434"), ("###### A\n###### B", "33")],
)
def test_headings_of_an_answer_leave_no_level_out(written: str, levels: str) -> None:
    assert re.findall(r"<h(\d)>", transcript.rendered(written)) == list(levels)


def test_a_huge_answer_is_cut_rather_than_sent(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "x", "word " * 60_000)
    assert len(html(client, f"/chat/{conversation.pk}/")) < 260_000


def test_steps_are_told_in_words_without_what_came_back(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Read it")
    reply = answer(conversation, "Done")
    assert reply.run is not None
    crawl = {"tool": "web_crawl", "arguments": {"url": "https://example.com/a/b", "question": "q"}}
    output = {"tool": "web_crawl", "call_id": "1", "ok": True, "error": None}
    pages = [{"url": "https://example.com/", "passages": ["needle"]}] * 3
    step(
        reply.run,
        "web_crawl",
        kind="tool",
        key="web_crawl#1",
        input=crawl,
        output={**output, "content": {"pages": pages}},
    )
    failed = {**output, "ok": False, "error": "timeout", "content": "It took too long"}
    step(reply.run, "web_crawl", kind="tool", key="web_crawl#2", input=crawl, output=failed)
    step(reply.run, "plan", kind="model")
    step(reply.run, "render_it", kind="step", key="render_it#1", output="x")
    page = html(client, f"/chat/{conversation.pk}/")
    assert re.findall(r'<span class="step-words">([^<]*)</span>', page)[:3] == [
        "Read 3 pages of example.com",
        "Could not read the web page: example.com",
        "Render it",
    ]
    assert "needle" not in page
    opened = html(client, f"/chat/{conversation.pk}/steps/{reply.run_id}/web_crawl%231/")
    assert "needle" in opened
    assert "https://example.com/a/b" in opened
    assert "It took too long" in html(client, f"/chat/{conversation.pk}/steps/{reply.run_id}/web_crawl%232/")


def test_a_model_that_fails_is_told_while_the_answer_is_written_and_not_after(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Hello")
    reply = answer(conversation, state="running")
    data = {"key": "compose#1", "name": "compose", "kind": "compose", "summary": "503", "ms": 20, "final": False}
    assert reply.run is not None
    JobEvent.objects.create(job=reply.run.job, kind="step", reason="failed", data=data)
    assert "The model did not answer: 503" in html(client, f"/chat/{conversation.pk}/")
    Message.objects.filter(pk=reply.pk).update(status="done", text="Hello yourself")
    assert "The model did not answer" not in html(client, f"/chat/{conversation.pk}/")


def test_only_operators_are_led_to_the_run(client: Client, ulla: User) -> None:
    olga = person("olga", roles.OPERATOR)
    for user, is_led in ((ulla, False), (olga, True)):
        conversation = talk(user, "Hello", "Hello yourself")
        reply = conversation.messages.get(role="assistant")
        browser = Client()
        browser.force_login(user)
        page = html(browser, f"/chat/{conversation.pk}/")
        assert (f"/console/tasks/{reply.run_id}/" in page) is is_led


def test_a_long_conversation_is_shown_from_its_end_and_read_backwards(client: Client, ulla: User) -> None:
    conversation = talk(ulla, *(f"message {number}." for number in range(1, 121)))
    page = html(client, f"/chat/{conversation.pk}/")
    assert "message 120." in page
    assert "message 71." in page
    assert "message 70." not in page
    assert "?before=71" in page
    earlier = html(client, f"/chat/{conversation.pk}/?before=71")
    assert "message 70." in earlier
    assert "message 71." not in earlier
    assert "Go to the latest" in earlier
    part = html(client, f"/chat/{conversation.pk}/transcript/?before=21")
    assert "message 1." in part
    assert "?before=" not in part
    after = html(client, f"/chat/{conversation.pk}/transcript/?after=118")
    assert re.findall(r"message (\d+)\.", after) == ["119", "120"]


def _queries(client: Client, address: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as caught:
        html(client, address)
    return len(caught)


def test_the_queries_of_a_conversation_do_not_grow_with_it(client: Client, ulla: User) -> None:
    short, long = talk(ulla, "One", "Two"), talk(ulla, *(f"message {number}" for number in range(40)))
    for reply in Message.objects.filter(role="assistant"):
        assert reply.run is not None
        for number in range(3):
            step(reply.run, "look", kind="tool", key=f"look#{number}")
    html(client, f"/chat/{short.pk}/")
    few, many = _queries(client, f"/chat/{short.pk}/"), _queries(client, f"/chat/{long.pk}/")
    # Five of them are the number beside Approvals: a count with a time-out.
    assert many == few <= 13


def test_the_queries_of_the_list_do_not_grow_with_it(client: Client, ulla: User) -> None:
    talk(ulla, "One", "Two")
    html(client, "/")
    few = _queries(client, "/")
    for _ in range(20):
        talk(ulla, "One", "Two")
    assert _queries(client, "/") == few


# --- the list ---


def test_the_list_is_ones_own_newest_first_and_goes_on(client: Client, ulla: User) -> None:
    now = timezone.now()
    talk(person("otto", roles.USER), "A secret", title="Not yours")
    for number in range(35):
        talk(ulla, title=f"talk {number:02}", updated_at=now - timedelta(minutes=number))
    page = html(client, "/chat/list/")
    assert re.findall(r">(talk \d+)<", page) == [f"talk {number:02}" for number in range(30)]
    assert "Not yours" not in page
    older = re.search(r'href="\?older=([^"]+)"', page)
    assert older is not None
    rest = html(client, f"/chat/list/?older={older[1]}")
    assert re.findall(r">(talk \d+)<", rest) == [f"talk {number:02}" for number in range(30, 35)]
    assert "Older conversations" not in rest


def test_conversations_of_the_same_moment_are_neither_lost_nor_doubled(client: Client, ulla: User) -> None:
    now = timezone.now()
    made = {str(talk(ulla, updated_at=now).pk) for _ in range(40)}
    page = html(client, "/chat/list/")
    older = re.search(r'href="\?older=([^"]+)"', page)
    assert older is not None
    ids = re.findall(r'id="c-([^"]+)"', page + html(client, f"/chat/list/?older={older[1]}"))
    assert len(ids) == 40
    assert set(ids) == made


@pytest.mark.parametrize("cursor", ["x", "2026-01-01_x", "2026-01-01T00:00:00_" + "0" * 32, "_", "9" * 300])
def test_a_cursor_that_makes_no_sense_shows_the_newest(client: Client, ulla: User, cursor: str) -> None:
    talk(ulla, title="the one")
    assert "the one" in html(client, f"/chat/list/?older={cursor}")


def test_the_list_reads_no_messages_however_many_there_are(client: Client, ulla: User) -> None:
    answer(talk(ulla, "Hello"), state="running")
    with CaptureQueriesContext(connection) as asked:
        page = html(client, "/chat/list/")
    assert ", a reply is being written" in page
    assert not [query for query in asked.captured_queries if "agents_message" in query["sql"]]


def test_the_open_conversation_is_marked_and_one_being_answered_too(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Hello")
    answer(conversation, "x", state="running")
    page = html(client, f"/chat/{conversation.pk}/")
    assert f'href="/chat/{conversation.pk}/" aria-current="page"' in page
    assert ", a reply is being written" in page


# --- what is done without a script ---


def test_a_message_is_sent_without_a_script(client: Client, ulla: User, sent: list[Any]) -> None:
    conversation = talk(ulla, "Hello", "Hello yourself")
    response = client.post(f"/chat/{conversation.pk}/send/", {"text": "And now?"})
    assert response["Location"] == f"/chat/{conversation.pk}/"
    assert sent[0][:3] == (conversation.pk, ulla, "And now?")
    assert sent[0][3]


@pytest.mark.usefixtures("refusing")
def test_a_refused_message_comes_back_with_the_reason(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Hello", "Hello yourself")
    response = client.post(f"/chat/{conversation.pk}/send/", {"text": "And now?"})
    assert response.status_code == 503
    page = response.content.decode()
    assert "And now?</textarea>" in page
    assert "This part is being restarted." in page
    assert "Hello yourself" in page


def test_trying_again_sends_what_was_asked(client: Client, ulla: User, sent: list[Any]) -> None:
    conversation = talk(ulla, "The question")
    reply = answer(conversation, state="dead", problem={"title": "No model"})
    client.post(f"/chat/{conversation.pk}/send/", {"again": str(reply.run_id)})
    assert sent[0][2] == "The question"


def test_stopping_asks_the_run_to_stop(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Hello")
    reply = answer(conversation, "Hel", state="running")
    response = client.post(f"/chat/{conversation.pk}/stop/")
    assert response["Location"] == f"/chat/{conversation.pk}/"
    assert reply.run is not None
    assert Job.objects.get(pk=reply.run.pk).cancel_requested_at is not None


def test_stopping_where_nothing_is_written_is_harmless(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Hello", "Hello yourself")
    assert client.post(f"/chat/{conversation.pk}/stop/").status_code == 302


def test_a_conversation_is_renamed(client: Client, ulla: User) -> None:
    conversation = talk(ulla)
    assert 'value="A talk"' in html(client, f"/chat/{conversation.pk}/rename/")
    response = client.post(f"/chat/{conversation.pk}/rename/", {"title": "  The \n river "})
    assert response["Location"] == f"/chat/{conversation.pk}/"
    conversation.refresh_from_db()
    assert conversation.title == "The river"


@pytest.mark.parametrize("title", ["", "   ", "x" * 121])
def test_a_title_that_cannot_be_is_told(client: Client, ulla: User, title: str) -> None:
    conversation = talk(ulla)
    response = client.post(f"/chat/{conversation.pk}/rename/", {"title": title})
    assert response.status_code == 422
    assert b'aria-invalid="true"' in response.content


def test_a_conversation_is_deleted_after_asking(client: Client, ulla: User) -> None:
    opened, conversation = talk(ulla), talk(ulla, "Hello", "Hello yourself", title="To go")
    assert "To go" in html(client, f"/chat/{conversation.pk}/delete/")
    assert Conversation.objects.count() == 2
    response = client.post(f"/chat/{conversation.pk}/delete/", {"opened": str(opened.pk)})
    assert response["Location"] == f"/chat/{opened.pk}/"
    assert client.post(f"/chat/{opened.pk}/delete/", {"opened": str(opened.pk)})["Location"] == "/"
    assert not Conversation.objects.exists()


def test_going_back_leads_to_nobody_elses_conversation(client: Client, ulla: User) -> None:
    theirs, mine = talk(person("otto", roles.USER)), talk(ulla)
    response = client.post(f"/chat/{mine.pk}/rename/", {"title": "x", "opened": str(theirs.pk)})
    assert response["Location"] == f"/chat/{mine.pk}/"


def test_an_answer_is_copied_as_it_was_written(client: Client, ulla: User) -> None:
    conversation = talk(ulla, "Hello", "Hello **yourself** <b>")
    reply = conversation.messages.get(role="assistant")
    response = client.get(f"/chat/{conversation.pk}/text/{reply.pk}/")
    assert response.content.decode() == "Hello **yourself** <b>"
    assert response["Content-Type"] == "text/plain; charset=utf-8"
