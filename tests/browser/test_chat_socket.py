"""The page's end of the socket: what it shows of each frame, and what it does when the line fails it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from agents.models import Conversation, Message
from tests.browser.chat_line import ChatLine
from tests.browser.conftest import Open
from tests.support.talks import answer, finish, say, talk


@dataclass
class Opened:
    """A conversation's page, and the other end of its socket."""

    page: Page
    line: ChatLine
    conversation: Conversation

    def send(self, text: str) -> None:
        """Write a message and send it."""
        self.page.locator("#text").fill(text)
        self.page.locator("#text").press("Enter")

    def begin(self, text: str = "Where does the river end?", *, count: int = 1) -> str:
        """Send a message that is accepted; return the run's id."""
        self.send(text)
        run_id = str(uuid4())
        self.line.accept(run_id, uuid4(), count=count)
        expect(self.page.get_by_role("button", name="Stop")).to_be_visible()
        return run_id

    @property
    def reply(self) -> Locator:
        """The last reply."""
        return self.page.locator("article.reply").last

    @property
    def text(self) -> Locator:
        """The text of the last reply."""
        return self.reply.locator(".reply-text")

    @property
    def state(self) -> Locator:
        """What the page says of the connection."""
        return self.page.locator("#chat-line")


Start = Callable[..., Opened]


@pytest.fixture
def open_chat(browse: Open, ulla: User) -> Start:
    """Open a conversation whose socket the test answers. With ``clock`` the test drives the page's time."""

    def start(conversation: Conversation | None = None, *, clock: bool = False, **options: object) -> Opened:
        found = conversation or talk(ulla)
        page = browse(ulla, "/problems/", **options)
        if clock:
            page.clock.install()
        line = ChatLine(page)
        page.goto(f"/chat/{found.pk}/")
        line.opened()
        return Opened(page, line, found)

    return start


def delta(chat: Opened, run_id: str, seq: int, text: str) -> None:
    chat.line.say("run.delta", run_id=run_id, seq=seq, text=text)


# --- in good order ---


