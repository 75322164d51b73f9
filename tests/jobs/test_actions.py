from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import redis
from django.db import transaction

from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs import handlers, script, wakeups
from jobs.actions import Cancel, Changed, Discard, InvalidState, Pause, Redrive, Resume, Seen, UnknownJob
from jobs.handlers import Blocked, Claim, Failed, Outcome, Parked, Succeeded, Transition, WaitFor
from jobs.holds import lift, place
from jobs.models import Hold, Job, Wait
from jobs.reconcile import Reconciler
from jobs.script import Script
from jobs.states import State
from jobs.transitions import UNKNOWN_HANDLER, VERSION
from jobs.waits import resolve
from tests.jobs.drive import (
    PROBLEM,
    actor,
    at_once,
    crash,
    end,
    job,
    last_event,
    pass_time,
    running,
    snapshot,
    state,
    story,
    submitted,
    taken,
    worker,
)

# --- A job in each state ---------------------------------------------------------------------------------------------


def _scheduled() -> UUID:
    return submitted(run_at=datetime.now(UTC) + timedelta(hours=1))


def _blocked() -> UUID:
    script.run(place("all", "paused", by="ada"))
    return submitted(hold_keys=["all"])


def _ended(outcome: Outcome) -> UUID:
    claimed = running()
    end(claimed, outcome)
    return claimed.job_id


def _discarded() -> UUID:
    job_id = _ended(Failed(PROBLEM, retriable=False))
    Discard(SYSTEM, note="no").run(job_id)
    return job_id


def _cancelled() -> UUID:
    job_id = submitted()
    Cancel(SYSTEM).run(job_id)
    return job_id


MADE: dict[State, Callable[[], UUID]] = {
    State.SCHEDULED: _scheduled,
    State.BLOCKED: _blocked,
    State.QUEUED: submitted,
    State.RUNNING: lambda: running().job_id,
    State.WAITING: lambda: _ended(Parked([WaitFor("person", "approve")])),
    State.SUCCEEDED: lambda: _ended(Succeeded()),
    State.DEAD: lambda: _ended(Failed(PROBLEM, retriable=False)),
    State.DISCARDED: _discarded,
    State.CANCELLED: _cancelled,
}


def test_there_is_a_job_in_each_state() -> None:
    for wanted, make in MADE.items():
        assert state(make()) is wanted
        Job.objects.all().delete()


# --- Cancel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [State.SCHEDULED, State.BLOCKED, State.QUEUED, State.WAITING])
def test_a_job_that_does_not_run_is_cancelled_at_once(old: State) -> None:
    job_id = MADE[old]()
    assert Cancel(actor()).run(job_id) is State.CANCELLED
    row, event = job(job_id), last_event(job_id)
    assert (row.state, row.blocked_on) == ("cancelled", [])
    assert row.finished_at is not None
    assert (event.old, event.new, event.reason, event.actor) == (old, "cancelled", "cancelled", "ada")


def test_a_running_job_is_asked_to_stop() -> None:
    job_id = MADE[State.RUNNING]()
    assert Cancel(actor()).run(job_id) is State.RUNNING
    row, event = job(job_id), last_event(job_id)
    assert row.state == "running"
    assert row.cancel_requested_at is not None
    assert (event.reason, event.actor, event.fence) == ("cancel-requested", "ada", 1)


def test_asking_a_running_job_twice_is_harmless() -> None:
    job_id = MADE[State.RUNNING]()
    Cancel(actor()).run(job_id)
    before = snapshot()
    assert Cancel(actor("bob")).run(job_id) is State.RUNNING
    assert snapshot() == before


@pytest.mark.parametrize("old", [State.SUCCEEDED, State.DEAD, State.DISCARDED, State.CANCELLED])
def test_what_has_ended_cannot_be_cancelled(old: State) -> None:
    job_id = MADE[old]()
    who = actor()
    before = snapshot()
    with pytest.raises(InvalidState, match=f"A {old} job can't be cancelled") as refused:
        Cancel(who).run(job_id)
    assert (refused.value.job_id, refused.value.state, refused.value.verb) == (job_id, old, "cancelled")
    assert snapshot() == before


