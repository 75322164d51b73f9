from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from jobs import bulk, selection
from jobs.bulk import Wanted
from jobs.models import Job

DEAD = ("dead",)


def job(**columns: object) -> Job:
    now = timezone.now()
    values = {"handler": "noop", "state": "dead", "lane": "queue", "home_lane": "queue", "finished_at": now}
    return Job.objects.create(**(values | columns))


def ids(where: dict[str, object], states: tuple[str, ...] = DEAD, **more: object) -> list[UUID]:
    return bulk.selector(selection.NAME).ids(Wanted({"where": where}, states, **more), None, 10)  # type: ignore[arg-type]


def test_jobs_are_selected_as_a_list_narrows_them_down_newest_first(db: None) -> None:
    user = User.objects.create(username="ulla")
    first, second = job(), job(user=user, lane="batch", handler="other")
    job(state="succeeded")
    assert ids({}) == [second.pk, first.pk]
    assert ids({"lane": "batch", "handler": "other", "user_id": user.pk, "state": "dead"}) == [second.pk]
    assert ids({"id__gte": str(second.pk)}) == [second.pk]
    assert bulk.selector("jobs").ids(Wanted({"where": {}}, DEAD), second.pk, 10) == [first.pk]


def test_jobs_that_failed_after_it_was_asked_for_are_not_meant(db: None) -> None:
    before = timezone.now()
    old = job(created_at=before - timedelta(hours=1), finished_at=before - timedelta(minutes=1))
    job(created_at=before - timedelta(hours=1), finished_at=before + timedelta(minutes=1))
    job(created_at=before + timedelta(minutes=1), finished_at=before + timedelta(minutes=2))
    assert ids({}, as_of=before) == [old.pk]


def test_what_a_list_is_not_narrowed_down_by_is_refused(db: None) -> None:
    with pytest.raises(selection.BadSelection, match="payload"):
        ids({"payload": {}})
