from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents.mode_figures import mode_figures
from agents.models import Score
from agents.modes import Mode
from astra_site.console.overview import gather
from astra_site.console.verdict import judge
from jobs.models import Job, Wait
from jobs.queries import bounded_count
from tests.support.tasks import fleet, task

URL = "/console/"


def verdict() -> list[str]:
    """Return the words of the overview's findings, the worst first."""
    return [finding.words for finding in judge(gather()).findings]


def test_all_is_well_in_the_first_line_when_a_worker_runs_and_nothing_is_stuck(operator: Client) -> None:
    fleet()
    task("succeeded")
    page = operator.get(URL)
    assert page.status_code == 200
    first = page.content.index(b'class="verdict')
    assert b"All is well." in page.content[first : first + 500]
    assert first < page.content.index(b'class="tiles"')


def test_no_worker_at_all_is_said_first(db: None) -> None:
    task("queued")
    task("queued")
    assert verdict()[0] == "No worker is running, so no task can start. 2 tasks in the queue."


def test_a_lane_with_queued_tasks_and_nobody_to_serve_it_is_named(db: None) -> None:
    fleet({"batch": 2})
    task("queued")
    assert verdict() == ["No worker serves lane queue, and 1 task waits in it."]


def test_a_lane_whose_oldest_task_has_waited_too_long_is_behind(db: None) -> None:
    fleet()
    task("queued", submitted=timedelta(minutes=7))
    assert verdict() == ["Lane queue is behind: its oldest task has been queued for 7 min."]


def test_a_lane_that_is_there_to_wait_is_never_behind(db: None) -> None:
    fleet({"batch": 1})
    task("queued", submitted=timedelta(hours=3), lane="batch", home_lane="batch")
    assert verdict() == []


def test_dead_letters_of_the_last_day_are_counted_and_older_ones_are_not(db: None) -> None:
    fleet()
    task("dead")
    task("dead", submitted=timedelta(hours=30))
    assert verdict() == ["One task became a dead letter in the last 24 hours."]
    seen = gather()
    assert (str(seen.stuck.dead_today), str(seen.stuck.dead)) == ("1", "2")


def test_blocked_tasks_are_told_by_their_reason_but_not_those_that_keep_an_order(db: None) -> None:
    fleet()
    task("blocked")
    task("blocked", blocked_on=["hold:agent:helper"])
    task("blocked", blocked_on=["hold:agent:helper", "no-worker:agent:helper@1"])
    assert verdict() == [
        "2 tasks can’t go on: agent:helper is on hold.",
        "1 task can’t go on: no running worker has loaded helper@1.",
    ]


def test_a_scheduled_task_long_past_its_time_betrays_a_missing_scheduler(db: None) -> None:
    fleet()
    task("scheduled", run_at=timezone.now() - timedelta(minutes=1))
    task("scheduled")
    assert verdict() == ["1 task should have started by now: no scheduler seems to be running."]


def test_the_worst_finding_comes_first(db: None) -> None:
    fleet()
    task("blocked", blocked_on=["hold:all"])
    task("dead")
    assert [finding.level for finding in judge(gather()).findings] == ["bad", "warn"]


def test_every_finding_leads_to_a_page_that_shows_it(operator: Client) -> None:
    fleet({"batch": 1})
    task("queued", submitted=timedelta(minutes=9))
    task("dead")
    task("blocked", blocked_on=["hold:all"])
    task("scheduled", run_at=timezone.now() - timedelta(minutes=1))
    findings = judge(gather()).findings
    assert len(findings) == 4
    for finding in findings:
        shown = operator.get(finding.link)
        assert len(shown.context["page"].items) == 1, finding


def test_a_lane_shows_its_depth_its_oldest_age_and_its_busy_slots(db: None) -> None:
    worker = fleet({"queue": 4, "batch": 2})
    task("running", worker=worker)
    task("queued", submitted=timedelta(seconds=50))
    task("queued", submitted=timedelta(seconds=20))
    lane = next(lane for lane in gather().lanes if lane.name == "queue")
    assert (str(lane.queued), lane.running, lane.slots, lane.workers, lane.free) == ("2", 1, 4, 1, 3)
    assert lane.oldest_s is not None and 49 < lane.oldest_s < 60


def test_slots_of_a_worker_whose_lease_is_over_do_not_count(db: None) -> None:
    fleet(lease_until=timezone.now() - timedelta(seconds=1))
    fleet(ended="lost")
    assert gather().slots == 0


