"""``GET /api/v1/metrics/modes``: what each mode's runs came to, for operators."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts import roles, tokens
from agents import mode_figures
from agents.models import Score
from agents.modes import POLICIES, Mode
from tests.support.configs import HELP_AND_TALK, loaded
from tests.support.people import bearer, person
from tests.support.tasks import task

pytestmark = pytest.mark.django_db

URL = "/api/v1/metrics/modes"

_loaded = loaded(HELP_AND_TALK)


@pytest.fixture
def olga(db: None) -> User:
    return person("olga", roles.OPERATOR)


@pytest.fixture
def operator(olga: User) -> Client:
    return Client(headers=bearer(olga, "metrics:read"))


def modes(client: Client) -> dict[str, Any]:
    response = client.get(URL)
    assert response.status_code == 200
    body = response.json()
    assert body["window_hours"] == 24
    return {item["mode"]: item for item in body["items"]}


def test_a_mode_without_runs_knows_nothing_but_its_budget_and_its_baseline(operator: Client) -> None:
    found = modes(operator)
    assert list(found) == [mode.value for mode in Mode]
    assert found["streaming-sync"] == {
        "mode": "streaming-sync",
        "runs": 0,
        "more": False,
        "failures": 0,
        "latency": {"p50_seconds": None, "p95_seconds": None, "budget_seconds": 6.0},
        "first_token": {"p50_seconds": None, "p95_seconds": None, "budget_seconds": 1.4},
        "cost_usd": 0.0,
        "score": None,
        "judged": 0,
        "baseline": POLICIES[Mode.STREAMING].baseline,
        "drift": None,
    }
    assert found["batch-window"]["latency"]["budget_seconds"] is None


def test_runs_failures_percentiles_cost_score_and_drift(operator: Client) -> None:
    for first_token_ms in (200, 400):
        task("succeeded", endpoint="talk.v1", run={"first_token_ms": first_token_ms, "cost_usd": Decimal("0.25")})
    failed = task("dead", endpoint="talk.v1")
    Score.objects.create(run=failed, rubric="quality", value=0.5, judge="demo", mode="streaming-sync")
    task("succeeded", endpoint="talk.v1", submitted=timedelta(hours=25), run={"cost_usd": Decimal(9)})
    found = modes(operator)["streaming-sync"]
    assert (found["runs"], found["failures"], found["judged"], found["cost_usd"]) == (3, 1, 1, 0.5)
    assert found["latency"]["p95_seconds"] == pytest.approx(4)
    assert found["first_token"]["p50_seconds"] == pytest.approx(0.3)
    assert found["first_token"]["p95_seconds"] == pytest.approx(0.39)
    assert found["score"] == 0.5
    baseline = POLICIES[Mode.STREAMING].baseline
    assert baseline is not None
    assert found["drift"] == pytest.approx(0.5 - baseline)


def test_a_cost_that_is_not_wholly_known_is_null(operator: Client) -> None:
    task("succeeded", run={"cost_usd": Decimal("0.25")})
    task("succeeded", run={"cost_known": False})
    assert modes(operator)["async-queue"]["cost_usd"] is None


def test_more_runs_than_are_looked_at_are_told(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode_figures, "RUNS_UP_TO", 2)
    for _ in range(3):
        task("succeeded")
    found = modes(operator)["async-queue"]
    assert (found["runs"], found["more"]) == (2, True)


@pytest.mark.parametrize(
    ("role", "scopes", "status"),
    [
        (roles.OPERATOR, ["metrics:read"], 200),
        (roles.ADMIN, ["metrics:read"], 200),
        (roles.OPERATOR, [scope for scope in tokens.SCOPES if scope != "metrics:read"], 403),
        (roles.USER, list(tokens.SCOPES), 403),
        (roles.REVIEWER, list(tokens.SCOPES), 403),
    ],
)
def test_a_token_needs_the_scope_and_an_operator(role: str, scopes: list[str], status: int) -> None:
    response = Client(headers=bearer(person("somebody", role), *scopes)).get(URL)
    assert response.status_code == status
    if status == 403:
        assert response.json()["type"] == "/problems/forbidden"


@pytest.mark.parametrize(
    ("role", "status"), [(roles.OPERATOR, 200), (roles.ADMIN, 200), (roles.USER, 403), (roles.REVIEWER, 403)]
)
def test_a_session_is_an_operators(role: str, status: int) -> None:
    client = Client()
    client.force_login(person("somebody", role))
    assert client.get(URL).status_code == status


def test_nobody_is_refused() -> None:
    assert Client().get(URL).status_code == 401


def test_it_takes_as_many_statements_whatever_there_is(operator: Client) -> None:
    operator.get(URL)  # which notes the token's use

    def statements() -> int:
        with CaptureQueriesContext(connection) as asked:
            modes(operator)
        return len(asked)

    few = statements()
    for _ in range(10):
        task("succeeded")
        task("dead", endpoint="talk.v1")
    assert statements() == few
