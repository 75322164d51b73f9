"""A database that is away, overrun, or a request that cannot be read: each is said in the shape its asker reads."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psycopg
import pytest
from django.db import InterfaceError, OperationalError
from django.test import Client
from psycopg_pool import PoolTimeout

LOGGED = "astra_site.outage"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Client]:
    """Return a client of a site on which each page that asks who it is for fails with this error."""

    def breaking(error: Exception) -> Client:
        def fail(request: object) -> None:
            raise error

        monkeypatch.setattr("django.contrib.auth.middleware.get_user", fail)
        client = Client(raise_request_exception=False)
        client.cookies["sessionid"] = "s"
        return client

    return breaking


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("couldn't get a connection after 10.00 sec"),
        InterfaceError("the connection is closed"),
        PoolTimeout("couldn't get a connection after 10.00 sec"),
        psycopg.OperationalError("the server closed the connection"),
    ],
)
def test_a_page_says_that_it_is_not_available_and_when_to_come_back(
    broken: Callable[[Exception], Client], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = broken(error).get("/console/tasks/")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "Astra can't answer right now" in answer.content.decode()
    # One line for each request, for there are many when it happens.
    assert [(record.name, record.levelname, record.exc_info) for record in caplog.records] == [
        (LOGGED, "WARNING", None)
    ]


def test_an_error_that_wraps_an_outage_is_one(broken: Callable[[Exception], Client]) -> None:
    error = RuntimeError("the list cannot be shown")
    error.__cause__ = OperationalError("gone")
    assert broken(error).get("/console/tasks/").status_code == 503


def test_any_other_error_is_one_of_ours(broken: Callable[[Exception], Client]) -> None:
    answer = broken(ZeroDivisionError()).get("/console/tasks/")
    assert answer.status_code == 500
    assert "Something broke on our side" in answer.content.decode()


@pytest.mark.parametrize(
    ("error", "slug", "status"), [(OperationalError("gone"), "unavailable", 503), (KeyError(), "server-error", 500)]
)
def test_outside_its_views_too_the_api_answers_with_problems(
    monkeypatch: pytest.MonkeyPatch, error: Exception, slug: str, status: int
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("django.middleware.csrf.CsrfViewMiddleware.process_view", fail)
    answer = Client(raise_request_exception=False).get("/api/v1/tasks")
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")
    assert answer.json()["type"] == f"/problems/{slug}"
    assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)


def test_a_strange_host_is_a_problem_to_programs_and_a_page_to_people() -> None:
    asked = Client(headers={"Host": "evil.example"})
    answer = asked.get("/api/v1/tasks")
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert answer.json()["type"] == "/problems/bad-request"
    page = asked.get("/console/tasks/")
    assert (page.status_code, page["Content-Type"]) == (400, "text/html; charset=utf-8")
    assert "That request made no sense" in page.content.decode()
