"""Each minute has one sample of every lane, whoever writes it, and a minute that nobody saw is not made up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from jobs import lane_samples, queries
from jobs.lane_samples import history, last_sampled_s
from jobs.models import LaneSample
from jobs.reconcile import Reconciler
from tests.jobs.drive import ask, at_once, queue_in_bulk, running, worker


@pytest.fixture
def one_moment() -> Iterator[datetime]:
    """The minute of a transaction in which the database's time stands still."""
    with transaction.atomic():
        [row] = ask("SELECT date_trunc('minute', now()) AS minute")
        yield row["minute"]


def grow_older(minutes: int) -> None:
    ask("UPDATE jobs_lanesample SET minute = minute - make_interval(mins => %s)", [minutes])


def test_a_minute_gets_one_sample_of_every_lane_with_its_load(one_moment: datetime) -> None:
    worker("queue", slots=3)
    running()
    queue_in_bulk(2)
    ask("UPDATE jobs_job SET queued_at = now() - interval '40 seconds' WHERE state = 'queued'")
    assert lane_samples.sweep()
    assert not lane_samples.sweep()
    rows = LaneSample.objects.values_list("lane", "minute")
    assert sorted(rows) == sorted((lane, one_moment) for lane in settings.LANES)
    sample = history(["queue"])["queue"][-1]
    assert sample is not None
    assert (str(sample.queued), sample.oldest_s, sample.running, sample.slots) == ("2", 40, 1, 7)
    quiet = history(["batch"])["batch"][-1]
    assert quiet is not None
    assert (quiet.queued.number, quiet.oldest_s, quiet.running, quiet.slots) == (0, None, 0, 0)


def test_schedulers_that_look_at_once_write_each_sample_once() -> None:
    results = at_once(*[lane_samples.sweep] * 4)
    assert True in results
    assert set(results) <= {True, False}
    minutes = set(LaneSample.objects.values_list("minute", flat=True))
    assert LaneSample.objects.count() == len(settings.LANES) * len(minutes)
    assert len(minutes) <= 2  # the clock may have turned


def test_a_scheduler_that_comes_late_fills_only_the_lanes_that_are_missing(one_moment: datetime) -> None:
    lane_samples.sweep()
    before = set(LaneSample.objects.values_list("pk", flat=True))
    LaneSample.objects.filter(lane="queue").delete()
    with connection.cursor() as cursor:
        cursor.execute(lane_samples._SAMPLE, [list(settings.LANES)])
    assert LaneSample.objects.count() == len(before)
    assert len(before - set(LaneSample.objects.values_list("pk", flat=True))) == 1


def test_the_reconciler_samples() -> None:
    Reconciler().tick()
    assert LaneSample.objects.filter(lane="chat").count() == 1


def test_a_minute_that_nobody_saw_is_none(one_moment: datetime) -> None:
    for ago in (2, 0):  # two minutes ago and now, and nobody looked between
        lane_samples.sweep()
        if ago:
            grow_older(ago)
    [*before, two_ago, one_ago, now] = history(["queue"], minutes=10)["queue"]
    assert before == [None] * 7
    assert one_ago is None
    assert two_ago is not None
    assert now is not None
    assert (two_ago.minute, now.minute) == (one_moment - timedelta(minutes=2), one_moment)


def test_the_current_minute_is_none_until_somebody_has_looked(one_moment: datetime) -> None:
    lane_samples.sweep()
    grow_older(1)
    *_, last, current = history(["queue"])["queue"]
    assert last is not None
    assert current is None


def test_history_has_the_lanes_in_the_order_asked_for_and_as_many_minutes() -> None:
    found = history(["queue", "batch", "chat"], minutes=5)
    assert {lane: len(points) for lane, points in found.items()} == {"queue": 5, "batch": 5, "chat": 5}
    assert list(found) == ["queue", "batch", "chat"]


def test_a_depth_past_the_bound_is_told_as_more(one_moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    lane_samples.sweep()
    LaneSample.objects.update(queued=queries.COUNT_UP_TO + 1)
    sample = history(["queue"])["queue"][-1]
    assert sample is not None
    assert str(sample.queued) == "10,000+"


def test_samples_of_more_than_two_days_are_forgotten_a_page_at_a_time(
    one_moment: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = len(settings.LANES)
    monkeypatch.setattr(lane_samples, "FORGOTTEN_AT_ONCE", lanes)
    for minutes in (1, 60, 47 * 60 + 30):
        lane_samples.sweep()
        grow_older(minutes)
    left = []
    for _ in range(3):
        lane_samples.sweep()
        left.append(LaneSample.objects.filter(minute__lt=one_moment).count())
        LaneSample.objects.filter(minute=one_moment).delete()
    assert left == [2 * lanes, lanes, lanes]
    [oldest] = LaneSample.objects.order_by("minute").values_list("minute", flat=True).distinct()
    assert oldest == one_moment - timedelta(hours=47, minutes=30)


def test_history_and_a_sample_cost_the_same_whatever_there_is(one_moment: datetime) -> None:
    def count() -> tuple[int, int]:
        with CaptureQueriesContext(connection) as reading:
            history(settings.LANES)
        with CaptureQueriesContext(connection) as writing:
            assert lane_samples.sweep()
        return len(reading), len(writing)

    few = count()
    queue_in_bulk(30)
    grow_older(1)
    assert count() == few == (1, 3)


def test_how_long_ago_anybody_looked_is_known(one_moment: datetime) -> None:
    assert last_sampled_s() is None
    lane_samples.sweep()
    grow_older(5)
    found = last_sampled_s()
    assert found is not None
    assert 300 <= found < 360
