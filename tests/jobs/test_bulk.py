from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction

from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs import bulk
from jobs.bulk import (
    STATES,
    AlreadyUsed,
    Busy,
    NoPerson,
    NoteMissing,
    NothingSelected,
    OperationEnded,
    Stop,
    UnknownOperation,
    UnknownVerb,
)
from jobs.ids import uuid7
from jobs.models import BulkOperation, Job
from jobs.states import REDRIVABLE, TRANSITIONS, State
from tests.jobs.bulks import dead_letters, now, operator, started, work
from tests.jobs.drive import at_once, session


def begin(operation_id: UUID | None = None, *, by: str = "alice", verb: str = "redrive", **more: Any) -> BulkOperation:
    more = {"selected_by": "test.all", "selection": {}, "words": "all of them", **more}
    return bulk.start(operator(by), operation_id or uuid7(), verb, **more)


def test_each_verb_is_for_the_states_that_its_action_allows() -> None:
    assert set(STATES["redrive"]) == REDRIVABLE
    assert set(STATES["cancel"]) == {state for state in State if State.CANCELLED in TRANSITIONS[state]}
    assert set(STATES["discard"]) == {state for state in State if State.DISCARDED in TRANSITIONS[state]}


def test_what_is_asked_for_is_written_down_with_who_asked_and_stands_in_the_trail() -> None:
    dead_letters(3)
    who = operator()
    made = begin(verb="discard", options={"note": " They are   too old. "}, words="dead  letters\nof help.v1")
    row = now(made)
    assert (row.state, row.expected, row.expected_more, row.words) == ("pending", 3, False, "dead letters of help.v1")
    assert (row.asked_by_id, row.asked_by_name, row.address, row.request_id) == (
        who.user_id,
        "alice",
        "192.0.2.1",
        "req-alice",
    )
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target_type, entry.target_id) == ("bulk.start", "operation", str(made.pk))
    assert (entry.actor_name, entry.note) == ("alice", "They are   too old.")
    assert entry.after == {
        "verb": "discard",
        "tasks": "dead letters of help.v1",
        "expected": "3",
        "note": "They are   too old.",
    }


def test_a_selection_is_fixed_when_it_is_asked_for() -> None:
    dead_letters(2)
    meant = {str(job_id) for job_id in Job.objects.values_list("id", flat=True)}
    made = started()
    dead_letters(2)
    work()
    assert set(now(made).selection["fixed"]) == meant
    assert {str(job.id) for job in Job.objects.filter(state="queued")} == meant


def test_a_selection_too_large_to_be_fixed_is_kept_as_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "FIXED_UP_TO", 2)
    dead_letters(3)
    row = now(started())
    assert (row.selection, row.expected, row.expected_more) == ({}, 2, True)


def test_a_selection_that_takes_too_long_to_count_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(wanted: bulk.Wanted, below: UUID | None, limit: int) -> list[UUID]:
        with transaction.atomic():
            Job.objects.extra(where=["(SELECT 1 FROM pg_sleep(5)) IS NOT NULL"]).count()
        return []

    monkeypatch.setattr(bulk, "FIX_TIMEOUT_S", 0.05)
    monkeypatch.setitem(bulk._selectors, "test.slow", bulk.Selector("test.slow", slow))
    dead_letters(1)
    row = now(begin(selected_by="test.slow"))
    assert (row.state, row.expected, row.expected_more) == ("pending", 0, True)


def test_a_form_that_is_sent_twice_is_one_operation() -> None:
    dead_letters(2)
    form = uuid7()
    first, second = begin(form), begin(form)
    assert first.pk == second.pk
    assert BulkOperation.objects.count() == AuditEntry.objects.count() == 1


def test_a_form_that_is_sent_often_at_once_is_one_operation() -> None:
    dead_letters(2)
    form = uuid7()
    results = at_once(*[lambda: begin(form)] * 5)
    assert [getattr(result, "pk", result) for result in results] == [form] * 5
    assert BulkOperation.objects.count() == AuditEntry.objects.count() == 1


