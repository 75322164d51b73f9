"""The queues page in a browser: pausing by keyboard alone, and what stays as it is while the page reloads itself."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from accounts import roles
from jobs.models import Hold
from tests.browser.conftest import Open
from tests.support.people import person
from tests.support.tasks import fleet

URL = "/console/queues/"


@pytest.fixture
def page(browse: Open) -> Page:
    """The page of an operator."""
    fleet()
    return browse(person("olga", roles.OPERATOR), URL)


def test_a_lane_is_paused_and_resumed_by_keyboard_alone(page: Page) -> None:
    page.get_by_label("Pause lane queue …").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("Provider is down")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".messages")).to_contain_text("Lane queue is paused")
    hold = Hold.objects.get()
    assert (hold.key, hold.note, hold.placed_by) == ("lane:queue", "Provider is down", "olga")
    expect(page.locator("#holds")).to_contain_text("Provider is down")
    page.locator("#holds").get_by_label("Resume lane queue").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".messages")).to_contain_text("Lane queue goes on.")
    expect(page.locator("#holds")).to_have_count(0)
    assert not Hold.objects.exists()


def test_while_a_pause_is_being_written_the_page_does_not_reload(page: Page) -> None:
    page.locator("[data-refresh-interval]").select_option("2")
    page.get_by_label("Pause lane queue …").click()
    page.locator("#note-queue").fill("The provider is")
    expect(page.locator("[data-refresh-state]")).to_have_text("Paused while a menu is open")
    expect(page.locator("#note-queue")).to_have_value("The provider is")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Pause lane queue …")).to_be_focused()


def test_what_another_operator_pauses_appears_by_itself(page: Page) -> None:
    page.locator("[data-refresh-interval]").select_option("2")
    page.get_by_label("Pause lane batch …").focus()
    Hold.objects.create(key="lane:queue", reason="paused", note="Upgrade", placed_by="otto")
    expect(page.locator("#lane-queue")).to_contain_text("paused by otto")
    expect(page.get_by_label("Pause lane batch …")).to_be_focused()


def test_without_a_script_a_lane_is_paused_all_the_same(browse: Open) -> None:
    fleet()
    page = browse(person("olga", roles.OPERATOR), URL, java_script_enabled=False)
    page.get_by_label("Pause lane queue …").click()
    page.get_by_role("button", name="Pause lane queue", exact=True).click()
    expect(page.locator("#lane-queue")).to_contain_text("paused by olga")
    page.locator("#lane-queue").get_by_role("button", name="Resume lane queue").click()
    expect(page.locator("#lane-queue")).to_contain_text("served")


def test_the_line_of_a_lane_opens_its_figures_and_closes_them(page: Page) -> None:
    page.locator("#lane-queue .spark-link").click()
    expect(page.get_by_role("heading", name="queue, the last hour in figures")).to_be_visible()
    page.get_by_role("link", name="Close").click()
    expect(page.get_by_role("heading", name="queue, the last hour in figures")).to_have_count(0)