def test_the_owner_of_a_running_job_is_nudged_once_the_request_is_committed(valkey: redis.Redis) -> None:
    job_id = MADE[State.RUNNING]()
    with valkey.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(wakeups.NUDGES)
        while channel.get_message(timeout=1) is not None:
            pass
        with transaction.atomic():
            Cancel(actor()).run(job_id)
            assert channel.get_message(timeout=0.05) is None, "the owner would look and see nothing"
        message = channel.get_message(timeout=5)
    assert message is not None
    assert message["data"] == str(job_id).encode()


def test_cancelling_works_while_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "client", lambda: redis.Redis.from_url("unix:///nowhere/redis.sock"))
    job_id = MADE[State.RUNNING]()
    assert Cancel(actor()).run(job_id) is State.RUNNING
    assert job(job_id).cancel_requested_at is not None


def test_what_was_parked_and_cancelled_stays_cancelled_when_its_wait_is_resolved() -> None:
    job_id = MADE[State.WAITING]()
    Cancel(actor()).run(job_id)
    assert script.run(resolve(job_id, "approve", True))
    assert state(job_id) is State.CANCELLED


# --- Redrive ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_", ["checkpoint", "start"])
@pytest.mark.parametrize("old", [State.DEAD, State.CANCELLED])
def test_what_died_or_was_cancelled_begins_a_new_generation(old: State, from_: str) -> None:
    job_id = MADE[old]()
    assert Redrive(actor(), from_=from_).run(job_id) is State.QUEUED  # type: ignore[arg-type]
    row, event = job(job_id), last_event(job_id)
    assert (row.generation, row.attempt, row.crashes, row.error, row.progress) == (2, 0, 0, None, None)
    assert row.finished_at is row.started_at is row.cancel_requested_at is None
    assert (event.old, event.new, event.reason, event.actor) == (old, "queued", "redriven", "ada")
    assert event.data == {"from": from_, "generation": 2}
    claimed = taken(worker())
    assert (claimed.job_id, claimed.generation) == (job_id, 2)


def test_a_poison_job_that_is_redriven_begins_at_home_with_all_its_attempts() -> None:
    claimed = running()
    crash(claimed.worker_id)
    for _ in range(3):
        dying = worker("suspect")
        taken(dying, "suspect")
        crash(dying)
    assert (state(claimed.job_id), job(claimed.job_id).crashes) == (State.DEAD, 3)
    Redrive(actor()).run(claimed.job_id)
    again = taken(worker())
    assert (again.lane, again.crashes, again.attempt) == ("queue", 0, 0)
    assert again.fence > claimed.fence


def test_a_job_that_was_asked_to_stop_is_not_cancelled_again_after_its_redrive() -> None:
    claimed = running()
    Cancel(actor()).run(claimed.job_id)
    end(claimed, Failed(PROBLEM))
    Redrive(actor()).run(claimed.job_id)
    end(taken(worker()), Failed(PROBLEM))
    assert state(claimed.job_id) is State.SCHEDULED


@pytest.mark.parametrize(
    "old",
    [
        State.SCHEDULED,
        State.BLOCKED,
        State.QUEUED,
        State.RUNNING,
        State.WAITING,
        State.SUCCEEDED,
        State.DISCARDED,
    ],
)
def test_nothing_else_can_be_redriven(old: State) -> None:
    job_id = MADE[old]()
    who = actor()
    before = snapshot()
    with pytest.raises(InvalidState, match=f"A {old} job can't be redriven"):
        Redrive(who).run(job_id)
    assert snapshot() == before


@pytest.mark.parametrize("reason", [VERSION, UNKNOWN_HANDLER])
def test_a_job_that_its_worker_could_not_run_goes_on_when_a_person_says_so(reason: str) -> None:
    job_id = _ended(Blocked(reason, PROBLEM))
    assert Redrive(actor(), from_="start").run(job_id) is State.QUEUED
    row = job(job_id)
    assert (row.blocked_on, row.error, row.generation) == ([], None, 2)
    assert taken(worker()).job_id == job_id


