"""The morning and the evening review in a browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import expect

from agents.models import AgentNote, Feedback, Run
from approvals.models import Review
from jobs.models import Job
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import _overflow, violations
from tests.support.approvals import approval
from tests.support.people import person
from tests.support.tasks import task

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def olga(ulla: User) -> User:
    return person("olga", "operator", "reviewer")


def ended(state: str = "succeeded", text: str = "It ends in **the sea**.", input: str = "Where does it end?") -> Run:
    at = timezone.now() - timedelta(minutes=5)
    return task(state, input=input, output={"text": text}, submitted=timedelta(minutes=6), finished_at=at)


def _night() -> None:
    ended(
        text="# A title\n\n" + "A paragraph of some words. " * 40 + "\n\n- one\n- two\n\n`a_long_name_" + "x" * 80 + "`"
    )
    run = ended(input="w" * 200)
    Feedback.objects.create(run=run, user_name="rita", grade="poor", comment="No.")
    ended("dead")
    approval(title="Refund " + "y" * 200, reason="a refund over 100 USD " * 20)
    task("scheduled", user=person("olga"), input="Count the birds")
    AgentNote.objects.create(agent="helper", text="Name the sea. " + "z" * 300, user_name="rita", run=run)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("path", ["morning/", "evening/?graded=1&hours=24"])
def test_axe_finds_nothing_and_nothing_sticks_out(browse: Open, olga: User, path: str, width: int, scheme: str) -> None:
    _night()
    page = browse(olga, f"/approvals/{path}", width=width, color_scheme=scheme)
    assert violations(page) == []
    assert _overflow(page) == []


def test_an_answer_is_read_and_graded_by_keyboard(browse: Open, olga: User) -> None:
    run = ended()
    page = browse(olga, "/approvals/evening/")
    one = page.locator(f"#output-{run.pk}")
    one.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(one.locator("strong")).to_have_text("the sea")
    page.keyboard.press("Tab")
    page.keyboard.type("Name the sea.")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    for _ in range(3):  # past "Only comment" and "Good"
        page.keyboard.press("Tab")
    expect(one.get_by_role("button", name="Needs work")).to_be_focused()
    page.keyboard.press("Enter")
    expect(one.locator(".said")).to_contain_text("Needs work")
    expect(one.get_by_role("button", name="Needs work")).to_be_focused()
    assert AgentNote.objects.get().text == "Name the sea."


def test_enter_in_the_comment_grades_nothing(browse: Open, olga: User) -> None:
    run = ended()
    page = browse(olga, "/approvals/evening/")
    comment = page.locator(f"#output-{run.pk}").get_by_label("Comment")
    comment.fill("Not sure.")
    comment.press("Enter")
    expect(page.locator(f"#output-{run.pk} .said")).to_contain_text("Commented")
    assert Feedback.objects.get().grade == ""


def test_the_nights_work_is_queued_and_the_review_finished(browse: Open, olga: User) -> None:
    page = browse(olga, "/approvals/evening/")
    page.get_by_label("Tasks", exact=True).fill("Count the birds\nName them")
    page.get_by_role("button", name="Queue them").click()
    expect(page.locator(".messages")).to_contain_text("2 tasks are queued for")
    expect(page.locator(".planned li")).to_have_count(2)
    assert set(Job.objects.values_list("state", flat=True)) == {"scheduled"}
    page.get_by_role("button", name="Finish the review").click()
    expect(page.locator(".messages")).to_contain_text("The evening review is done.")
    assert Review.objects.get().user == olga
