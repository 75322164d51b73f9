"""Every state of the chat, in both themes, from the narrowest window to a wide one: axe is content, all of it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from accounts import roles
from agents import registry
from agents.models import Conversation, Message
from tests.browser.chat_line import ChatLine
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import violations
from tests.console.conftest import CONFIG
from tests.support.configs import load
from tests.support.people import person
from tests.support.talks import answer, say, talk, with_chat
from tests.support.tasks import step

MARKDOWN = """The river ends in the **sea**, near `Kiel`. See [the map](https://example.org/map).

## How it gets there

1. It rises in the hills.
2. It passes *two* towns.

```python
def course(river: River) -> list[Town]:
    return [town for town in river.towns if town.lies_on(river) and town.has_a_name_that_is_too_long_for_the_line()]
```

| Town | Kilometre | Since | A column that is long |
|---|---:|---|---|
| Aukrug | 12 | 1128 | something that does not fit on a telephone |
"""
LONG_WORD = "donaudampfschiff" * 700


@pytest.fixture
def olga(_site: None) -> Iterator[User]:
    load(with_chat(CONFIG))
    yield person("olga", roles.OPERATOR)
    registry.forget()


def _rich(user: User) -> Conversation:
    conversation = talk(user, "Where does the river end, and how does it get there?", title="Where the river ends")
    reply = answer(conversation, MARKDOWN)
    assert reply.run is not None
    crawl = {"tool": "web_crawl", "arguments": {"url": "https://example.com/" + "deep/" * 40, "question": "the river"}}
    pages = [{"url": "https://example.com/", "title": "Rivers", "passages": [{"text": "It ends in the sea."}]}] * 3
    output = {"tool": "web_crawl", "call_id": "1", "ok": True, "error": None, "content": {"pages": pages}}
    step(reply.run, "web_crawl", kind="tool", key="web_crawl#1", input=crawl, output=output)
    step(reply.run, "web_crawl", kind="tool", key="web_crawl#2", input=crawl, output={**output, "ok": False})
    return conversation


def _hard(user: User) -> Conversation:
    conversation = talk(user, LONG_WORD, LONG_WORD, title=LONG_WORD[:120])
    say(conversation, "מהו הנהר הארוך ביותר? 🏞️👩‍👩‍👧‍👦 Z̸̢͝a̴l\u200bg\u200bo")
    answer(conversation, "הנהר הארוך ביותר הוא הנילוס.\n\n- `" + "x" * 400 + "`\n\nAnd in English.")
    return conversation


def _ends(user: User) -> Conversation:
    conversation = talk(user, "One")
    answer(conversation, "Half of an", state="cancelled")
    say(conversation, "Two")
    problem = {
        "type": "/problems/model-unavailable",
        "title": "The model is not available now",
        "detail": "The provider answered 503 three times. Try again in a minute.",
    }
    answer(conversation, "Some of an answer", state="dead", problem=problem)
    return conversation


def at(make: Callable[[User], Conversation]) -> Callable[[Page, User], ChatLine]:
    def go(page: Page, user: User) -> ChatLine:
        line = ChatLine(page)
        page.goto(f"/chat/{make(user).pk}/")
        line.opened()
        return line

    return go


def empty(page: Page, user: User) -> ChatLine:
    line = ChatLine(page)
    page.goto("/")
    return line


def new(page: Page, user: User) -> ChatLine:
    for number in range(12):
        talk(user, title=f"A talk about river number {number} and all the towns on it")
    return empty(page, user)


def nobody(page: Page, user: User) -> ChatLine:
    load(CONFIG.replace("dig.v1", "other.v1"))
    return empty(page, user)


def _sent(page: Page, line: ChatLine, text: str = "Where does the river end?") -> str:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")
    run_id = str(uuid4())
    line.accept(run_id, uuid4(), count=len([frame for frame in line.heard if frame["type"] == "message"]) + 1)
    return run_id


def thinking(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    run_id = _sent(page, line)
    line.say("run.heartbeat", run_id=run_id, seq=1, elapsed_ms=6_000)
    expect(page.get_by_text("Thinking …")).to_be_visible()
    return line


def tool(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    run_id = _sent(page, line)
    shown = {"key": "a#1", "name": "web_crawl", "kind": "tool", "status": "started", "summary": ""}
    line.say("run.step", run_id=run_id, seq=2, **shown)
    expect(page.locator(".chat-step[data-status=started]")).to_be_visible()
    return line


def streaming(page: Page, user: User) -> ChatLine:
    line = tool(page, user)
    run_id = page.locator("article.reply").last.get_attribute("data-run-id")
    shown = {"key": "a#1", "name": "web_crawl", "kind": "tool", "status": "finished", "summary": "3 pages", "ms": 1234}
    line.say("run.step", run_id=run_id, seq=3, **shown)
    line.say("run.delta", run_id=run_id, seq=4, text="The river ends in the **sea**. " * 12)
    expect(page.get_by_text("The river ends in the **sea**.")).to_be_visible()
    page.locator("#text").fill("And the lake?")
    expect(page.get_by_role("button", name="Send afterwards")).to_be_visible()
    return line


def kept(page: Page, user: User) -> ChatLine:
    line = streaming(page, user)
    page.locator("#text").press("Enter")
    expect(page.locator("#kept")).to_be_visible()
    return line


def refused(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    page.locator("#text").fill("Hello")
    page.locator("#text").press("Enter")
    sent = line.wait_for("message")
    problem = {"title": "That was too fast", "detail": "You sent 30 messages in a minute. Try again in 12 s."}
    line.say("error", client_id=sent["client_id"], problem=problem)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    return line


def too_long(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    page.locator("#text").fill("word " * 7_000)
    expect(page.get_by_text("characters too many")).to_be_visible()
    return line


def lost(page: Page, user: User) -> ChatLine:
    line = streaming(page, user)
    line.refusals = [3000] * 60
    line.close()
    expect(page.get_by_text("Connection lost. Trying again in")).to_be_visible(timeout=15_000)
    return line


def signed_out(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    line.close(4401)
    expect(page.get_by_role("link", name="Sign in again")).to_be_visible()
    return line


def opened(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    page.locator(".chat-step summary").first.click()
    expect(page.get_by_role("heading", name="What came back")).to_be_visible()
    return line


def deleting(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    page.get_by_role("link", name="Delete this conversation").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    return line


def renaming(page: Page, user: User) -> ChatLine:
    line = at(_rich)(page, user)
    page.get_by_role("link", name="Rename this conversation").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    return line


def rename_page(page: Page, user: User) -> ChatLine:
    line = ChatLine(page)
    page.goto(f"/chat/{_rich(user).pk}/rename/")
    return line


def delete_page(page: Page, user: User) -> ChatLine:
    line = ChatLine(page)
    page.goto(f"/chat/{_rich(user).pk}/delete/")
    return line


def no_text(user: User) -> Conversation:
    conversation = talk(user, "Say nothing", "")
    Message.objects.filter(conversation=conversation, role="assistant").update(text="")
    return conversation


STATES: dict[str, Callable[[Page, User], ChatLine]] = {
    "empty": empty,
    "new": new,
    "nobody": nobody,
    "begun": at(talk),
    "answered": at(_rich),
    "opened": opened,
    "hard": at(_hard),
    "ends": at(_ends),
    "no-text": at(no_text),
    "thinking": thinking,
    "tool": tool,
    "streaming": streaming,
    "kept": kept,
    "refused": refused,
    "too-long": too_long,
    "lost": lost,
    "signed-out": signed_out,
    "deleting": deleting,
    "renaming": renaming,
    "rename-page": rename_page,
    "delete-page": delete_page,
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", STATES)
def test_a_state_of_the_chat_is_accessible_and_fits(browse: Open, olga: User, name: str, scheme: str) -> None:
    page = browse(olga, "/problems/", color_scheme=scheme, width=320, height=640)
    STATES[name](page, olga)
    for width in (320, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert sticking_out(page) == [], f"at {width} px"
        if width != 768:
            assert violations(page) == [], f"at {width} px"


def sticking_out(page: Page) -> list[str]:
    """Return what makes the page wider than its window, or is wider than the transcript and does not scroll."""
    found: list[str] = page.evaluate(
        """() => {
            const found = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
            for (const part of document.querySelectorAll(".log article > *, .chat-foot > *")) {
                const box = part.getBoundingClientRect();
                if (box.width > 1 && box.right > innerWidth + 1) found.push(part.outerHTML.slice(0, 80));
                if (part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).overflowX === "visible")
                    found.push("in " + part.outerHTML.slice(0, 80));
            }
            return found;
        }"""
    )
    return found
