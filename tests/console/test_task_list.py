from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agents import queries, search, task_counts, task_results
from jobs.models import Job
from jobs.states import State
from tests.support.people import person
from tests.support.statements import number_of
from tests.support.tasks import PROBLEM, fleet, task

URL = "/console/tasks/"


def shown(client: Client, **query: str) -> list[Any]:
    """Return the inputs of the tasks on the page, in its order."""
    response = client.get(URL, query)
    assert response.status_code == 200
    return [run.input for run in response.context["page"].items]


def counts(client: Client, **query: str) -> dict[str, str]:
    """Return the tabs and their counts."""
    return {tab.label: str(tab.count) for tab in client.get(URL, query).context["results"].tabs}


def test_the_newest_comes_first(operator: Client) -> None:
    for age in (30, 10, 20):
        task(input=f"{age} s ago", submitted=timedelta(seconds=age))
    assert shown(operator) == ["10 s ago", "20 s ago", "30 s ago"]


def test_a_user_sees_their_own_tasks_alone_and_cannot_ask_for_others(user: Client, ulla: User, olga: User) -> None:
    task(user=ulla, input="mine")
    task(user=olga, input="hers")
    assert shown(user) == ["mine"]
    assert shown(user, user="olga") == ["mine"]
    assert counts(user) == {"All": "1", "Queued": "1"}
    assert b'<th scope="col">User</th>' not in user.get(URL).content


def test_an_operator_sees_all_and_may_ask_for_one_persons(operator: Client, ulla: User, olga: User) -> None:
    task(user=ulla, input="hers")
    task(user=olga, input="mine")
    assert sorted(shown(operator)) == ["hers", "mine"]
    assert shown(operator, user="ulla") == ["hers"]


@pytest.mark.parametrize("state", State.values)
def test_each_state_has_a_tab_that_shows_its_tasks(operator: Client, state: str) -> None:
    for each in State.values:
        task(each, input=each)
    assert shown(operator, state=state) == [state]


def test_the_counts_of_the_tabs_follow_the_filter(operator: Client) -> None:
    task("dead", endpoint="dig.v1")
    task("dead")
    task("queued")
    assert counts(operator) == {"All": "3", "Queued": "1", "Dead letter": "2"}
    assert counts(operator, endpoint="dig.v1") == {"All": "1", "Dead letter": "1"}
    assert counts(operator, endpoint="dig.v1", state="queued") == {"All": "1", "Queued": "0", "Dead letter": "1"}


def test_a_tab_of_the_whole_table_counts_up_to_a_bound_and_says_so(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_counts, "EACH_UP_TO", 2)
    monkeypatch.setattr(task_counts, "COUNT_UP_TO", 4)
    for _ in range(3):
        task("succeeded")
    task("dead")
    assert counts(operator) == {"All": "4", "Succeeded": "2+", "Dead letter": "1"}
    assert counts(operator, state="succeeded") == {"All": "4", "Succeeded": "3", "Dead letter": "1"}
    task("dead")
    assert counts(operator) == {"All": "4+", "Succeeded": "2+", "Dead letter": "2"}


def test_past_the_bound_a_filter_counts_what_its_newest_hold_and_the_chosen_state(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_counts, "COUNT_UP_TO", 4)
    monkeypatch.setattr(task_counts, "OF_NEWEST", 2)
    for age, state in enumerate(["queued", "succeeded", "succeeded", "dead", "dead"]):
        task(state, endpoint="dig.v1", submitted=timedelta(minutes=age))
    unseen = dict.fromkeys(("Scheduled", "Blocked", "Running", "Waiting", "Discarded", "Cancelled"), "None")
    found = counts(operator, endpoint="dig.v1")
    assert found == {"All": "4+", "Queued": "1+", "Succeeded": "2+", "Dead letter": "None"} | unseen
    assert counts(operator, endpoint="dig.v1", state="dead")["Dead letter"] == "2"
    page = operator.get(URL, {"endpoint": "dig.v1", "state": "dead"}).content.decode()
    assert '<span class="count">None' not in page


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("query", [{}, {"endpoint": "help.v1"}])
def test_when_counting_takes_too_long_the_tabs_stand_without_counts_and_the_list_is_there(
    operator: Client, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    task("dead", input="here")
    monkeypatch.setattr(task_counts, "COUNT_S", 0.001)

    def slow(sql: str, params: list[Any]) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.2)")
        raise AssertionError(f"it was not given up: {sql}")

    monkeypatch.setattr(task_counts, "_rows", slow)
    page = operator.get(URL, query)
    assert [run.input for run in page.context["page"].items] == ["here"]
    assert {tab.count for tab in page.context["results"].tabs} == {None}
    assert len(page.context["results"].tabs) == 1 + len(State)
    assert page.context["results"].matching is None


