"""What people do in the chat with a keyboard and a mouse, and what the page keeps for them."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from accounts import roles
from agents.models import Conversation
from tests.browser.chat_line import ChatLine
from tests.browser.conftest import Open
from tests.support.people import person
from tests.support.talks import answer, talk
from tests.support.tasks import step


@pytest.fixture
def line(browse: Open, ulla: User) -> ChatLine:
    """A window of Ulla's whose sockets the test answers."""
    return ChatLine(browse(ulla, "/problems/", height=700))


def visit(line: ChatLine, conversation: Conversation) -> Page:
    count = len(line.sockets)
    line.page.goto(f"/chat/{conversation.pk}/")
    line.opened(count + 1)
    return line.page


def long_talk(user: User, count: int = 60) -> Conversation:
    return talk(user, *(f"message {number}. " + "It goes on and on. " * 8 for number in range(1, count + 1)))


def scrolled(page: Page) -> float:
    """How far the page's end is below the window, in pixels."""
    distance: float = page.evaluate("document.documentElement.scrollHeight - innerHeight - scrollY")
    return distance


# --- the composer ---


def test_enter_sends_and_shift_enter_breaks_the_line(line: ChatLine, ulla: User) -> None:
    page = visit(line, talk(ulla))
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    assert line.wait_for("message")["text"] == "One\ntwo"
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator("#text")).to_be_focused()


def test_enter_that_chooses_a_word_of_an_input_method_sends_nothing(line: ChatLine, ulla: User) -> None:
    page = visit(line, talk(ulla))
    page.keyboard.type("にほん")
    page.evaluate(
        """() => {
            const press = (extra) => text.dispatchEvent(
                new KeyboardEvent("keydown", {key: "Enter", bubbles: true, cancelable: true, ...extra}));
            press({isComposing: true});
            press({keyCode: 229});
        }"""
    )
    expect(page.locator("#text")).to_have_value("にほん")
    page.keyboard.press("Enter")
    assert line.wait_for("message")["text"] == "にほん"
    assert len(line.heard) == 1


def test_nothing_and_blanks_are_not_sent(line: ChatLine, ulla: User) -> None:
    page = visit(line, talk(ulla))
    page.keyboard.press("Enter")
    page.keyboard.type("   ")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Send").click()
    page.locator("#text").fill("Something")
    page.keyboard.press("Enter")
    assert line.wait_for("message")["text"] == "Something"


def test_the_composer_grows_with_its_text_up_to_a_limit_and_keeps_its_foot(line: ChatLine, ulla: User) -> None:
    page = visit(line, long_talk(ulla, 6))
    composer = page.locator("#composer")
    before = composer.bounding_box()
    page.locator("#text").fill("line\n" * 4)
    grown = composer.bounding_box()
    page.locator("#text").fill("line\n" * 400)
    full = composer.bounding_box()
    assert before and grown and full
    assert before["height"] < grown["height"] < full["height"] < 400
    assert abs((before["y"] + before["height"]) - (full["y"] + full["height"])) <= 1


def test_a_draft_outlives_a_reload_in_its_own_conversation(line: ChatLine, ulla: User) -> None:
    one, other = talk(ulla), talk(ulla)
    page = visit(line, one)
    page.locator("#text").fill("Not finished yet")
    page.reload()
    expect(page.locator("#text")).to_have_value("Not finished yet")
    visit(line, other)
    expect(page.locator("#text")).to_have_value("")
    visit(line, one)
    page.keyboard.press("Enter")
    line.wait_for("message")
    page.reload()
    expect(page.locator("#text")).to_have_value("")


def test_a_draft_of_a_new_chat_stays_until_it_was_sent(line: ChatLine, ulla: User, faults: list[str]) -> None:
    page = line.page
    page.goto("/")
    page.locator("#text").fill("Where does the river end?")
    page.keyboard.press("Enter")  # this process runs no chat: it is refused
    expect(page.get_by_role("alert")).to_contain_text("The chat is not served here.")
    expect(page.locator("#text")).to_have_value("Where does the river end?")
    page.goto("/")
    expect(page.locator("#text")).to_have_value("Where does the river end?")
    faults.clear()  # the browser notes a 503 as an error


