"""The chat as people use it: a real browser, a real web process, and a model server that takes its time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from agents.models import Message
from tests.browser.cable import Cable
from tests.browser.conftest import _session
from tests.support.openai_server import OpenAIServer, Says
from tests.support.processes import Process, Processes, eventually

STARTS_WITHIN_S = 60.0
LONG_MS = 40_000
STORY = (
    "Once there was a **river**. "
    + " ".join(f"It passed town {number}." for number in range(1, 61))
    + "\n\n- The *end*."
)


@dataclass
class Site:
    """A web process, its model, and the people's windows."""

    processes: Processes
    model: OpenAIServer
    port: int
    browser: Browser
    #: Of the web process alone: the static files that it collects are not those of this process's own site.
    data_dir: Path
    contexts: list[BrowserContext]
    web: Process | None = None

    def serve(self) -> Process:
        """Start the web process and wait until it answers."""
        environment = {
            **self.model.environment,
            "ASTRA_GRACE_S": "1",
            "ASTRA_DATA_DIR": str(self.data_dir),
        }
        self.web = self.processes.start("web", "--port", str(self.port), environment=environment)
        eventually(self._answers, within_s=STARTS_WITHIN_S)
        return self.web

    def _answers(self) -> bool:
        assert self.web is not None and self.web.is_alive
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def window(self, user: User, *, port: int = 0, **options: Any) -> Page:
        """Open a person's window on a new chat."""
        address = f"http://127.0.0.1:{port or self.port}"
        context = self.browser.new_context(base_url=address, reduced_motion="reduce", **options)
        self.contexts.append(context)
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": _session(user), "url": address}])
        page = context.new_page()
        page.goto("/")
        return page


@pytest.fixture
def site(chromium: Browser, ulla: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    model = OpenAIServer(says=Says(STORY), token_s=0.02)
    with model, Processes() as processes:
        processes.scheduler()
        found = Site(processes, model, port, chromium, tmp_path_factory.getbasetemp() / "web", [])
        found.serve()
        yield found
        for context in found.contexts:
            context.close()


def send(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def ask(page: Page, text: str = "Tell me a story") -> Locator:
    """Send the first message from a new chat; return the text of its reply, which is being written."""
    send(page, text)
    page.wait_for_url("**/chat/*/")
    live = page.locator(".reply-text.live").last
    expect(live).to_contain_text("It passed town 3.", timeout=LONG_MS)
    return live


def is_whole(page: Page) -> None:
    """Check that the last reply is the whole story, once."""
    last = page.locator("article.reply").last
    expect(last.locator(".reply-text em")).to_have_text("end", timeout=LONG_MS)
    expect(last.locator(".reply-text strong")).to_have_text("river")
    told = last.locator(".reply-text").inner_text()
    assert [told.count(f"It passed town {number}.") for number in range(1, 61)] == [1] * 60
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_a_reply_streams_from_the_first_page_on_and_two_tabs_show_the_same(site: Site, ulla: User) -> None:
    page = site.window(ulla)
    ask(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator(".reply-text.live")).to_contain_text("It passed town 3.")
    expect(other.get_by_role("button", name="Stop")).to_be_visible()
    is_whole(page)
    is_whole(other)
    expect(page.locator("#chat-title")).to_have_text("Tell me a story")
    send(other, "And now?")
    expect(page.locator("article.said")).to_have_count(2)
    is_whole(other)
    is_whole(page)
    assert page.locator("article").count() == other.locator("article").count() == 4


def test_a_cable_that_is_pulled_out_in_mid_reply_loses_nothing_and_doubles_nothing(site: Site, ulla: User) -> None:
    site.model.token_s = 0.05  # it must not be over before the page notices
    with Cable(site.port) as cable:
        page = site.window(ulla, port=cable.port)
        live = ask(page)
        cable.pull()
        expect(page.locator("#chat-line")).to_contain_text("Connection lost", timeout=LONG_MS)
        stale = live.inner_text()
        pieces = site.model.exchanges[-1].pieces
        eventually(lambda: site.model.exchanges[-1].pieces > min(pieces + 30, len(Says(STORY).pieces())), within_s=30)
        assert live.inner_text() == stale
        send(page, "Are you still there?")
        site.model.token_s = 0.005
        cable.plug()
        is_whole(page)
        expect(page.locator("article.reply")).to_have_count(2, timeout=LONG_MS)
        is_whole(page)
    said = Message.objects.filter(role="user").order_by("place").values_list("text", flat=True)
    assert list(said) == ["Tell me a story", "Are you still there?"]


def test_stop_stops_at_once_and_the_model_is_not_paid_for_more(site: Site, ulla: User) -> None:
    page = site.window(ulla)
    took = []
    for number in range(3):
        ask(page) if number == 0 else send(page, "Again")
        expect(page.locator(".reply-text.live").last).to_contain_text("It passed town 3.", timeout=LONG_MS)
        began = time.monotonic()
        page.locator("button.stop").dispatch_event("click")
        assert site.model.wait_until(lambda model: model.exchanges[-1].abandoned)
        assert site.model.exchanges[-1].left_at is not None
        took.append(site.model.exchanges[-1].left_at - began)
        expect(page.locator("article.reply").last).to_contain_text("Stopped. What it had written is kept.")
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    assert min(took) < 5  # and not when the model has ended
    assert not Message.objects.exclude(status__in=["done", "stopped"]).exists()


def test_a_web_process_that_is_killed_in_mid_reply_leaves_a_whole_reply(site: Site, ulla: User) -> None:
    page = site.window(ulla)
    ask(page)
    assert site.web is not None
    site.web.kill()
    site.serve()
    is_whole(page)
    assert Message.objects.filter(role="assistant").count() == 1


def test_a_model_that_fails_is_told_in_words_and_asked_again(site: Site, ulla: User) -> None:
    page = site.window(ulla)
    site.model.says = Says(STORY, cut_after=40)
    send(page, "Tell me a story")
    page.wait_for_url("**/chat/*/")
    problem = page.locator(".reply-problem")
    expect(problem).to_be_visible(timeout=LONG_MS)
    site.model.says = Says(STORY)
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator("article.reply")).to_have_count(2)
    is_whole(page)


def test_without_javascript_a_message_is_sent_and_its_reply_appears(site: Site, ulla: User) -> None:
    site.model.token_s = 0.005
    page = site.window(ulla, java_script_enabled=False)
    page.locator("#text").fill("Tell me a story")
    page.get_by_role("button", name="Send", exact=True).click()
    page.wait_for_url("**/chat/*/")
    expect(page.locator(".reply-text em")).to_have_text("end", timeout=LONG_MS)
    page.locator("#text").fill("And now?")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("article.said")).to_have_count(2)
