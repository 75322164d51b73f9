"""The dead letters in a browser: by mouse, by keyboard alone, without a script, narrow and wide, light and dark."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts import roles
from agents.models import Run
from jobs.models import Job
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import _overflow, violations
from tests.support.people import person
from tests.support.tasks import PROBLEM, task

URL = "/console/dead-letters/"
FAULT = {
    "type": "/problems/step-failed",
    "title": "A step of the program failed",
    "detail": "JSONDecodeError: " + "averylongwordwithoutanyspace" * 12,
    "error": "JSONDecodeError",
    "at": "agents.programs.research:read_the_whole_page.<locals>.and_parse_what_was_found:214",
    "step": "parse#3",
    "fingerprint": "aaaa",
    "retriable": True,
}
GROUP = f"{URL}group/?error=aaaa"


def fill() -> Run:
    """Write dead letters of several kinds; return one that failed alone."""
    now = timezone.now()
    for number in range(3):
        at = now - timedelta(hours=5 * number)
        task("dead", error=FAULT, finished_at=at, input="Which page? " + "long" * 40)
    Job.objects.create(
        handler="delivery", lane="delivery", home_lane="delivery", state="dead", finished_at=now, error=FAULT
    )
    return task("dead", error={**PROBLEM, "fingerprint": "model-unavailable:helper"})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [URL, f"{URL}?q=nothing+of+the+kind", GROUP, f"{URL}group/?error=gone"])
def test_the_pages_are_accessible_and_fit(browse: Open, path: str, scheme: str) -> None:
    fill()
    page = browse(person("olga", roles.OPERATOR), path, color_scheme=scheme, width=320, height=640)
    for width in (320, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert _overflow(page) == [], f"at {width} px"
        assert violations(page) == [], f"at {width} px"


def test_a_page_without_dead_letters_is_accessible(browse: Open) -> None:
    page = browse(person("olga", roles.OPERATOR), URL, width=320)
    expect(page.get_by_role("heading", name="No dead letters")).to_be_visible()
    assert violations(page) == []


def test_everything_can_be_done_without_a_script(browse: Open) -> None:
    run = fill()
    page = browse(person("olga", roles.OPERATOR), URL, java_script_enabled=False)
    page.get_by_label("Text, endpoint or agent").fill("not available")
    page.get_by_label("Order").select_option("Most first")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".dead-group")).to_have_count(1)
    page.get_by_role("link", name="The model is not available now", exact=True).click()
    expect(page.get_by_role("link", name="Discard it …")).to_have_attribute(
        "href", "/console/operations/new/?verb=discard&all=1&state=dead&error=%3Dmodel-unavailable%3Ahelper"
    )
    expect(page.get_by_label("Select Where does the river end?")).to_have_value(str(run.pk))
    page.get_by_role("link", name="Where does the river end?").click()
    page.wait_for_url(f"**/console/tasks/{run.pk}/")


def test_some_of_a_kind_are_ticked_and_taken_to_their_redrive(browse: Open) -> None:
    fill()
    page = browse(person("olga", roles.OPERATOR), GROUP)
    boxes = page.locator('input[name="ids"]')
    boxes.nth(0).check()
    boxes.nth(2).check()
    chosen = {boxes.nth(place).get_attribute("value") for place in (0, 2)}
    page.locator("[data-bulk]").get_by_role("button", name="Redrive").click()
    page.wait_for_url("**/console/operations/new/?*")
    query = parse_qs(urlsplit(page.url).query)
    assert (set(query["ids"]), query["verb"]) == (chosen, ["redrive"])
    assert "all" not in query
    page.get_by_text("2 chosen tasks").first.wait_for()


def reach(page: Page, name: str) -> None:
    """Go on by the tabulator until the link is in focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if name in page.evaluate("document.activeElement.matches('a') ? document.activeElement.textContent : ''"):
            return
    raise AssertionError(f"{name} cannot be reached")


def test_a_kind_is_found_opened_and_left_for_its_redrive_by_keyboard_alone(browse: Open) -> None:
    fill()
    page = browse(person("olga", roles.OPERATOR), URL)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    reach(page, "A step of the program failed")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{GROUP}")
    expect(page.get_by_role("heading", name="A step of the program failed")).to_be_visible()
    reach(page, "Redrive all 3 …")


def test_typing_narrows_the_kinds_and_stands_in_the_address(browse: Open) -> None:
    fill()
    page = browse(person("olga", roles.OPERATOR), URL)
    expect(page.locator(".dead-group")).to_have_count(2)
    page.get_by_label("Text, endpoint or agent").press_sequentially("parse")
    expect(page.locator(".dead-group")).to_have_count(1)
    page.wait_for_url("**/dead-letters/?q=parse")
    expect(page.get_by_label("Text, endpoint or agent")).to_be_focused()


def test_a_refresh_shows_that_a_group_has_been_emptied_by_somebody_else(browse: Open) -> None:
    run = fill()
    page = browse(person("olga", roles.OPERATOR), f"{URL}group/?error=model-unavailable%3Ahelper")
    expect(page.get_by_text("1 dead letter", exact=True)).to_be_visible()
    Job.objects.filter(pk=run.pk).update(state="queued", error=None, finished_at=None)
    page.get_by_role("link", name="Refresh now").click()
    expect(page.get_by_role("heading", name="No dead letter of this kind is left")).to_be_visible()
