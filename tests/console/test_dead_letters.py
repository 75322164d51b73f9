"""The dead letters by what went wrong, and one kind of them."""

from __future__ import annotations

import html
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles
from agents import queries
from agents.models import Run
from agents.task_list import ListFilter
from astra_site.console import dead_letters as page_of
from jobs import dead_letters
from jobs.models import Job
from tests.support.people import person
from tests.support.statements import number_of
from tests.support.tasks import PROBLEM, task

URL = "/console/dead-letters/"
GROUP = "/console/dead-letters/group/"
FAULT = {
    "type": "/problems/program-error",
    "title": "The agent's program failed",
    "detail": "KeyError: 'lost'",
    "error": "KeyError",
    "at": "app.programs:fetch:3",
    "fingerprint": "aaaa",
    "retriable": True,
}


def dead(fingerprint: str = "aaaa", *, ago: float = 60, error: dict[str, Any] | None = None, **more: Any) -> Run:
    """Write a task that became a dead letter so many seconds ago."""
    problem = {**FAULT, "fingerprint": fingerprint, **(error or {})}
    ended = timezone.now() - timedelta(seconds=ago)
    return task("dead", submitted=timedelta(seconds=ago + 5), finished_at=ended, error=problem, **more)


def other(fingerprint: str = "aaaa", *, ago: float = 60) -> Job:
    """Write a dead letter that is no task."""
    return Job.objects.create(
        handler="delivery",
        lane="delivery",
        home_lane="delivery",
        state="dead",
        finished_at=timezone.now() - timedelta(seconds=ago),
        error={**FAULT, "fingerprint": fingerprint},
    )


def text_of(client: Client, url: str = URL, **query: str) -> str:
    response = client.get(url, query)
    assert response.status_code == 200
    return html.unescape(response.content.decode())


def prints(client: Client, **query: str) -> list[str]:
    """Return the fingerprints of the groups on the page, in its order."""
    return [row.group.fingerprint for row in client.get(URL, query).context["rows"]]


@pytest.mark.parametrize("url", [URL, f"{GROUP}?error=aaaa"])
@pytest.mark.parametrize("role", [roles.REVIEWER, roles.USER])
def test_only_operators_are_let_in_whatever_the_method(db: None, url: str, role: str) -> None:
    client = Client()
    client.force_login(person("rita", role))
    assert client.get(url).status_code == 403
    assert client.post(url).status_code == 403


def test_nothing_is_changed_here_by_a_post(operator: Client) -> None:
    assert operator.post(URL).status_code == 405
    assert operator.post(f"{GROUP}?error=aaaa").status_code == 405


def test_a_page_without_dead_letters_is_calm(operator: Client) -> None:
    task("succeeded")
    assert "No dead letters" in text_of(operator)


def test_each_kind_says_what_where_how_often_and_whose(operator: Client) -> None:
    dead(ago=90)
    dead(ago=60, endpoint="dig.v1")
    dead("bbbb", ago=7200, error={"title": "Another"})
    assert prints(operator) == ["aaaa", "bbbb"]
    row = operator.get(URL).context["rows"][0]
    assert (str(row.group.count), row.endpoints) == ("2", ["dig.v1", "help.v1"])
    page = text_of(operator)
    for words in ("The agent's program failed", "app.programs:fetch:3", "KeyError: 'lost'", "Another"):
        assert words in page
    assert f'href="{GROUP}?error=aaaa"' in page
    assert "verb=redrive&all=1&state=dead&error=%3Daaaa" in page
    assert "verb=discard&all=1&state=dead&error=%3Daaaa" in page


def test_the_largest_kind_comes_first_when_asked_for(operator: Client) -> None:
    dead("many", ago=900)
    dead("many", ago=800)
    dead("new", ago=10)
    assert prints(operator) == ["new", "many"]
    assert prints(operator, sort="count") == ["many", "new"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("keyerror", ["aaaa"]),
        ("DIG.v1", ["bbbb"]),
        ("digger second", ["bbbb"]),
        ("app.programs", ["bbbb", "aaaa"]),
        ("bbbb", ["bbbb"]),
        ("nothing of the kind", []),
        ("<script>\0", []),
    ],
)
def test_kinds_are_found_by_what_their_newest_says_and_whose_it_is(
    operator: Client, words: str, found: list[str]
) -> None:
    dead("aaaa", ago=60)
    dead("bbbb", ago=30, endpoint="dig.v1", error={"error": "TypeError", "detail": "the second"})
    assert prints(operator, q=words) == found
    if not found:
        assert "No kind of dead letter matches" in text_of(operator, q=words)


def test_more_kinds_than_are_shown_or_looked_at_are_told(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "SHOWN", 2)
    monkeypatch.setattr(dead_letters, "WALKED", 3)
    for number in range(2):
        dead(f"k{number}")
    assert "last seen of" not in text_of(operator)
    dead("k2")
    assert "The 2 last seen of 3 kinds." in text_of(operator)
    dead("k3")
    assert "There are more than" in text_of(operator)
    assert "The 2 largest of 3 kinds" in text_of(operator, sort="count")