def test_a_count_stops_and_says_so(db: None) -> None:
    for _ in range(3):
        task("queued")
    assert str(bounded_count(Job.objects.all(), up_to=3)) == "3"
    assert str(bounded_count(Job.objects.all(), up_to=2)) == "2+"


def test_pending_approvals_are_the_open_waits_for_people(operator: Client) -> None:
    fleet()
    run = task("waiting")
    Wait.objects.create(job=run.job, kind="person", key="approve")
    Wait.objects.create(job=run.job, kind="tool", key="crawl")
    Wait.objects.create(job=task("waiting").job, kind="person", key="done", resolved_at=timezone.now())
    Wait.objects.create(job=task("cancelled").job, kind="person", key="never-asked-again")
    assert str(gather().waiting) == "1"
    assert f"/console/tasks/{run.pk}/".encode() in operator.get(URL).content


def test_a_mode_shows_its_runs_failures_percentiles_cost_and_score(db: None) -> None:
    for seconds in (1, 2, 3, 4, 10):
        run = task(
            "succeeded",
            submitted=timedelta(minutes=5),
            finished_at=timezone.now() - timedelta(minutes=5) + timedelta(seconds=seconds),
            run={"cost_usd": Decimal("0.5")},
        )
    Score.objects.create(run=run, rubric="quality", value=0.7, judge="demo", mode=run.mode)
    task("dead", run={"cost_known": False})
    task("succeeded", submitted=timedelta(hours=25))
    queue = next(figures for figures in mode_figures() if figures.policy.mode == Mode.QUEUE)
    assert (queue.runs, queue.failures, queue.judged) == (6, 1, 1)
    assert queue.p50_s == pytest.approx(3, abs=0.2)
    assert queue.p95_s == pytest.approx(8.8, abs=0.2)
    assert (queue.cost_usd, queue.cost_known) == (Decimal("2.5"), False)
    assert queue.drift == pytest.approx(0.7 - 0.78)


def test_an_answer_may_be_long_but_must_begin_soon(db: None) -> None:
    fleet()

    def answered(first_token_ms: int) -> None:
        began = timezone.now() - timedelta(minutes=5)
        streamed = {"mode": Mode.STREAMING, "first_token_ms": first_token_ms}
        task("succeeded", submitted=timedelta(minutes=5), finished_at=began + timedelta(seconds=40), run=streamed)

    answered(900)
    assert verdict() == []
    for _ in range(3):
        answered(2_500)
    assert verdict() == ["Streaming answers begin later than they should."]


def test_a_mode_that_nobody_judged_says_not_judged_yet(operator: Client) -> None:
    page = operator.get(URL).content.decode()
    assert page.count("not judged yet") == len(Mode)
    assert all(f'<td class="lead">{mode.label}</td>' in page for mode in Mode)


def test_the_overview_is_for_operators_and_says_so_in_words(user: Client) -> None:
    page = user.get(URL)
    assert page.status_code == 403
    assert b"The overview is for operators." in page.content
    assert b"ulla" in page.content


def test_the_first_page_is_the_chat_for_everybody(operator: Client, user: Client) -> None:
    for browser in (operator, user):
        assert b'id="composer"' in browser.get("/").content


def test_a_visitor_is_asked_to_sign_in_and_brought_back(db: None) -> None:
    assert Client().get(URL)["Location"] == "/accounts/login/?next=/console/"


def test_htmx_gets_the_region_alone(operator: Client) -> None:
    part = operator.get(URL, headers={"HX-Request": "true", "HX-Target": "overview"}).content
    assert part.lstrip().startswith(b'<div class="overview" id="overview"')
    assert b"<html" not in part


def test_the_overview_asks_as_many_queries_for_many_rows_as_for_few(operator: Client, olga: User) -> None:
    def fill(times: int) -> None:
        for _ in range(times):
            worker = fleet(pid=4000 + Job.objects.count())
            for state in ("queued", "dead", "succeeded", "blocked"):
                task(state, user=olga)
            task("running", user=olga, worker=worker)
            Wait.objects.create(job=task("waiting", user=olga).job, kind="person", key="approve")

    fill(1)
    operator.get(URL)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL)
    fill(4)
    with CaptureQueriesContext(connection) as many:
        operator.get(URL)
    assert len(many) == len(few) <= 12