def test_a_redrive_from_a_version_stays_blocked_on_whatever_else_stops_it() -> None:
    claimed = running(hold_keys=["all"])
    end(claimed, Blocked(VERSION, PROBLEM))
    script.run(place("all", "paused", by="ada"))
    assert Redrive(actor(), from_="start").run(claimed.job_id) is State.BLOCKED
    row = job(claimed.job_id)
    assert (row.blocked_on, row.generation) == (["hold:all"], 2)
    assert story(claimed.job_id)[-1] == ("blocked", "blocked", "redriven")
    script.run(lift("all", "paused"))
    Reconciler().tick()
    assert state(claimed.job_id) is State.QUEUED


def test_a_redrive_under_a_hold_is_blocked() -> None:
    claimed = running(hold_keys=["all"])
    end(claimed, Failed(PROBLEM, retriable=False))
    script.run(place("all", "paused", by="ada"))
    assert Redrive(actor()).run(claimed.job_id) is State.BLOCKED
    assert job(claimed.job_id).finished_at is None


def test_from_its_last_step_a_job_keeps_what_it_waited_for_and_from_the_start_it_does_not() -> None:
    for from_, kept in (("checkpoint", 1), ("start", 0)):
        job_id = MADE[State.WAITING]()
        script.run(resolve(job_id, "approve", "yes"))
        end(taken(worker()), Failed(PROBLEM, retriable=False))
        Redrive(actor(), from_=from_).run(job_id)  # type: ignore[arg-type]
        assert Wait.objects.filter(job_id=job_id).count() == kept
        Job.objects.all().delete()


def test_the_handler_hears_from_where_the_redrive_begins() -> None:
    heard: list[Transition] = []

    async def never(claim: Claim) -> Outcome:
        raise NotImplementedError

    def on_transition(change: Transition) -> Script[None]:
        heard.append(change)
        yield from ()

    handlers.register_function("test.redriven", never, on_transition=on_transition)
    claimed = running("test.redriven")
    end(claimed, Failed(PROBLEM, retriable=False))
    Redrive(actor(), from_="start").run(claimed.job_id)
    Cancel(actor()).run(claimed.job_id)
    Redrive(actor()).run(claimed.job_id)
    assert [change.redrive for change in heard] == ["", "start", "", "checkpoint"]


# --- Discard ---------------------------------------------------------------------------------------------------------


def test_a_dead_letter_is_given_up_with_a_note() -> None:
    job_id = MADE[State.DEAD]()
    assert Discard(actor(), note="The customer left.").run(job_id) is State.DISCARDED
    event = last_event(job_id)
    assert (event.old, event.new, event.actor) == ("dead", "discarded", "ada")
    assert event.data == {"note": "The customer left."}
    assert not Job.objects.dead().exists()


@pytest.mark.parametrize("note", ["", "  \n"])
def test_giving_up_needs_a_reason(note: str) -> None:
    job_id = MADE[State.DEAD]()
    with pytest.raises(ValueError, match="Say why"):
        Discard(actor(), note=note).run(job_id)
    assert state(job_id) is State.DEAD


@pytest.mark.parametrize("old", [old for old in State if old is not State.DEAD])
def test_only_dead_letters_are_discarded(old: State) -> None:
    job_id = MADE[old]()
    who = actor()
    before = snapshot()
    with pytest.raises(InvalidState, match=f"A {old} job can't be discarded"):
        Discard(who, note="no").run(job_id)
    assert snapshot() == before


# --- All of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [Cancel(SYSTEM), Redrive(SYSTEM), Discard(SYSTEM, note="no")])
def test_a_job_that_does_not_exist_is_told_so(action: Cancel | Redrive | Discard) -> None:
    missing = uuid4()
    with pytest.raises(UnknownJob, match=str(missing)):
        action.run(missing)
    assert not AuditEntry.objects.exists()


