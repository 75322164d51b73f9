"""The doctor tries what an installation rests on and says each fault in a sentence."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
import time_machine
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from agents import registry
from astra_site import doctor
from astra_site.health import LANES
from audit.trail import SYSTEM
from jobs import lane_samples, lease, script
from jobs.actions import Pause
from jobs.models import BulkOperation, LaneSample
from tests.jobs.drive import ask, submitted
from tests.support.approvals import config
from tests.support.configs import load
from tests.support.people import person

pytestmark = pytest.mark.django_db

CONFIG = """
agents:
  one: {version: 1, instructions: Answer., model: "openai:gpt-5.1"}
"""


@pytest.fixture(autouse=True)
def healthy(settings: Settings, tmp_path: Path) -> None:
    """Everything is well, until a test breaks it."""
    script.run(lease.register(dict.fromkeys(LANES, 1), [], "1"))
    lane_samples.sweep()
    settings.ASTRA_CONFIG = tmp_path / "astra.yml"
    settings.ASTRA_CONFIG.write_text(CONFIG)
    settings.ASTRA_MODEL = "demo"
    settings.SMTP_URL = "smtp://mail.example"
    User.objects.create(username="rita", email="rita@example.org")


def faults() -> list[str]:
    return [finding.sentence for finding in doctor.examine() if finding.is_fault]


def run() -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("doctor", stdout=out, no_color=True)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


def test_a_healthy_site_has_no_fault_and_status_0() -> None:
    status, out = run()
    assert (status, faults()) == (0, [])
    assert "ok    database   PostgreSQL 18 answers in " in out
    assert "ok    redis      Valkey 9." in out
    assert "ok    scheduler  A scheduler works." in out
    assert "note" not in out


def test_a_lane_without_a_worker_is_a_fault_and_status_1() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE jobs_worker SET lanes = array_remove(lanes, 'batch')")
    status, out = run()
    assert status == 1
    assert "fault lanes      No worker serves batch. Run manage.py up" in out


def test_a_site_on_which_no_scheduler_ever_ran_is_told_so() -> None:
    LaneSample.objects.all().delete()
    assert faults() == [
        "No scheduler has ever worked here: nothing becomes due, and nobody takes a dead worker's jobs."
        " Run manage.py up, or manage.py scheduler."
    ]


def test_a_scheduler_that_is_gone_is_missed_after_two_minutes() -> None:
    ask("UPDATE jobs_lanesample SET minute = now() - interval '100 seconds'")
    assert faults() == []
    ask("UPDATE jobs_lanesample SET minute = now() - interval '10 minutes'")
    [sentence] = faults()
    assert sentence.startswith("No scheduler has worked for 10 min: nothing becomes due")


def test_a_scheduler_that_does_not_queue_what_is_due_is_behind() -> None:
    submitted(run_at=datetime.now().astimezone() - timedelta(seconds=20))
    assert faults() == []
    ask("UPDATE jobs_job SET run_at = now() - interval '40 seconds'")
    [sentence] = faults()
    assert sentence == (
        "The scheduler is behind: jobs that were due over 30 s ago and are not queued: 1. Its log says why."
    )


def operation(**more: object) -> BulkOperation:
    values = {"verb": "cancel", "selector": "tasks", "selection": {}, "words": "all", "expected": 1}
    return BulkOperation.objects.create(**(values | more))


def test_an_operation_that_nobody_works_on_is_a_fault() -> None:
    operation()
    assert faults() == []
    ask("UPDATE jobs_bulkoperation SET created_at = now() - interval '5 minutes'")
    [sentence] = faults()
    assert sentence.startswith("Nobody has worked on the open operations on many tasks (1) for 5 min.")


@pytest.mark.parametrize(
    "change",
    [
        "worked_at = now() - interval '30 seconds'",
        "worked_at = now() - interval '3 minutes', taken_until = now() + interval '30 seconds'",
        "state = 'finished', finished_at = now()",
    ],
)
def test_an_operation_that_has_its_turns_or_has_ended_is_none(change: str) -> None:
    operation()
    ask(f"UPDATE jobs_bulkoperation SET created_at = now() - interval '5 minutes', {change}")
    assert faults() == []


def test_a_hold_is_a_note_that_says_who_and_why_and_no_fault() -> None:
    Pause(SYSTEM, "the provider is down").run("lane:batch")
    status, out = run()
    assert status == 0
    said = rf"lane:batch is held \(paused\) by {SYSTEM.name} since [\d-]+ [\d:]+ UTC: the provider is down\n"
    assert re.search(f"note  holds      {said}", out)


def test_of_very_many_holds_the_oldest_are_named() -> None:
    for number in range(12):
        Pause(SYSTEM).run(f"agent:a{number}")
    notes = [finding.sentence for finding in doctor.examine() if finding.is_note]
    assert len(notes) == 11
    assert notes[0].startswith("agent:a0 is held")
    assert notes[-1] == "There are more than these 10 holds; /console/queues/ shows all."


def notes() -> list[str]:
    return [finding.sentence for finding in doctor.examine() if finding.subject == "notices"]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_how_people_are_told_is_said(settings: Settings) -> None:
    assert notes() == ["People are told of requests by mail."]
    settings.NOTIFY_URLS = (("", "json://127.0.0.1/s3cret"), ("finance", "json://127.0.0.1/s3cret"))
    assert notes() == ["People are told of requests by mail and 2 channels."]


def test_that_nobody_is_told_is_a_note(settings: Settings) -> None:
    User.objects.update(email="")
    assert notes() == ["Nobody is told of requests by mail: no user has a mail address. Give them one in the admin."]
    settings.SMTP_URL = ""
    assert notes() == ["Nobody is told that a request waits: neither ASTRA_SMTP_URL nor ASTRA_NOTIFY_URLS is set."]
    assert run()[0] == 0


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_an_address_that_cannot_be_right_is_a_fault_and_not_shown(settings: Settings) -> None:
    settings.SMTP_URL = "smtp://s3cret@mail.example:99999"
    settings.NOTIFY_URLS = (("", "nonsense://s3cret"),)
    status, out = run()
    assert status == 1
    assert "fault notices    ASTRA_SMTP_URL is no address of a mail server: " in out
    assert "fault notices    ASTRA_NOTIFY_URLS: apprise knows no such address as that of channel 1." in out
    assert "s3cret" not in out


def test_a_missing_migration_is_named() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'audit' AND name = '0001_initial'")
    assert faults() == ["The database lacks 1 migrations (audit.0001_initial). Run manage.py migrate."]


def test_servers_that_do_not_answer_are_said_with_the_reason(settings: Settings) -> None:
    settings.DATABASE_URL = "postgresql://astra@/astra?host=/nowhere"
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    redis, database = faults()
    assert redis.startswith("The Redis of REDIS_URL does not answer: ")
    assert database.startswith("The database of DATABASE_URL does not answer: ")
    assert "No such file or directory" in redis
    assert "No such file or directory" in database


@pytest.mark.parametrize(("shift", "way"), [(timedelta(seconds=-90), "ahead of"), (timedelta(seconds=90), "behind")])
def test_a_clock_that_is_wrong_is_said_with_how_much(shift: timedelta, way: str) -> None:
    with time_machine.travel(datetime.now().astimezone() + shift):
        found = faults()
    assert len(found) == 2
    for server, sentence in zip(("Redis", "the database"), found, strict=True):
        said = re.fullmatch(rf"The clock of {server} is (\S+) s {way} this machine's\. Set both by NTP\.", sentence)
        assert said
        assert float(said[1]) == pytest.approx(90, abs=2)


def test_a_model_that_is_asked_for_and_has_no_key_is_a_fault(settings: Settings) -> None:
    settings.ASTRA_MODEL = "openai:gpt-5.1"
    assert faults() == ["ASTRA_MODEL is openai:gpt-5.1, which needs OPENAI_API_KEY; that is not set."]
    settings.OPENAI_API_KEY = "sk-test"
    assert faults() == []


def test_a_model_that_is_none_is_a_fault(settings: Settings) -> None:
    settings.ASTRA_MODEL = "opnai:gpt-5.1"
    assert faults() == ["ASTRA_MODEL: 'opnai:gpt-5.1': there is no provider 'opnai'; did you mean 'openai'?."]


@pytest.mark.parametrize(
    ("embedded", "other_key", "is_fault"), [(True, "", False), (True, "k", True), (False, "", True)]
)
def test_an_agent_without_a_key_is_a_fault_unless_the_demo_model_is_meant(
    settings: Settings, embedded: bool, other_key: str, is_fault: bool
) -> None:
    settings.ASTRA_MODEL = ""
    settings.EMBEDDED_DATABASE = embedded
    settings.ANTHROPIC_API_KEY = other_key
    sentence = "openai:gpt-5.1 needs OPENAI_API_KEY, which is not set: the demo model answers for it."
    assert faults() == ([sentence] if is_fault else [])
    assert sentence in run()[1]


def test_every_fault_of_the_configuration_is_said(settings: Settings) -> None:
    settings.ASTRA_CONFIG.write_text("agents:\n  one: {version: 0}\nagent: {}\n")
    found = faults()
    assert len(found) > 1
    assert all(re.match(r".*astra\.yml:\d+: ", sentence) for sentence in found)


def test_a_rule_that_too_few_people_can_decide_on_is_a_fault() -> None:
    load(config("group: finance, quorum: 2, name: large, escalate_to: board, escalate_after_h: 1"))
    registry.forget()
    person("fay", "finance")
    person("gone", "finance")
    User.objects.filter(username="gone").update(is_active=False)
    assert [fault for fault in faults() if "approvals" in fault] == [
        "Rule large of approvals wants 2 of the group finance, and 1 can decide. Add people in Django admin.",
        "Rule large of approvals wants 1 of the group board, and nobody can decide. Add people in Django admin.",
    ]
    person("fred", "finance")
    person("bea", "board")
    assert not [fault for fault in faults() if "approvals" in fault]
