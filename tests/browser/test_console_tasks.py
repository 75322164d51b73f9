"""Selecting tasks, by mouse, by keyboard and without JavaScript; filters that fold; a refresh that rests meanwhile."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from accounts import roles
from agents.models import Run
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import _overflow, violations
from tests.support.people import person
from tests.support.tasks import PROBLEM, task

DEAD = "/console/tasks/?state=dead"
#: The fields of the filter that lie on one another.
OVERLAPPING = """() => {
    const found = [...document.querySelectorAll(".filters .input")];
    const fields = found.map((field) => [field.id, field.getBoundingClientRect()]);
    return fields.flatMap(([id, a]) => fields.filter(([other, b]) =>
        id < other && a.width && b.width && a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
    ).map(([other]) => `${id} and ${other}`));
}"""


@pytest.fixture
def olga(_site: None) -> User:
    return person("olga", roles.OPERATOR)


def dead(number: int) -> list[Run]:
    """Write dead letters; return them in the order of the list."""
    return [
        task("dead", input=f"letter {age}", submitted=timedelta(minutes=age), error=PROBLEM | {"fingerprint": "f1"})
        for age in range(number)
    ]


def boxes(page: Page) -> Locator:
    return page.locator("tbody input[type=checkbox]")


def bar(page: Page) -> Locator:
    return page.get_by_role("form", name="Change tasks")


def asked(page: Page, verb: str) -> dict[str, list[str]]:
    """Press a button of the bar; return what the next page is asked for."""
    with page.expect_request("**/console/operations/new/**") as request:
        bar(page).get_by_role("button", name=verb).click()
    return parse_qs(urlsplit(request.value.url).query)


def test_from_a_selected_row_enter_leads_to_the_bar_and_sends_nothing(browse: Open, olga: User) -> None:
    dead(3)
    page = browse(olga, DEAD)
    boxes(page).nth(1).focus()
    page.keyboard.press("Enter")
    expect(boxes(page).nth(1)).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(bar(page).get_by_role("button", name="Redrive")).to_be_focused()
    assert urlsplit(page.url).path == "/console/tasks/"
    page.keyboard.press("Escape")
    expect(boxes(page).nth(1)).to_be_focused()


def test_the_bar_is_there_while_something_is_selected_and_sends_what_is(browse: Open, olga: User) -> None:
    runs = dead(3)
    page = browse(olga, DEAD)
    expect(bar(page)).to_be_hidden()
    boxes(page).nth(0).check()
    expect(bar(page).get_by_role("status")).to_have_text("1 selected")
    boxes(page).nth(2).check()
    expect(bar(page).get_by_role("status")).to_have_text("2 selected")
    found = asked(page, "Redrive")
    assert found["ids"] == [str(runs[0].pk), str(runs[2].pk)]
    assert found["verb"] == ["redrive"]
    assert "all" not in found


def test_a_click_with_shift_selects_a_range_and_the_box_of_the_page_all_of_it(browse: Open, olga: User) -> None:
    dead(5)
    page = browse(olga, DEAD)
    whole = page.get_by_role("checkbox", name="Select all on this page")
    boxes(page).nth(1).click()
    expect(whole).not_to_be_checked()
    assert whole.evaluate("box => box.indeterminate")
    boxes(page).nth(3).click(modifiers=["Shift"])
    expect(bar(page).get_by_role("status")).to_have_text("3 selected")
    boxes(page).nth(1).click(modifiers=["Shift"])
    expect(bar(page)).to_be_hidden()
    whole.check()
    expect(bar(page).get_by_role("status")).to_have_text("5 selected")
    boxes(page).nth(0).uncheck()
    assert whole.evaluate("box => box.indeterminate")
    bar(page).get_by_role("button", name="Clear").click()
    expect(bar(page)).to_be_hidden()
    expect(page.locator("tbody :checked")).to_have_count(0)


def test_all_that_match_are_meant_with_their_count_and_their_filter(
    browse: Open, olga: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.views.PAGE", 2)
    dead(3)
    page = browse(olga, f"{DEAD}&error=f1")
    boxes(page).nth(0).check()
    page.get_by_role("checkbox", name="All 3 matching").check()
    expect(bar(page).get_by_role("status")).to_have_text("All 3 selected")
    expect(boxes(page).nth(1)).to_be_checked()
    expect(boxes(page).nth(1)).to_be_disabled()
    page.get_by_role("checkbox", name="All 3 matching").uncheck()
    expect(bar(page).get_by_role("status")).to_have_text("1 selected")
    expect(boxes(page).nth(1)).not_to_be_checked()
    page.get_by_role("checkbox", name="All 3 matching").check()
    found = asked(page, "Discard")
    assert found == {"state": ["dead"], "error": ["=f1"], "all": ["1"], "verb": ["discard"]}


def test_tasks_are_selected_and_sent_by_keyboard_alone(browse: Open, olga: User) -> None:
    runs = dead(3)
    page = browse(olga, DEAD)
    page.get_by_role("checkbox", name="Select all on this page").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(boxes(page).nth(0)).to_be_checked()
    expect(boxes(page).nth(0)).to_be_focused()
    page.keyboard.press("Escape")
    expect(bar(page)).to_be_hidden()
    expect(boxes(page).nth(0)).to_be_focused()
    page.keyboard.press("Space")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "redrive":
            break
    with page.expect_request("**/console/operations/new/**") as request:
        page.keyboard.press("Enter")
    found = parse_qs(urlsplit(request.value.url).query)
    assert (found["ids"], found["verb"]) == ([str(runs[0].pk)], ["redrive"])


def test_what_has_the_focus_is_not_under_the_bar(browse: Open, olga: User) -> None:
    dead(30)
    page = browse(olga, DEAD, height=500)
    boxes(page).nth(0).click()
    for _ in range(40):
        page.keyboard.press("Tab")
        below = page.evaluate("document.activeElement.closest('[data-select]')?.contains(document.activeElement)")
        if not below:
            break
        bottom = page.evaluate("document.activeElement.getBoundingClientRect().bottom")
        box = bar(page).bounding_box()
        assert box is not None and bottom <= box["y"]


def test_the_refresh_rests_while_tasks_are_selected_and_says_so(browse: Open, olga: User) -> None:
    dead(2)
    page = browse(olga, DEAD)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "hx-request" in request.headers else None)
    boxes(page).nth(0).check()
    page.get_by_label("Refresh by itself").select_option("2")
    state = page.locator("[data-refresh-state]")
    expect(state).to_have_text("Paused while tasks are selected")
    page.evaluate(
        "new Promise((done) => { const at = Date.now() + 2500; (function wait() {"
        " Date.now() > at ? done() : requestAnimationFrame(wait) })() })"
    )
    assert sent == []
    with page.expect_request(lambda request: "hx-request" in request.headers):
        bar(page).get_by_role("button", name="Clear").click()
    expect(state).to_have_text("")


def test_a_selection_outlives_a_refresh_that_was_asked_for(browse: Open, olga: User) -> None:
    dead(3)
    page = browse(olga, DEAD)
    boxes(page).nth(1).check()
    boxes(page).nth(1).focus()
    dead(1)
    with page.expect_response(lambda response: "hx-request" in response.request.headers):
        page.evaluate("htmx.trigger('#tasks', 'refresh')")
    expect(boxes(page)).to_have_count(4)
    expect(page.locator("tbody :checked")).to_have_count(1)
    expect(page.locator("tr", has_text="letter 1").locator("input")).to_be_checked()
    expect(page.locator("tr", has_text="letter 1").locator("input")).to_be_focused()
    expect(bar(page).get_by_role("status")).to_have_text("1 selected")


def test_another_filter_gives_up_all_that_matched(browse: Open, olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.views.PAGE", 1)
    dead(3)
    page = browse(olga, DEAD)
    boxes(page).nth(0).check()
    page.get_by_role("checkbox", name="All 3 matching").check()
    page.get_by_label("Error").fill("provider")
    page.wait_for_url("**error=provider**")
    expect(page.get_by_role("checkbox", name="All 3 matching")).not_to_be_checked()
    expect(bar(page).get_by_role("status")).to_have_text("1 selected")


def test_without_javascript_tasks_are_ticked_and_sent(
    browse: Open, olga: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.views.PAGE", 2)
    runs = dead(3)
    page = browse(olga, DEAD, java_script_enabled=False)
    expect(bar(page)).to_be_visible()
    boxes(page).nth(1).check()
    assert asked(page, "Redrive") == {"state": ["dead"], "ids": [str(runs[1].pk)], "verb": ["redrive"]}
    page.goto(DEAD)
    page.get_by_role("checkbox", name="All 3 matching").check()
    assert asked(page, "Discard") == {"state": ["dead"], "all": ["1"], "verb": ["discard"]}


def test_without_javascript_every_filter_works(browse: Open, olga: User) -> None:
    task("dead", input="the river")
    task("queued", input="the hill", submitted=timedelta(days=2))
    page = browse(olga, "/console/tasks/", java_script_enabled=False)
    page.get_by_label("Error").fill("provider")
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto("/console/tasks/")
    page.get_by_label("To", exact=True).fill("2020-01-01T00:00")
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.get_by_text("No task matches")).to_be_visible()
    expect(page.get_by_label("To", exact=True)).to_have_value("2020-01-01T00:00")


def test_a_time_of_ones_own_is_asked_for_where_it_is_wanted(browse: Open, olga: User) -> None:
    task(input="new")
    task(input="old", submitted=timedelta(days=40))
    page = browse(olga, "/console/tasks/")
    expect(page.get_by_label("From", exact=True)).to_be_hidden()
    page.get_by_label("Submitted").select_option("From … to …")
    page.wait_for_url("**/?since=custom")
    page.get_by_label("From", exact=True).fill("2020-01-01T00:00")
    page.wait_for_url("**from=2020-01-01T00**")
    page.get_by_label("Submitted").select_option("Last 30 days")
    page.wait_for_url("**/?since=30d")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_label("From", exact=True)).to_be_hidden()


def test_on_a_narrow_screen_the_filters_fold_and_say_how_many_are_set(browse: Open, olga: User) -> None:
    task("dead")
    page = browse(olga, "/console/tasks/?endpoint=help.v1", width=320)
    fold = page.locator(".more-filters > summary")
    expect(fold).to_have_text("Filters (1)")
    expect(page.get_by_label("Endpoint")).to_be_hidden()
    fold.click()
    page.get_by_label("Error").fill("provider")
    page.wait_for_url("**error=provider**")
    expect(fold).to_have_text("Filters (2)")
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(fold).to_be_hidden()
    expect(page.get_by_label("Endpoint")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_with_a_selection_is_accessible_and_fits(
    browse: Open, olga: User, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr("agents.views.PAGE", 3)
    dead(4)
    page = browse(olga, f"{DEAD}&error=f1&lane=queue&since=custom&from=2020-01-01T00:00", color_scheme=scheme)
    boxes(page).nth(0).check()
    for width in (1280, 768, 320):
        page.set_viewport_size({"width": width, "height": 900})
        if width == 320:
            page.locator(".more-filters > summary").click()
        assert _overflow(page) == [], f"at {width} px"
        assert page.evaluate(OVERLAPPING) == [], f"at {width} px"
        assert violations(page) == [], f"at {width} px"
