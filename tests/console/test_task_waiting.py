"""A task that waits for people: its page and the list of tasks say for whom, why, and what came of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.html import escape

from accounts import roles
from agents.models import Run
from approvals.deciding import Decide
from approvals.models import Approval
from jobs.models import Wait
from tests.support.approvals import approval, asked, carry_on, config, reviewer
from tests.support.configs import load
from tests.support.people import person
from tests.support.tasks import task

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def paying() -> None:
    load(config())


def page(client: Client, run: Any) -> str:
    response = client.get(f"/console/tasks/{run.pk if isinstance(run, Run) else run}/")
    assert response.status_code == 200
    return response.content.decode()


def told(shown: str) -> list[str]:
    """Return the story's lines, oldest first."""
    lines = shown.split('<p class="timeline-words">')[1:]
    return [line.partition("</p>")[0] for line in lines]


def test_it_says_for_whom_and_why_it_waits_until_when_and_what_then(operator: Client) -> None:
    it = approval()
    shown = page(operator, it.run)
    assert "Waits for a reviewer: Refund 150 USD" in shown
    assert "then it is rejected" in shown
    assert f'href="/approvals/{it.pk}/"' in shown


def test_whoever_may_not_decide_is_told_but_not_led_there(user: Client, ulla: User) -> None:
    it = approval(requested_by=ulla)
    shown = page(user, it.run)
    assert "Waits for a reviewer: Refund 150 USD" in shown
    assert f"/approvals/{it.pk}/" not in shown


def test_several_waits_are_all_told(operator: Client) -> None:
    it = approval()
    Wait.objects.create(job_id=it.run_id, kind="time", key="sleep#1", until=timezone.now() + timedelta(hours=1))
    Wait.objects.create(job_id=it.run_id, kind="event", key="paid#1", until=None)
    shown = page(operator, it.run)
    assert "It waits for 3 things" in shown
    for words in ("Waits for a reviewer: Refund 150 USD", "Waits for a set time", "Waits for an event from outside"):
        assert words in shown


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"groups": ["finance"]}, "Waits for somebody of finance: "),
        (
            {"groups": ["operator", "finance"], "users": ["olga"]},
            "Waits for an operator or somebody of finance or olga: ",
        ),
        ({"groups": ["reviewer"], "users": ["olga"], "quorum": 2}, "Waits for 2 people (reviewers, olga): "),
        ({"groups": []}, "Waits for a person: "),
    ],
)
def test_it_names_who_may_decide(operator: Client, more: dict[str, Any], words: str) -> None:
    assert words in page(operator, approval(**more).run)


def test_what_others_wrote_is_shown_as_text(operator: Client) -> None:
    it = approval(title="<script>alert(1)</script>")
    shown = page(operator, it.run)
    assert escape("<script>alert(1)</script>") in shown
    assert "<script>alert(1)" not in shown


@pytest.mark.usefixtures("paying")
def test_the_story_tells_who_was_asked_who_decided_what_and_that_it_went_on(operator: Client, tmp_path: Path) -> None:
    it = asked(tmp_path / "notes", 150)
    Decide(reviewer("rita"), "approve", it.plan_hash, "Looks right.").run(it.pk)
    carry_on()
    shown = page(operator, it.run)
    lines = told(shown)
    assert lines[2:] == [
        "Parked: it holds no worker while it waits",
        "Asked a reviewer",
        "Approved by rita",
        "What it waited for came; queued",
        "Taken by a worker",
        "Succeeded",
    ]
    assert "Looks right." in shown
    assert "approve calls 1#1" not in shown.partition('id="timeline"')[2]


@pytest.mark.usefixtures("paying")
def test_a_rejection_is_told_with_its_reason_to_whoever_asked(tmp_path: Path) -> None:
    asker = person("uma", roles.USER)
    it = asked(tmp_path / "notes", 150, user=asker)
    Decide(reviewer("rita"), "reject", it.plan_hash, "Too dear.").run(it.pk)
    carry_on()
    client = Client()
    client.force_login(asker)
    shown = page(client, it.run)
    assert "Rejected by rita" in told(shown)
    assert "Too dear." in shown
    assert f"/approvals/{it.pk}/" not in shown


def test_the_list_says_in_a_line_what_a_task_waits_for(operator: Client) -> None:
    approval()
    task("running")
    shown = operator.get("/console/tasks/").content.decode()
    assert shown.count("Waits for a reviewer: Refund 150 USD") == 1


def test_the_list_asks_as_little_for_many_waiting_tasks_as_for_one(operator: Client) -> None:
    approval()
    operator.get("/console/tasks/")
    with CaptureQueriesContext(
        connection,
    ) as one:
        operator.get("/console/tasks/")
    for _ in range(29):
        approval()
    with CaptureQueriesContext(connection) as many:
        assert operator.get("/console/tasks/").content.decode().count("Waits for a reviewer") == 30
    assert len(many) == len(one)


def test_the_page_asks_as_little_for_many_requests_as_for_one(operator: Client) -> None:
    it = approval()
    page(operator, it.run)
    with CaptureQueriesContext(connection) as one:
        page(operator, it.run)
    for number in range(30):
        approval(run=it.run, wait_key=f"approve#{number}")
    with CaptureQueriesContext(connection) as many:
        page(operator, it.run)
    assert len(many) == len(one)
    assert Approval.objects.count() == 31