def test_each_deed_is_on_the_audit_trail_with_what_was_before_and_after() -> None:
    who = actor()
    dead = MADE[State.DEAD]()
    cancelled = submitted()
    Cancel(who).run(cancelled)
    Redrive(who, from_="start").run(cancelled)
    Discard(who, note="not wanted").run(dead)
    told = AuditEntry.objects.order_by("id")
    assert [
        (entry.action, entry.target_type, entry.target_id, entry.note, entry.before, entry.after) for entry in told
    ] == [
        ("job.cancel", "job", str(cancelled), "", {"state": "queued", "generation": 1}, {"state": "cancelled"}),
        (
            "job.redrive",
            "job",
            str(cancelled),
            "",
            {"state": "cancelled", "generation": 1},
            {"state": "queued", "from_": "start"},
        ),
        ("job.discard", "job", str(dead), "not wanted", {"state": "dead", "generation": 1}, {"state": "discarded"}),
    ]
    assert {(entry.actor_name, entry.actor_id, str(entry.address), entry.request_id) for entry in told} == {
        ("ada", who.user_id, "192.0.2.1", "req-1")
    }


def test_a_deed_and_its_record_stand_or_fall_together() -> None:
    job_id = submitted()
    who = actor()
    before = snapshot()
    with transaction.atomic():
        Cancel(who).run(job_id)
        transaction.set_rollback(True)
    assert snapshot() == before


def test_the_deeds_leave_permission_to_whoever_calls_them() -> None:
    """An action knows who acts, for the record, and does not ask whether they may: one with no rights does it."""
    who = actor("nobody")
    assert who.user is not None
    assert not who.user.groups.exists()  # type: ignore[union-attr]
    assert Cancel(who).run(submitted()) is State.CANCELLED


@pytest.mark.parametrize(
    ("old", "verb"),
    [
        (State.QUEUED, Cancel(SYSTEM)),
        (State.DEAD, Redrive(SYSTEM)),
        (State.DEAD, Discard(SYSTEM, note="no")),
    ],
    ids=["cancel", "redrive", "discard"],
)
def test_of_many_who_do_the_same_at_once_one_does_it_and_the_others_are_told(
    old: State, verb: Cancel | Redrive | Discard
) -> None:
    job_id = MADE[old]()
    results = at_once(*[lambda: verb.run(job_id)] * 5)
    assert len([result for result in results if isinstance(result, State)]) == 1
    assert len([result for result in results if isinstance(result, InvalidState)]) == 4
    assert AuditEntry.objects.count() == 1
    assert job(job_id).generation == (2 if isinstance(verb, Redrive) else 1)


def test_many_who_ask_a_running_job_to_stop_at_once_are_one_request() -> None:
    job_id = MADE[State.RUNNING]()
    results = at_once(*[lambda: Cancel(SYSTEM).run(job_id)] * 5)
    assert results == [State.RUNNING] * 5
    assert [reason for _, _, reason in story(job_id)].count("cancel-requested") == 1
    assert AuditEntry.objects.count() == 1


def test_of_a_redrive_and_a_discard_at_once_exactly_one_is_done() -> None:
    for _ in range(5):
        job_id = MADE[State.DEAD]()
        results = at_once(lambda: Redrive(SYSTEM).run(job_id), lambda: Discard(SYSTEM, note="no").run(job_id))  # noqa: B023
        assert sorted(type(result).__name__ for result in results) == ["InvalidState", "State"]
        assert state(job_id) in results
        Job.objects.all().delete()


def test_a_cancel_and_an_outcome_at_once_end_in_one_of_the_two() -> None:
    for _ in range(5):
        claimed = running()
        results = at_once(
            lambda: Cancel(SYSTEM).run(claimed.job_id),  # noqa: B023
            lambda: end(claimed, Parked([WaitFor("event", "e")])),  # noqa: B023
        )
        assert results[1] is True
        assert state(claimed.job_id) is State.CANCELLED, "before it parked or after it: it is cancelled"


def test_redrive_takes_a_dead_letter_out_of_a_retry_that_is_long_past() -> None:
    claimed = running(max_attempts=2)
    end(claimed, Failed(PROBLEM))
    pass_time(3600)
    Reconciler().tick()
    end(taken(worker()), Failed(PROBLEM))
    assert state(claimed.job_id) is State.DEAD
    Redrive(actor()).run(claimed.job_id)
    end(taken(worker()), Failed(PROBLEM))
    assert (state(claimed.job_id), job(claimed.job_id).attempt) == (State.SCHEDULED, 1)


