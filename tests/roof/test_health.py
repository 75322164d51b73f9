"""``/healthz`` says that the process is up, ``/readyz`` that the site can do its work."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings

from astra_site import schema
from astra_site.health import LANES
from jobs import lease, script
from jobs.pool import conninfo
from tests.support.connections import let_go


def ready(client: Client) -> tuple[int, dict[str, Any]]:
    response = client.get("/readyz")
    return response.status_code, json.loads(response.content)


def test_healthz_needs_no_database_and_no_login(client: Client) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.django_db
def test_a_site_with_a_live_worker_per_lane_is_ready(client: Client) -> None:
    script.run(lease.register(dict.fromkeys(LANES, 1), [], "1"))
    checks = {"database": "ok", "redis": "ok", "migrations": "ok", "lanes": "ok"}
    assert ready(client) == (200, {"status": "ok", "checks": checks, "idle_lanes": []})


@pytest.mark.django_db
def test_lanes_without_a_live_worker_are_named(client: Client) -> None:
    script.run(lease.register({"queue": 1, "batch": 1}, [], "1"))
    gone = script.run(lease.register({"tools": 1}, [], "1"))
    script.run(lease.end(gone, "stopped"))
    status, body = ready(client)
    idle = ["chat", "scheduled", "tools", "delivery", "evals", "suspect"]
    assert (status, body["status"], body["idle_lanes"]) == (503, "unavailable", idle)
    assert body["checks"]["lanes"] == f"No worker serves {', '.join(idle)}."


@pytest.mark.django_db
def test_a_worker_whose_lease_is_over_serves_no_lane(client: Client) -> None:
    script.run(lease.register(dict.fromkeys(LANES, 1), [], "1"))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jobs_worker SET lease_until = now() - interval '1 second'")
    assert ready(client)[1]["idle_lanes"] == list(LANES)


@pytest.mark.django_db
def test_a_redis_that_does_not_answer_is_said(client: Client, settings: Settings) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    status, body = ready(client)
    assert (status, body["checks"]["redis"]) == (503, "Redis does not answer.")
    assert body["checks"]["database"] == "ok"


@pytest.mark.django_db
def test_missing_migrations_are_counted(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'jobs' AND name = '0001_initial'")
    status, body = ready(client)
    assert (status, body["checks"]["migrations"]) == (503, "The database lacks 1 migrations; run manage.py migrate.")


@pytest.mark.django_db(transaction=True)
def test_a_database_that_goes_away_between_two_checks_is_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    really = schema.missing

    def and_away() -> list[str]:
        with psycopg.connect(conninfo(), autocommit=True) as own:
            own.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return really()

    with monkeypatch.context() as patched:
        patched.setattr(schema, "missing", and_away)
        status, body = ready(client)
    let_go()
    gone = "The database does not answer."
    assert (status, body["idle_lanes"]) == (503, list(LANES))
    assert body["checks"] == {"database": gone, "redis": "ok", "migrations": gone, "lanes": gone}
