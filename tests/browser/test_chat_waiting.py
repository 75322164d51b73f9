"""A reply that waits, as the page shows it: calmly, at once, after a reload, and until it goes on by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from accounts import roles
from agents.models import Conversation, Message
from approvals.models import Approval
from jobs.models import Job
from tests.browser.chat_line import ChatLine
from tests.browser.conftest import Open
from tests.support.approvals import approval
from tests.support.people import person
from tests.support.talks import answer, finish, say, talk

WORDS = "Waits for a reviewer: Refund 150 USD."


@dataclass
class Waiting:
    """A page whose last reply waits, and the other end of its socket."""

    page: Page
    line: ChatLine
    message: Message
    approval: Approval

    @property
    def run_id(self) -> str:
        return str(self.message.run_id)

    @property
    def reply(self) -> Locator:
        return self.page.locator("article.reply").last

    @property
    def box(self) -> Locator:
        return self.reply.locator("[data-parked]")

    def waiting(self, seq: int) -> None:
        """Say that it waits."""
        waits = [{"kind": "person", "words": WORDS[:-1], "approval_id": str(self.approval.pk)}]
        self.line.say("run.waiting", run_id=self.run_id, seq=seq, approval_id=self.approval.pk, waits=waits)


def parked(conversation: Conversation) -> tuple[Message, Approval]:
    """Write a reply that waits for people."""
    say(conversation, "Refund A-1, please.")
    message = answer(conversation, "One moment.", state="running", seq=5)
    assert message.run is not None
    payload = {"conversation": str(conversation.pk), "message": str(message.pk)}
    Job.objects.filter(pk=message.run.pk).update(state="waiting", worker=None, payload=payload)
    return message, approval(run=message.run, requested_by=conversation.user)


Start = Callable[..., Waiting]


@pytest.fixture
def open_waiting(browse: Open, ulla: User) -> Start:
    """Open a conversation whose reply waits, and whose socket the test answers."""

    def start(user: User = ulla, **options: object) -> Waiting:
        conversation = talk(user)
        message, asked = parked(conversation)
        page = browse(user, "/problems/", **options)
        line = ChatLine(page)
        page.goto(f"/chat/{conversation.pk}/")
        line.opened()
        return Waiting(page, line, message, asked)

    return start


def test_a_page_that_is_opened_says_what_the_reply_waits_for_and_offers_to_stop_it(open_waiting: Start) -> None:
    chat = open_waiting()
    expect(chat.box).to_contain_text(WORDS)
    expect(chat.box).to_contain_text("It goes on by itself")
    expect(chat.box.get_by_role("link")).to_have_count(0)  # ulla may not decide
    expect(chat.reply.locator(".reply-wait")).to_be_hidden()
    expect(chat.page.locator("#composer-note [data-waits]")).to_be_visible()
    expect(chat.page.locator(".chat-list .chat-waits")).to_be_visible()
    chat.page.get_by_role("button", name="Stop").click()
    assert chat.line.wait_for("stop")["run_id"] == chat.run_id


def test_a_reviewer_is_led_to_what_they_may_decide(open_waiting: Start) -> None:
    chat = open_waiting(person("rita", roles.REVIEWER, roles.USER))
    expect(chat.box.get_by_role("link", name="Open the request")).to_have_attribute(
        "href", f"/approvals/{chat.approval.pk}/"
    )


def test_a_snapshot_and_the_frame_that_it_waits_change_nothing_of_what_is_shown(open_waiting: Start) -> None:
    chat = open_waiting(person("rita", roles.REVIEWER, roles.USER))
    chat.line.wait_for("resume")
    chat.line.say("run.snapshot", run_id=chat.run_id, seq=4, text="One moment.", steps=[])
    chat.waiting(5)
    chat.line.say("error", problem={"title": "x"})  # taken last
    expect(chat.box).to_have_count(1)
    expect(chat.box.get_by_role("link")).to_be_visible()


def test_a_reply_that_begins_to_wait_says_so_at_once_and_to_screen_readers(open_waiting: Start) -> None:
    chat = open_waiting(person("rita", roles.REVIEWER, roles.USER))
    run_id = chat.run_id
    chat.line.say("run.delta", run_id=run_id, seq=6, text=" It goes on.")
    expect(chat.box).to_have_count(0)
    expect(chat.page.locator("#announcer")).to_have_text("It goes on.")
    expect(chat.page.locator("#composer-note [data-waits]")).to_be_hidden()
    chat.waiting(7)
    expect(chat.box).to_contain_text(WORDS)
    expect(chat.page.locator("#announcer")).to_have_text(f"{WORDS} It goes on by itself.")
    expect(chat.page.locator("#composer-note [data-waits]")).to_be_visible()
    expect(chat.box.get_by_role("link", name="Open the request")).to_be_visible()  # as the server has it


def test_once_decided_it_goes_on_in_the_same_reply(open_waiting: Start) -> None:
    chat = open_waiting()
    expect(chat.box).to_be_visible()
    chat.line.say("run.heartbeat", run_id=chat.run_id, seq=5, elapsed_ms=0, state="queued")
    expect(chat.box).to_be_hidden()
    expect(chat.reply.locator(".reply-wait")).to_contain_text("It goes on in a moment")
    decided = {"key": "w", "name": "approve calls 1", "kind": "wait", "status": "finished", "summary": "", "ms": 1}
    steps = [{**decided, "words": "Approved by rita: Fine."}]
    chat.line.say("run.snapshot", run_id=chat.run_id, seq=1_000_001, text="One moment. ", steps=steps)
    chat.line.say("run.delta", run_id=chat.run_id, seq=1_000_002, text="Refunded.")
    expect(chat.reply.locator(".reply-text")).to_have_text("One moment. Refunded.")
    expect(chat.reply.locator(".step-words")).to_have_text("Approved by rita: Fine.")
    finish(chat.message, "One moment. Refunded.")
    chat.line.say(
        "run.finished",
        run_id=chat.run_id,
        seq=1_000_003,
        message_id=chat.message.pk,
        html="<p>One moment. Refunded.</p>",
        text="One moment. Refunded.",
        usage={},
        stopped=False,
    )
    expect(chat.page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(chat.box).to_have_count(0)
    expect(chat.page.locator(".chat-list .chat-waits")).to_have_count(0)


def test_what_is_written_meanwhile_is_kept_and_sent_after_it(open_waiting: Start) -> None:
    chat = open_waiting()
    chat.page.locator("#text").fill("And then?")
    chat.page.locator("#text").press("Enter")
    expect(chat.page.locator("#kept")).to_contain_text("And then?")
    finish(chat.message, "Refunded.")
    chat.line.say(
        "run.finished",
        run_id=chat.run_id,
        seq=1_000_000,
        message_id=chat.message.pk,
        html="<p>Refunded.</p>",
        text="Refunded.",
        usage={},
        stopped=False,
    )
    assert chat.line.wait_for("message")["text"] == "And then?"


def test_a_quiet_line_is_no_lost_one_while_it_waits(browse: Open, ulla: User) -> None:
    conversation = talk(ulla)
    parked(conversation)
    page = browse(ulla, "/problems/")
    page.clock.install()
    line = ChatLine(page)
    page.goto(f"/chat/{conversation.pk}/")
    line.opened()
    for _ in range(12):
        page.clock.run_for(5_000)
    line.until(lambda: line.pings >= 2)
    assert len(line.sockets) == 1
    expect(page.locator("[data-parked]")).to_contain_text(WORDS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_it_fits(open_waiting: Start, width: int, scheme: str) -> None:
    chat = open_waiting(person("rita", roles.REVIEWER, roles.USER), width=width, color_scheme=scheme)
    Approval.objects.update(title=f"Refund {'x' * 200}", deadline=chat.approval.created_at + timedelta(hours=30))
    chat.page.reload()
    expect(chat.box).to_be_visible()
    assert chat.page.evaluate("document.documentElement.scrollWidth") <= width
    assert chat.box.evaluate("node => node.scrollWidth <= node.clientWidth + 1")


def test_without_a_script_the_page_looks_again_now_and_then_and_stops_it_by_a_form(browse: Open, ulla: User) -> None:
    conversation = talk(ulla)
    message, asked = parked(conversation)
    page = browse(ulla, f"/chat/{conversation.pk}/", java_script_enabled=False)
    expect(page.locator("[data-parked]")).to_contain_text(WORDS)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".reply-end")).to_contain_text("Stopped")
    assert message.run is not None
    assert Job.objects.get(pk=message.run.pk).state == "cancelled"
    asked.refresh_from_db()
    assert asked.state == "superseded"
