from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from agents.mode_figures import mode_figures
from agents.models import RunStat, RunStatCursor, Score
from agents.modes import Mode
from agents.run_stats import BOUNDS_S
from astra_site.console.overview import gather
from astra_site.console.regions import PAGE_S, Regions
from astra_site.console.verdict import judge
from jobs.models import BulkOperation, Hold, Job, LaneSample, Wait
from jobs.queries import ALIKE_UP_TO, COUNT_UP_TO, bounded_count, lane_loads
from jobs.timeline import in_words
from tests.support.approvals import approval
from tests.support.statements import number_of
from tests.support.tasks import PROBLEM, fleet, task

URL = "/console/"


@pytest.fixture(autouse=True)
def _scheduler(db: None) -> None:
    """A scheduler has just looked after the lanes."""
    sampled(0)


def sampled(minutes_ago: int, lane: str = "queue", queued: int = 0) -> None:
    """Write what a scheduler saw of a lane."""
    minute = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=minutes_ago)
    LaneSample.objects.create(lane=lane, minute=minute, queued=queued, running=0, slots=4)


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
    assert verdict() == ["One task became a dead letter in the last 24 hours. The model is not available now."]
    seen = gather()
    assert seen.stuck is not None
    assert (str(seen.stuck.dead_today), str(seen.stuck.dead)) == ("1", "2")


def test_blocked_tasks_are_told_by_their_reason_but_not_those_that_keep_an_order(db: None) -> None:
    fleet()
    task("blocked")
    task("blocked", blocked_on=["no-worker:agent:helper@1"])
    assert verdict() == [f"1 task can’t go on: {in_words(['no-worker:agent:helper@1'])[0]}."]


def test_tasks_whose_hold_was_lifted_are_not_called_held(db: None) -> None:
    fleet()
    task("blocked", blocked_on=["hold:lane:queue"])
    task("blocked", blocked_on=["hold:lane:queue"])
    assert verdict() == ["2 tasks whose hold was lifted are being queued."]


def test_while_tasks_are_blocked_the_empty_queue_does_not_say_that_nothing_waits(operator: Client) -> None:
    assert "nothing waits" in operator.get(reverse("overview")).content.decode()
    task("blocked", blocked_on=["hold:lane:queue"])
    page = operator.get(reverse("overview")).content.decode()
    assert '>some are <a href="/console/tasks/?state=blocked">blocked</a></dd>' in page
    assert "nothing waits" not in page


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


def test_the_first_line_is_the_worst_finding_and_the_others_stand_below_it(operator: Client) -> None:
    fleet()
    task("dead")
    page = operator.get(URL).content.decode()
    line = '<p class="verdict-line" role="status">One task became a dead letter in the last 24 hours. The model'
    link = f'<a href="{reverse("dead-letters")}">Dead letters</a></p>'
    assert line in page and link in page
    assert 'class="verdict-others"' not in page

    task("blocked", blocked_on=["hold:all"])
    page = operator.get(URL).content.decode()
    assert line in page and link in page
    below = page.partition('<p class="verdict-others">And one more thing:</p>')[2].partition("</ul>")[0]
    assert "1 task whose hold was lifted is being queued." in below
    assert below.count("<li") == 1

    task("scheduled", run_at=timezone.now() - timedelta(minutes=1))
    page = operator.get(URL).content.decode()
    below = page.partition('<p class="verdict-others">And 2 more things:</p>')[2].partition("</ul>")[0]
    assert below.count("<li") == 2


def test_every_finding_leads_to_a_page_that_shows_it(operator: Client) -> None:
    fleet({"batch": 1})
    task("queued", submitted=timedelta(minutes=9))
    task("dead")
    task("blocked", blocked_on=["hold:all"])
    task("scheduled", run_at=timezone.now() - timedelta(minutes=1))
    findings = judge(gather()).findings
    assert len(findings) == 4
    for finding in findings:
        if finding.link != reverse("dead-letters"):
            shown = operator.get(finding.link)
            assert len(shown.context["page"].items) == 1, finding


def test_a_lane_shows_its_depth_its_oldest_age_and_its_busy_slots(db: None) -> None:
    worker = fleet({"queue": 4, "batch": 2})
    task("running", worker=worker)
    task("queued", submitted=timedelta(seconds=50))
    task("queued", submitted=timedelta(seconds=20))
    lane = next(row.load for row in gather().rows if row.name == "queue")
    assert (str(lane.queued), lane.running, lane.slots, lane.workers) == ("2", 1, 4, 1)
    assert lane.oldest_s is not None and 49 < lane.oldest_s < 60


