from __future__ import annotations

from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from jobs import lease, script
from jobs.claim import claim
from jobs.handlers import Claim, HandedBack, Succeeded
from jobs.holds import lift, place
from jobs.models import Job, Worker
from jobs.models.job import Priority
from jobs.reconcile import expire_leases
from jobs.states import State
from tests.jobs.drive import (
    Waiter,
    ask,
    at_once,
    crash,
    end,
    job,
    last_event,
    pass_time,
    person,
    queue_in_bulk,
    session,
    snapshot,
    state,
    story,
    submitted,
    take,
    taken,
    worker,
)


def test_a_claim_says_everything_a_handler_needs() -> None:
    user = person()
    job_id = submitted(
        payload={"n": [1, "é"]},
        user_id=user.pk,
        time_limit_s=60,
        max_attempts=5,
        partition_key="p",
        requires="agent:a@1",
    )
    mine = worker(can=["agent:a@1"])
    row = job(job_id)
    assert taken(mine) == Claim(
        job_id=job_id,
        fence=1,
        handler="test.noop",
        payload={"n": [1, "é"]},
        user_id=user.pk,
        lane="queue",
        home_lane="queue",
        attempt=0,
        max_attempts=5,
        crashes=0,
        generation=1,
        time_limit_s=60,
        partition_key="p",
        worker_id=mine,
        created_at=row.created_at,
        requires="agent:a@1",
    )


def test_a_claim_is_written_with_its_event() -> None:
    job_id = submitted()
    mine = worker()
    taken(mine)
    row, event = job(job_id), last_event(job_id)
    assert (row.state, row.worker_id, row.fence) == ("running", mine, 1)
    assert row.claimed_at is not None
    assert row.claimed_at == row.started_at
    assert row.claimed_at <= event.at
    assert (event.kind, event.old, event.new, event.reason) == ("state", "queued", "running", "claimed")
    assert (event.fence, event.worker_id) == (1, mine)


def test_the_fence_grows_with_each_claim_and_the_start_stays() -> None:
    submitted()
    mine, fences, starts = worker(), [], set()
    for _ in range(4):
        claimed = taken(mine)
        fences.append(claimed.fence)
        starts.add(job(claimed.job_id).started_at)
        end(claimed, HandedBack())
    assert fences == [1, 2, 3, 4]
    assert len(starts) == 1


def test_a_claim_that_is_rolled_back_leaves_the_job_in_the_queue() -> None:
    job_id = submitted()
    mine = worker()
    with session() as other:
        other.do(claim(mine, "queue"))
        assert take(worker()) is None
        other.connection.rollback()
    assert story(job_id) == [("", "queued", "submitted")]
    assert taken(worker()).fence == 1


def test_nothing_is_claimed_where_there_is_nothing() -> None:
    submitted(lane="batch")
    before_worker = worker("queue")
    before = snapshot()
    assert take(before_worker) is None
    assert snapshot() == before


@pytest.mark.parametrize("claimers", [2, 6])
def test_claimers_at_once_never_get_the_same_job(claimers: int) -> None:
    for _ in range(24):
        submitted()
    workers = [worker() for _ in range(claimers)]

    def take_all(mine: UUID) -> list[Claim]:
        found = []
        while (claimed := take(mine)) is not None:
            found.append(claimed)
        return found

    results = at_once(*[lambda mine=mine: take_all(mine) for mine in workers])
    found = [claimed for result in results if isinstance(result, list) for claimed in result]
    assert len(found) == 24
    assert len({claimed.job_id for claimed in found}) == 24
    assert {claimed.fence for claimed in found} == {1}
    assert all(job(claimed.job_id).worker_id == claimed.worker_id for claimed in found)


def test_a_claimer_goes_past_what_another_is_just_claiming() -> None:
    first, second, third = submitted(), submitted(), submitted()
    with session() as one, session() as two:
        one.do(claim(worker(), "queue"))
        two.do(claim(worker(), "queue"))
        assert taken(worker()).job_id == third
        two.connection.rollback()
        assert taken(worker()).job_id == second
        one.connection.commit()
    assert state(first) is State.RUNNING


def test_a_claimer_goes_past_a_job_that_somebody_is_just_changing() -> None:
    first, second = submitted(), submitted()
    with session() as other:
        other.connection.execute("SELECT 1 FROM jobs_job WHERE id = %s FOR UPDATE", [first])
        assert taken(worker()).job_id == second


def test_the_order_is_priority_then_fair_tag_then_age() -> None:
    ada, bob = person("ada").pk, person("bob").pk
    later = [submitted(user_id=ada, priority=Priority.P2) for _ in range(2)]
    first = [submitted(user_id=ada), submitted(user_id=ada), submitted(user_id=bob)]
    mine = worker()
    assert [taken(mine).job_id for _ in range(5)] == [first[0], first[2], first[1], *later]


