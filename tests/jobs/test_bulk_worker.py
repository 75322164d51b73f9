from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from django.db import OperationalError

from accounts import roles
from audit.models import AuditEntry
from jobs import bulk, bulk_refusals, bulk_worker, handlers
from jobs.actions import Cancel, Discard, Redrive
from jobs.bulk import Selector, Stop, Wanted
from jobs.bulk_worker import BulkWorker, take
from jobs.handlers import Claim, Outcome, Transition
from jobs.models import BulkOperation, Job, JobEvent
from jobs.script import Script
from tests.jobs.bulks import counts, dead_letters, let_the_lease_end, now, operator, started, work
from tests.jobs.drive import Waiter, ask, at_once, running, session, until
from tests.support.people import person

Outage = Callable[[], None]


def one_row_a_turn() -> BulkWorker:
    """A worker whose turns are over after each job."""
    return BulkWorker(slice_s=0)


# --- What is done ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "old", "new", "options"),
    [
        ("redrive", "dead", "queued", {"from": "checkpoint"}),
        ("redrive", "dead", "queued", {"from": "start"}),
        ("discard", "dead", "discarded", {"note": "too old"}),
        ("cancel", "queued", "cancelled", {}),
    ],
)
def test_every_job_is_changed_once_and_stands_in_the_trail_as_if_done_by_hand(
    verb: str, old: str, new: str, options: dict[str, Any]
) -> None:
    dead_letters(7, state=old)
    made = started(verb, **options)
    work(BulkWorker(page=3))
    assert counts(made) == ("finished", 7, 0, {})
    assert set(Job.objects.values_list("state", flat=True)) == {new}
    entries = AuditEntry.objects.filter(action=f"job.{verb}")
    assert {UUID(entry.target_id) for entry in entries} == set(Job.objects.values_list("id", flat=True))
    assert len(entries) == 7
    assert {(entry.actor_name, entry.actor_id, str(entry.address), entry.request_id) for entry in entries} == {
        ("alice", person("alice").pk, "192.0.2.1", "req-alice")
    }
    for entry in entries:
        assert (entry.after or {}).get("from_", "") == options.get("from", "")
        assert entry.note == options.get("note", "")
    assert JobEvent.objects.filter(actor="alice").count() == 7


def test_the_newest_comes_first_and_the_times_are_told() -> None:
    dead_letters(3)
    made = started()
    worker = one_row_a_turn()
    worker.turn()
    row = now(made)
    assert row.cursor == Job.objects.order_by("-id")[0].pk == Job.objects.get(state="queued").pk
    assert (row.state, row.taken_by, row.finished_at) == ("running", None, None)
    began = row.started_at
    work(worker)
    row = now(made)
    assert began is not None and row.started_at == began
    assert row.finished_at is not None and row.finished_at >= began
    assert row.taken_by is None


def test_a_large_selection_is_walked_by_its_filter_and_takes_in_nothing_that_came_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "FIXED_UP_TO", 2)
    dead_letters(5)
    meant = set(Job.objects.values_list("id", flat=True))
    made = started()
    dead_letters(2)
    Job.objects.exclude(id__in=meant).update(created_at=now(made).created_at.replace(year=2999))
    work(BulkWorker(page=2))
    assert counts(made) == ("finished", 5, 0, {})
    assert set(Job.objects.filter(state="queued").values_list("id", flat=True)) == meant


def test_without_anything_to_do_there_is_no_turn() -> None:
    assert BulkWorker().turn() is False


# --- Two operators, the same selection -------------------------------------------------------------------------------


def test_of_two_who_ask_for_the_same_at_once_each_row_is_done_once_and_both_are_told() -> None:
    dead_letters(40)
    first, second = started(by="alice"), started(by="bob")
    workers = [BulkWorker(page=5, slice_s=0.02) for _ in range(2)]
    assert at_once(*[lambda worker=worker: work(worker) for worker in workers]) == [None, None]
    one, other = now(first), now(second)
    assert (one.state, other.state) == ("finished", "finished")
    assert one.changed + other.changed == one.refused + other.refused == 40
    assert one.changed + one.refused == other.changed + other.refused == 40
    assert sum(one.refusals.values()) == one.refused
    assert set(one.refusals) <= {"already redriven by bob"}
    assert set(other.refusals) <= {"already redriven by alice"}
    assert set(Job.objects.values_list("state", "generation")) == {("queued", 2)}
    assert JobEvent.objects.filter(reason="redriven").count() == 40
    assert AuditEntry.objects.filter(action="job.redrive").count() == 40