@pytest.mark.django_db(transaction=True)
def test_when_finding_takes_too_long_the_page_says_so_and_what_to_do(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task("dead", input="here")
    monkeypatch.setattr(task_results, "LIST_S", 0.001)
    read = queries.page

    def slow(*args: Any, **options: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.2)")
        return read(*args, **options)

    monkeypatch.setattr(queries, "page", slow)
    page = operator.get(URL, {"error": "unavailable"})
    assert page.status_code == 200
    assert b"This takes too long" in page.content
    assert b"here" not in page.content


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"endpoint": "dig.v1"}, ["dug"]),
        ({"agent": "digger"}, ["dug"]),
        ({"agent": "helper", "state": "dead"}, ["failed"]),
        ({"q": "fail"}, ["failed"]),
        ({"q": "bulk", "lane": "batch", "state": "queued"}, ["in bulk"]),
        ({"q": "bulk", "lane": "queue"}, []),
        ({"error": "model:down"}, ["failed"]),
        ({"error": "=model:down"}, ["failed"]),
        ({"error": "=model"}, []),
        ({"error": "provider 503"}, ["failed"]),
        ({"error": "PROVID", "state": "dead"}, ["failed"]),
        ({"error": "provider", "endpoint": "dig.v1"}, []),
        ({"error": "nothing like it"}, []),
        ({"error": "???"}, []),
        ({"user": "ulla"}, ["dug"]),
        ({"user": "ulla", "endpoint": "dig.v1", "q": "dug", "since": "1h"}, ["dug"]),
        ({"user": "nobody"}, []),
        ({"since": "7d", "until": "2020-01-01T00:00"}, []),
        ({"since": "30d"}, ["in bulk", "dug", "failed", "ages ago"]),
        ({"ended_until": "2020-01-01"}, []),
        ({"lane": "batch"}, ["in bulk"]),
        ({"mode": "async-queue", "since": "1h", "state": "queued"}, ["in bulk", "dug"]),
        ({"mode": "batch-window"}, []),
        ({"since": "24h"}, ["in bulk", "dug", "failed"]),
        ({"ended": "1h"}, []),
        ({"ended": "24h"}, ["failed"]),
    ],
)
def test_the_address_filters_the_list(operator: Client, ulla: User, query: dict[str, str], found: list[str]) -> None:
    task("succeeded", input="ages ago", submitted=timedelta(days=3))
    task("dead", input="failed", submitted=timedelta(hours=5), error=PROBLEM | {"fingerprint": "model:down"})
    task(endpoint="dig.v1", input="dug", user=ulla, submitted=timedelta(minutes=2))
    task(lane="batch", input="in bulk")
    assert shown(operator, **query) == found


def test_a_task_is_found_by_its_id_or_the_beginning_of_it(operator: Client) -> None:
    run = task(input="wanted", submitted=timedelta(days=1))
    task(input="other")
    assert shown(operator, q=str(run.pk)) == ["wanted"]
    assert shown(operator, q=str(run.pk)[:13]) == ["wanted"]


@pytest.mark.parametrize(
    "query",
    [
        {"state": "nowhere"},
        {"mode": "x"},
        {"since": "yesterday"},
        {"since": "custom", "from": "2026-99-99T10:00", "to": "\0"},
        {"since": "0001-01-01T00:00+14:00"},
        {"until": "9999-12-31T23:59:59-14:00"},
        {"cursor": "%%%"},
        {"cursor": "MDE5"},
        {"q": "\0 ' \" & | !"},
        {"q": "\\"},
        {"q": "%_"},
        {"q": "a " * 5_000},
        {"q": "x" * 10_000},
        {"error": "\0"},
        {"error": "' \" & | ! \\ :*"},
        {"error": "y" * 10_000},
        {"user": "\0"},
        {"endpoint": "z" * 10_000},
        {"lane": "'"},
    ],
)
def test_an_address_that_makes_no_sense_breaks_nothing(operator: Client, query: dict[str, str]) -> None:
    task()
    assert operator.get(URL, query, follow=True).status_code == 200


