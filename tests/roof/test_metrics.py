"""``/metrics`` tells a scraper of the house, in both of its languages, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from accounts import roles, tokens
from agents import run_count
from agents.models import RunStatCursor
from agents.modes import Mode
from agents.run_stats import BOUNDS_S
from approvals.models import Approval
from astra_site.metrics import Figures
from audit.trail import SYSTEM
from jobs import lane_samples
from jobs.actions import Discard, Pause, Redrive
from jobs.models import Job
from jobs.pool import conninfo
from tests.support.approvals import approval, unknown_effect
from tests.support.configs import HELP_AND_TALK, loaded
from tests.support.connections import let_go
from tests.support.people import bearer, person
from tests.support.tasks import fleet, task

pytestmark = pytest.mark.django_db

URL = "/metrics"
PAGE = Path(settings.BASE_DIR) / "docs" / "reference" / "metrics.md"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

_loaded = loaded(HELP_AND_TALK)


@pytest.fixture
def olga(db: None) -> User:
    return person("olga", roles.OPERATOR)


@pytest.fixture
def scraper(olga: User) -> Client:
    return Client(headers=bearer(olga, "metrics:read"))


def scrape(client: Client) -> dict[str, Metric]:
    response = client.get(URL)
    assert response.status_code == 200
    return {family.name: family for family in read_text(response.content.decode())}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    [found] = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found


def ended(state: str = "succeeded", **more: Any) -> Any:
    """Write a run that waited for 2 s, ran for 4 s and ended five minutes ago."""
    end = timezone.now() - timedelta(minutes=5)
    started = end - timedelta(seconds=4)
    return task(
        state, submitted=timezone.now() - started + timedelta(seconds=2), started_at=started, finished_at=end, **more
    )


def count() -> None:
    run_count.sweep()
    while run_count.sweep():
        pass


# --- Who may ---------------------------------------------------------------------------------------------------------


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
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["type"] == "/problems/forbidden"


@pytest.mark.parametrize(
    ("role", "status"), [(roles.OPERATOR, 200), (roles.ADMIN, 200), (roles.USER, 403), (roles.REVIEWER, 403)]
)
def test_a_session_is_an_operators(role: str, status: int) -> None:
    client = Client()
    client.force_login(person("somebody", role))
    assert client.get(URL).status_code == status


@pytest.mark.parametrize("value", [None, "Bearer astra_nope", "Basic YTpi", "Bearer"])
def test_nobody_is_refused_as_a_problem_and_not_sent_to_sign_in(value: str | None) -> None:
    response = Client(headers={"Authorization": value} if value else {}).get(URL)
    assert response.status_code == 401
    assert response.json()["type"] == "/problems/unauthenticated"
    assert response["WWW-Authenticate"].startswith('Bearer realm="astra"')
    assert "no-store" in response["Cache-Control"]


def test_a_revoked_token_scrapes_no_more(olga: User) -> None:
    token, secret = tokens.create(olga, actor=SYSTEM, scopes=["metrics:read"])
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    assert client.get(URL).status_code == 200
    tokens.revoke(token, actor=SYSTEM)
    assert client.get(URL).status_code == 401


def test_there_is_nothing_to_post(scraper: Client) -> None:
    scraper.handler.enforce_csrf_checks = True
    response = scraper.post(URL)
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")
    assert scraper.head(URL).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_a_database_that_does_not_answer_is_a_503_and_then_it_goes_on(
    olga: User, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(headers=bearer(olga, "metrics:read"))
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    response = client.get(URL)
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert response.json()["type"] == "/problems/unavailable"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    let_go()
    assert client.get(URL).status_code == 200


# --- In which language -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=0,*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/*, application/openmetrics-text;q=0.9", "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;version=zero", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_the_scraper_says_which_format_it_likes(scraper: Client, accept: str | None, content_type: str) -> None:
    ended(endpoint="talk.v1", run={"first_token_ms": 300})
    count()
    response = scraper.get(URL, headers={"Accept": accept} if accept else {})
    assert response["Content-Type"].startswith(content_type)
    text = response.content.decode()
    is_open = content_type.startswith("application")
    assert text.endswith("# EOF\n") is is_open
    read: Callable[[str], Iterable[Metric]] = read_openmetrics if is_open else read_text
    families = list(read(text))
    assert len(families) > 10


def test_names_follow_the_conventions(scraper: Client) -> None:
    families = scrape(scraper)
    for name, family in families.items():
        assert re.fullmatch(r"astra_[a-z_]+", name)
        assert family.documentation.endswith(".")
        assert (family.type == "counter") is any(sample.name.endswith("_total") for sample in family.samples), name
        if family.type == "histogram":
            assert name.endswith("_seconds")


def test_every_metric_and_label_is_in_the_reference_and_no_other(scraper: Client) -> None:
    ended(endpoint="talk.v1", run={"first_token_ms": 300})
    count()
    samples = [sample for family in scrape(scraper).values() for sample in family.samples]
    told = {re.sub(r"_(bucket|sum|count)$", "", sample.name) for sample in samples}
    told |= {family.name for family in Figures().collect() if family.type == "histogram"}
    rows = dict(re.findall(r"^\| `(astra_\w+)` \|([^|]*)\|", PAGE.read_text(), flags=re.MULTILINE))
    assert set(rows) == told
    for sample in samples:
        row = rows[re.sub(r"_(bucket|sum|count)$", "", sample.name)]
        assert set(re.findall(r"`(\w+)`", row)) == set(sample.labels) - {"le"}, sample.name
    for bound in BOUNDS_S:
        assert f"{bound:g}" in PAGE.read_text()


def test_the_examples_of_the_reference_are_yaml_and_ask_for_metrics_that_there_are(scraper: Client) -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)]
    scrapes, alerts = blocks
    [job] = scrapes["scrape_configs"]
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == 5
    asked = {name for rule in rules for name in re.findall(r"astra_\w+", rule["expr"])}
    known = {sample.name for family in scrape(scraper).values() for sample in family.samples}
    assert asked <= known | {"astra_first_token_seconds_bucket"}
    assert f'up{{job="{job["job_name"]}"}}' in rules[0]["expr"]


# --- What it tells ---------------------------------------------------------------------------------------------------


def test_lanes_workers_and_what_is_stuck(scraper: Client) -> None:
    fleet({"queue": 4, "batch": 2})
    fleet(ended="lost")
    fleet(ended="died")
    fleet(ended="stopped")
    task("queued", submitted=timedelta(seconds=90))
    task("running")
    task("dead")
    task("blocked", blocked_on=["hold:lane:batch"], lane="batch", home_lane="batch")
    task("blocked", lane="batch", home_lane="batch")
    task("scheduled", run_at=timezone.now() - timedelta(minutes=2))
    Pause(SYSTEM).run("lane:batch")
    families = scrape(scraper)
    assert value(families, "astra_queue_depth", lane="queue") == 1
    assert value(families, "astra_queue_depth", lane="batch") == 0
    assert value(families, "astra_queue_held", lane="queue") == 0
    assert value(families, "astra_queue_held", lane="batch") == 1
    assert value(families, "astra_queue_oldest_seconds", lane="queue") == pytest.approx(90, abs=30)
    assert value(families, "astra_queue_oldest_seconds", lane="batch") == 0
    assert value(families, "astra_slots_busy", lane="queue") == 1
    assert value(families, "astra_slots", lane="queue") == 8  # `task` brings a worker for the running one
    assert value(families, "astra_slots", lane="batch") == 2
    assert value(families, "astra_workers") == 2
    assert value(families, "astra_leases_lost_total", end="lost") == 1
    assert value(families, "astra_leases_lost_total", end="died") == 1
    assert value(families, "astra_dead_letters") == 1
    assert value(families, "astra_jobs_overdue") == 1
    assert value(families, "astra_holds") == 1
    assert {sample.labels["lane"] for sample in families["astra_queue_depth"].samples} == set(settings.LANES)


def test_runs_tokens_and_cost_by_lane_mode_and_outcome(scraper: Client) -> None:
    spent = {"input_tokens": 100, "output_tokens": 20, "cost_usd": Decimal("0.5")}
    ended(run=spent)
    ended("dead", run=spent)
    ended(endpoint="talk.v1", lane="chat", home_lane="chat", run={"first_token_ms": 300})
    count()
    families = scrape(scraper)
    queue = {"lane": "queue", "mode": "async-queue"}
    assert value(families, "astra_runs_total", **queue, outcome="succeeded") == 1
    assert value(families, "astra_runs_total", **queue, outcome="dead") == 1
    assert value(families, "astra_tokens_total", mode="async-queue", kind="input") == 200
    assert value(families, "astra_tokens_total", mode="async-queue", kind="output") == 40
    assert value(families, "astra_cost_usd_total", mode="async-queue") == 1
    assert value(families, "astra_run_wait_seconds_count", **queue, outcome="dead") == 1
    assert value(families, "astra_run_wait_seconds_sum", **queue, outcome="dead") == pytest.approx(2, abs=0.01)
    assert value(families, "astra_run_duration_seconds_sum", **queue, outcome="dead") == pytest.approx(4, abs=0.01)
    assert value(families, "astra_first_token_seconds_bucket", mode="streaming-sync", le="0.25") == 0
    assert value(families, "astra_first_token_seconds_bucket", mode="streaming-sync", le="0.5") == 1


def test_buckets_are_cumulative_and_end_with_the_count(scraper: Client) -> None:
    ended()
    ended()
    count()
    families = scrape(scraper)
    histograms = [family for family in families.values() if family.type == "histogram"]
    assert len(histograms) == 3
    measured = 0
    for family in histograms:
        buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
        if not buckets:
            continue
        measured += 1
        assert [float(sample.labels["le"]) for sample in buckets] == [*BOUNDS_S, float("inf")]
        values = [sample.value for sample in buckets]
        assert values == sorted(values)
        assert values[-1] == 2
    assert measured == 2


def test_an_outcome_is_counted_from_nought_so_that_its_first_is_an_increase(scraper: Client) -> None:
    families = scrape(scraper)
    for mode in Mode:
        outcomes = [
            (sample.labels["outcome"], sample.value)
            for sample in families["astra_runs"].samples
            if sample.labels["mode"] == mode.value
        ]
        assert sorted(outcomes) == [("cancelled", 0), ("dead", 0), ("succeeded", 0)]


def test_counters_never_fall(scraper: Client) -> None:
    def counters() -> dict[tuple[str, str], float]:
        return {
            (sample.name, str(sorted(sample.labels.items()))): sample.value
            for family in scrape(scraper).values()
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }

    def later(before: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
        now = counters()
        assert all(now[name] >= number for name, number in before.items())
        return now

    fleet(ended="lost")
    again, given_up, gone = ended("dead"), ended("dead"), ended()
    count()
    before = counters()
    Redrive(SYSTEM).run(again.job_id)
    before = later(before)
    Discard(SYSTEM, "not needed").run(given_up.job_id)
    before = later(before)
    Job.objects.filter(pk=gone.job_id).delete()
    RunStatCursor.objects.update(counted_until=timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=3))
    count()
    assert later(before) == before


def test_when_the_schedulers_last_did_their_work_is_told(scraper: Client) -> None:
    families = scrape(scraper)
    assert value(families, "astra_lanes_sampled_timestamp_seconds") == 0
    assert value(families, "astra_runs_counted_until_timestamp_seconds") == 0
    lane_samples.sweep()
    count()
    families = scrape(scraper)
    now = timezone.now().timestamp()
    assert value(families, "astra_lanes_sampled_timestamp_seconds") == pytest.approx(now, abs=90)
    assert value(families, "astra_runs_counted_until_timestamp_seconds") == pytest.approx(now, abs=150)


def test_what_waits_for_people_is_told_by_kind(scraper: Client) -> None:
    for name in ("pending", "oldest_seconds"):
        families = scrape(scraper)
        assert {value(families, f"astra_approvals_{name}", kind=kind) for kind in ("plan", "effect")} == {0}
    old, late = approval(), approval(due=timedelta(minutes=-1))
    approval(due=timedelta(seconds=-1))
    unknown_effect()
    approval(state="rejected")
    Approval.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(hours=1))
    families = scrape(scraper)
    assert value(families, "astra_approvals_pending", kind="plan") == 3
    assert value(families, "astra_approvals_pending", kind="effect") == 1
    assert value(families, "astra_approvals_oldest_seconds", kind="plan") == pytest.approx(3600, abs=60)
    assert value(families, "astra_approvals_oldest_seconds", kind="effect") == pytest.approx(0, abs=60)
    assert value(families, "astra_approvals_overdue") == 1
    Approval.objects.filter(pk=late.pk).delete()
    assert value(scrape(scraper), "astra_approvals_overdue") == 0


def test_a_scrape_takes_as_many_statements_whatever_there_is(scraper: Client) -> None:
    scraper.get(URL)  # which notes the token's use

    def statements() -> int:
        with CaptureQueriesContext(connection) as asked:
            scrape(scraper)
        return len(asked)

    few = statements()
    for _ in range(10):
        task("queued")
        ended()
        ended("dead")
        fleet({"batch": 1})
        approval()
    count()
    assert statements() == few
    assert few <= 6