def test_what_a_failure_says_is_never_markup_and_never_long(operator: Client) -> None:
    bad = "<script>alert(1)</script><b hx-get='/x'>"
    dead("<i>&\"'", error={"title": bad, "detail": bad + "x" * 100_000, "at": bad, "error": bad, "type": bad})
    for url in (URL, f"{GROUP}?error=%3Ci%3E%26%22%27"):
        page = operator.get(url).content
        assert b"alert(1)" in page
        assert b"<script>alert" not in page
        assert b"<b hx-get" not in page
        assert b"<i>" not in page
        assert b"x" * 5_000 not in page


def test_a_kind_without_any_problem_is_shown_and_leads_to_its_tasks(operator: Client) -> None:
    run = dead()
    Job.objects.filter(pk=run.pk).update(error={})
    assert prints(operator) == [""]
    page = text_of(operator)
    assert "No problem was recorded" in page
    assert f'href="{GROUP}?error="' in page
    response = operator.get(GROUP, {"error": ""})
    assert [each.pk for each in response.context["page"].items] == [run.pk]
    assert str(response.context["matching"]) == "1"


def test_the_drawing_of_the_last_hours_says_what_it_shows(operator: Client) -> None:
    for ago in (10, 20, 7_300):
        dead(ago=ago)
    drawing = ElementTree.fromstring(operator.get(URL).context["rows"][0].bars)
    assert drawing.findtext("title") == "The last 24 hours: 3, at most 2 in one, 2 in the last"
    assert len(drawing.findall("rect")) == 24


def test_a_drawing_that_the_count_does_not_fill_says_so(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "COUNT_UP_TO", 2)
    monkeypatch.setattr(page_of, "COUNT_UP_TO", 2)
    for ago in (10, 3_700, 7_300, 20_000):
        dead(ago=ago)
    row = operator.get(URL).context["rows"][0]
    assert "more than 2 in the last 3 hours, not counted before" in row.bars
    assert str(row.group.today) == "2+"


# --- One kind ---------------------------------------------------------------------------------------------------------


def test_a_group_lists_its_dead_letters_the_last_to_fail_first(operator: Client) -> None:
    early, late = dead(ago=500), dead(ago=20)
    dead("other")
    task("succeeded")
    response = operator.get(GROUP, {"error": "aaaa"})
    assert [run.pk for run in response.context["page"].items] == [late.pk, early.pk]
    page = html.unescape(response.content.decode())
    assert f"/console/tasks/{late.pk}/" in page
    assert "/problems/program-error" in page
    assert "The program's author finds the place under" in page
    assert 'name="ids"' in page


def test_the_rows_of_a_group_say_only_what_differs(operator: Client) -> None:
    dead(ago=90, error={"title": "The page could not be read", "detail": "http://a.test: no such host"})
    dead(ago=60, error={"title": "The page is gone", "detail": "HTTP 404"})
    dead(ago=30, error={"title": "The page could not be read", "detail": "http://b.test: no such host"})
    page = operator.get(GROUP, {"error": "aaaa"}).content.decode()
    rows = page[page.index("<tbody>") : page.index("</tbody>")]
    assert rows.count("The page could not be read") == 0
    assert "<span>http://a.test: no such host</span>" in rows
    assert "<span>The page is gone: HTTP 404</span>" in rows
    assert "alike" not in rows


