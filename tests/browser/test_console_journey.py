"""Find why a task failed, mend its input, redrive it: by keyboard alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from accounts import roles
from agents.models import Run
from jobs.models import Job, JobEvent
from tests.browser.conftest import Open
from tests.support.people import person
from tests.support.tasks import fleet, step, task

#: More stops than any page here has.
STOPS = 90
ERROR = {
    "type": "/problems/bad-input",
    "title": "The input does not fit",
    "detail": "input.question: it asks for nothing",
    "retriable": False,
    "errors": [{"loc": ["input", "question"], "msg": "it asks for nothing"}],
}


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until ``wanted`` has the focus; every stop on the way can be seen to have it."""
    expect(wanted).to_be_attached()
    for _ in range(STOPS):
        page.keyboard.press("Tab")
        assert page.evaluate(
            """() => {
                const at = document.activeElement;
                if (at === document.body) return true;
                const style = getComputedStyle(at);
                const width = at.getBoundingClientRect().width;
                return at.matches(":focus-visible") && style.outlineStyle !== "none" && width > 0;
            }"""
        ), f"the focus cannot be seen: {page.evaluate('document.activeElement.outerHTML.slice(0, 200)')}"
        if wanted.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"Tab never came to {wanted}")


def press(page: Page, wanted: Locator, key: str = "Enter") -> None:
    """Go to ``wanted`` by Tab and press a key there."""
    tab_to(page, wanted)
    page.keyboard.press(key)


def dead(**more: Any) -> Run:
    olga = person("olga", roles.OPERATOR)
    run = task("dead", user=olga, endpoint="dig.v1", **({"input": {"question": "Hm", "max_pages": 3}} | more))
    step(run)
    return run


def test_finding_why_a_task_failed_mending_its_input_and_redriving_it_by_keyboard(browse: Open) -> None:
    fleet()
    old = dead(error=ERROR)
    page = browse(person("olga", roles.OPERATOR), "/console/")
    press(page, page.locator(f"main a[href='/console/tasks/{old.pk}/']").first)
    expect(page).to_have_url(re.compile(f"/console/tasks/{old.pk}/$"))
    # Why it failed, and with what input.
    expect(page.get_by_role("heading", name="The input does not fit")).to_be_visible()
    expect(page.get_by_role("row", name="input.question it asks for nothing")).to_be_visible()
    expect(page.locator("#input").get_by_text("Hm")).to_be_visible()
    press(page, page.locator("#redrive > summary"))
    press(page, page.get_by_role("link", name="With another input …"))
    expect(page.get_by_role("heading", name="Redrive with another input")).to_be_visible()
    expect(page.get_by_text("It failed with: The input does not fit")).to_be_visible()
    # Once more wrong: the focus goes to the field that is.
    tab_to(page, page.get_by_label("Max pages"))
    page.keyboard.press("Control+a")
    page.keyboard.type("99")
    press(page, page.get_by_role("button", name="Redrive with this input"))
    expect(page.get_by_text("99 is greater than the maximum of 20")).to_be_visible()
    expect(page.get_by_label("Max pages")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("7")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_label("Question")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("Where does the river end?")
    press(page, page.get_by_role("button", name="Redrive with this input"))
    expect(page.get_by_role("heading", name="Where does the river end?")).to_be_visible()
    expect(page.locator(".messages")).to_have_text(re.compile("Submitted as a new task."))
    expect(page.locator(".messages")).to_be_focused()
    expect(page.get_by_role("status").get_by_text("Queued")).to_be_visible()
    new = Run.objects.exclude(pk=old.pk).get()
    assert (new.redriven_from_id, new.input) == (old.pk, {"question": "Where does the river end?", "max_pages": 7})
    press(page, page.locator(".facts").get_by_role("link", name=re.compile("^01")))
    expect(page).to_have_url(re.compile(f"/console/tasks/{old.pk}/$"))


def test_redriving_from_the_last_step_by_keyboard(browse: Open) -> None:
    fleet()
    run = dead()
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/")
    press(page, page.locator("#redrive > summary"), "Space")
    page.keyboard.press("Escape")
    expect(page.locator("#redrive > summary")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="From its last step")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".messages")).to_have_text(re.compile("Redriven from its last step. It is queued now."))
    expect(page.locator(".messages")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(".crumbs").get_by_role("link", name="Tasks")).to_be_focused()
    assert Job.objects.get(pk=run.pk).generation == 2