@pytest.mark.parametrize(
    ("verb", "old", "options", "told"),
    [
        ("redrive", "dead", {}, "already redriven by alice"),
        ("discard", "dead", {"note": "no"}, "already discarded by alice"),
        ("cancel", "queued", {}, "already cancelled by alice"),
    ],
)
def test_the_second_is_told_by_whom_it_was_done(verb: str, old: str, options: dict[str, Any], told: str) -> None:
    dead_letters(6, state=old)
    first, second = started(verb, by="alice", **options), started(verb, by="bob", **options)
    work()
    assert counts(first) == ("finished", 6, 0, {})
    assert counts(second) == ("finished", 0, 6, {told: 6})


def test_a_job_that_was_redriven_meanwhile_and_failed_again_is_not_redriven_again() -> None:
    dead_letters(1)
    made = started(by="bob")
    job = Job.objects.get()
    Redrive(operator("alice")).run(job.pk)
    Job.objects.update(state="dead", finished_at=now(made).created_at.replace(year=2999))
    work()
    assert counts(made) == ("finished", 0, 1, {"already redriven by alice": 1})
    assert Job.objects.get().generation == 2


def test_the_second_to_ask_running_jobs_to_stop_is_told() -> None:
    running()
    first, second = started("cancel", by="alice"), started("cancel", by="bob")
    work()
    assert counts(first) == ("finished", 1, 0, {})
    assert counts(second) == ("finished", 0, 1, {"already asked to stop by alice": 1})


# --- What is refused -------------------------------------------------------------------------------------------------


def test_each_reason_is_counted_in_words() -> None:
    dead_letters(4)
    made = started("discard", note="no")
    gone, redriven, cancelled, _ = Job.objects.order_by("id")
    gone.delete()
    Redrive(operator("bob")).run(redriven.pk)
    Redrive(operator("bob")).run(cancelled.pk)
    Cancel(operator("carol")).run(cancelled.pk)
    work()
    assert counts(made) == (
        "finished",
        1,
        3,
        {"no longer there": 1, "already redriven by bob": 2},
    )


def test_what_astra_did_by_itself_is_told_without_a_name() -> None:
    dead_letters(3, state="queued")
    made = started("cancel")
    ended = Job.objects.order_by("id")[0].pk
    Job.objects.filter(pk=ended).update(state="succeeded", finished_at=made.created_at)
    done = Job.objects.order_by("-id")[0].pk
    Job.objects.filter(pk=done).update(state="cancelled", finished_at=made.created_at)
    work()
    assert counts(made) == ("finished", 1, 2, {"already cancelled": 1, "succeeded by then": 1})


def test_no_more_than_so_many_reasons_are_told_apart() -> None:
    counted: dict[str, int] = {}
    for number in range(bulk_refusals.MAX_REASONS + 5):
        for _ in range(2):
            counted = bulk_refusals.add(counted, f"already redriven by {number}")
    assert len(counted) == bulk_refusals.MAX_REASONS + 1
    assert counted[bulk_refusals.OTHERS] == 10
    assert sum(counted.values()) == 2 * (bulk_refusals.MAX_REASONS + 5)


def test_a_job_that_raises_is_counted_and_logged_and_does_not_stop_the_rest(
    refusing: str, caplog: pytest.LogCaptureFixture
) -> None:
    dead_letters(5, handler=refusing)
    bad = Job.objects.order_by("id")[2].pk
    Job.objects.filter(pk=bad).update(payload={"refuse": True})
    made = started()
    work()
    state, changed, refused, refusals = counts(made)
    assert (state, changed, refused) == ("finished", 4, 1)
    assert list(refusals) == ["hit by an error (RuntimeError): the log of the scheduler says more"]
    assert Job.objects.get(state="dead").pk == bad
    assert AuditEntry.objects.filter(action="job.redrive").count() == 4
    assert str(bad) in caplog.text and "RuntimeError: refused" in caplog.text


def test_a_job_that_somebody_holds_is_tried_again_then_refused_and_does_not_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk_worker, "LOCK_TIMEOUT", "50ms")
    dead_letters(4)
    made = started()
    held = Job.objects.order_by("id")[1].pk
    with session() as other:
        other.connection.execute("SELECT 1 FROM jobs_job WHERE id = %s FOR UPDATE", [held])
        work()
    assert counts(made) == ("finished", 3, 1, {"busy with another change for too long": 1})
    assert Job.objects.get(state="dead").pk == held


# --- Turns and leases ------------------------------------------------------------------------------------------------


