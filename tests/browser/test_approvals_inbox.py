"""The inbox in a browser: travelling by keyboard, claiming, rejecting several, a list that lives, nothing for axe."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect

from accounts import roles
from agents.models import Effect
from approvals.deciding import Decide
from approvals.models import Approval, Vote
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import _overflow, violations
from tests.support.approvals import approval, fresh, reviewer
from tests.support.people import person
from tests.support.tasks import task

URL = "/approvals/"
HOUR = timedelta(hours=1)


@pytest.fixture
def rita(_site: None) -> User:
    return person("rita", roles.REVIEWER)


def several(number: int = 4) -> list[Approval]:
    """Write requests; return them in the order of the inbox."""
    return [approval(title=f"Refund {place}", due=(place + 2) * HOUR) for place in range(number)]


def effect() -> Approval:
    run = task("waiting")
    made = Effect.objects.create(
        key=str(run.pk), run=run, step_key="1", tool="pay", arguments={}, idempotent=False, state="unknown", fence=1
    )
    more: dict[str, Any] = {"kind": "effect", "effect": made, "plan": None, "asked_plan": None, "plan_hash": ""}
    return approval(run=run, title="Did it pay?", deadline=None, sort_at=timezone.now() - HOUR, **more)


def link(page: Page, title: str) -> Locator:
    return page.get_by_role("link", name=title, exact=True)


def box(page: Page, title: str) -> Locator:
    return page.get_by_role("checkbox", name=f"Select {title}", exact=True)


def refresh(page: Page) -> None:
    """Press the refresh control, and wait for what it brings."""
    with page.expect_response(re.compile(r"/approvals/")):
        page.get_by_role("link", name="Refresh now").click()


def refresh_by_itself(page: Page) -> None:
    """Let the region reload as its control does, with the focus where it is."""
    with page.expect_response(re.compile(r"/approvals/")):
        page.evaluate("htmx.trigger(document.querySelector('#inbox'), 'refresh')")


def test_one_travels_by_keyboard_and_opens_with_enter(browse: Open, rita: User) -> None:
    several()
    page = browse(rita, URL)
    page.keyboard.press("ArrowDown")
    expect(page.locator("[data-request]:focus")).to_have_count(0)
    for key, title in (("j", "Refund 0"), ("j", "Refund 1"), ("ArrowDown", "Refund 2"), ("k", "Refund 1")):
        page.keyboard.press(key)
        expect(link(page, title)).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("k")
    expect(link(page, "Refund 0")).to_be_focused()
    outline = link(page, "Refund 0").evaluate("link => getComputedStyle(link).outlineStyle")
    assert outline == "solid"
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url.endswith(f"/approvals/{Approval.objects.get(title='Refund 0').pk}/")


def test_c_claims_and_gives_back_and_the_focus_stays(browse: Open, rita: User) -> None:
    first, second, *_ = several()
    page = browse(rita, URL)
    page.keyboard.press("c")
    expect(page.locator("[data-inbox-said]")).to_have_text("Go to a request first: press j.")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("c")
    expect(page.locator(f"#request-{second.pk}")).to_contain_text("You until")
    expect(link(page, "Refund 1")).to_be_focused()
    expect(page.locator("#inbox-told")).to_contain_text("You are on it until")
    assert (fresh(first).claimed_by, fresh(second).claimed_by) == (None, rita)
    page.keyboard.press("c")
    expect(page.locator(f"#request-{second.pk}")).not_to_contain_text("You until")
    expect(link(page, "Refund 1")).to_be_focused()
    assert fresh(second).claimed_by is None


def test_no_key_decides_and_in_a_field_keys_type(browse: Open, rita: User) -> None:
    several()
    page = browse(rita, URL)
    page.keyboard.press("j")
    for key in "abdefghilmnopqrstuvwyz0123456789":
        page.keyboard.press(key)
    for key in ("Space", "Delete", "Backspace", "Shift+A", "Shift+R", "Control+a"):
        page.keyboard.press(key)
    expect(link(page, "Refund 0")).to_be_focused()
    assert Approval.objects.filter(state="pending").count() == 4
    assert not Vote.objects.exists()
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("jkcx/?")
    expect(page.locator("#q")).to_have_value("jkcx/?")
    expect(page.locator("#keys")).to_be_hidden()
    assert not Approval.objects.exclude(claimed_by=None).exists()


def test_the_keys_are_told_and_can_be_turned_off(browse: Open, rita: User) -> None:
    several()
    page = browse(rita, URL)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("j")
    page.get_by_role("checkbox", name="Keys are on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.locator("[data-request]:focus")).to_have_count(0)
    page.reload()
    page.keyboard.press("j")
    expect(page.locator("[data-request]:focus")).to_have_count(0)
    page.get_by_role("button", name="Keys").click()
    page.get_by_role("checkbox", name="Keys are on").check()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("j")
    expect(link(page, "Refund 0")).to_be_focused()


def test_several_are_rejected_by_keyboard_alone(browse: Open, rita: User) -> None:
    effect()
    first, second, third, _ = several()
    page = browse(rita, URL)
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("[data-inbox-said]")).to_have_text("This one cannot be rejected together with others.")
    for _ in range(3):
        page.keyboard.press("j")
        page.keyboard.press("x")
    expect(link(page, "Refund 2")).to_be_focused()
    page.keyboard.press("x")
    expect(box(page, "Refund 2")).not_to_be_checked()
    page.keyboard.press("x")
    expect(page.locator("[data-refresh-state]")).to_have_text("Paused while requests are selected")
    page.get_by_role("button", name="Reject …").press("Enter")
    expect(page.get_by_role("heading", name="These 3 will be rejected")).to_be_visible()
    Decide(reviewer("rolf"), "reject", second.plan_hash, "I was first").run(second.pk)
    page.get_by_label("Why are they rejected?").focus()
    page.keyboard.type("Not this week.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("2 rejected, 1 not")
    expect(page.get_by_text("Somebody was first")).to_be_visible()
    expect(page.get_by_text("It was rejected by rolf already.")).to_be_visible()
    said = [fresh(each).comment for each in (first, second, third)]
    assert said == [
        "Not this week.",
        "I was first",
        "Not this week.",
    ]


def test_what_is_decided_elsewhere_disappears_and_takes_neither_focus_nor_selection(browse: Open, rita: User) -> None:
    first, _, third, fourth = several()
    page = browse(rita, URL)
    for key in "jjj":
        page.keyboard.press(key)
    Decide(reviewer("rolf"), "reject", first.plan_hash, "no").run(first.pk)
    refresh_by_itself(page)
    expect(link(page, "Refund 0")).to_have_count(0)
    expect(link(page, "Refund 2")).to_be_focused()
    expect(page.locator("#approvals-badge")).to_have_text(re.compile("^3"))
    Decide(reviewer("rolf"), "reject", third.plan_hash, "no").run(third.pk)
    refresh_by_itself(page)
    expect(link(page, "Refund 3")).to_be_focused()
    box(page, "Refund 1").check()
    box(page, "Refund 3").check()
    Decide(reviewer("rolf"), "reject", fourth.plan_hash, "no").run(fourth.pk)
    refresh(page)
    expect(link(page, "Refund 3")).to_have_count(0)
    expect(box(page, "Refund 1")).to_be_checked()
    expect(page.get_by_text("1 selected")).to_be_visible()


def test_filters_change_the_list_and_the_address(browse: Open, rita: User) -> None:
    several()
    approval(title="Pay the bill", amount_usd=Decimal(5000))
    page = browse(rita, URL)
    page.get_by_label("USD at least").fill("1000")
    expect(page.locator("[data-request]")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?amount=1000$"))
    page.reload()
    expect(link(page, "Pay the bill")).to_be_visible()


def test_without_a_script_one_claims_and_rejects(browse: Open, rita: User) -> None:
    first, second, *_ = several()
    page = browse(rita, URL, java_script_enabled=False)
    page.get_by_role("button", name=re.compile("^Claim ?: Refund 1$")).click()
    expect(page.locator(f"#request-{second.pk}")).to_contain_text("You until")
    box(page, "Refund 0").check()
    page.get_by_role("button", name="Reject …").click()
    page.get_by_label("Why are they rejected?").fill("no")
    page.get_by_role("button", name="Reject 1 request").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1 rejected")
    assert fresh(first).state == "rejected"


# --- Nothing for axe, nothing sticks out -----------------------------------------------------------------------------

LONG = "Publish " + "donaudampfschifffahrtsgesellschaft" * 3 + " and ten more posts about the river"


def _full(rita: User) -> str:
    effect()
    until = timezone.now() + HOUR
    both = approval(
        title=LONG, quorum=2, version=3, due=HOUR / 2, amount_usd=Decimal("123456789.5"), reason="long " * 60
    )
    rolf = person("a-reviewer-with-quite-a-long-name", roles.REVIEWER)
    Vote.objects.create(approval=both, user=rolf, user_name=rolf.username, decision="approve")
    approval(title="Mine", claimed_by=rita, claimed_until=until)
    approval(title="Taken", claimed_by=rolf, claimed_until=until)
    approval(title="For others", groups=["a-group-with-quite-a-long-name-that-goes-on"])
    for state in ("approved", "rejected", "expired", "superseded"):
        approval(title=LONG, state=state, decided_by=["rita", rolf.username])
    return URL


def _reject(rita: User) -> str:
    _full(rita)
    return f"{URL}reject/?" + "&".join(f"ids={key}" for key in Approval.objects.values_list("pk", flat=True))


PAGES: dict[str, Callable[[User], str]] = {
    "for you": _full,
    "pending": lambda rita: _full(rita) + "?tab=pending",
    "decided": lambda rita: _full(rita) + "?tab=decided",
    "empty": lambda rita: URL,
    "no match": lambda rita: _full(rita) + "?q=xylophone",
    "reject": _reject,
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_nothing_sticks_out(browse: Open, rita: User, name: str, width: int, scheme: str) -> None:
    person("rita", roles.OPERATOR)
    page = browse(rita, PAGES[name](rita), width=width, color_scheme=scheme)
    assert violations(page) == []
    assert _overflow(page) == []
    if name == "for you":
        page.get_by_role("button", name="Keys").click()
        assert violations(page) == []
        page.keyboard.press("Escape")
        box(page, LONG).check()
        assert violations(page) == []
        assert _overflow(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_nothing_in_what_came_of_it(browse: Open, rita: User, width: int, scheme: str) -> None:
    page = browse(rita, _reject(rita), width=width, color_scheme=scheme)
    first = Approval.objects.filter(title=LONG, state="pending").get()
    Decide(reviewer("rolf"), "reject", first.plan_hash, "no").run(first.pk)
    page.get_by_label("Why are they rejected?").fill("no")
    page.get_by_role("button", name="Reject 2 requests").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1 rejected, 1 not")
    assert violations(page) == []
    assert _overflow(page) == []
