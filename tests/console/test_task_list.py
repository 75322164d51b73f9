from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agents import queries, task_list
from agents.task_list import ListFilter, tabs
from jobs.models import Job
from jobs.states import State
from tests.support.people import person
from tests.support.tasks import fleet, task

URL = "/console/tasks/"


def shown(client: Client, **query: str) -> list[Any]:
    """Return the inputs of the tasks on the page, in its order."""
    response = client.get(URL, query)
    assert response.status_code == 200
    return [run.input for run in response.context["page"].items]


def counts(client: Client, **query: str) -> dict[str, str]:
    """Return the tabs and their counts."""
    return {tab.label: str(tab.count) for tab in client.get(URL, query).context["tabs"]}


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


def test_a_tab_counts_up_to_a_bound_and_says_so(db: None, olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_list, "TAB_UP_TO", 2)
    for _ in range(3):
        task("succeeded")
    found = {tab.label: str(tab.count) for tab in tabs(queries.visible_to(olga), ListFilter())}
    assert found == {"All": "2+", "Succeeded": "2+"}


@pytest.mark.django_db(transaction=True)
def test_when_counting_takes_too_long_the_tabs_stand_without_counts_and_the_list_is_there(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task("dead", input="here")
    monkeypatch.setattr(task_list, "TAB_TIMEOUT_MS", 1)
    slow = "(SELECT 1 FROM pg_sleep(0.2)) IS NOT NULL"
    monkeypatch.setattr(
        ListFilter,
        "apply",
        lambda self, runs, with_state=True: runs if with_state else runs.extra(where=[slow]),
    )
    page = operator.get(URL)
    assert [run.input for run in page.context["page"].items] == ["here"]
    assert {tab.count for tab in page.context["tabs"]} == {None}
    assert len(page.context["tabs"]) == 1 + len(State)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"endpoint": "dig.v1"}, ["dug"]),
        ({"agent": "digger"}, ["dug"]),
        ({"agent": "helper", "state": "dead"}, ["failed"]),
        ({"q": "fail"}, ["failed"]),
        ({"lane": "batch"}, ["in bulk"]),
        ({"mode": "async-queue", "since": "1h", "state": "queued"}, ["in bulk", "dug"]),
        ({"mode": "batch-window"}, []),
        ({"since": "24h"}, ["in bulk", "dug", "failed"]),
        ({"ended": "1h"}, []),
        ({"ended": "24h"}, ["failed"]),
    ],
)
def test_the_address_filters_the_list(operator: Client, query: dict[str, str], found: list[str]) -> None:
    task("succeeded", input="ages ago", submitted=timedelta(days=3))
    task("dead", input="failed", submitted=timedelta(hours=5))
    task(endpoint="dig.v1", input="dug", submitted=timedelta(minutes=2))
    task(lane="batch", input="in bulk")
    assert shown(operator, **query) == found


def test_a_task_is_found_by_its_id_or_the_beginning_of_it(operator: Client) -> None:
    run = task(input="wanted", submitted=timedelta(days=1))
    task(input="other")
    assert shown(operator, q=str(run.pk)) == ["wanted"]
    assert shown(operator, q=str(run.pk)[:13]) == ["wanted"]


@pytest.mark.parametrize(
    "query", [{"state": "nowhere"}, {"mode": "x"}, {"since": "yesterday"}, {"cursor": "%%%"}, {"q": "\0 ' \" & | !"}]
)
def test_an_address_that_makes_no_sense_breaks_nothing(operator: Client, query: dict[str, str]) -> None:
    task()
    assert operator.get(URL, query, follow=True).status_code == 200


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


def test_the_list_asks_as_many_queries_for_many_tasks_as_for_few(operator: Client) -> None:
    def fill(times: int) -> None:
        for number in range(times):
            for state in ("queued", "dead", "succeeded"):
                task(state, user=person(f"person-{Job.objects.count()}-{number}"))
            task("running", worker=fleet())

    fill(1)
    operator.get(URL)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL)
    fill(5)
    with CaptureQueriesContext(connection) as many:
        operator.get(URL)
    assert len(many) == len(few) <= 12
