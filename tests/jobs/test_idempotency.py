from __future__ import annotations

from uuid import UUID

import pytest

from audit.trail import SYSTEM
from jobs import script
from jobs.actions import Cancel, Redrive
from jobs.handlers import Failed, Succeeded
from jobs.models import IdempotencyKey, Job, JobEvent
from jobs.reconcile import Reconciler, forget_expired_keys
from jobs.script import Script
from jobs.states import State
from jobs.submit import Idempotency, IdempotencyMismatch, LaneFull, Submission, Submitted, submit, submit_script
from tests.jobs.drive import PROBLEM, Waiter, ask, at_once, end, pass_time, session, submitted, taken, worker

DAY_S = 24 * 3600


def _submit(key: str = "k", body: str = "b", scope: str = "1:answer.v1", **more: object) -> Submitted:
    return submit(Submission("test.noop", {}, "queue", idempotency=Idempotency(scope, key, body), **more))  # type: ignore[arg-type]


def test_the_same_key_and_body_are_the_same_job() -> None:
    first, second = _submit(), _submit()
    assert (first.created, second.created) == (True, False)
    assert first.job_id == second.job_id
    assert Job.objects.count() == JobEvent.objects.count() == 1


def test_the_answer_says_how_far_the_job_is_by_now() -> None:
    first = _submit()
    end(taken(worker()), Succeeded())
    assert _submit() == Submitted(first.job_id, State.SUCCEEDED, created=False)


def test_the_same_key_with_another_body_is_a_mistake() -> None:
    _submit()
    with pytest.raises(IdempotencyMismatch, match="'k' was used for another request"):
        _submit(body="c")
    assert Job.objects.count() == 1


def test_a_key_belongs_to_its_scope() -> None:
    made = {_submit(scope=scope, body=scope).job_id for scope in ("1:answer.v1", "2:answer.v1", "1:research.v1")}
    assert len(made) == 3


def test_a_known_key_is_answered_even_when_the_lane_is_full() -> None:
    _submit()
    assert not _submit(max_depth=1).created
    with pytest.raises(LaneFull):
        _submit("another", max_depth=1)


def test_a_submission_that_failed_keeps_no_key() -> None:
    def refuse(job_id: UUID) -> Script[None]:
        yield "SELECT 1", []
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        _submit(with_job=refuse)
    assert not IdempotencyKey.objects.exists()
    assert _submit().created


@pytest.mark.parametrize("partition", [None, "p"])
def test_two_requests_at_once_make_one_job(partition: str | None) -> None:
    results = at_once(*[lambda: _submit(partition_key=partition)] * 6)
    made = [result for result in results if isinstance(result, Submitted)]
    assert len(made) == 6
    assert len({result.job_id for result in made}) == 1
    assert [result.created for result in made].count(True) == 1
    assert Job.objects.count() == 1


def test_a_second_request_waits_to_see_what_becomes_of_the_first() -> None:
    asked = Submission("test.noop", {}, "queue", idempotency=Idempotency("1:answer.v1", "k", "b"))
    with session() as first:
        first.do(submit_script(asked))
        second = Waiter(_submit)
        assert second.blocked()
        first.connection.rollback()
        assert second.end().created
    with session() as first:
        first.do(submit_script(Submission("test.noop", {}, "queue", idempotency=Idempotency("s", "k", "b"))))
        second = Waiter(lambda: _submit(scope="s"))
        assert second.blocked()
        first.connection.commit()
        assert not second.end().created


def test_a_key_lives_as_long_as_its_job_and_a_day() -> None:
    first = _submit()
    pass_time(30 * DAY_S)
    forget_expired_keys()
    assert _submit().job_id == first.job_id
    end(taken(worker()), Succeeded())
    pass_time(DAY_S - 60)
    forget_expired_keys()
    assert _submit().job_id == first.job_id
    pass_time(120)
    second = _submit(body="another")
    assert second.created
    assert second.job_id != first.job_id


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_every_end_starts_the_day(ended: str) -> None:
    made = _submit()
    assert IdempotencyKey.objects.get().expires_at is None
    if ended == "failed":
        end(taken(worker()), Failed(PROBLEM, retriable=False))
    else:
        Cancel(SYSTEM).run(made.job_id)
    row = ask("SELECT extract(epoch FROM expires_at - now())::int AS left FROM jobs_idempotencykey")
    assert DAY_S - 60 < row[0]["left"] <= DAY_S


def test_a_redriven_job_keeps_its_key() -> None:
    made = _submit()
    Cancel(SYSTEM).run(made.job_id)
    Redrive(SYSTEM).run(made.job_id)
    pass_time(2 * DAY_S)
    forget_expired_keys()
    assert _submit() == Submitted(made.job_id, State.QUEUED, created=False)


def test_a_key_that_a_redrive_revives_is_not_taken_for_another_job() -> None:
    """The request sees an expired key; before it can take it, the old job is sent back and needs its key again."""
    made = _submit()
    Cancel(SYSTEM).run(made.job_id)
    pass_time(DAY_S + 1)
    asked = Submission("test.noop", {}, "queue", idempotency=Idempotency("1:answer.v1", "k", "b"))
    with session() as request:
        steps = request.steps(submit_script(asked))
        next(sql for sql in steps if sql.startswith("DELETE"))  # stopped before it deletes the key
        redrive = Waiter(lambda: Redrive(SYSTEM).run(made.job_id))
        assert redrive.blocked(), "the request has the key"
        for _ in steps:
            pass
        request.connection.commit()
        assert redrive.end() is State.QUEUED
    key = IdempotencyKey.objects.get()
    assert (key.job_id, key.expires_at) == (asked.job_id, None)


def test_expired_keys_are_swept_away_and_others_are_not() -> None:
    for key in ("a", "b", "c"):
        _submit(key)
    mine = worker()
    for _ in range(2):
        end(taken(mine), Succeeded())
    pass_time(DAY_S + 1)
    Reconciler().tick()
    assert list(IdempotencyKey.objects.values_list("key", flat=True)) == ["c"]
    assert Job.objects.count() == 3


def test_a_job_that_is_deleted_takes_its_key_along() -> None:
    made = _submit()
    ask("DELETE FROM jobs_jobevent")
    Job.objects.filter(pk=made.job_id).delete()
    assert _submit().created


def test_jobs_without_a_key_are_all_different() -> None:
    assert submitted() != submitted()
    assert not IdempotencyKey.objects.exists()
    script.run(submit_script(Submission("test.noop", {}, "queue")))
    assert Job.objects.count() == 3