def test_a_form_that_is_sent_again_when_all_is_done_leads_to_the_same_operation() -> None:
    dead_letters(2)
    form = uuid7()
    begin(form)
    work()
    assert begin(form).state == "finished"


@pytest.mark.parametrize(
    "other",
    [
        {"by": "bob"},
        {"verb": "discard", "options": {"note": "no"}},
        {"options": {"from": "start"}},
        {"selection": {"ids": []}},
    ],
    ids=["somebody else", "another verb", "other options", "other tasks"],
)
def test_what_was_used_for_one_thing_is_refused_for_another(other: dict[str, Any]) -> None:
    dead_letters(2)
    form = uuid7()
    begin(form)
    with pytest.raises(AlreadyUsed, match="sent before"):
        begin(form, **other)
    assert BulkOperation.objects.count() == AuditEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"verb": "explode"}, UnknownVerb, "redrive, cancel or discard"),
        ({"verb": "discard"}, NoteMissing, "Say why"),
        ({"verb": "discard", "options": {"note": " \0\n"}}, NoteMissing, "Say why"),
        ({"selection": {"ids": [str(uuid4())]}}, NothingSelected, "none of these is a dead letter or cancelled now"),
        ({"verb": "cancel"}, NothingSelected, "none of these is still under way now"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(asked: dict[str, Any], error: type[Exception], words: str) -> None:
    dead_letters(1)
    with pytest.raises(error, match=words):
        begin(**asked)
    assert not BulkOperation.objects.exists()
    assert not AuditEntry.objects.exists()


def test_only_a_person_asks_for_an_operation() -> None:
    dead_letters(1)
    with pytest.raises(NoPerson):
        bulk.start(SYSTEM, uuid7(), "redrive", selected_by="test.all", selection={}, words="all")


def test_stopping_lets_no_further_job_be_changed_and_stands_in_the_trail() -> None:
    dead_letters(2)
    made = started()
    Stop(operator("bob")).run(made.pk)
    work()
    row = now(made)
    assert (row.state, row.changed, row.problem) == ("stopped", 0, "bob stopped it.")
    assert row.finished_at is not None
    entry = AuditEntry.objects.get(action="bulk.stop")
    assert (entry.actor_name, entry.target_id, entry.after) == ("bob", str(made.pk), {"state": "stopped"})
    assert entry.before == {"state": "pending", "changed": 0, "refused": 0}


def test_what_has_ended_is_not_stopped_and_says_how_it_ended() -> None:
    dead_letters(1)
    made = started()
    work()
    with pytest.raises(OperationEnded, match="it had finished already"):
        Stop(operator()).run(made.pk)
    for state, words in (("stopped", "been stopped"), ("failed", "failed")):
        BulkOperation.objects.update(state=state)
        with pytest.raises(OperationEnded, match=f"it had {words} already"):
            Stop(operator()).run(made.pk)
    assert not AuditEntry.objects.filter(action="bulk.stop").exists()


def test_of_many_who_stop_it_at_once_one_does() -> None:
    dead_letters(1)
    made = started()
    results = at_once(*[lambda: Stop(operator()).run(made.pk)] * 4)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", *["OperationEnded"] * 3]
    assert AuditEntry.objects.filter(action="bulk.stop").count() == 1


def test_whoever_stops_it_while_its_row_is_locked_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "STOP_TIMEOUT", "50ms")
    dead_letters(1)
    made = started()
    with session() as other:
        other.connection.execute("SELECT 1 FROM jobs_bulkoperation FOR UPDATE")
        with pytest.raises(Busy, match="Try again"):
            Stop(operator()).run(made.pk)
    Stop(operator()).run(made.pk)


def test_what_does_not_exist_is_not_stopped() -> None:
    with pytest.raises(UnknownOperation):
        Stop(operator()).run(uuid4())