def test_a_draft_is_nobody_elses(line: ChatLine, ulla: User, browse: Open) -> None:
    line.page.goto("/")
    line.page.locator("#text").fill("Mine")
    kept = line.page.context.storage_state()["origins"]
    page = browse(person("otto", roles.USER), "/", storage_state={"cookies": [], "origins": kept})
    expect(page.locator("#text")).to_have_value("")


def test_a_browser_that_may_keep_nothing_can_chat_all_the_same(line: ChatLine, ulla: User) -> None:
    line.page.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, {get() { throw new DOMException('no', 'SecurityError'); }});"
    )
    page = visit(line, talk(ulla))
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    run_id = uuid4()
    assert line.accept(run_id, uuid4())["text"] == "Hello"
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.type("And now?")
    page.keyboard.press("Enter")
    line.say("run.finished", run_id=run_id, seq=2, message_id=uuid4(), text="Hi", html="<p>Hi</p>", stopped=False)
    assert line.wait_for("message", 2)["text"] == "And now?"


# --- reading ---


def test_the_page_follows_the_answer_only_while_the_reader_is_at_its_end(line: ChatLine, ulla: User) -> None:
    page = visit(line, long_talk(ulla, 12))
    assert scrolled(page) < 2
    page.locator("#text").fill("Go on")
    page.keyboard.press("Enter")
    run_id = uuid4()
    line.accept(run_id, uuid4())
    line.say("run.delta", run_id=run_id, seq=2, text="word " * 600)
    expect(page.locator(".reply-text.live")).to_contain_text("word")
    assert scrolled(page) < 2
    page.mouse.move(700, 300)
    page.mouse.wheel(0, -600)
    jump = page.get_by_role("button", name="Jump to latest")
    expect(jump).to_be_visible()
    before = page.evaluate("scrollY")
    line.say("run.delta", run_id=run_id, seq=3, text="more " * 600)
    expect(page.locator(".reply-text.live")).to_contain_text("more")
    assert page.evaluate("scrollY") == before
    jump.click()
    expect(jump).to_be_hidden()
    assert scrolled(page) < 2
    expect(page.locator("#text")).to_be_focused()


def test_earlier_messages_come_in_above_without_moving_what_is_read(line: ChatLine, ulla: User) -> None:
    page = visit(line, long_talk(ulla, 70))
    page.evaluate("scrollTo(0, 0)")
    first = page.locator("article", has_text="message 21.")
    before = first.bounding_box()
    page.get_by_role("link", name="Earlier messages").click()
    expect(page.locator("article")).to_have_count(70)
    after = first.bounding_box()
    assert before and after and abs(before["y"] - after["y"]) <= 60
    expect(page.get_by_role("link", name="Earlier messages")).to_have_count(0)


def test_a_selection_in_the_answer_outlives_its_end(line: ChatLine, ulla: User) -> None:
    page = visit(line, talk(ulla))
    page.locator("#text").fill("Go on")
    page.keyboard.press("Enter")
    run_id = uuid4()
    line.accept(run_id, uuid4())
    line.say("run.delta", run_id=run_id, seq=2, text="To be **read**")
    expect(page.locator(".reply-text.live")).to_have_text("To be **read**")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.reply-text.live'))")
    html = "<p>To be <strong>read</strong></p>"
    line.say("run.finished", run_id=run_id, seq=3, message_id=uuid4(), text="To be **read**", html=html, stopped=False)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.evaluate("String(getSelection())") == "To be **read**"
    page.evaluate("getSelection().removeAllRanges()")
    expect(page.locator(".reply-text strong")).to_have_text("read")


def test_code_and_answers_are_copied(line: ChatLine, ulla: User) -> None:
    line.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit(line, talk(ulla, "Show me", "Here **it** is:\n\n```python\nx = 1 < 2\n```"))
    page.get_by_role("button", name="Copy the code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1 < 2\n"
    page.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_role("button", name="Copied")).to_have_count(2)
    assert page.evaluate("navigator.clipboard.readText()") == "Here **it** is:\n\n```python\nx = 1 < 2\n```"