def test_a_lane_shows_what_a_hold_keeps_from_its_queue(operator: Client) -> None:
    for reason in ("hold:lane:batch", "hold:agent:helper"):
        task("blocked", lane="batch", home_lane="batch", blocked_on=["partition", reason])
    task("blocked", lane="batch", home_lane="batch")
    task("blocked", lane="queue", home_lane="queue", blocked_on=["no-worker:agent:helper@1"])
    page = operator.get(URL).content.decode()
    assert '<a href="/console/tasks/?state=blocked&amp;lane=batch">+ 2 held</a>' in _row(page, "batch")
    assert page.count(" held</a>") == 1
    assert [row.name for row in gather().idle] == []


def test_the_count_of_what_is_held_stops_and_says_so(db: None) -> None:
    def held() -> list[str]:
        return [str(load.held) for load in lane_loads(["queue", "batch"])]

    Job.objects.bulk_create(
        Job(handler="agent-run", state="blocked", lane="queue", home_lane="queue", blocked_on=["hold:all"])
        for _ in range(COUNT_UP_TO)
    )
    assert held() == ["10,000", "0"]
    task("blocked", blocked_on=["hold:all"])
    assert held() == ["10,000+", "0"]


def test_slots_of_a_worker_whose_lease_is_over_do_not_count(db: None) -> None:
    fleet(lease_until=timezone.now() - timedelta(seconds=1))
    fleet(ended="lost")
    assert gather().slots == 0


def test_a_count_stops_and_says_so(db: None) -> None:
    for _ in range(3):
        task("queued")
    assert str(bounded_count(Job.objects.all(), up_to=3)) == "3"
    assert str(bounded_count(Job.objects.all(), up_to=2)) == "2+"


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


def test_the_time_in_which_a_run_waits_for_people_is_not_the_agents(db: None) -> None:
    task("succeeded", submitted=timedelta(minutes=5))
    waited = task("succeeded", submitted=timedelta(hours=9), finished_at=timezone.now())
    Wait.objects.create(job=waited.job, kind="person", key="k", resolved_at=timezone.now())
    queue = next(figures for figures in mode_figures() if figures.policy.mode == Mode.QUEUE)
    assert queue.runs == 2
    assert queue.p95_s == pytest.approx(4, abs=0.2)


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
    assert page.count("not judged yet</span>") == len(Mode)
    assert all(f'<td class="lead">{mode.label}</td>' in page for mode in Mode)


def test_the_overview_is_for_operators_and_says_so_in_words(user: Client) -> None:
    page = user.get(URL)
    assert page.status_code == 403
    assert b"This page is for operators." in page.content
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


def test_dead_letters_that_are_all_alike_are_named_and_others_are_not(db: None) -> None:
    fleet()
    for _ in range(2):
        task("dead", error=PROBLEM | {"fingerprint": "a1"})
    assert verdict() == [
        "2 tasks became dead letters in the last 24 hours. All are alike: The model is not available now."
    ]
    task("dead", error={"title": "It broke", "fingerprint": "b2"})
    assert verdict() == ["3 tasks became dead letters in the last 24 hours."]


def test_of_very_many_dead_letters_the_newest_are_told_to_be_alike(db: None) -> None:
    fleet()
    error = PROBLEM | {"fingerprint": "a1"}
    task("dead", submitted=timedelta(hours=2), error={"title": "It broke", "fingerprint": "b2"})
    newest = task("dead", error=error)
    ended = timezone.now() - timedelta(hours=1)
    Job.objects.bulk_create(
        Job(handler="agent-run", state="dead", lane="queue", home_lane="queue", error=error, finished_at=ended)
        for _ in range(ALIKE_UP_TO - 1)
    )
    assert verdict() == [
        "1,001 tasks became dead letters in the last 24 hours."
        " The newest 1,000 are alike: The model is not available now."
    ]
    Job.objects.filter(pk=newest.pk).update(error={"title": "It broke", "fingerprint": "b2"})
    assert verdict() == ["1,001 tasks became dead letters in the last 24 hours."]


def test_dead_letters_lead_to_their_groups(db: None) -> None:
    fleet()
    task("dead")
    (finding,) = judge(gather()).findings
    assert finding.link == reverse("dead-letters")


