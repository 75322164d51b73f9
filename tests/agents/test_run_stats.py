"""Every run that ends is counted once: whoever counts, however long nobody did, whatever becomes of the run later."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import run_count
from agents.models import Run, RunStat, RunStatCursor
from agents.run_count import sweep, turn
from agents.run_stats import BOUNDS_S, EPOCH, Histogram, RunTotal, added, ended_by_minute, totals
from audit.trail import SYSTEM
from jobs.actions import Discard, Redrive
from jobs.models import Job, JobEvent
from jobs.pool import conninfo
from tests.jobs.drive import at_once
from tests.support.configs import loaded
from tests.support.tasks import task

pytestmark = pytest.mark.django_db(transaction=True)

CONFIG = """
agents:
  helper: {version: 1, instructions: Help., model: demo}
endpoints:
  help.v1: {agent: helper, mode: async-queue}
  talk.v1: {agent: helper, mode: streaming-sync}
"""
_loaded = loaded(CONFIG)


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test writes it writes as of one moment, so that none straddles a minute."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


def ended(ago: timedelta, state: str = "succeeded", *, wait_s: float = 1.5, run_s: float = 4, **more: Any) -> Run:
    """Write a run that ended so long ago, after it waited and ran so long."""
    end = timezone.now() - ago
    started = end - timedelta(seconds=run_s)
    submitted = timezone.now() - started + timedelta(seconds=wait_s)
    return task(state, submitted=submitted, **{"started_at": started, "finished_at": end, **more})


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def minute_of(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def count_all() -> int:
    """Count until nothing is left to count. Returns how many minutes that were."""
    sweep()  # which may only begin
    done = 0
    while counted := sweep():
        done += counted
    return done


def total(**of: str) -> RunTotal:
    """Return the sum of one lane, mode and outcome."""
    wanted = {"lane": "queue", "mode": "async-queue", "outcome": "succeeded"} | of
    [found] = [one for one in totals() if {name: getattr(one, name) for name in wanted} == wanted]
    return found


def numbers() -> dict[str, int]:
    return {one.outcome: one.runs for one in totals()}


# --- Once ------------------------------------------------------------------------------------------------------------


def test_runs_are_counted_by_minute_lane_mode_and_outcome_with_their_sums() -> None:
    spent = {"input_tokens": 100, "output_tokens": 20, "cost_usd": Decimal("0.5")}
    ended(minutes(5), wait_s=2, run_s=3, run=spent)
    ended(minutes(5), "dead", run=spent)
    ended(minutes(7), "cancelled", lane="suspect", home_lane="batch")
    ended(minutes(9), endpoint="talk.v1", lane="chat", home_lane="chat", wait_s=0, run={"first_token_ms": 300})
    count_all()
    found = {(one.lane, one.mode, one.outcome): one for one in totals()}
    assert {key: one.runs for key, one in found.items()} == {
        ("queue", "async-queue", "succeeded"): 1,
        ("queue", "async-queue", "dead"): 1,
        ("batch", "async-queue", "cancelled"): 1,
        ("chat", "streaming-sync", "succeeded"): 1,
    }
    one = found["queue", "async-queue", "succeeded"]
    assert (one.input_tokens, one.output_tokens, one.cost_usd) == (100, 20, Decimal("0.5"))
    assert (one.wait.count, one.run.count) == (1, 1)
    assert one.wait.sum_s == pytest.approx(2, abs=0.001)
    assert one.run.sum_s == pytest.approx(3, abs=0.001)
    chat = found["chat", "streaming-sync", "succeeded"]
    assert chat.first_token.sum_s == pytest.approx(0.3)
    assert chat.first_token.count == 1
    assert one.first_token.count == 0
    per_minute = RunStat.objects.exclude(minute=EPOCH)
    assert sum(row.runs for row in per_minute) == 4
    assert len({row.minute for row in per_minute}) == 3


def test_counting_again_adds_nothing() -> None:
    ended(minutes(5))
    assert 23 * 60 < count_all() <= 24 * 60
    before = list(RunStat.objects.order_by("pk").values())
    assert count_all() <= 1
    assert list(RunStat.objects.order_by("pk").values()) == before


def test_schedulers_that_count_at_once_count_each_run_once() -> None:
    for ago in range(3, 33):
        ended(minutes(ago))
    sweep()
    RunStatCursor.objects.update(counted_until=timezone.now() - minutes(40))
    for _ in range(3):
        assert all(isinstance(result, int) for result in at_once(*[sweep] * 5))
    assert total().runs == 30


def test_schedulers_that_begin_at_once_begin_once() -> None:
    ended(minutes(5))
    results = at_once(*[turn] * 5)
    assert set(results) <= {0, 60}
    assert RunStatCursor.objects.count() == 1
    count_all()
    assert total().runs == 1


def test_a_gap_of_hours_is_made_up_for_an_hour_at_a_time() -> None:
    sweep()
    for hours in (1, 2, 3, 4, 5):
        ended(timedelta(hours=hours))
    since = minute_of(timezone.now() - timedelta(hours=6))
    RunStatCursor.objects.update(counted_until=since)
    assert [turn() for _ in range(3)] == [60, 60, 60]
    assert RunStatCursor.objects.get().counted_until == since + timedelta(hours=3)
    count_all()
    assert total().runs == 5


def test_a_sweep_makes_up_for_a_gap_but_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep() == 0
    monkeypatch.setattr(run_count, "SWEEP_AT_MOST_S", 0.0)
    assert sweep() == 60
    monkeypatch.setattr(run_count, "SWEEP_AT_MOST_S", 60.0)
    assert sweep() > 22 * 60


def test_a_backlog_of_very_many_runs_is_counted_in_smaller_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_count, "RUNS_AT_ONCE", 2)
    sweep()
    for _ in range(3):
        ended(minutes(201.5))
    since = minute_of(timezone.now()) - minutes(210)
    RunStatCursor.objects.update(counted_until=since)
    assert [turn() for _ in range(2)] == [1, 1]
    RunStatCursor.objects.update(counted_until=since - minutes(8))
    assert [turn() for _ in range(2)] == [10, 1]
    monkeypatch.setattr(run_count, "RUNS_AT_ONCE", 3)
    assert turn() == 60
    assert total().runs == 3


def test_what_has_just_ended_is_not_counted_before_it_has_settled() -> None:
    ended(timedelta(seconds=2))
    count_all()
    assert totals() == []
    assert RunStatCursor.objects.get().counted_until <= timezone.now() - timedelta(seconds=run_count.SETTLED_S)


def settled() -> datetime:
    with connection.cursor() as cursor:
        return run_count._settled(cursor)


@pytest.mark.parametrize("statement", ["SELECT txid_current()", "SELECT 1"])
def test_the_count_waits_for_a_transaction_that_may_still_end_a_run(
    monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(run_count, "SETTLED_S", 0)
    with psycopg.connect(conninfo()) as other:
        other.execute(statement)
        began = other.execute("SELECT now()").fetchall()[0][0]
        assert settled() == settled() == began
        other.rollback()
        assert settled() > began


def test_a_transaction_that_stays_open_for_long_does_not_stop_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_count, "SETTLED_S", 0)
    monkeypatch.setattr(run_count, "WAITED_FOR_S", 0)
    with psycopg.connect(conninfo()) as other:
        began = other.execute("SELECT now(), txid_current()").fetchall()[0][0]
        assert settled() > began


def test_a_count_that_fails_leaves_nothing_and_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ended(minutes(5))
    sweep()
    RunStatCursor.objects.update(counted_until=timezone.now() - minutes(30))
    with monkeypatch.context() as broken:
        broken.setattr(run_count, "_FORGET", "SELECT 1 / 0 WHERE %s IS NOT NULL AND %s > 0 AND %s > 0")
        with pytest.raises(Exception, match="division by zero"):
            sweep()
    assert totals() == []
    count_all()
    assert total().runs == 1


# --- What becomes of a run later -------------------------------------------------------------------------------------


def redriven(run: Run, *, ago: timedelta, wait_s: float, run_s: float) -> None:
    """Let a run that has ended be redriven, spend some more, and end again."""
    Redrive(SYSTEM).run(run.job_id)
    now = timezone.now()
    end = now - ago
    started = end - timedelta(seconds=run_s)
    JobEvent.objects.filter(job=run.job_id, reason="redriven").update(at=started - timedelta(seconds=wait_s))
    for reason, final in (("finished", None), ("failed", True), ("failed", False)):
        data = {"input_tokens": 7, "output_tokens": 3, "cost_usd": "0.25", "final": final}
        JobEvent.objects.create(job_id=run.job_id, kind="step", reason=reason, data=data)
    Run.objects.filter(pk=run.pk).update(input_tokens=114, output_tokens=26, cost_usd=Decimal(1))
    Job.objects.filter(pk=run.job_id).update(state="succeeded", started_at=started, finished_at=end)


def test_a_run_redriven_after_it_was_counted_counts_again_with_what_it_spent_since() -> None:
    run = ended(
        minutes(10),
        "dead",
        run={"input_tokens": 100, "output_tokens": 20, "cost_usd": Decimal("0.5"), "first_token_ms": 200},
    )
    count_all()
    assert numbers() == {"dead": 1}
    redriven(run, ago=minutes(3), wait_s=30, run_s=5)
    RunStatCursor.objects.update(counted_until=minute_of(timezone.now() - minutes(5)))
    count_all()
    assert numbers() == {"dead": 1, "succeeded": 1}
    again = total()
    assert (again.input_tokens, again.output_tokens, again.cost_usd) == (14, 6, Decimal("0.5"))
    assert again.wait.sum_s == pytest.approx(30, abs=0.001)
    assert again.run.sum_s == pytest.approx(5, abs=0.001)
    assert again.first_token.count == 0
    assert sum(one.input_tokens for one in totals()) == 114


def test_a_dead_letter_that_was_given_up_has_failed_and_counts_once() -> None:
    before, after = ended(minutes(10), "dead"), ended(minutes(10), "dead")
    Discard(SYSTEM, "not needed").run(before.job_id)
    count_all()
    Discard(SYSTEM, "not needed").run(after.job_id)
    count_all()
    assert numbers() == {"dead": 2}


def test_a_run_that_was_taken_away_afterwards_stays_counted() -> None:
    run = ended(minutes(10))
    count_all()
    JobEvent.objects.all().delete()
    Job.objects.filter(pk=run.job_id).delete()
    count_all()
    assert total().runs == 1


def test_one_that_was_cancelled_before_it_began_has_no_wait_and_no_time() -> None:
    ended(minutes(5), "cancelled", started_at=None)
    count_all()
    one = total(outcome="cancelled")
    assert (one.runs, one.wait.count, one.run.count, one.wait.sum_s) == (1, 0, 0, 0)


def test_a_task_for_later_waits_from_when_it_was_due() -> None:
    run = ended(minutes(5), wait_s=3600)
    started = Job.objects.get(pk=run.job_id).started_at
    assert started is not None
    first, second, _ = JobEvent.objects.filter(job=run.job_id).order_by("id")
    JobEvent.objects.filter(pk=first.pk).update(new="scheduled")
    JobEvent.objects.filter(pk=second.pk).update(
        old="scheduled", new="queued", reason="due", at=started - timedelta(seconds=2)
    )
    count_all()
    assert total().wait.sum_s == pytest.approx(2, abs=0.001)


def test_a_job_that_is_no_run_is_counted_without_a_mode() -> None:
    run = ended(minutes(5))
    Run.objects.filter(pk=run.pk).delete()
    count_all()
    assert total(mode="").runs == 1


# --- Buckets and sums ------------------------------------------------------------------------------------------------


def test_a_bucket_holds_what_took_no_longer_than_its_bound() -> None:
    for wait_s in (0.0, 0.01, 1.5, 1.6, 4000):
        ended(minutes(5), wait_s=wait_s, created_at=timezone.now() - timedelta(days=1))
    at = Job.objects.values_list("pk", "started_at")
    waits = iter((0.0, 0.01, 1.5, 1.6, 4000))
    for pk, started in at:
        assert started is not None
        Job.objects.filter(pk=pk).update(created_at=started - timedelta(seconds=next(waits)))
    count_all()
    buckets = dict(zip((*BOUNDS_S, "all"), total().wait.buckets, strict=True))
    assert [buckets[bound] for bound in (0.01, 1.0, 1.5, 2.5, 3600.0, "all")] == [2, 2, 3, 4, 4, 5]
    assert list(buckets.values()) == sorted(buckets.values())


def test_minutes_of_more_than_two_days_are_forgotten_and_the_sums_stay() -> None:
    for ago in (5, 6, 7):
        ended(minutes(ago), run={"cost_usd": Decimal("0.1")})
    count_all()
    before = totals()
    RunStat.objects.exclude(minute=EPOCH).update(minute=F("minute") - timedelta(days=2))
    ended(minutes(3))
    RunStatCursor.objects.update(counted_until=minute_of(timezone.now() - minutes(4)))
    count_all()
    assert RunStat.objects.exclude(minute=EPOCH).count() == 1
    assert total().runs == before[0].runs + 1 == 4
    assert total().cost_usd == Decimal("0.3")
    assert total().run.buckets[-1] == 4


def test_the_estimate_of_a_share_lies_between_the_bounds_of_its_bucket() -> None:
    def of(*seconds: float) -> Histogram:
        within = [sum(one <= bound for one in seconds) for bound in BOUNDS_S]
        return Histogram([*within, len(seconds)], sum(seconds))

    assert added([]).quantile(0.5) is None
    ten = of(*[0.7] * 10)
    assert ten.quantile(0.5) == pytest.approx(0.75)
    assert ten.quantile(1) == pytest.approx(1)
    assert added([ten, of(*[2.0] * 10)]).quantile(0.75) == pytest.approx(2)
    assert of(5000).quantile(0.95) == 3600
    assert of(0.001).quantile(0.5) == pytest.approx(0.005)


# --- By minute -------------------------------------------------------------------------------------------------------


def test_a_lanes_minutes_say_what_ended_in_them_and_none_where_nobody_has_counted() -> None:
    for ago, state in ((9, "succeeded"), (9, "dead"), (5, "succeeded"), (5, "cancelled")):
        ended(minutes(ago), state, wait_s=0.7)
    count_all()
    now = minute_of(timezone.now())
    RunStatCursor.objects.update(counted_until=now - minutes(3))
    work = ended_by_minute(["queue", "batch"], minutes=10)
    queue = work["queue"]
    since = queue.since
    places = {round((minute_of(timezone.now() - minutes(ago)) - since) / minutes(1)): ago for ago in (9, 5)}
    assert {place: queue.runs[place] for place in places} == dict.fromkeys(places, 2)
    assert [queue.failures[place] for place in sorted(places)] == [1, 0]
    assert len(queue.runs) == 10
    uncounted = [since + minutes(place) >= now - minutes(3) for place in range(10)]
    assert [number is None for number in queue.runs] == uncounted
    assert any(uncounted)
    assert (queue.total, queue.failed, queue.failure_rate) == (4, 1, 0.25)
    assert queue.per_minute == 4 / uncounted.count(False)
    assert queue.wait_p50_s == pytest.approx(0.75)
    assert queue.wait_p95_s == pytest.approx(0.975)
    batch = work["batch"]
    assert (batch.total, batch.failure_rate, batch.per_minute, batch.wait_p95_s) == (0, None, 0, None)


def test_before_anything_was_counted_nothing_is_known() -> None:
    work = ended_by_minute(["queue"])["queue"]
    assert work.runs == work.failures == [None] * 60
    assert (work.per_minute, work.failure_rate, work.wait_p50_s) == (None, None, None)


def test_counting_and_reading_take_as_many_statements_whatever_there_is() -> None:
    def statements() -> tuple[int, int, int]:
        with CaptureQueriesContext(connection) as counting:
            assert turn() == 60
        with CaptureQueriesContext(connection) as reading:
            ended_by_minute(["queue", "chat"])
        with CaptureQueriesContext(connection) as summing:
            totals()
        return len(counting), len(reading), len(summing)

    sweep()
    ended(timedelta(hours=23))
    few = statements()
    for ago in range(30):
        ended(timedelta(hours=22) + minutes(ago))
    assert statements() == few
    assert few[1:] == (2, 1)
