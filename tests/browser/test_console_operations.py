"""Changing many tasks in a browser: from the choice to the end of the operation, and every page in both themes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts import roles
from jobs.bulk_worker import BulkWorker
from jobs.models import BulkOperation, Job
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import _overflow, violations
from tests.support.people import person
from tests.support.tasks import PROBLEM, task

NEW = "/console/operations/new/"


def work(worker: BulkWorker) -> None:
    while worker.turn():
        pass


def confirm(page: Page, name: str) -> BulkOperation:
    page.get_by_role("button", name=name).click()
    page.wait_for_url("**/console/operations/*-*/")
    return BulkOperation.objects.latest("created_at")


def test_many_tasks_are_redriven_and_the_page_follows_to_the_end(browse: Open) -> None:
    for number in range(6):
        task("dead", input=f"question {number}")
    page = browse(person("olga", roles.OPERATOR), f"{NEW}?verb=redrive&all=1&state=dead")
    expect(page.get_by_role("heading", name="Redrive 6 tasks")).to_be_visible()
    page.get_by_role("radio", name="From the start").check()
    made = confirm(page, "Redrive 6 tasks")
    assert made.options == {"from": "start"}
    status = page.locator("#operation").get_by_role("status")
    expect(status).to_have_text("Pending")
    page.get_by_label("Refresh by itself").select_option("2")
    one_row_a_turn = BulkWorker(slice_s=0)
    for _ in range(2):
        one_row_a_turn.turn()
    expect(page.get_by_text("2 of 6 tasks")).to_be_visible()
    expect(status).to_have_text("Running")
    assert page.locator("progress").evaluate("bar => bar.value / bar.max") == pytest.approx(2 / 6)
    work(one_row_a_turn)
    expect(status).to_have_text("Finished")
    expect(page.get_by_text("6 redriven.")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    expect(page.get_by_role("link", name="6 queued")).to_be_visible()
    Job.objects.filter(state="queued").update(state="dead", finished_at=timezone.now(), queued_at=None)
    failed = page.get_by_role("link", name="6 dead letters again")
    expect(failed).to_be_visible()
    expect(page.locator("[data-refresh-state]")).to_have_text("Up to date")
    failed.click()
    expect(page.get_by_role("heading", name="Tasks it is about: dead letters again")).to_be_visible()
    expect(page.locator(".operation-tasks tbody tr")).to_have_count(6)
    expect(page).to_have_title("Finished · Redrive · Astra")
    page.get_by_role("link", name="Operations").click()
    page.get_by_role("link", name="Redrive dead letters").click()
    expect(page.get_by_text("6 redriven.")).to_be_visible()


def test_an_operation_is_stopped_on_the_way(browse: Open) -> None:
    for _ in range(3):
        task("dead")
    page = browse(person("olga", roles.OPERATOR), f"{NEW}?verb=redrive&all=1")
    confirm(page, "Redrive 3 tasks")
    BulkWorker(slice_s=0).turn()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped. What it has changed stays as it is.")).to_be_visible()
    expect(page.get_by_text("olga stopped it.")).to_be_visible()
    work(BulkWorker())
    assert Job.objects.filter(state="queued").count() == 1


@pytest.mark.parametrize("script", [True, False])
def test_a_button_that_is_pressed_twice_begins_one_operation(browse: Open, script: bool) -> None:
    task("dead")
    olga = person("olga", roles.OPERATOR)
    page = browse(olga, f"{NEW}?verb=redrive&all=1", java_script_enabled=script)
    page.get_by_role("button", name="Redrive 1 task").dblclick()
    page.wait_for_url("**/console/operations/*-*/")
    expect(page.get_by_text("Pending")).to_be_visible()
    assert BulkOperation.objects.count() == 1


def test_it_all_works_by_keyboard_and_without_javascript(browse: Open) -> None:
    for _ in range(2):
        task("dead")
    olga = person("olga", roles.OPERATOR)
    page = browse(olga, f"{NEW}?verb=discard&all=1&state=dead", java_script_enabled=False)
    note = page.get_by_label("Why are they given up?")
    note.press("Enter")  # a line in the note, and not the form
    note.fill(" ")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Discard 2 tasks")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Say why they are given up")).to_be_visible()
    expect(note).to_have_attribute("aria-invalid", "true")
    note.fill("The customer left.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/operations/*-*/")
    work(BulkWorker())
    page.get_by_role("link", name="Refresh now").click()
    expect(page.get_by_text("2 discarded.")).to_be_visible()
    expect(page.get_by_text("The customer left.")).to_be_visible()


# --- Every page, in both themes --------------------------------------------------------------------------------------

LONG = "a_word_that_nobody_can_break_" * 6


def _dead() -> None:
    for number in range(12):
        problem = PROBLEM | {"detail": LONG} if number == 0 else PROBLEM
        task("dead", input=f"{LONG} {number}", user=person("a-person-with-quite-a-long-name"), error=problem)


def _operation(**more: Any) -> BulkOperation:
    now = timezone.now()
    values: dict[str, Any] = {
        "verb": "redrive",
        "options": {"from": "checkpoint"},
        "selector": "tasks",
        "selection": {"filter": {}, "fixed": [str(pk) for pk in Job.objects.values_list("pk", flat=True)]},
        "words": f"dead letters of help.v1 that failed with “{LONG}”",
        "expected": 12_345,
        "asked_by_name": "a-person-with-quite-a-long-name",
        "created_at": now - timedelta(minutes=4),
    }
    return BulkOperation.objects.create(**(values | more))


def _running(**more: Any) -> BulkOperation:
    now = timezone.now()
    refusals = {"already redriven by a-person-with-quite-a-long-name": 1_200, "running by then": 1, f"hit by {LONG}": 3}
    values: dict[str, Any] = {
        "state": "running",
        "started_at": now - timedelta(minutes=3),
        "worked_at": now,
        "taken_by": uuid4(),
        "taken_until": now + timedelta(minutes=5),
        "changed": 4_321,
        "refused": 1_204,
        "refusals": refusals,
    }
    return _operation(**(values | more))


def _ended(state: str, problem: str = "") -> BulkOperation:
    ended = {"finished_at": timezone.now(), "taken_by": None, "taken_until": None}
    return _running(state=state, problem=problem, options={"from": "start", "note": LONG}, **ended)


def _new(verb: str) -> Callable[[], str]:
    def made() -> str:
        _dead()
        task("queued")
        _running(verb=verb)
        return f"{NEW}?verb={verb}&all=1&q={LONG[:90]}" if verb == "redrive" else f"{NEW}?verb={verb}&all=1"

    return made


def _page(make: Callable[[], BulkOperation]) -> Callable[[], str]:
    def made() -> str:
        _dead()
        return f"/console/operations/{make().pk}/"

    return made


def _list() -> str:
    _dead()
    for make in (_operation, _running):
        make()
    for state in ("finished", "stopped", "failed"):
        _ended(state)
    return "/console/operations/"


PAGES: dict[str, Callable[[], str]] = {
    "redrive": _new("redrive"),
    "cancel": _new("cancel"),
    "discard": _new("discard"),
    "nothing": lambda: f"{NEW}?verb=cancel&all=1",
    "nonsense": lambda: f"{NEW}?verb=redrive&ids=x",
    "pending": _page(_operation),
    "running": _page(_running),
    "open-ended": _page(lambda: _running(expected=10_000, expected_more=True)),
    "finished": _page(lambda: _ended("finished")),
    "stopped": _page(lambda: _ended("stopped", "a-person-with-quite-a-long-name stopped it.")),
    "failed": _page(lambda: _ended("failed", "Finding the next tasks took too long.")),
    "list": _list,
    "list-empty": lambda: "/console/operations/",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits(browse: Open, name: str, scheme: str) -> None:
    page = browse(person("olga", roles.OPERATOR), PAGES[name](), color_scheme=scheme, width=320, height=640)
    for width in (320, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert _overflow(page) == [], f"at {width} px"
        if width != 768:
            assert violations(page) == [], f"at {width} px"