def test_a_worker_claims_only_what_it_has_loaded() -> None:
    old, new, any_ = submitted(requires="agent:a@1"), submitted(requires="agent:a@2"), submitted()
    assert taken(worker(can=["agent:b@1", "agent:a@2"])).job_id == new
    knows_nothing = worker()
    assert taken(knows_nothing).job_id == any_
    assert take(knows_nothing) is None
    assert state(old) is State.QUEUED


def test_what_a_worker_loads_later_counts_from_then_on() -> None:
    job_id = submitted(requires="agent:a@2")
    mine = worker(can=["agent:a@1"])
    assert take(mine) is None
    script.run(lease.update_capabilities(mine, ["agent:a@1", "agent:a@2"]))
    assert taken(mine).job_id == job_id


def test_nothing_under_a_hold_is_claimed_and_nothing_slips_through() -> None:
    job_id = submitted(hold_keys=["all", "agent:a"])
    free = submitted(hold_keys=["all", "agent:b"])
    script.run(place("agent:a", "budget", by="ada"))
    mine = worker()
    assert state(job_id) is State.QUEUED, "no sweep has come by yet"
    assert taken(mine).job_id == free
    assert take(mine) is None
    script.run(lift("agent:a", "budget"))
    assert taken(mine).job_id == job_id


def test_a_thousand_held_jobs_at_the_head_do_not_stop_the_lane() -> None:
    queue_in_bulk(1000, hold_keys=["agent:a"], priority=Priority.P0)
    script.run(place("agent:a", "paused", by="ada"))
    last = submitted()
    assert taken(worker()).job_id == last


def test_who_is_no_worker_claims_nothing() -> None:
    submitted()
    assert take(uuid4()) is None


def test_a_worker_whose_lease_is_over_claims_nothing_even_before_anyone_noticed() -> None:
    submitted()
    mine = worker()
    pass_time(lease.LEASE_S + 0.1)
    before = snapshot()
    assert take(mine) is None
    assert snapshot() == before


@pytest.mark.parametrize("how", ["lost", "died", "stopped"])
def test_a_worker_that_was_declared_gone_claims_nothing_more(how: str) -> None:
    submitted()
    mine = worker()
    script.run(lease.end(mine, how))
    assert take(mine) is None
    assert script.run(lease.renew(mine)) is None
    assert take(mine) is None


def test_a_claim_under_way_keeps_the_lease_from_being_declared_lost() -> None:
    """The lease runs out between the claim and its commit: whoever ends it comes after, and sees the job."""
    job_id = submitted()
    mine = worker()
    with session() as claiming:
        claiming.do(claim(mine, "queue"))
        pass_time_of_leases(lease.LEASE_S + 1)
        expire_leases()
        assert Worker.objects.get(pk=mine).ended_at is None, "nobody ends a lease over a claim's head"
        ending = Waiter(lambda: crash(mine))
        assert ending.blocked()
        claiming.connection.commit()
        ending.end()
    assert state(job_id) is State.QUEUED
    assert story(job_id)[-1] == ("running", "queued", "worker-died")


def test_a_claim_that_waits_for_the_end_of_its_lease_gets_nothing() -> None:
    """The claim saw a good lease, but the row was being ended: it looks again once it has the row."""
    job_id = submitted()
    mine = worker()
    with session() as ending:
        ending.do(lease.end(mine, "lost"))
        claiming = Waiter(lambda: take(mine))
        assert claiming.blocked()
        ending.connection.commit()
        assert claiming.end() is None
    assert story(job_id) == [("", "queued", "submitted")]


def test_renewing_and_claiming_do_not_wait_for_each_other() -> None:
    submitted()
    mine = worker()
    with session() as claiming, session() as renewing:
        claiming.do(claim(mine, "queue"))
        renewing.do(lease.renew(mine))
        renewing.connection.commit()
        claiming.connection.commit()
    assert Job.objects.get().worker_id == mine


def test_a_job_passes_from_worker_to_worker_with_one_owner_at_a_time() -> None:
    job_id = submitted()
    owners = []
    for _ in range(3):
        mine = worker("queue", "suspect")
        claimed = take(mine) or taken(mine, "suspect")
        owners.append((claimed.fence, mine))
        assert job(job_id).worker_id == mine
        if len(owners) < 3:
            crash(mine)
            assert job(job_id).worker_id is None
    assert end(claimed, Succeeded())
    assert all(one[0] < other[0] for one, other in pairwise(owners))


def pass_time_of_leases(seconds: float) -> None:
    """Let leases run out on rows that others have share-locked: times are no keys, so they may be moved."""
    ask("UPDATE jobs_worker SET lease_until = lease_until - make_interval(secs => %s)", [seconds])