def test_a_small_operation_is_not_stuck_behind_a_large_one() -> None:
    dead_letters(3)
    few = [str(job_id) for job_id in Job.objects.values_list("id", flat=True)]
    dead_letters(100)
    large = started(by="bob", selection={})
    small = started(by="alice", selection={"ids": few})
    worker = one_row_a_turn()
    turns = 0
    while not now(small).has_ended:
        assert worker.turn()
        turns += 1
    assert turns <= 9
    assert now(large).changed + now(large).refused <= 5


def test_an_operation_that_somebody_works_on_is_left_to_them_until_their_lease_ends() -> None:
    dead_letters(2)
    made = started()
    held = take()
    assert held is not None and held.operation.pk == made.pk
    assert take() is None
    assert BulkWorker().turn() is False
    let_the_lease_end(made)
    work()
    assert counts(made) == ("finished", 2, 0, {})


def test_of_many_who_take_at_once_each_gets_another_operation() -> None:
    dead_letters(1)
    made = {started(by=f"person-{number}").pk for number in range(3)}
    taken = at_once(*[take] * 5)
    assert sorted(turn.operation.pk for turn in taken if turn is not None) == sorted(made)  # type: ignore[union-attr]


def test_whoever_lost_an_operation_changes_nothing_more() -> None:
    dead_letters(2)
    made = started()
    stale = take()
    assert stale is not None
    let_the_lease_end(made)
    assert take() is not None
    action = Redrive(operator())
    with pytest.raises(bulk_worker.Lost):
        bulk_worker._change(stale, Job.objects.all()[0].pk, action)
    assert counts(made) == ("running", 0, 0, {})
    assert set(Job.objects.values_list("state", flat=True)) == {"dead"}


def test_a_worker_that_is_told_to_stop_gives_the_operation_back_after_the_job_it_is_at() -> None:
    dead_letters(5)
    made = started()
    stop = threading.Event()
    stop.set()
    BulkWorker().turn(stop)
    row = now(made)
    assert (row.state, row.changed, row.taken_by) == ("running", 1, None)


