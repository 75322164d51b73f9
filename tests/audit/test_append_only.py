from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from audit.models import AuditEntry
from audit.trail import SYSTEM, Actor, record
from tests.support.people import person

pytestmark = pytest.mark.django_db


def test_an_entry_says_who_did_what_to_which_thing() -> None:
    record(Actor(person("boss"), "10.0.0.1", "req-1"), "job.cancel", "job", 7, note="why", before={"state": "queued"})
    entry = AuditEntry.objects.get()
    assert (entry.actor_name, entry.action, entry.target_type, entry.target_id) == ("boss", "job.cancel", "job", "7")
    assert (entry.address, entry.request_id, entry.note, entry.before) == (
        "10.0.0.1",
        "req-1",
        "why",
        {"state": "queued"},
    )


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_auditentry SET note = 'other'", "DELETE FROM audit_auditentry"],
    ids=["update", "delete"],
)
def test_the_database_refuses_to_change_an_entry(statement: str) -> None:
    record(SYSTEM, "config.load", "config", 1, note="as it was")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEntry.objects.get().note == "as it was"


def test_the_orm_can_not_change_an_entry_either() -> None:
    record(SYSTEM, "config.load", "config", 1)
    entry = AuditEntry.objects.get()
    entry.note = "other"
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        entry.save()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        entry.delete()


def test_an_entry_outlives_its_user() -> None:
    alice = person("alice")
    record(Actor(alice), "task.submit", "job", 1)
    alice.delete()
    assert AuditEntry.objects.get().actor_name == "alice"


def test_a_deed_that_fails_leaves_no_entry() -> None:
    def fail() -> None:
        with transaction.atomic():
            record(SYSTEM, "job.cancel", "job", 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not AuditEntry.objects.exists()