# --- What was seen ---------------------------------------------------------------------------------------------------


def _died_again(job_id: UUID) -> None:
    Redrive(actor("bob")).run(job_id)
    end(taken(worker()), Failed(PROBLEM, retriable=False))
    assert state(job_id) is State.DEAD


@pytest.mark.parametrize(
    ("verb", "done"),
    [
        (lambda seen: Redrive(actor(), seen=seen), "redriven"),
        (lambda seen: Discard(actor(), note="no", seen=seen), "discarded"),
    ],
    ids=["redrive", "discard"],
)
def test_a_dead_letter_that_was_redriven_since_it_was_seen_and_died_again_is_left_alone(
    verb: Callable[[Seen], Redrive | Discard], done: str
) -> None:
    job_id = MADE[State.DEAD]()
    looked = Job.objects.get(pk=job_id)
    at = datetime.now(UTC)
    _died_again(job_id)
    before = snapshot()
    for seen in (Seen(generation=looked.generation), Seen(at=at)):
        action = verb(seen)
        with pytest.raises(Changed, match=f"redriven meanwhile by bob, so it was not {done}"):
            action.run(job_id)
    assert snapshot() == before
    verb(Seen(generation=2)).run(job_id)


def test_a_task_that_was_sent_back_since_it_was_seen_is_not_cancelled() -> None:
    job_id = MADE[State.DEAD]()
    at = datetime.now(UTC)
    Redrive(actor("bob")).run(job_id)
    with pytest.raises(Changed, match="redriven meanwhile by bob, so it was not cancelled"):
        Cancel(actor(), seen=Seen(at=at)).run(job_id)
    assert Cancel(actor(), seen=Seen(at=datetime.now(UTC))).run(job_id) is State.CANCELLED


def test_a_dead_letter_that_was_redriven_before_it_was_seen_is_redriven_again() -> None:
    job_id = MADE[State.DEAD]()
    _died_again(job_id)
    Redrive(actor(), seen=Seen(generation=2, at=datetime.now(UTC))).run(job_id)
    assert job(job_id).generation == 3


def test_giving_a_dead_letter_up_leaves_the_time_of_its_end() -> None:
    job_id = MADE[State.DEAD]()
    ended = job(job_id).finished_at
    Discard(actor(), note="no").run(job_id)
    assert (job(job_id).state, job(job_id).finished_at) == ("discarded", ended)


# --- Pause and resume ------------------------------------------------------------------------------------------------


def test_a_paused_lane_starts_nothing_until_it_is_resumed() -> None:
    job_id = submitted(hold_keys=["all", "lane:queue"])
    assert Pause(actor(), note="deploy").run("lane:queue")
    Reconciler().tick()
    assert (state(job_id), job(job_id).blocked_on) == (State.BLOCKED, ["hold:lane:queue"])
    assert Resume(actor()).run("lane:queue")
    Reconciler().tick()
    assert state(job_id) is State.QUEUED
    placed, lifted = AuditEntry.objects.order_by("id")
    assert (placed.action, placed.target_id, placed.note, placed.after) == (
        "hold.place",
        "lane:queue",
        "deploy",
        {"reason": "paused"},
    )
    assert (lifted.action, lifted.target_id, lifted.before) == ("hold.lift", "lane:queue", {"reason": "paused"})


def test_of_many_who_pause_at_once_one_does_it_and_its_note_stays() -> None:
    results = at_once(*[lambda: Pause(SYSTEM, note="first").run("all")] * 5)
    assert sorted(results) == [False] * 4 + [True]  # type: ignore[type-var]
    assert not Pause(actor(), note="second").run("all")
    assert [hold.note for hold in Hold.objects.all()] == ["first"]
    assert AuditEntry.objects.count() == 1


def test_resuming_lifts_no_hold_of_another_reason() -> None:
    Pause(SYSTEM, reason="budget").run("agent:helper")
    assert not Resume(actor()).run("agent:helper")
    assert Resume(actor(), reason="budget").run("agent:helper")
    assert not Hold.objects.exists()
