"""What the overview says of requests that wait for people."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from agents.models import Effect
from astra_site.console.overview import gather
from astra_site.console.verdict import judge
from tests.support.approvals import approval
from tests.support.tasks import fleet, task

URL = "/console/"


def effect(**more: Any) -> None:
    """Write a call of which nobody knows how it ended."""
    run = task("waiting")
    key = f"{run.pk}-1"
    made = Effect.objects.create(
        key=key, run=run, step_key="1", tool="refund", arguments={}, idempotent=False, state="unknown", fence=1
    )
    approval(run=run, kind="effect", effect=made, plan=None, asked_plan=None, plan_hash="", deadline=None, **more)


def verdict() -> list[tuple[str, str]]:
    """Return what is wrong, and where it leads."""
    return [(finding.words, finding.link) for finding in judge(gather()).findings]


def test_the_nearest_of_those_that_are_pending_stand_there_and_their_number_leads_to_them(operator: Client) -> None:
    fleet(started_at=timezone.now())
    for hours in range(8, 2, -1):
        approval(title=f"due in {hours} hours", due=timedelta(hours=hours))
    approval(state="approved", title="decided")
    page = operator.get(URL).content.decode()
    assert '<a href="/approvals/?tab=pending">6</a>' in page
    places = [page.find(f"due in {hours} hours") for hours in range(3, 8)]
    assert places == sorted(places)
    assert places[0] > 0
    assert "due in 8 hours" not in page, "five are enough"
    assert "decided" not in page.split("Pending approvals")[1].split("Workers")[0]


def test_that_some_wait_for_people_is_nothing_wrong(operator: Client) -> None:
    fleet(started_at=timezone.now())
    approval(due=timedelta(hours=2))
    assert verdict() == []
    assert judge(gather()).detail.endswith("1 waits for a person.")


def test_what_is_due_within_the_hour_is_told_in_the_first_line(operator: Client) -> None:
    fleet(started_at=timezone.now())
    approval(due=timedelta(minutes=50))
    link = "/approvals/?tab=pending&due=1h"
    assert verdict() == [("1 plan waits for people, and its deadline is within the hour.", link)]
    approval(due=timedelta(minutes=-1))
    approval(due=timedelta(hours=3))
    assert verdict() == [("2 plans wait for people, and their deadlines are within the hour.", link)]
    page = operator.get(URL).content.decode()
    assert "2 plans wait for people" in page
    assert 'href="/approvals/?tab=pending&amp;due=1h">2 due within the hour</a>' in page


def test_calls_of_which_nobody_knows_how_they_ended_are_told(operator: Client) -> None:
    fleet(started_at=timezone.now())
    effect()
    link = "/approvals/?tab=pending&kind=effect"
    assert verdict() == [("Nobody knows how 1 call ended: a person has to say what became of it.", link)]
    effect()
    assert verdict() == [("Nobody knows how 2 calls ended: a person has to say what became of them.", link)]
    assert "Unknown effect of helper" in operator.get(URL).content.decode()
