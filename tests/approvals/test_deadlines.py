"""When nobody answers: what the policy says happens, once, within seconds, whatever stops the sweep. Never approved."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from django.db import OperationalError
from django.db.models import F
from django.utils import timezone

from approvals import deadlines
from approvals.claiming import Claim, Delegate
from approvals.deadlines import MAX_PUT_OFF_S, PAGE, PUT_OFF_S, Deadlines
from approvals.deciding import Decide
from approvals.errors import AlreadyDecided, MayNot
from approvals.models import Approval
from audit.models import AuditEntry
from jobs import sweeps
from jobs.handlers import Failed, Parked, Succeeded
from jobs.ids import uuid7
from jobs.models import Job, Wait
from tests.jobs.drive import Clock, at_once
from tests.support.approvals import approval, asked, carry_on, config, fresh, paid, reviewer, still
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config())

ESCALATES = "auto_action: escalate, escalate_to: board, deadline_h: 24"
_TIMES = ("created_at", "deadline", "sort_at", "remind_at", "escalate_at", "claimed_until")


def written(**more: Any) -> Approval:
    return approval(endpoint="pay.v1", **more)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sweeper(clock: Clock) -> Deadlines:
    return Deadlines(clock)


def pass_time(hours: float) -> None:
    span = timedelta(hours=hours)
    Approval.objects.update(**{name: F(name) - span for name in _TIMES})


def overdue(count: int) -> list[UUID]:
    """Write so many overdue requests of runs that wait for them."""
    first = written(due=timedelta(seconds=-count))
    jobs, runs, waits, found = [], [], [], [first]
    for place in range(1, count):
        job, run, one = Job.objects.get(pk=first.run_id), first.run, Approval.objects.get(pk=first.pk)
        job.pk, one.pk = uuid7(), uuid7()
        jobs.append(job)
        runs.append(type(run)(**{f.attname: getattr(run, f.attname) for f in run._meta.concrete_fields}))
        runs[-1].pk = job.pk
        waits.append(Wait(job_id=job.pk, kind="person", key=first.wait_key))
        one.run_id = job.pk
        one.deadline = first.deadline + timedelta(seconds=place) if first.deadline else None
        found.append(one)
    Job.objects.bulk_create(jobs)
    type(first.run).objects.bulk_create(runs)
    Wait.objects.bulk_create(waits)
    Approval.objects.bulk_create(found[1:])
    return [one.pk for one in found]


# --- What happens ---------------------------------------------------------------------------------------------------


def test_nothing_happens_before_its_time(notes: Path, sweeper: Deadlines) -> None:
    of = asked(notes, 150)
    pass_time(23.9)
    assert sweeper.sweep() == 0
    assert fresh(of).state == "pending"


def test_what_nobody_decided_is_rejected(notes: Path, sweeper: Deadlines) -> None:
    of = asked(notes, 150, 20)
    pass_time(24)
    assert sweeper.sweep() == 1
    found = fresh(of)
    assert (found.state, found.decision, found.decided_by) == ("expired", "reject", [])
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-20"]
    entry = AuditEntry.objects.get(action="approval.decide")
    assert (entry.actor_name, (entry.after or {})["state"], (entry.after or {})["by"]) == ("astra", "expired", [])


def test_votes_that_are_too_few_approve_nothing(notes: Path, sweeper: Deadlines) -> None:
    load(config("quorum: 2"))
    of = asked(notes, 150)
    Decide(reviewer(), "approve", of.plan_hash).run(of.pk)
    pass_time(24)
    sweeper.sweep()
    assert (fresh(of).state, fresh(of).decided_by) == ("expired", [])
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == []


def test_who_comes_after_the_deadline_is_too_late_even_before_the_sweep(notes: Path) -> None:
    of = asked(notes, 150)
    pass_time(24)
    with pytest.raises(AlreadyDecided, match="deadline has passed"):
        Decide(reviewer(), "approve", of.plan_hash).run(of.pk)


def test_it_goes_back_to_an_agent_that_revises(notes: Path, sweeper: Deadlines) -> None:
    load(config("auto_action: return"))
    of = asked(notes, 150, endpoint="plan.v1")
    pass_time(24)
    sweeper.sweep()
    assert (fresh(of).state, fresh(of).decision) == ("expired", "request_changes")
    assert isinstance(carry_on(), Parked)
    again = Approval.objects.get(run=of.run_id, state="pending")
    assert (again.version, again.revises_id) == (2, of.pk)
    assert again.deadline is not None
    assert again.deadline > timezone.now() + timedelta(hours=23)


def test_an_agent_that_does_not_revise_reads_that_nobody_decided(notes: Path, sweeper: Deadlines) -> None:
    load(config("auto_action: return"))
    of = asked(notes, 150)
    pass_time(24)
    sweeper.sweep()
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == []
    output = type(of.run).objects.get(pk=of.run_id).output
    assert "Nobody decided in time" in str(output)


def test_a_program_that_does_not_revise_fails_in_words(notes: Path, sweeper: Deadlines) -> None:
    load(config("auto_action: return"))
    asked(notes, 150, endpoint="plan.v1", stubborn=True)
    pass_time(24)
    sweeper.sweep()
    outcome = carry_on()
    assert isinstance(outcome, Failed)
    assert "Nobody decided in time" in outcome.problem["detail"]
    assert not outcome.retriable


# --- Escalating -----------------------------------------------------------------------------------------------------


def test_after_the_deadline_the_other_group_decides_alone_for_as_long_again(notes: Path, sweeper: Deadlines) -> None:
    load(config(f"{ESCALATES}, remind_h: 2"))
    of = asked(notes, 150)
    person("ulla", "user")
    Delegate(reviewer("rita"), "ulla").run(of.pk)
    Approval.objects.update(remind_at=None, told_at=F("created_at"))
    pass_time(24)
    assert sweeper.sweep() == 1
    found = fresh(of)
    assert (found.state, found.groups, found.users, found.claimed_by_id) == ("pending", ["board"], [], None)
    assert (found.told_at, found.auto_action) == (None, "reject")
    assert found.deadline is not None
    assert found.remind_at == found.deadline - timedelta(hours=2)
    assert found.sort_at == found.deadline
    assert sweeper.sweep() == 0
    for actor in (reviewer("rita"), reviewer("ulla", "user")):
        with pytest.raises(MayNot, match="the group board"):
            Decide(actor, "approve", of.plan_hash).run(of.pk)
    Decide(reviewer("bea", "board"), "approve", of.plan_hash).run(of.pk)
    assert fresh(of).decided_by == ["bea"]


def test_after_the_second_deadline_it_is_rejected(notes: Path, sweeper: Deadlines) -> None:
    load(config(ESCALATES))
    of = asked(notes, 150)
    for _ in range(2):
        pass_time(24)
        sweeper.sweep()
        sweeper.sweep()
    assert (fresh(of).state, fresh(of).decision) == ("expired", "reject")


def test_an_outage_takes_nothing_of_the_time_of_the_other_group(notes: Path, sweeper: Deadlines) -> None:
    load(config(ESCALATES))
    of = asked(notes, 150)
    pass_time(24 * 7)
    sweeper.sweep()
    found = fresh(of)
    assert found.state == "pending"
    assert found.deadline is not None
    assert found.deadline > timezone.now() + timedelta(hours=23)


def test_votes_of_those_who_were_asked_first_do_not_count_after_it(notes: Path, sweeper: Deadlines) -> None:
    load(config(f"quorum: 2, {ESCALATES}"))
    of = asked(notes, 150)
    Decide(reviewer("rita"), "approve", of.plan_hash).run(of.pk)
    pass_time(24)
    sweeper.sweep()
    assert Decide(reviewer("bea", "board"), "approve", of.plan_hash).run(of.pk).missing == 1


def test_after_a_time_another_group_decides_too(notes: Path, sweeper: Deadlines) -> None:
    load(config("escalate_to: board, escalate_after_h: 4"))
    of = asked(notes, 150)
    pass_time(3.9)
    assert sweeper.sweep() == 0
    pass_time(0.1)
    assert sweeper.sweep() == 1
    assert sweeper.sweep() == 0
    found = fresh(of)
    assert (found.groups, found.escalate_at, found.told_at) == (["reviewer", "board"], None, None)
    entry = AuditEntry.objects.get(action="approval.escalate")
    assert (entry.actor_name, entry.before) == ("astra", {"groups": ["reviewer"], "users": []})
    Decide(reviewer("rita"), "approve", of.plan_hash).run(of.pk)
    assert fresh(of).state == "approved"


def test_a_claim_stays_when_another_group_may_decide_too(notes: Path, sweeper: Deadlines) -> None:
    load(config("escalate_to: board, escalate_after_h: 4"))
    of = asked(notes, 150)
    pass_time(4)
    Claim(reviewer("rita")).run(of.pk)
    sweeper.sweep()
    assert fresh(of).claimed_by == person("rita")


# --- Whatever stops it ----------------------------------------------------------------------------------------------


def test_every_scheduler_looks_each_second() -> None:
    assert {sweep.name: sweep.every_s for sweep in sweeps.registered()}["approval deadlines"] == 1.0


def test_a_sweep_that_dies_in_the_middle_leaves_the_rest_to_the_next() -> None:
    ids = overdue(3)
    done = deadlines._do

    def dies_at_the_second(approval_id: UUID, *more: Any) -> bool:
        if approval_id == ids[1]:
            raise SystemExit
        return done(approval_id, *more)

    with mock.patch.object(deadlines, "_do", dies_at_the_second), pytest.raises(SystemExit):
        Deadlines(still).sweep()
    assert [fresh(one).state for one in ids] == ["expired", "pending", "pending"]
    assert Deadlines(still).sweep() == 2


def test_one_that_dies_in_its_transaction_has_changed_nothing(notes: Path) -> None:
    of = asked(notes, 150)
    pass_time(24)
    with mock.patch.object(deadlines, "settle", side_effect=SystemExit), pytest.raises(SystemExit):
        Deadlines(still).sweep()
    assert (fresh(of).state, Wait.objects.get(job_id=of.run_id).resolved_at) == ("pending", None)


def test_an_outage_ends_the_turn_and_is_no_failure_of_a_request() -> None:
    ids = overdue(3)
    sweeper = Deadlines(still)
    with (
        mock.patch.object(deadlines, "_do", side_effect=OperationalError("gone")) as tried,
        pytest.raises(OperationalError),
    ):
        sweeper.sweep()
    assert tried.call_count == 1
    assert sweeper.sweep() == len(ids)


def test_one_that_fails_holds_up_no_other_and_is_tried_ever_less_often(
    sweeper: Deadlines, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ids = overdue(3)
    Wait.objects.filter(job_id=Approval.objects.get(pk=ids[0]).run_id).delete()  # so nothing can be resolved
    assert sweeper.sweep() == 2
    assert [fresh(one).state for one in ids] == ["pending", "expired", "expired"]
    assert caplog.text.count("a deadline failed") == 1
    waited = []
    for _ in range(4):
        start = clock.now
        failures = caplog.text.count("a deadline failed")
        while caplog.text.count("a deadline failed") == failures:
            clock.now += 1
            sweeper.sweep()
        waited.append(clock.now - start)
    assert waited == [PUT_OFF_S, PUT_OFF_S * 2, PUT_OFF_S * 4, PUT_OFF_S * 8]
    clock.now += MAX_PUT_OFF_S
    Wait.objects.create(job_id=fresh(ids[0]).run_id, kind="person", key=fresh(ids[0]).wait_key)
    assert sweeper.sweep() == 1


def test_one_that_failed_and_was_then_decided_is_forgotten(sweeper: Deadlines) -> None:
    ids = overdue(2)
    Wait.objects.filter(job_id__in=[fresh(one).run_id for one in ids]).delete()
    sweeper.sweep()
    Approval.objects.filter(pk=ids[0]).update(state="superseded", decided_at=timezone.now())
    sweeper.sweep()
    assert list(sweeper._put_off) == ids[1:]


def test_more_that_fail_than_a_turn_takes_hold_up_no_other(sweeper: Deadlines) -> None:
    ids = overdue(6)
    broken = [fresh(one).run_id for one in ids[:4]]
    Wait.objects.filter(job_id__in=broken).delete()
    with mock.patch.object(deadlines, "PAGE", 2):
        done = [sweeper.sweep() for _ in range(3)]
    assert done == [0, 0, 2]


def test_a_plan_that_was_altered_is_rejected_at_its_deadline(notes: Path, sweeper: Deadlines) -> None:
    of = asked(notes, 150)
    Approval.objects.update(plan={"x": 1}, asked_plan=[])
    pass_time(24)
    assert sweeper.sweep() == 1
    assert fresh(of).state == "expired"


def test_very_many_at_once_are_done_in_turns_of_bounded_length(sweeper: Deadlines, clock: Clock) -> None:
    ids = overdue(PAGE + 20)
    assert sweeper.sweep() == PAGE
    assert sweeper.sweep() == 20
    assert not Approval.objects.filter(pk__in=ids, state="pending").exists()
    assert Job.objects.filter(state="queued").count() == len(ids)


def test_a_turn_begins_none_once_its_time_is_up(sweeper: Deadlines, clock: Clock) -> None:
    overdue(3)
    done = deadlines._do

    def slowly(*given: Any) -> bool:
        clock.now += 0.6
        return done(*given)

    with mock.patch.object(deadlines, "_do", slowly):
        assert sweeper.sweep() == 2


def test_two_sweeps_at_once_do_each_request_once() -> None:
    ids = overdue(40)
    counts = at_once(Deadlines(still).sweep, Deadlines(still).sweep)
    assert sum(count for count in counts if isinstance(count, int)) == 40
    decided = AuditEntry.objects.filter(action="approval.decide").values_list("target_id", flat=True)
    assert sorted(decided) == sorted(str(one) for one in ids)


def test_what_became_of_a_call_has_no_deadline(sweeper: Deadlines) -> None:
    of = written(due=timedelta(hours=-1))
    Approval.objects.filter(pk=of.pk).update(deadline=None)
    assert sweeper.sweep() == 0