def test_discarding_by_keyboard_wants_a_note(browse: Open) -> None:
    run = dead()
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/")
    press(page, page.locator("#discard > summary"))
    press(page, page.get_by_role("button", name="Discard this task"))
    note = page.get_by_label("Why is it given up?")
    expect(note).to_be_focused()  # the browser itself asks for it
    page.keyboard.type("a duplicate")
    press(page, page.get_by_role("button", name="Discard this task"))
    expect(page.locator(".messages")).to_have_text(re.compile("Discarded. The note is in the audit trail."))
    assert Job.objects.get(pk=run.pk).state == "discarded"


def test_a_second_window_is_told_that_the_task_was_redriven_already(browse: Open) -> None:
    run = dead()
    olga = person("olga", roles.OPERATOR)
    first, second = (browse(olga, f"/console/tasks/{run.pk}/") for _ in range(2))
    for page in (first, second):
        page.locator("#redrive > summary").click()
        page.get_by_role("button", name="From the start").click()
        expect(page.locator(".messages")).to_be_focused()
    expect(first.locator(".messages")).to_have_text(re.compile("Redriven from the start."))
    expect(second.locator(".messages")).to_have_text(re.compile("you redrove it already"))
    assert Job.objects.get(pk=run.pk).generation == 2


def test_when_the_focused_button_goes_away_the_focus_goes_to_the_heading(browse: Open) -> None:
    run = task("running")
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/")
    tab_to(page, page.locator("#cancel > summary"))
    JobEvent.objects.create(job=run.job, kind="state", old="running", new="succeeded", reason="finished")
    Job.objects.filter(pk=run.pk).update(state="succeeded", worker=None, finished_at=run.job.created_at)
    page.evaluate("htmx.trigger('#task', 'refresh')")
    expect(page.get_by_role("status").get_by_text("Succeeded")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_a_result_that_arrives_moves_nothing_out_of_the_readers_hands(browse: Open) -> None:
    run = task("running")
    step(run, "plan", output={"found": "needle"})
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/")
    opened = page.locator("#steps details", has_text="plan")
    opened.locator("summary").press("Enter")
    expect(opened.get_by_text("needle")).to_be_visible()
    JobEvent.objects.create(job=run.job, kind="state", old="running", new="succeeded", reason="finished")
    Job.objects.filter(pk=run.pk).update(state="succeeded", worker=None, finished_at=run.job.created_at)
    Run.objects.filter(pk=run.pk).update(output={"answer": "The sea."})
    page.evaluate("htmx.trigger('#task', 'refresh')")
    expect(page.locator("#result").get_by_text("The sea.")).to_be_visible()
    expect(opened.get_by_text("needle")).to_be_visible()
    expect(opened.locator("summary").first).to_be_focused()


def test_the_page_of_a_task_works_without_javascript(browse: Open) -> None:
    run = dead()
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/", java_script_enabled=False)
    page.locator(".steps summary").click()
    page.get_by_role("link", name="Open this step").click()
    expect(page.get_by_role("heading", name="Step plan")).to_be_visible()
    page.go_back()
    page.get_by_text("Redrive …").click()
    page.get_by_role("button", name="From its last step").click()
    expect(page.locator(".messages")).to_be_focused()
    expect(page.locator(".messages")).to_have_text(re.compile("Redriven from its last step."))
    page.get_by_text("Cancel …").click()
    page.get_by_role("button", name="Cancel this task").click()
    expect(page.get_by_text("The task is cancelled.")).to_be_visible()
    page.get_by_text("Redrive …").click()
    page.get_by_role("link", name="With another input …").click()
    page.get_by_label("Max pages").fill("99")
    page.get_by_role("button", name="Redrive with this input").click()
    expect(page.get_by_label("Max pages")).to_be_focused()
    page.get_by_label("Max pages").fill("7")
    page.get_by_role("button", name="Redrive with this input").click()
    expect(page.get_by_text("Submitted as a new task.")).to_be_visible()
    assert run.redrives.get().input == {"question": "Hm", "max_pages": 7}