def test_a_pause_is_told_with_who_since_when_and_why_and_leads_to_where_it_is_lifted(operator: Client) -> None:
    fleet()
    task("blocked", blocked_on=["hold:lane:queue"])
    hold = Hold.objects.create(key="lane:queue", reason="paused", note="Provider is down.", placed_by="olga")
    (finding,) = judge(gather()).findings
    at = f"{timezone.localtime(hold.placed_at):%H:%M}"
    words = f"Lane queue is paused by olga since {at}: Provider is down. 1 task waits for it."
    assert (finding.level, finding.words) == ("warn", words)
    page, _, anchor = finding.link.partition("#")
    assert f'id="{anchor}"' in operator.get(page).content.decode()


def test_a_paused_lane_is_not_called_behind_or_unserved_as_well(db: None) -> None:
    fleet({"batch": 1})
    task("queued", submitted=timedelta(minutes=9))
    Hold.objects.create(key="all", reason="paused", placed_by="olga")
    (words,) = verdict()
    assert words.startswith("Everything is paused by olga since ")


def test_many_holds_are_told_by_their_number(db: None) -> None:
    fleet()
    for place in range(6):
        Hold.objects.create(key=f"agent:a{place}", reason="paused", placed_by="olga")
    assert verdict()[-1] == "2 more holds are in force."
    assert len(verdict()) == 5


def test_workers_of_different_versions_are_told(db: None) -> None:
    fleet()
    fleet(version="0.2.0", pid=2)
    fleet(version="0.2.0", pid=3)
    fleet(version="0.0.9", pid=4, ended="stopped")
    assert verdict() == ["Workers run different versions of Astra: 0.1.0 (1) and 0.2.0 (2)."]


def test_workers_that_died_in_the_last_hour_are_told_and_those_that_were_stopped_are_not(db: None) -> None:
    fleet()
    fleet(pid=2, ended="stopped")
    fleet(pid=3, ended="lost", ended_at=timezone.now() - timedelta(hours=2))
    assert verdict() == []
    fleet(pid=4, ended="died")
    assert verdict() == ["A worker died in the last hour. What it ran is taken over by others."]
    fleet(pid=5, ended="lost")
    assert verdict() == ["2 workers died in the last hour. What they ran is taken over by others."]


def test_web_processes_alone_run_no_task(db: None) -> None:
    fleet({"chat": 250})
    assert verdict() == ["No worker is running, so no task can start."]


def test_lanes_that_nobody_has_looked_after_betray_a_missing_scheduler(db: None) -> None:
    fleet()
    LaneSample.objects.all().delete()
    assert verdict() == ["No scheduler seems to be running: nobody has looked after the lanes in the last hour."]
    sampled(7)
    assert verdict() == ["No scheduler seems to be running: nobody has looked after the lanes for 7 min."]
    sampled(1, lane="batch")
    assert verdict() == []


def test_a_site_that_has_just_started_needs_no_sample_yet(db: None) -> None:
    LaneSample.objects.all().delete()
    fleet(started_at=timezone.now() - timedelta(minutes=1))
    assert verdict() == []


def test_an_operation_is_told_when_nobody_works_on_any_and_not_while_it_waits_for_its_turn(db: None) -> None:
    fleet()
    now = timezone.now()

    def operation(**more: Any) -> BulkOperation:
        values = {"verb": "redrive", "selector": "ids", "selection": {}, "words": "12 tasks", "expected": 12}
        return BulkOperation.objects.create(**values, asked_by_name="olga", **more)

    operation()
    taken = operation(worked_at=now - timedelta(minutes=4), taken_until=now + timedelta(seconds=5), state="running")
    operation(created_at=now - timedelta(minutes=9), state="finished", finished_at=now)
    left = operation(worked_at=now - timedelta(minutes=4), taken_until=now - timedelta(minutes=3), state="running")
    assert verdict() == []
    BulkOperation.objects.filter(pk=taken.pk).update(state="finished", finished_at=now, taken_until=None)
    (finding,) = judge(gather()).findings
    assert finding.words == "olga’s operation (to redrive 12 tasks) has stood still for 4 min."
    assert finding.link == reverse("operation", args=[left.pk])


