"""Several at once, on connections of their own: one wins, the others are told, nothing runs twice, nobody waits for
ever. Locks are taken in one order: the run's partition, its job, then the request.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import F

from agents import registry
from agents.invoke import invoke
from approvals.claiming import Claim, Delegate
from approvals.deadlines import Deadlines
from approvals.deciding import Decide, Outcome
from approvals.errors import AlreadyDecided, Claimed, PlanChanged
from approvals.locking import locked
from approvals.models import Approval
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs import lanes, script
from jobs.actions import Cancel, InvalidState, Redrive
from jobs.claim import claim, finish
from jobs.handlers import Parked, Succeeded, WaitFor
from jobs.models import Job, JobEvent, Wait
from jobs.transitions import lock
from jobs.waits import resolve
from tests.jobs.drive import Waiter, at_once, session, worker
from tests.support.approvals import approval, asked, carry_on, config, fresh, paid, reviewer, still
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config())

ROUNDS = range(5)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def go_ons(run_id: UUID) -> int:
    """Return how often a parked run was let go on."""
    return JobEvent.objects.filter(job_id=run_id, kind="state", old="waiting", new="queued").count()


def decisions(of: Approval) -> int:
    return AuditEntry.objects.filter(action="approval.decide", target_id=str(of.pk)).count()


def overdue() -> None:
    span = timedelta(hours=25)
    Approval.objects.update(deadline=F("deadline") - span, sort_at=F("sort_at") - span)


@pytest.mark.parametrize("round_", ROUNDS)
def test_of_two_reviewers_one_wins_and_the_other_is_told_by_whom(notes: Path, round_: int) -> None:
    of = asked(notes, 150)
    rita, rolf = reviewer("rita"), reviewer("rolf")
    results = at_once(
        lambda: Decide(rita, "approve", of.plan_hash).run(of.pk),
        lambda: Decide(rolf, "reject", of.plan_hash, "no").run(of.pk),
    )
    (winner,) = (place for place, result in enumerate(results) if isinstance(result, Outcome))
    refused = results[1 - winner]
    assert isinstance(refused, AlreadyDecided)
    assert ("by rita" if winner == 0 else "by rolf") in refused.detail
    assert fresh(of).decided_by == ["rita" if winner == 0 else "rolf"]
    assert (decisions(of), go_ons(of.run_id), of.votes.count()) == (1, 1, 1)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == (["paid-150"] if winner == 0 else [])


@pytest.mark.parametrize("round_", ROUNDS)
def test_votes_at_once_complete_one_quorum(notes: Path, round_: int) -> None:
    load(config("quorum: 2"))
    of = asked(notes, 150)
    actors = [reviewer(name) for name in ("rita", "rolf", "ruth")]
    results = at_once(*(partial(Decide(actor, "approve", of.plan_hash).run, of.pk) for actor in actors))
    assert sorted(result.missing for result in results if isinstance(result, Outcome)) == [0, 1]
    assert sum(isinstance(result, AlreadyDecided) for result in results) == 1
    assert (len(fresh(of).decided_by), decisions(of), go_ons(of.run_id)) == (2, 1, 1)


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_change_and_a_vote_at_once_never_agree_on_two_plans(notes: Path, round_: int) -> None:
    load(config("quorum: 2"))
    of = asked(notes, 150)
    rita, rolf = reviewer("rita"), reviewer("rolf")
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": 120}}]
    results = at_once(
        lambda: Decide(rita, "approve_with_changes", of.plan_hash, calls=calls).run(of.pk),
        lambda: Decide(rolf, "approve", of.plan_hash).run(of.pk),
    )
    assert fresh(of).state == "pending"
    assert isinstance(results[0], Outcome)
    assert isinstance(results[1], Outcome | PlanChanged)
    assert [vote.user_name for vote in of.votes.filter(void=False)] == ["rita"]


def test_clicking_five_times_decides_once(notes: Path) -> None:
    of = asked(notes, 150)
    rita = reviewer("rita")
    results = at_once(*[lambda: Decide(rita, "approve", of.plan_hash).run(of.pk)] * 5)
    assert sum(isinstance(result, AlreadyDecided) for result in results) == 4
    assert (decisions(of), go_ons(of.run_id), of.votes.count()) == (1, 1, 1)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]


def test_resuming_five_times_runs_once(notes: Path) -> None:
    of = asked(notes, 150)
    Decide(reviewer(), "approve", of.plan_hash).run(of.pk)
    result = Wait.objects.get(job_id=of.run_id).result
    results = at_once(*[lambda: script.run(resolve(of.run_id, of.wait_key, result))] * 5)
    assert results == [False] * 5
    assert isinstance(carry_on(), Succeeded)
    assert not any(at_once(*[lambda: script.run(resolve(of.run_id, of.wait_key, result))] * 2))
    assert script.run(claim(worker(lanes.QUEUE, can=registry.capabilities()), lanes.QUEUE)) is None
    assert (paid(notes), go_ons(of.run_id)) == (["paid-150"], 1)


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_decision_and_a_cancellation_end_in_one_of_both(notes: Path, round_: int) -> None:
    of = asked(notes, 150)
    rita = reviewer("rita")
    decided, cancelled = at_once(
        lambda: Decide(rita, "approve", of.plan_hash).run(of.pk), lambda: Cancel(SYSTEM).run(of.run_id)
    )
    assert not isinstance(cancelled, Exception), "a run that was let go on is cancelled all the same"
    assert Job.objects.get(pk=of.run_id).state == "cancelled"
    if isinstance(decided, Outcome):
        assert fresh(of).state == "approved"
    else:
        assert isinstance(decided, AlreadyDecided)
        assert (fresh(of).state, fresh(of).decision) == ("superseded", "")
    assert paid(notes) == []


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_decision_and_a_redrive_leave_one_request(notes: Path, round_: int) -> None:
    of = asked(notes, 150)
    Cancel(SYSTEM).run(of.run_id)
    rita = reviewer("rita")
    decided, redriven = at_once(
        lambda: Decide(rita, "approve", of.plan_hash).run(of.pk), lambda: Redrive(SYSTEM).run(of.run_id)
    )
    assert isinstance(decided, AlreadyDecided)
    assert not isinstance(redriven, InvalidState)
    assert isinstance(carry_on(), Parked)
    assert Approval.objects.filter(run_id=of.run_id, state="pending").count() == 1


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_deadline_and_a_decision_at_once_end_in_the_deadline(notes: Path, round_: int) -> None:
    of = asked(notes, 150)
    overdue()
    rita = reviewer("rita")
    decided, *swept = at_once(
        lambda: Decide(rita, "approve", of.plan_hash).run(of.pk), Deadlines(still).sweep, Deadlines(still).sweep
    )
    assert isinstance(decided, AlreadyDecided)
    assert sorted(swept) == [0, 1]  # type: ignore[type-var]
    assert (fresh(of).state, decisions(of), go_ons(of.run_id)) == ("expired", 1, 1)


def test_a_sweep_waits_for_a_decision_that_is_under_way(notes: Path) -> None:
    of = asked(notes, 150)
    overdue()
    with transaction.atomic():
        waiting = locked(of.pk)
        sweep = Waiter(Deadlines(still).sweep)
        assert sweep.blocked()
        waiting.state, waiting.decision, waiting.decided_at = "rejected", "reject", waiting.locked_at
        waiting.save()
    assert sweep.end() == 0
    assert fresh(of).state == "rejected"


def test_a_decision_waits_for_the_run_that_is_parking(notes: Path) -> None:
    run_id = invoke("pay.v1", {"file": "", "amounts": []}, user=person("user"), actor=SYSTEM).run_id
    found = script.run(claim(worker(lanes.QUEUE, can=registry.capabilities()), lanes.QUEUE))
    assert found is not None
    of = approval(endpoint="pay.v1")  # for the data of a plan
    data = {"plan": of.plan, "plan_hash": of.plan_hash, "reason": "", "rules": []}
    rita = reviewer("rita")
    with session() as park:
        park.do(finish(found, Parked([WaitFor("person", "approve#1", None, data)])))
        early = Waiter(lambda: Approval.objects.filter(run_id=run_id).exists())
        assert early.end() is False
        pending: list[UUID] = [
            row["id"]
            for row in park.connection.execute("SELECT id FROM approvals_approval WHERE run_id = %s", [run_id])
        ]
        park.connection.commit()
    Decide(rita, "approve", of.plan_hash).run(pending[0])
    assert Job.objects.get(pk=run_id).state == "queued"


def test_a_cancellation_that_is_under_way_is_waited_for(notes: Path) -> None:
    of = asked(notes, 150)
    rita = reviewer("rita")
    with transaction.atomic():
        Cancel(SYSTEM).run(of.run_id)
        decision = Waiter(lambda: Decide(rita, "approve", of.plan_hash).run(of.pk))
        assert decision.blocked()
    assert isinstance(decision.end(), AlreadyDecided)


def test_whoever_holds_the_job_first_is_never_waited_for_in_a_ring(notes: Path) -> None:
    of = asked(notes, 150)
    rita = reviewer("rita")
    with transaction.atomic():
        script.run(lock(of.run_id))
        decision = Waiter(lambda: Decide(rita, "approve", of.plan_hash).run(of.pk))
        assert decision.blocked()
        # It waits for the job and holds nothing of the request.
        Approval.objects.select_for_update(nowait=True).get(pk=of.pk)
    assert isinstance(decision.end(), Outcome)


def test_everybody_at_once_never_locks_up(notes: Path) -> None:
    load(config("quorum: 2"))
    rita, rolf, ruth = (reviewer(name) for name in ("rita", "rolf", "ruth"))
    for _ in range(8):
        of = asked(notes, 150)
        deeds: list[Callable[[], Any]] = [
            partial(Decide(rita, "approve", of.plan_hash).run, of.pk),
            partial(Decide(rolf, "reject", of.plan_hash, "no").run, of.pk),
            partial(Claim(ruth, take_over=True).run, of.pk),
            partial(Delegate(ruth, "rolf").run, of.pk),
            partial(Cancel(SYSTEM).run, of.run_id),
            Deadlines(still).sweep,
        ]
        for result in at_once(*deeds):
            assert not isinstance(result, Exception) or isinstance(result, AlreadyDecided | Claimed), result
        assert Job.objects.get(pk=of.run_id).state == "cancelled"
        assert fresh(of).state in ("rejected", "superseded")


def test_of_two_who_claim_at_once_one_has_it(notes: Path) -> None:
    of = asked(notes, 150)
    actors = [reviewer("rita"), reviewer("rolf")]
    results = at_once(*(partial(Claim(actor).run, of.pk) for actor in actors))
    assert sum(isinstance(result, Claimed) for result in results) == 1
    assert AuditEntry.objects.filter(action="approval.claim").count() == 1


# --- Two requests of one run ----------------------------------------------------------------------------------------


def test_two_requests_of_one_run_are_decided_at_once_and_it_goes_on_once(notes: Path) -> None:
    first = asked(notes, 150, 250, endpoint="plan.v1", apart=True)
    second = Approval.objects.filter(run_id=first.run_id, state="pending").exclude(pk=first.pk).get()
    rita, rolf = reviewer("rita"), reviewer("rolf")
    results = at_once(
        lambda: Decide(rita, "approve", first.plan_hash).run(first.pk),
        lambda: Decide(rolf, "approve", second.plan_hash).run(second.pk),
    )
    assert all(isinstance(result, Outcome) for result in results), results
    assert go_ons(first.run_id) == 1
    assert isinstance(carry_on(), Succeeded)
    assert sorted(paid(notes)) == ["paid-150", "paid-250"]


def test_a_run_goes_on_only_when_both_of_its_requests_are_decided(notes: Path) -> None:
    first = asked(notes, 150, 250, endpoint="plan.v1", apart=True)
    second = Approval.objects.filter(run_id=first.run_id, state="pending").exclude(pk=first.pk).get()
    Decide(reviewer(), "reject", first.plan_hash, "no").run(first.pk)
    assert Job.objects.get(pk=first.run_id).state == "waiting"
    assert fresh(second).state == "pending"
    Cancel(SYSTEM).run(first.run_id)
    assert (fresh(first).state, fresh(second).state) == ("rejected", "superseded")