def test_an_operation_is_stopped_in_the_middle_and_nothing_is_changed_after_it() -> None:
    dead_letters(3)
    made = started()
    with session() as other:
        middle = Job.objects.order_by("-id")[1].pk
        other.connection.execute("SELECT 1 FROM jobs_job WHERE id = %s FOR UPDATE", [middle])
        worker = Waiter(BulkWorker().turn)
        until(lambda: ask("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        stopping = Waiter(lambda: Stop(operator("bob")).run(made.pk))
        assert stopping.blocked(), "the job that is being changed is waited for"
    assert stopping.end() is None
    worker.end()
    state, changed, refused, _ = counts(made)
    assert state == "stopped"
    assert changed + refused < 3
    assert Job.objects.filter(state="queued").count() == changed
    assert BulkWorker().turn() is False


# --- Whose it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lose",
    [
        lambda user: user.groups.clear(),
        lambda user: type(user).objects.filter(pk=user.pk).update(is_active=False),
        lambda user: user.delete(),
    ],
    ids=["the role", "the account", "everything"],
)
def test_what_somebody_asked_for_who_is_no_operator_any_more_is_stopped_in_words(
    lose: Callable[[Any], None],
) -> None:
    dead_letters(3)
    made = started()
    worker = one_row_a_turn()
    worker.turn()
    lose(person("alice"))
    work(worker)
    row = now(made)
    assert (row.state, row.changed) == ("stopped", 1)
    assert row.problem == "It was stopped because alice is no longer an operator."
    entry = AuditEntry.objects.get(action="bulk.stop")
    assert (entry.actor_name, entry.target_id, entry.note) == ("astra", str(made.pk), row.problem)
    assert entry.before == {"state": "running", "changed": 1, "refused": 0}


def test_an_admin_is_an_operator_too() -> None:
    dead_letters(1)
    made = started()
    person("alice", roles.ADMIN).groups.remove(*person("alice").groups.filter(name=roles.OPERATOR))
    work()
    assert counts(made)[0] == "finished"


# --- Faults ----------------------------------------------------------------------------------------------------------


def test_an_operation_whose_jobs_cannot_be_found_has_failed_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(wanted: Wanted, below: UUID | None, limit: int) -> list[UUID]:
        raise KeyError("gone")

    monkeypatch.setattr(bulk, "FIXED_UP_TO", 0)
    dead_letters(1)
    made = started()
    bulk.register_selector(Selector("test.broken", broken))
    BulkOperation.objects.update(selector="test.broken")
    work()
    assert now(made).problem == "The tasks could not be found (KeyError). The log of the scheduler says more."
    assert now(made).state == "failed"
    assert str(made.pk) in caplog.text


def test_a_selector_that_this_process_does_not_know_fails_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FIXED_UP_TO", 0)
    dead_letters(1)
    made = started()
    BulkOperation.objects.update(selector="nobody's")
    work()
    assert now(made).state == "failed"


def test_finding_the_jobs_may_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(wanted: Wanted, below: UUID | None, limit: int) -> list[UUID]:
        Job.objects.extra(where=["(SELECT 1 FROM pg_sleep(5)) IS NOT NULL"]).count()
        return []

    monkeypatch.setattr(bulk, "FIXED_UP_TO", 0)
    monkeypatch.setattr(bulk_worker, "FIND_TIMEOUT_S", 0.05)
    dead_letters(1)
    made = started()
    bulk.register_selector(Selector("test.slow", slow))
    BulkOperation.objects.update(selector="test.slow")
    work()
    assert "took too long" in now(made).problem
    assert ask("SHOW statement_timeout")[0]["statement_timeout"] == "0"


@pytest.fixture
def cutting() -> str:
    """A handler that loses the connection, once, in the middle of the change of a job."""
    cut: list[bool] = []

    async def never(claim: Claim) -> Outcome:
        raise NotImplementedError

    def lose(change: Transition) -> Script[None]:
        yield "SELECT 1", []
        if change.payload.get("cut") and not cut:
            cut.append(True)
            yield "SELECT pg_terminate_backend(pg_backend_pid())", []

    handlers.register_function("test.cutting", never, on_transition=lose)
    return "test.cutting"


def test_an_outage_in_the_middle_of_a_job_is_waited_out_and_nothing_is_counted_twice(
    cutting: str, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    dead_letters(5, handler=cutting)
    middle = Job.objects.order_by("id")[2].pk
    Job.objects.filter(pk=middle).update(payload={"cut": True})
    made = started()
    worker = BulkWorker()
    assert worker.turn() is False
    assert "the database does not answer" in caplog.text
    assert counts(made) == ("running", 2, 0, {})
    let_the_lease_end(made)
    work(worker)
    assert counts(made) == ("finished", 5, 0, {})
    assert set(Job.objects.values_list("generation", flat=True)) == {2}
    assert JobEvent.objects.filter(reason="redriven").count() == 5


def test_an_outage_before_a_turn_is_waited_out(outage: Outage) -> None:
    dead_letters(1)
    made = started()
    outage()
    worker = BulkWorker()
    until(lambda: not worker.turn() and now_or_never(made) == "finished")


def now_or_never(made: BulkOperation) -> str:
    try:
        return now(made).state
    except OperationalError:
        return ""


def test_the_thread_works_until_it_is_told_to_stop() -> None:
    dead_letters(3)
    made = started()
    stop = threading.Event()
    thread = threading.Thread(target=BulkWorker(every_s=0.01).run, args=(stop,))
    thread.start()
    try:
        until(lambda: now(made).has_ended)
        more = started("cancel")
        until(lambda: now(more).has_ended)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


# --- What it costs ---------------------------------------------------------------------------------------------------


def test_each_job_costs_as_many_statements_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(str(query))
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)

    def cost(count: int) -> int:
        Job.objects.all().delete()
        dead_letters(count)
        made = started("discard", note="no")
        asked.clear()
        worker = BulkWorker(slice_s=float("inf"), page=1_000)
        worker.turn()
        assert counts(made)[:2] == ("finished", count)
        return len(asked)

    cost(1)
    one, few, many = cost(1), cost(10), cost(100)
    assert few - one == 9 * (many - few) / 90 > 0
    assert (few - one) / 9 <= 16


def test_nothing_is_kept_in_memory_of_the_jobs_that_are_done() -> None:
    def kept(count: int) -> int:
        dead_letters(count, state="queued")
        started("cancel")
        worker = BulkWorker(page=50, slice_s=float("inf"))
        gc.collect()
        tracemalloc.start()
        try:
            worker.turn()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    kept(60)
    # A list of the ids alone would be more.
    assert kept(1_000) < 60_000


def test_a_discard_that_lost_its_note_is_refused_for_each_job_and_not_for_ever() -> None:
    """What the console would refuse, another version may have written."""
    dead_letters(2)
    made = started("discard", note="no")
    BulkOperation.objects.update(options={"note": ""})
    work()
    assert counts(made)[:3] == ("finished", 0, 2)
    with pytest.raises(ValueError, match="Say why"):
        Discard(operator(), note="").run(uuid4())