def test_a_step_is_loaded_when_it_is_opened_and_not_before(line: ChatLine, ulla: User) -> None:
    conversation = talk(ulla, "Look")
    reply = answer(conversation, "Done")
    assert reply.run is not None
    step(
        reply.run,
        "look_up",
        kind="tool",
        key="a/look_up#1",
        input={"tool": "look_up", "arguments": {"x": "y"}},
        output={"tool": "look_up", "call_id": "1", "ok": True, "error": None, "content": {"found": "needle"}},
    )
    asked: list[str] = []
    line.page.on("request", lambda request: asked.append(request.url) if "/steps/" in request.url else None)
    page = visit(line, conversation)
    assert asked == []
    page.locator(".chat-step summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".step-more")).to_contain_text("needle")
    assert len(asked) == 1


def test_a_step_that_cannot_be_loaded_says_so_and_can_be_tried_again(
    line: ChatLine, ulla: User, faults: list[str]
) -> None:
    conversation = talk(ulla, "Look")
    reply = answer(conversation, "Done")
    assert reply.run is not None
    step(reply.run, "look_up", kind="tool", key="look_up#1", output="needle")
    page = visit(line, conversation)
    page.route("**/steps/**", lambda route: route.abort())
    summary = page.locator(".chat-step summary")
    summary.click()
    expect(page.locator(".step-more")).to_contain_text("This could not be loaded.")
    page.unroute("**/steps/**")
    summary.click()
    summary.click()
    expect(page.locator(".step-more")).to_contain_text("needle")
    faults.clear()


# --- the list ---


def test_a_conversation_is_renamed_in_a_dialog_with_the_keyboard(line: ChatLine, ulla: User) -> None:
    page = visit(line, talk(ulla))
    page.get_by_role("link", name="Rename this conversation").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Title")).to_be_focused()
    page.keyboard.type("The river")
    page.keyboard.press("Enter")
    expect(page.locator("#chat-title")).to_have_text("The river")
    expect(page.locator(".chat-list [aria-current]")).to_have_text("The river")


def test_deleting_asks_first_and_enter_alone_keeps(line: ChatLine, ulla: User) -> None:
    opened = talk(ulla, title="Opened")
    talk(ulla, title="To go")
    page = visit(line, opened)
    row = page.locator(".chat-list li", has_text="To go")
    row.hover()
    row.get_by_role("link", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete this conversation?")
    expect(dialog).to_contain_text("To go")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    assert Conversation.objects.count() == 2
    row.hover()
    row.get_by_role("link", name="Delete").click()
    dialog.get_by_role("button", name="Delete for good").click()
    expect(row).to_have_count(0)
    expect(page.locator("#chat-title")).to_have_text("Opened")


def test_older_conversations_are_added_to_the_list(line: ChatLine, ulla: User) -> None:
    for number in range(35):
        talk(ulla, title=f"talk {number}")
    line.page.goto("/")
    expect(line.page.locator(".chat-list li")).to_have_count(30)
    line.page.get_by_role("link", name="Older conversations").click()
    expect(line.page.locator(".chat-list li")).to_have_count(35)
    expect(line.page.get_by_role("link", name="Older conversations")).to_have_count(0)


def test_the_list_is_a_drawer_where_there_is_no_room(line: ChatLine, ulla: User) -> None:
    conversation = talk(ulla, title="The river")
    line.page.set_viewport_size({"width": 320, "height": 640})
    page = visit(line, conversation)
    drawer = page.locator("#chats")
    expect(drawer).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    expect(drawer.get_by_role("link", name="The river", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    page.goto("/")
    page.get_by_role("button", name="Conversations").click()
    drawer.get_by_role("link", name="The river", exact=True).click()
    page.wait_for_url(f"**/chat/{conversation.pk}/")


def test_the_whole_page_is_reached_with_the_keyboard_in_a_sensible_order(line: ChatLine, ulla: User) -> None:
    page = visit(line, talk(ulla, "Hello", "Hello `you`"))
    page.locator(".skip").focus()
    seen = []
    for _ in range(24):
        seen.append(
            page.evaluate("(({ariaLabel, innerText, id}) => ariaLabel || innerText || id)(document.activeElement)")
        )
        page.keyboard.press("Tab")
    wanted = ["Skip to the page", "Chat", "New chat", "A talk", "Rename this conversation", "Copy the answer", "text"]
    assert [name for name in dict.fromkeys(seen) if name in wanted] == wanted
    assert seen[seen.index("text") + 1] == "Send"