def test_pages_of_a_group_follow_each_other_without_gap_or_repetition(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of, "PAGE", 2)
    at = timezone.now()
    made = [dead(ago=10 + number) for number in range(3)]
    made += [dead(ago=100), dead(ago=100)]  # at the very same moment
    Job.objects.filter(pk__in=[run.pk for run in made[3:]]).update(finished_at=at - timedelta(seconds=100))
    seen, cursor = [], ""
    for _ in range(4):
        page = operator.get(GROUP, {"error": "aaaa", "cursor": cursor}).context["page"]
        seen += [run.pk for run in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [*[run.pk for run in made[:3]], *sorted((run.pk for run in made[3:]), reverse=True)]


@pytest.mark.parametrize("cursor", ["%%%", "MjAyNg", "MjAyNi0wMS0wMVQwMDowMDowMCBub25l", "é"])
def test_a_cursor_that_is_none_leads_to_the_first_page(operator: Client, cursor: str) -> None:
    dead()
    response = operator.get(GROUP, {"error": "aaaa", "cursor": cursor})
    assert response.status_code == 302
    assert parse_qs(urlsplit(response["Location"]).query) == {"error": ["aaaa"]}


def test_the_pages_of_dead_letters_reach_those_of_a_clock_that_stood_at_its_beginning(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of, "PAGE", 1)
    made = [dead(), dead(), dead()]
    Job.objects.update(finished_at=datetime(1970, 1, 1, tzinfo=UTC))
    seen, cursor = [], ""
    for _ in made:
        page = operator.get(GROUP, {"error": "aaaa", "cursor": cursor}).context["page"]
        seen += [run.pk for run in page.items]
        cursor = page.next_cursor
    assert seen == sorted((run.pk for run in made), reverse=True)


@pytest.mark.parametrize("at", ["2026-01-01T00:00:00+23:59", "1971-01-01T00:00:00-23:59:59.999999"])
def test_a_cursor_with_an_odd_offset_breaks_nothing(operator: Client, at: str) -> None:
    run = dead()
    cursor = queries.encode(f"{at} {run.pk}")
    assert operator.get(GROUP, {"error": "aaaa", "cursor": cursor}).status_code == 200


def test_a_group_that_is_empty_by_now_says_so_and_shows_the_way(operator: Client) -> None:
    run = dead()
    Job.objects.filter(pk=run.pk).update(state="queued", error=None, finished_at=None)
    page = text_of(operator, GROUP, error="aaaa")
    assert "No dead letter of this kind is left" in page
    assert "/console/tasks/?error=%3Daaaa" in page


def test_without_a_fingerprint_in_the_address_the_list_is_shown(operator: Client) -> None:
    assert operator.get(GROUP)["Location"] == URL


@pytest.mark.parametrize("error", ["\0", "x" * 5_000, "' OR 1=1 --", "%s %(x)s"])
def test_an_address_that_makes_no_sense_breaks_nothing(operator: Client, error: str) -> None:
    assert "No dead letter of this kind is left" in text_of(operator, GROUP, error=error or "none")


def test_jobs_that_are_no_task_are_counted_and_listed_and_not_offered_for_many(operator: Client) -> None:
    job = other()
    page = text_of(operator)
    assert prints(operator) == ["aaaa"]
    assert "delivery (no task)" in page
    assert "verb=redrive" not in page
    response = operator.get(GROUP, {"error": "aaaa"})
    assert [each.pk for each in response.context["others"]] == [job.pk]
    assert "verb=redrive" not in response.content.decode()
    run = dead(ago=10)
    response = operator.get(GROUP, {"error": "aaaa"})
    assert str(response.context["group"].count) == "2"
    assert str(response.context["matching"]) == "1"
    assert [each.pk for each in response.context["page"].items] == [run.pk]
    assert [each.pk for each in response.context["others"]] == [job.pk]


def test_what_is_meant_by_a_group_stays_so_when_none_of_it_is_left(operator: Client, olga: User) -> None:
    """Its fingerprint, read as words, would find others."""
    mine = dead("worker-died:helper")
    dead("unlike", error={"title": "worker died", "detail": "helper"})
    frozen = ListFilter(state="dead", error="worker-died:helper").frozen()
    chosen = ListFilter(**frozen)
    assert [run.pk for run in chosen.apply(Run.objects.all())] == [mine.pk]
    Job.objects.filter(pk=mine.pk).update(state="queued", error=None, finished_at=None)
    assert list(chosen.apply(Run.objects.all())) == []


def test_the_details_of_the_newest_are_shown_but_not_without_end(operator: Client) -> None:
    dead(error={"detail": "d" * 100_000, "step": "parse#3"})
    page = text_of(operator, GROUP, error="aaaa")
    assert "(cut here)" in page
    assert "parse#3" in page
    assert "d" * 5_000 not in page


def test_a_problem_of_an_unknown_type_has_no_page_to_lead_to(operator: Client) -> None:
    dead(error={"type": "/problems/no-such-thing"})
    page = text_of(operator, GROUP, error="aaaa")
    assert "What to do" not in page
    assert "/problems/no-such-thing" in page


@pytest.mark.parametrize(("url", "region"), [(URL, "groups"), (f"{GROUP}?error=aaaa", "group")])
def test_htmx_gets_the_region_alone(operator: Client, url: str, region: str) -> None:
    dead()
    part = operator.get(url, headers={"HX-Request": "true", "HX-Target": region}).content.decode()
    assert f'id="{region}"' in part
    assert "<html" not in part


def test_the_pages_ask_as_many_queries_for_many_as_for_one(operator: Client) -> None:
    dead()
    urls = [URL, f"{URL}?sort=count&q=keyerror", f"{GROUP}?error=aaaa"]

    def asked(url: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert operator.get(url).status_code == 200
        return number_of(queries)

    for url in urls:
        asked(url)
    few = [asked(url) for url in urls]
    for number in range(30):
        dead(ago=number, user=person(f"person-{number}"), endpoint="dig.v1" if number % 2 else "help.v1")
        dead(f"k{number % 20}", error={**PROBLEM, "fingerprint": f"k{number % 20}"})
        other(ago=number)
    assert [asked(url) for url in urls] == few
    assert max(few) <= 12