def test_a_lane_shows_what_ended_in_the_last_hour_and_links_to_it(operator: Client) -> None:
    fleet()
    began = timezone.now().replace(second=0, microsecond=0)
    RunStatCursor.objects.update_or_create(id=1, defaults={"counted_until": began})
    for outcome, runs in (("succeeded", 57), ("dead", 3)):
        RunStat.objects.create(
            minute=began - timedelta(minutes=5),
            lane="queue",
            mode=Mode.QUEUE,
            outcome=outcome,
            runs=runs,
            wait_sum_s=1.0,
            wait_buckets=[runs] * (len(BOUNDS_S) + 1),
            run_sum_s=1.0,
            run_buckets=[runs] * (len(BOUNDS_S) + 1),
            first_tokens=0,
            first_token_sum_s=0,
            first_token_buckets=[0] * (len(BOUNDS_S) + 1),
            input_tokens=0,
            output_tokens=0,
            cost_usd=0,
        )
    row = _row(operator.get(URL).content.decode(), "queue")
    assert '?lane=queue&amp;ended=1h">1.0</a>' in row
    assert '?state=dead&amp;lane=queue&amp;ended=1h">5.0 %</a>' in row
    assert "60 ended" in row
    assert "95 % in" in row


def test_a_lane_draws_its_last_hour_and_says_it_in_words(operator: Client) -> None:
    fleet()
    sampled(1, queued=240)
    task("queued")
    row = _row(operator.get(URL).content.decode(), "queue")
    assert 'role="img" aria-label="Queued in the last hour: 0 to 240, now 1; part of it was not sampled' in row
    assert "style=" not in row


def _row(page: str, lane: str) -> str:
    return page.partition(f'<tr id="row-{lane}"')[2].partition("</tr>")[0]


def test_the_first_token_is_held_against_its_budget(operator: Client) -> None:
    fleet()
    for _ in range(3):
        task("succeeded", run={"mode": Mode.STREAMING, "first_token_ms": 2_500})
    page = operator.get(URL).content.decode()
    row = page.partition('<td class="lead">Streaming</td>')[2].partition("</tr>")[0]
    assert 'aria-label="Over its budget"' in row
    assert "95 % in 2.5 s" in row
    assert "of 1.4 s" in row


@pytest.mark.django_db(transaction=True)
def test_a_region_that_cannot_be_read_says_so_and_the_rest_of_the_page_stands(operator: Client) -> None:
    fleet()
    sampled(0, lane="batch")
    task("queued")
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("LOCK TABLE approvals_approval IN ACCESS EXCLUSIVE MODE")
        page = operator.get(URL)
    text = page.content.decode()
    assert page.status_code == 200
    assert "The approvals could not be read now." in text
    assert "Nothing wrong is seen, but not everything could be read." in text
    assert "Could not be read now: how many approvals are pending, pending approvals." in text
    assert '?state=queued">1</a>' in text
    assert "All is well" not in text


@pytest.mark.django_db(transaction=True)
def test_with_a_finding_the_first_line_still_says_that_it_does_not_know_everything(db: None) -> None:
    fleet()
    sampled(0, lane="batch")
    task("dead")
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("LOCK TABLE agents_score IN ACCESS EXCLUSIVE MODE")
        judged = judge(gather())
    assert judged.headline.endswith(
        "in the last 24 hours. The model is not available now. Not everything could be read."
    )
    assert (judged.level, judged.detail) == ("bad", "Could not be read now: modes.")


def test_once_the_page_has_waited_long_enough_what_is_left_gets_little_time(db: None) -> None:
    allowed: list[str] = []

    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            allowed.append(cursor.fetchone()[0])

    regions = Regions()
    regions.read("one", ask)
    regions.began -= PAGE_S
    regions.read("two", ask)
    assert (allowed, regions.unread) == (["1s", "100ms"], [])


def test_a_fault_of_one_region_is_not_a_fault_of_the_page(db: None, caplog: pytest.LogCaptureFixture) -> None:
    regions = Regions()
    assert regions.read("figures", lambda: 1 // 0) is None
    assert regions.read("people", User.objects.count) == 0
    assert regions.unread == ["figures"]
    assert "ZeroDivisionError" in caplog.text


def test_the_overview_asks_as_many_queries_for_many_rows_as_for_few(operator: Client, olga: User) -> None:
    def fill(times: int) -> None:
        for _ in range(times):
            worker = fleet(pid=4000 + Job.objects.count())
            for state in ("queued", "dead", "succeeded", "blocked"):
                task(state, user=olga)
            task("running", user=olga, worker=worker)
            approval()

    fill(1)
    operator.get(URL)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL)
    fill(4)
    with CaptureQueriesContext(connection) as many:
        operator.get(URL)
    assert len(many) == len(few)
    # Each region in a savepoint of its own, with its time-out.
    assert number_of(few) <= 17