@pytest.mark.parametrize(
    "name", ["q", "error", "user", "endpoint", "agent", "lane", "since", "from", "cursor", "state"]
)
@pytest.mark.parametrize("value", ["%ED%A0%80", "%00", "%FF%FE", "%F0%9F"])
def test_bytes_that_are_no_text_break_nothing(operator: Client, name: str, value: str) -> None:
    task()
    assert operator.get(f"{URL}?{name}={value}", follow=True).status_code == 200


def test_pages_follow_each_other_without_gap_or_repetition(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.views.PAGE", 2)
    for age in range(5):
        task(input=age, submitted=timedelta(seconds=10 + age))
    seen, cursor = [], ""
    for _ in range(4):
        page = operator.get(URL, {"cursor": cursor}).context["page"]
        seen += [run.input for run in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [0, 1, 2, 3, 4]


def test_a_dead_letter_shows_its_problem_in_the_row(operator: Client) -> None:
    task("dead")
    assert (
        "The model is not available now: The provider answered 503 three times." in operator.get(URL).content.decode()
    )


def test_an_empty_list_says_how_to_begin_and_an_empty_search_how_to_go_back(operator: Client) -> None:
    assert b"No task yet" in operator.get(URL).content
    task()
    page = operator.get(URL, {"q": "nothing of the kind"}).content
    assert b"No task matches" in page
    assert b"Show all tasks" in page


def test_filters_that_have_no_field_are_shown_with_a_way_out(operator: Client) -> None:
    page = operator.get(URL, {"lane": "queue", "ended": "24h"}).content.decode()
    assert "Lane queue" in page
    assert "Ended in the last 24 hours" in page
    assert 'href="?ended=24h"' in page


def test_what_a_user_wrote_is_never_markup(operator: Client) -> None:
    task(input="<script>alert(1)</script><b hx-get='/x'>")
    page = operator.get(URL).content
    assert b"<script>alert" not in page
    assert b"<b hx-get" not in page


def test_htmx_gets_the_list_alone(operator: Client) -> None:
    part = operator.get(URL, headers={"HX-Request": "true", "HX-Target": "tasks"}).content
    assert part.lstrip().startswith(b'<div id="tasks"')
    assert b"<html" not in part


@pytest.mark.parametrize("query", [{}, {"state": "dead", "q": "river", "error": "provider", "since": "24h"}])
def test_the_list_asks_as_many_queries_for_many_tasks_as_for_few(
    operator: Client, query: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "COMMON_FROM", 1_000)  # words that are common need not be looked up

    def fill(times: int) -> None:
        for number in range(times):
            for state in ("queued", "dead", "succeeded"):
                task(state, user=person(f"person-{Job.objects.count()}-{number}"))
            task("running", worker=fleet())

    fill(1)
    operator.get(URL, query)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL, query)
    fill(7)
    with CaptureQueriesContext(connection) as many:
        operator.get(URL, query)
    assert number_of(many) == number_of(few) <= 30


@pytest.mark.parametrize("name", ["since", "until", "ended", "ended_until"])
@pytest.mark.parametrize(
    "at", ["2020-01-01T00:00:00+23:59:59.999999", "1971-01-01T00:00:00+23:59", "9000-12-31T23:59:59-23:59"]
)
def test_a_time_with_an_offset_that_the_database_does_not_take_is_found_all_the_same(
    operator: Client, name: str, at: str
) -> None:
    task("dead", input="now")
    found = ["now"] if (name in ("since", "ended")) == (at < "2021") else []
    assert shown(operator, **{name: at}) == found
    asked = operator.get("/console/operations/new/", {"verb": "redrive", "all": "1", name: at})
    assert asked.status_code == 200


@pytest.mark.parametrize("url", ["/console/", URL, "/console/operations/new/?verb=redrive&all=1"])
def test_what_a_task_failed_with_is_cut_wherever_it_is_listed(operator: Client, url: str) -> None:
    task("dead", error={"title": "T" * 1_000, "detail": "D" * 1_000})
    page = operator.get(url).content.decode()
    assert "T" * 200 in page
    assert "T" * 301 not in page
    assert "D" * 301 not in page


@pytest.mark.parametrize("error", ["lost", ["lost"], 7, {"title": None}])
def test_dead_letters_with_a_problem_of_any_shape_are_listed(operator: Client, error: Any) -> None:
    task("dead", error=error)
    for url in ("/console/", URL, "/console/operations/new/?verb=redrive&all=1"):
        assert operator.get(url).status_code == 200