def test_a_reply_streams_as_text_and_ends_as_what_the_server_made_of_it(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin("Where does **it** end?")
    expect(chat.page.locator("article.said .said-text")).to_have_text("Where does **it** end?")
    delta(chat, run_id, 2, "In the ")
    delta(chat, run_id, 3, "**sea**.")
    expect(chat.text).to_have_text("In the **sea**.")
    chat.line.say(
        "run.finished",
        run_id=run_id,
        seq=4,
        message_id=uuid4(),
        text="In the **sea**.",
        html="<p>In the <strong>sea</strong>.</p>",
        usage={},
        stopped=False,
    )
    expect(chat.text.locator("strong")).to_have_text("sea")
    expect(chat.page.get_by_role("button", name="Send")).to_be_visible()
    expect(chat.page.locator("#announcer")).to_have_text("The answer is complete.")
    expect(chat.page.locator("#text")).to_be_focused()


def test_steps_are_lines_that_open_and_models_are_not_shown(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin()
    step = {"run_id": run_id, "name": "web_crawl", "kind": "tool", "key": "web_crawl#1"}
    chat.line.say("run.step", seq=2, run_id=run_id, key="c#1", name="c", kind="compose", status="started", summary="")
    chat.line.say("run.step", seq=3, status="started", summary="", **step)
    lines = chat.reply.locator(".chat-step")
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("Web crawl")
    chat.line.say("run.step", seq=4, status="finished", summary="3 pages", ms=1234, **step)
    expect(lines).to_contain_text("3 pages")
    expect(lines.locator(".step-took")).to_have_text("1.2 s")


def test_what_was_withdrawn_is_gone(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin()
    delta(chat, run_id, 2, "Well. ")
    delta(chat, run_id, 3, "Nonsense")
    chat.line.say("run.withdrawn", run_id=run_id, seq=4, reason="retry", text="Well. ")
    delta(chat, run_id, 5, "Sense")
    expect(chat.text).to_have_text("Well. Sense")


def test_nothing_that_comes_in_is_taken_for_markup(open_chat: Start, faults: list[str]) -> None:
    chat = open_chat()
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    run_id = chat.begin(evil)
    delta(chat, run_id, 2, evil)
    chat.line.say("run.step", seq=3, run_id=run_id, key=evil, name=evil, kind="tool", status="failed", summary=evil)
    expect(chat.text).to_have_text(evil)
    expect(chat.page.locator("#log img, #log script")).to_have_count(0)
    assert chat.page.title() != "owned"


def test_a_reader_who_waits_sees_that_it_thinks_and_for_how_long(open_chat: Start) -> None:
    chat = open_chat(clock=True)
    run_id = chat.begin()
    chat.page.clock.run_for(1_000)
    expect(chat.reply).to_contain_text("Thinking …")
    chat.line.say("run.heartbeat", run_id=run_id, seq=1, elapsed_ms=7_000)
    chat.page.clock.run_for(500)
    expect(chat.reply).to_contain_text("Thinking … 7 s")
    delta(chat, run_id, 2, "So")
    expect(chat.reply).not_to_contain_text("Thinking")


# --- sent, refused, kept ---


def test_a_message_typed_while_a_reply_is_written_is_sent_after_it(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin()
    chat.send("And the lake?")
    expect(chat.page.locator("#kept")).to_contain_text("Will be sent after this answer: And the lake?")
    assert len([frame for frame in chat.line.heard if frame["type"] == "message"]) == 1
    chat.line.say(
        "run.finished", run_id=run_id, seq=2, message_id=uuid4(), text="Sea", html="<p>Sea</p>", stopped=False
    )
    assert chat.line.wait_for("message", 2)["text"] == "And the lake?"
    expect(chat.page.locator("#kept")).to_be_hidden()


def test_a_kept_message_is_not_sent_after_a_failure_unless_one_says_so(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin()
    chat.send("And the lake?")
    chat.line.say(
        "run.failed", run_id=run_id, seq=2, problem={"title": "No model"}, message_id=uuid4(), html="", text=""
    )
    expect(chat.page.locator("#kept")).to_contain_text("And the lake?")
    chat.page.get_by_role("button", name="Send now").click()
    assert chat.line.wait_for("message", 2)["text"] == "And the lake?"


def test_a_refused_message_says_why_and_can_be_sent_again_or_edited(open_chat: Start) -> None:
    chat = open_chat()
    chat.send("Hello")
    sent = chat.line.wait_for("message")
    problem = {"type": "/problems/too-fast", "title": "Too fast", "detail": "Try again in 5 s.", "status": 429}
    chat.line.say("error", client_id=sent["client_id"], problem=problem)
    said = chat.page.locator("article.said")
    expect(said).to_contain_text("Not sent. Try again in 5 s.")
    chat.page.reload()
    expect(said).to_contain_text("Not sent. Try again in 5 s.")
    said.get_by_role("button", name="Try again").click()
    again = chat.line.wait_for("message", 2)
    assert (again["text"], again["client_id"]) == ("Hello", sent["client_id"])
    chat.line.say("error", client_id=sent["client_id"], problem=problem)
    said.get_by_role("button", name="Edit").click()
    expect(said).to_have_count(0)
    expect(chat.page.locator("#text")).to_have_value("Hello")


def test_a_message_that_meets_a_reply_of_another_tab_waits_for_its_end(open_chat: Start) -> None:
    chat = open_chat()
    chat.send("Hello")
    sent = chat.line.wait_for("message")
    writing = answer(chat.conversation, "Half", state="running", seq=3)
    chat.line.say("error", client_id=sent["client_id"], problem={"type": "/problems/reply-running", "status": 409})
    expect(chat.page.locator("#kept")).to_contain_text("Hello")
    expect(chat.text).to_have_text("Half")
    expect(chat.page.get_by_role("button", name="Stop")).to_be_visible()
    assert writing.status == "writing"


# --- stop ---


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_is_asked_once_and_said(open_chat: Start, how: str) -> None:
    chat = open_chat()
    run_id = chat.begin()
    delta(chat, run_id, 2, "In the ")
    if how == "button":
        chat.page.get_by_role("button", name="Stop").click()
    else:
        chat.page.locator("#text").press("Escape")
    assert chat.line.wait_for("stop")["run_id"] == run_id
    expect(chat.page.get_by_role("button", name="Stopping")).to_be_disabled()
    chat.line.say(
        "run.finished", run_id=run_id, seq=3, message_id=uuid4(), text="In the", html="<p>In the</p>", stopped=True
    )
    expect(chat.reply).to_contain_text("Stopped.")
    expect(chat.page.get_by_role("button", name="Send")).to_be_visible()
    expect(chat.page.locator("#text")).to_be_focused()


# --- gaps, snapshots, other tabs ---


def test_a_gap_is_asked_for_and_what_is_old_is_ignored(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin()
    delta(chat, run_id, 2, "one ")
    delta(chat, run_id, 2, "one ")
    delta(chat, run_id, 4, "three ")
    asked = chat.line.wait_for("resume")
    assert (asked["run_id"], asked["last_seq"]) == (run_id, 2)
    expect(chat.text).to_have_text("one")
    chat.line.say("run.snapshot", run_id=run_id, seq=4, text="one two three ", steps=[], message_id=uuid4())
    delta(chat, run_id, 5, "four")
    expect(chat.text).to_have_text("one two three four")
    assert len([frame for frame in chat.line.heard if frame["type"] == "resume"]) == 1


def test_a_heartbeat_that_is_ahead_tells_of_a_lost_frame(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin()
    chat.line.say("run.heartbeat", run_id=run_id, seq=3, elapsed_ms=2_000)
    assert chat.line.wait_for("resume")["last_seq"] == 1


def test_a_process_that_takes_over_replaces_what_the_page_holds(open_chat: Start) -> None:
    chat = open_chat()
    run_id = chat.begin()
    step = {"key": "a#1", "name": "look", "kind": "tool", "status": "started", "summary": ""}
    chat.line.say("run.step", run_id=run_id, seq=2, **step)
    delta(chat, run_id, 3, "In the wood")
    steps = [{**step, "key": "b#1", "name": "look_up", "status": "finished", "summary": "done", "ms": 12}]
    chat.line.say("run.snapshot", run_id=run_id, seq=1_000_001, text="In the ", steps=steps, message_id=uuid4())
    delta(chat, run_id, 1_000_002, "sea")
    expect(chat.text).to_have_text("In the sea")
    expect(chat.reply.locator(".step-words")).to_have_text(["Look up: done"])
    chat.line.say("run.snapshot", run_id=run_id, seq=3, text="In the wood", steps=[], message_id=uuid4())
    delta(chat, run_id, 1_000_003, ".")
    expect(chat.text).to_have_text("In the sea.")


def test_what_another_tab_sends_is_shown_here_with_its_reply(open_chat: Start) -> None:
    chat = open_chat()
    run_id, message_id = uuid4(), uuid4()
    chat.line.say(
        "run.accepted", run_id=run_id, seq=1, client_id="of another", text="From there", message_id=message_id
    )
    delta(chat, str(run_id), 2, "To here")
    expect(chat.page.locator("article.said")).to_contain_text("From there")
    expect(chat.text).to_have_text("To here")


def test_a_page_opened_in_mid_reply_shows_it_and_goes_on(open_chat: Start, ulla: User) -> None:
    conversation = talk(ulla, "Where does the river end?")
    reply = answer(conversation, "In the", state="running", seq=41)
    chat = open_chat(conversation)
    expect(chat.text).to_have_text("In the")
    asked = chat.line.wait_for("resume")
    assert (asked["run_id"], asked["last_seq"]) == (str(reply.run_id), 41)
    chat.line.say("run.snapshot", run_id=reply.run_id, seq=44, text="In the se", steps=[], message_id=reply.pk)
    delta(chat, str(reply.run_id), 45, "a.")
    expect(chat.text).to_have_text("In the sea.")


def test_a_background_message_appears(open_chat: Start) -> None:
    chat = open_chat()
    message = Message.objects.create(conversation=chat.conversation, place=1, role="assistant", text="The **report**")
    chat.line.say("conversation.message", message_id=message.pk, role="assistant", html="")
    expect(chat.text.locator("strong")).to_have_text("report")


# --- a line that fails ---


def test_a_silent_line_is_given_up_and_what_happened_meanwhile_is_shown(open_chat: Start, ulla: User) -> None:
    conversation = talk(ulla, "Where does the river end?")
    reply = answer(conversation, "In the", state="running", seq=2)
    chat = open_chat(conversation, clock=True)
    chat.line.wait_for("resume")
    chat.page.clock.run_for(4_000)
    assert len(chat.line.sockets) == 1
    finish(reply, "In the **sea**.")
    chat.page.clock.run_for(3_000)
    chat.line.opened(2)
    expect(chat.text.locator("strong")).to_have_text("sea")
    expect(chat.page.get_by_role("button", name="Send")).to_be_visible()
    expect(chat.page.locator("article")).to_have_count(2)


def test_an_idle_line_is_asked_whether_it_lives(open_chat: Start) -> None:
    chat = open_chat(clock=True)
    for _ in range(30):
        chat.page.clock.run_for(2_000)
        chat.page.wait_for_timeout(5)
    assert chat.line.pings >= 2
    assert len(chat.line.sockets) == 1
    chat.line.answers_pings = False
    chat.page.clock.run_for(30_000)
    chat.line.opened(2)


def test_a_lost_line_is_told_and_comes_back(open_chat: Start) -> None:
    chat = open_chat(clock=True)
    chat.line.refusals = [3000] * 5
    chat.line.close()
    for _ in range(12):
        chat.page.clock.run_for(500)
        chat.page.wait_for_timeout(20)
    expect(chat.state).to_contain_text("Connection lost. Trying again in")
    expect(chat.page.locator("#announcer")).to_have_text("Connection lost.")
    chat.line.refusals = []
    chat.state.get_by_role("button", name="Now").click()
    chat.line.opened(2)
    expect(chat.state).to_contain_text("Reconnected.")
    expect(chat.page.locator("#text")).to_be_focused()


def test_a_message_written_without_a_line_is_sent_once_when_there_is_one(open_chat: Start) -> None:
    chat = open_chat(clock=True)
    chat.line.refusals = [3000]
    chat.line.close()
    chat.line.until(lambda: chat.page.evaluate("document.hidden") is False)
    chat.send("Are you there?")
    said = chat.page.locator("article.said")
    expect(said).to_contain_text("Not sent yet.")
    chat.page.clock.run_for(2_000)
    chat.line.opened(2)
    sent = chat.line.accept(uuid4(), uuid4())
    assert sent["text"] == "Are you there?"
    expect(said).to_have_count(1)
    expect(said).not_to_contain_text("Not sent yet.")


def test_a_message_without_an_answer_is_sent_again_with_its_own_id(open_chat: Start) -> None:
    chat = open_chat(clock=True)
    chat.send("Hello")
    first = chat.line.wait_for("message")
    chat.line.close()
    chat.page.clock.run_for(1_000)
    chat.line.opened(2)
    second = chat.line.wait_for("message", 2)
    assert second["client_id"] == first["client_id"]
    chat.line.accept(uuid4(), uuid4(), count=2)
    expect(chat.page.locator("article.said")).to_have_count(1)


def test_a_message_without_an_answer_outlives_a_reload(open_chat: Start) -> None:
    chat = open_chat()
    chat.send("Hello")
    first = chat.line.wait_for("message")
    chat.page.reload()
    assert chat.line.wait_for("message", 2)["client_id"] == first["client_id"]
    expect(chat.page.locator("article.said")).to_have_count(1)


def test_a_message_that_the_server_has_is_not_sent_again_after_a_reload(open_chat: Start) -> None:
    chat = open_chat()
    chat.send("Hello")
    first = chat.line.wait_for("message")
    say(chat.conversation, "Hello", client_id=first["client_id"])
    answer(chat.conversation, "Hello yourself")
    chat.page.reload()
    chat.line.opened(2)
    expect(chat.text).to_have_text("Hello yourself")
    assert len([frame for frame in chat.line.heard if frame["type"] == "message"]) == 1


def test_a_stop_that_was_not_heard_is_said_again(open_chat: Start) -> None:
    chat = open_chat(clock=True)
    run_id = chat.begin()
    chat.page.get_by_role("button", name="Stop").click()
    chat.line.wait_for("stop")
    chat.line.close()
    chat.page.clock.run_for(1_000)
    chat.line.opened(2)
    assert chat.line.wait_for("stop", 2)["run_id"] == run_id


def test_a_process_that_restarts_sends_the_page_elsewhere_at_once(open_chat: Start) -> None:
    chat = open_chat(clock=True)
    chat.page.clock.run_for(2_000)
    chat.page.clock.pause_at(chat.page.evaluate("Date.now() + 1000"))
    chat.line.close(4000)
    chat.line.opened(2)


def test_who_is_signed_out_is_led_back_after_signing_in(open_chat: Start) -> None:
    chat = open_chat()
    chat.line.close(4401)
    link = chat.state.get_by_role("link", name="Sign in again")
    expect(link).to_have_attribute("href", f"/accounts/login/?next=%2Fchat%2F{chat.conversation.pk}%2F")
    chat.page.locator("#text").fill("Do not lose this")
    chat.page.locator("#text").press("Enter")
    expect(chat.page.locator("#text")).to_have_value("Do not lose this")
    assert len(chat.line.sockets) == 1


def test_a_conversation_that_is_gone_says_so(open_chat: Start) -> None:
    chat = open_chat()
    chat.line.close(4404)
    expect(chat.state).to_contain_text("This conversation is gone")
    expect(chat.state.get_by_role("link", name="New chat")).to_have_attribute("href", "/")


def test_a_line_that_is_never_let_in_finds_out_why(open_chat: Start, ulla: User, faults: list[str]) -> None:
    chat = open_chat(clock=True)
    Conversation.objects.all().delete()
    chat.line.refusals = [3000] * 10
    chat.line.close()
    for _ in range(10):
        chat.page.clock.run_for(1_000)
        chat.page.wait_for_timeout(20)
    expect(chat.state).to_contain_text("This conversation is gone")
    faults.clear()  # the browser notes a 404 as an error


def test_what_could_not_be_brought_up_to_date_is_tried_again(open_chat: Start, faults: list[str]) -> None:
    chat = open_chat(clock=True)
    chat.send("Where does the river end?")
    sent = chat.line.wait_for("message")
    say(chat.conversation, sent["text"], client_id=sent["client_id"])
    reply = answer(chat.conversation, "In the **sea**.")
    assert reply.run_id is not None
    chat.line.accept(reply.run_id, reply.pk)
    chat.page.route("**/transcript/**", lambda route: route.abort())
    end = {"message_id": reply.pk, "text": "In the **sea**.", "html": "<p>In the <strong>sea</strong>.</p>"}
    with chat.page.expect_event("requestfailed"):
        chat.line.say("run.finished", run_id=reply.run_id, seq=2, stopped=False, **end)
    expect(chat.text.locator("strong")).to_have_text("sea")
    expect(chat.page.get_by_role("button", name="Copy the answer")).to_have_count(0)
    chat.page.unroute("**/transcript/**")
    chat.page.clock.run_for(4_000)
    expect(chat.page.get_by_role("button", name="Copy the answer")).to_be_visible()
    faults.clear()  # the browser notes a request that failed as an error


def test_a_run_that_the_page_does_not_know_is_asked_for(open_chat: Start) -> None:
    chat = open_chat()
    run_id = UUID(int=7)
    say(chat.conversation, "From elsewhere")
    delta(chat, str(run_id), 9, "nine")
    asked = chat.line.wait_for("resume")
    assert asked["run_id"] == str(run_id)
    chat.line.say("run.snapshot", run_id=run_id, seq=9, text="one to nine", steps=[], message_id=uuid4())
    expect(chat.text).to_have_text("one to nine")
    expect(chat.page.locator("article.said .said-text")).to_have_text("From elsewhere")
