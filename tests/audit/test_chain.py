from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from audit import chain
from audit.models import AuditEntry, AuditSeal
from audit.trail import SYSTEM, Actor, record

pytestmark = pytest.mark.django_db(transaction=True)


def entries(count: int) -> None:
    for number in range(count):
        record(Actor(address="10.0.0.1"), "job.cancel", "job", number, note="né\u2028", after={"b": 1.0, "a": [None]})


@contextmanager
def tampering() -> Iterator[None]:
    """Let statements through that the database refuses: somebody has more rights than they should."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        try:
            yield
        finally:
            cursor.execute("SET session_replication_role = DEFAULT")


def run(statement: str, *values: str | int) -> None:
    with tampering(), connection.cursor() as cursor:
        cursor.execute(statement, values)


def faults() -> list[str]:
    return [str(fault) for fault in chain.verify().faults]


def test_every_entry_is_sealed_once_in_a_chain_without_gaps() -> None:
    entries(5)
    assert chain.seal() == 5
    entries(2)
    assert chain.seal() == 2
    assert chain.seal() == 0
    assert list(AuditSeal.objects.order_by("place").values_list("place", flat=True)) == list(range(1, 8))
    found = chain.verify()
    assert (found.head, found.unsealed, found.faults) == (chain.head(), 0, ())


def test_what_is_not_sealed_yet_is_counted_and_no_fault() -> None:
    entries(2)
    found = chain.verify()
    assert (found.head.place, found.unsealed, found.faults) == (0, 2, ())


def test_more_than_a_page_is_sealed_in_turns_and_verified_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "PAGE", 3)
    entries(8)
    assert [chain.seal(page=3) for _ in range(4)] == [3, 3, 2, 0]
    assert chain.verify().head.place == 8
    assert not faults()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", "2020-01-01T00:00:00Z"),
        ("actor_id", 9),
        ("actor_name", "nobody"),
        ("token_id", 4),
        ("action", "job.redrive"),
        ("target_type", "task"),
        ("target_id", "77"),
        ("note", "other"),
        ("before", '{"state": "dead"}'),
        ("after", "{}"),
        ("address", "10.0.0.2"),
        ("request_id", "r"),
    ],
)
def test_a_change_of_any_column_is_found(column: str, value: str | int) -> None:
    entries(3)
    chain.seal()
    second = AuditEntry.objects.order_by("pk")[1].pk
    run(f"UPDATE audit_auditentry SET {column} = %s WHERE id = %s", value, second)
    assert faults() == [f"Link 2: entry {second}, or the link itself, is not what was sealed."]


def test_every_column_of_an_entry_is_sealed() -> None:
    entries(1)
    sealed = set(chain.content(AuditEntry.objects.get()))
    assert sealed == {field.attname for field in AuditEntry._meta.concrete_fields}


def test_an_entry_that_was_removed_is_found() -> None:
    entries(3)
    chain.seal()
    second = AuditEntry.objects.order_by("pk")[1].pk
    run("DELETE FROM audit_auditentry WHERE id = %s", second)
    assert faults() == [f"Link 2: entry {second} is gone."]


def test_a_link_that_was_removed_with_its_entry_is_found() -> None:
    entries(3)
    chain.seal()
    run("DELETE FROM audit_auditentry WHERE id = (SELECT entry_id FROM audit_auditseal WHERE place = 2)")
    run("DELETE FROM audit_auditseal WHERE place = 2")
    assert faults()[0] == "Link 2: missing: the next link has the place 3."


def test_entries_that_were_exchanged_are_found() -> None:
    entries(3)
    chain.seal()
    first, second, _ = AuditSeal.objects.order_by("place")
    run("UPDATE audit_auditseal SET entry_id = -1 WHERE place = 1")
    run("UPDATE audit_auditseal SET entry_id = %s WHERE place = 2", first.entry_id)
    run("UPDATE audit_auditseal SET entry_id = %s WHERE place = 1", second.entry_id)
    assert [fault.place for fault in chain.verify().faults] == [1, 2]


def test_a_chain_that_was_made_anew_does_not_go_through_the_head_that_was_kept() -> None:
    entries(3)
    chain.seal()
    kept = chain.head()
    entries(1)
    chain.seal()
    assert chain.verify(kept).faults == ()
    run("DELETE FROM audit_auditseal")
    run("UPDATE audit_auditentry SET note = 'forged' WHERE id = (SELECT min(id) FROM audit_auditentry)")
    chain.seal()
    assert not faults(), "in itself it is sound"
    assert [str(fault) for fault in chain.verify(kept).faults] == [
        "Link 3: the chain was made anew: its hash is not the one that was kept."
    ]


def test_an_end_that_was_cut_off_is_found_by_the_head_that_was_kept() -> None:
    entries(3)
    chain.seal()
    kept = chain.head()
    run("DELETE FROM audit_auditentry WHERE id = (SELECT max(id) FROM audit_auditentry)")
    run("DELETE FROM audit_auditseal WHERE place = 3")
    assert [str(fault) for fault in chain.verify(kept).faults] == [
        "The chain ends at place 2, before the one that was kept (3)."
    ]


@pytest.mark.parametrize("statement", ["UPDATE audit_auditseal SET digest = 'x'", "DELETE FROM audit_auditseal"])
def test_the_database_refuses_to_change_a_link(statement: str) -> None:
    entries(1)
    chain.seal()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


def test_an_entry_that_is_committed_late_is_sealed_late() -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        try:
            with transaction.atomic():
                record(SYSTEM, "slow", "job", 1)
                began.set()
                assert go_on.wait(20)
        finally:
            connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    assert began.wait(20)
    entries(2)
    assert chain.seal() == 2
    go_on.set()
    thread.join()
    assert chain.seal() == 1
    assert AuditSeal.objects.get(place=3).entry.action == "slow"
    assert AuditSeal.objects.get(place=3).entry_id < AuditSeal.objects.get(place=1).entry_id
    assert not faults()


def test_one_that_is_later_than_the_sweep_looks_back_is_found_by_the_one_that_goes_through_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chain, "LOOK_BACK", 2)
    entries(6)
    last = AuditEntry.objects.latest("pk")
    AuditSeal.objects.create(place=1, entry=last, digest=chain.digest(chain.GENESIS, last))
    assert chain.seal() == 1
    assert chain.seal() == 0
    late = chain.LateSeal(above=last.pk - 6)
    assert [late.turn() for _ in range(3)] == [2, 2, 0]
    assert not faults()
    assert chain.verify().unsealed == 0


def test_after_the_last_entry_the_late_ones_are_looked_for_from_the_first_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chain, "LOOK_BACK", 10**9)
    late = chain.LateSeal()
    entries(2)
    assert late.turn() == 2
    entries(1)
    assert late.turn() == 1


def test_many_who_seal_at_once_make_one_chain() -> None:
    entries(40)

    def work() -> None:
        try:
            for _ in range(10):
                chain.seal(page=3)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while chain.seal():
        pass
    assert AuditSeal.objects.count() == 40
    assert not faults()


def test_an_export_can_be_verified_by_whoever_reads_the_description() -> None:
    entries(3)
    chain.seal()
    out = io.StringIO()
    call_command("audit", "export", stdout=out)
    last = "0" * 64
    for line in out.getvalue().splitlines():
        link = json.loads(line)
        text = json.dumps(link["entry"], sort_keys=True, separators=(",", ":"))
        last = hashlib.sha256(f"{last}\n{text}".encode()).hexdigest()
        assert last == link["digest"]
    assert last == chain.head().digest


def test_an_export_of_a_time_has_the_entries_of_that_time() -> None:
    entries(2)
    chain.seal()
    soon = (timezone.now() + timedelta(hours=1)).isoformat()
    for options, expected in ((("--since", soon), 0), (("--until", soon), 2), (("--since", "2026-01-01"), 2)):
        out = io.StringIO()
        call_command("audit", "export", *options, stdout=out)
        assert len(out.getvalue().splitlines()) == expected


def test_a_line_of_an_export_names_the_link_before_it_which_may_have_been_left_out() -> None:
    entries(3)
    chain.seal()
    second = AuditSeal.objects.get(place=2)
    run("UPDATE audit_auditentry SET at = '2020-01-01T00:00:00Z' WHERE id = %s", second.entry_id)
    first, last = chain.export(since=timezone.now() - timedelta(hours=1))
    assert (first["place"], first["previous"]) == (1, chain.GENESIS)
    assert (last["place"], last["previous"]) == (3, second.digest)


def test_the_command_says_that_all_is_as_it_was_or_what_is_not() -> None:
    entries(2)
    chain.seal()
    out, err = io.StringIO(), io.StringIO()
    call_command("audit", "head", stdout=out)
    kept = out.getvalue().strip()
    call_command("audit", "verify", "--kept", kept, stdout=out)
    assert "2 entries are as they were sealed. Head: " + kept in out.getvalue()
    run("UPDATE audit_auditentry SET note = 'other'")
    with pytest.raises(SystemExit) as caught:
        call_command("audit", "verify", stdout=out, stderr=err)
    assert caught.value.code == 1
    assert "Link 1: " in err.getvalue()


@pytest.mark.parametrize("text", ["", "x", "1:abc", ":" + "0" * 64, "1:" + "Z" * 64])
def test_a_head_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is no place and hash"):
        chain.Head.read(text)
    if text:
        with pytest.raises(CommandError, match="is no place and hash"):
            call_command("audit", "verify", "--kept", text)


def test_a_time_that_is_none_is_refused_in_words() -> None:
    with pytest.raises(CommandError, match="is no time in ISO 8601"):
        call_command("audit", "export", "--since", "yesterday")


def test_the_schedulers_seal_it() -> None:
    from jobs.reconcile import Reconciler

    entries(3)
    Reconciler().tick()
    assert chain.verify().unsealed == 0
