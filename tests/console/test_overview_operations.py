from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from jobs.models import BulkOperation

URL = "/console/"


def operation(**more: Any) -> BulkOperation:
    """Write an operation that has just been asked for."""
    values = {"verb": "redrive", "selector": "tasks", "selection": {}, "words": "dead letters", "expected": 2_866}
    return BulkOperation.objects.create(**(values | {"asked_by_name": "olga"} | more))


def at_work(**more: Any) -> BulkOperation:
    """Write one that a scheduler works on."""
    now = timezone.now()
    values = {"state": "running", "started_at": now - timedelta(seconds=1000), "worked_at": now, "changed": 1_000}
    return operation(**(values | {"taken_by": uuid4(), "taken_until": now + timedelta(seconds=9)} | more))


def line(client: Client) -> str:
    """Return the overview's line about operations, its links and its words."""
    page = " ".join(client.get(URL).content.decode().split())
    return re.sub(r"<(?!a )[^>]*>", "", page.partition('class="under-way">')[2].partition("</p>")[0])


def test_an_operation_at_work_is_told_with_who_how_far_and_a_link(operator: Client) -> None:
    made = at_work()
    assert line(operator) == (
        f'<a href="{reverse("operation", args=[made.pk])}">Redrive dead letters '
        "by olga: 1,000 of 2,866 tasks, about 31 min left"
    )


def test_the_one_that_is_worked_on_is_told_and_that_others_wait(operator: Client) -> None:
    operation(words="waits", created_at=timezone.now() - timedelta(minutes=5))
    at_work(words="works")
    said = line(operator)
    assert "Redrive works by olga" in said
    assert "waits by" not in said
    assert f'<a href="{reverse("operations")}">More operations wait for their turn' in said


def test_one_that_has_just_been_asked_for_has_not_begun(operator: Client) -> None:
    operation()
    assert "Redrive dead letters by olga: not begun yet" in line(operator)


def test_of_operations_that_ended_or_stand_still_no_line_says_that_they_run(operator: Client) -> None:
    now = timezone.now()
    operation(state="finished", finished_at=now)
    operation(state="stopped", finished_at=now)
    ago = now - timedelta(minutes=9)
    at_work(created_at=ago, worked_at=ago, taken_until=ago)
    assert line(operator) == ""


def test_many_operations_cost_no_more_queries_than_one(operator: Client) -> None:
    at_work()
    operator.get(URL)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL)
    for _ in range(30):
        at_work()
    with CaptureQueriesContext(connection) as many:
        operator.get(URL)
    assert len(few) == len(many)


def test_what_people_wrote_is_never_markup(operator: Client) -> None:
    evil = "<script>alert(1)</script>"
    at_work(words=evil, asked_by_name=evil)
    assert b"<script>alert" not in operator.get(URL).content
