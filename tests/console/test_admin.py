from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import tokens
from accounts.models import ApiToken
from agents.models import Conversation, Memory, Message, Score
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs.models import Hold, Job, Wait
from tests.support.tasks import fleet, step, task

OURS = ("accounts", "agents", "audit", "jobs")
MODELS = [model for model in admin.site._registry if model._meta.app_label in OURS]
#: What people may change in Django admin; all else is history or the file's.
CHANGED_BY_HAND = {"hold": {"add", "delete"}, "memory": {"delete"}}


@pytest.fixture
def root(db: None) -> Client:
    """An admin's browser."""
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def full(ulla: User) -> None:
    """A row in every table."""
    run = task("succeeded", user=ulla, output={"text": "é" * 30_000})
    step(run, input={"a": 1}, output=["b"])
    Score.objects.create(run=run, rubric="quality", value=0.5, judge="demo", mode=run.mode)
    Wait.objects.create(job=task("waiting").job, kind="person", key="approve")
    Hold.objects.create(key="agent:helper", reason="paused", placed_by="olga")
    Memory.objects.create(user=ulla, agent="helper", text="likes tea")
    chat = Conversation.objects.create(user=ulla, endpoint=run.endpoint, title="Tea")
    Message.objects.create(conversation=chat, place=1, role="user", text="I like tea.", run=run)
    tokens.create(ulla, actor=SYSTEM, name="laptop")
    fleet()


def address(model: type, page: str = "changelist", *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)  # type: ignore[attr-defined]


def test_every_model_of_ours_is_there() -> None:
    from django.apps import apps

    ours = {model for app in OURS for model in apps.get_app_config(app).get_models()}
    assert ours == set(MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_each_list_and_each_row_can_be_read(root: Client, full: None, model: type) -> None:
    assert root.get(address(model)).status_code == 200
    assert root.get(address(model), {"q": "anything 'at\" all"}).status_code == 200
    for row in model._default_manager.all()[:3]:  # type: ignore[attr-defined]
        assert root.get(address(model, "change", row.pk)).status_code == 200


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_history_can_neither_be_added_to_nor_changed_nor_deleted(root: Client, full: None, model: type) -> None:
    allowed = CHANGED_BY_HAND.get(model._meta.model_name, set())  # type: ignore[attr-defined]
    before = model._default_manager.count()  # type: ignore[attr-defined]
    row = model._default_manager.first()  # type: ignore[attr-defined]
    assert (root.get(address(model, "add")).status_code == 200) == ("add" in allowed)
    if row is not None:
        assert root.post(address(model, "change", row.pk), {"_save": "1"}).status_code == 403
        assert (root.get(address(model, "delete", row.pk)).status_code == 200) == ("delete" in allowed)
    assert model._default_manager.count() == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_list_neither_counts_nor_sorts_the_whole_table(root: Client, full: None, model: type) -> None:
    with CaptureQueriesContext(connection) as asked:
        root.get(address(model))
    table = model._meta.db_table  # type: ignore[attr-defined]
    counts = [query["sql"] for query in asked if "COUNT(" in query["sql"] and f'"{table}"' in query["sql"]]
    assert all("LIMIT" in sql for sql in counts), counts


def test_a_count_that_stopped_says_so(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.history_admin.COUNT_UP_TO", 2)
    for _ in range(3):
        task("queued")
    assert "2+ jobs" in root.get(address(Job)).content.decode()


def test_jobs_are_found_by_id_partition_key_and_user(root: Client, ulla: User) -> None:
    wanted = task("queued", user=ulla, partition_key="thread-9", submitted=timedelta(days=1))
    task("queued")
    for text in (str(wanted.pk), str(wanted.pk)[:13], "thread-9", "ulla"):
        found = root.get(address(Job), {"q": text}).context["cl"].result_list
        assert [job.pk for job in found] == [wanted.pk], text


@pytest.mark.parametrize(
    ("action", "state", "after"),
    [
        ("cancel", "queued", "cancelled"),
        ("redrive", "dead", "queued"),
        ("redrive_from_start", "dead", "queued"),
        ("discard", "dead", "discarded"),
    ],
)
def test_actions_go_the_way_of_the_console_and_leave_a_trail(root: Client, action: str, state: str, after: str) -> None:
    chosen, left = task(state), task("succeeded")
    data = {"action": action, "_selected_action": [str(chosen.pk), str(left.pk)], "note": "tidying up"}
    page = root.post(address(Job), data, follow=True).content.decode()
    assert Job.objects.get(pk=chosen.pk).state == after
    assert Job.objects.get(pk=left.pk).state == "succeeded"
    assert AuditEntry.objects.get(actor_name="root").target_id == str(chosen.pk)
    assert "1 job " in page
    assert "1 could not be" in page


def test_discarding_without_a_note_does_nothing(root: Client) -> None:
    run = task("dead")
    root.post(address(Job), {"action": "discard", "_selected_action": [str(run.pk)]})
    assert Job.objects.get().state == "dead"


def test_a_hold_is_placed_and_lifted_with_a_trail(root: Client) -> None:
    root.post(address(Hold, "add"), {"key": "agent:helper", "reason": "paused", "note": "too loud"})
    hold = Hold.objects.get()
    assert (hold.placed_by, hold.note) == ("root", "too loud")
    root.post(address(Hold, "delete", hold.pk), {"post": "yes"})
    assert not Hold.objects.exists()
    assert list(AuditEntry.objects.filter(actor_name="root").order_by("id").values_list("action", flat=True)) == [
        "hold.place",
        "hold.lift",
    ]


def test_tokens_are_revoked_and_never_shown(root: Client, ulla: User) -> None:
    token, secret = tokens.create(ulla, actor=SYSTEM, name="laptop")
    page = root.get(address(ApiToken, "change", token.pk)).content.decode()
    assert secret not in page
    assert "digest" not in page.lower()
    root.post(address(ApiToken), {"action": "revoke", "_selected_action": [str(token.pk)]})
    assert ApiToken.objects.get().revoked_at is not None
    assert AuditEntry.objects.get(action="token.revoke").actor_name == "root"


def test_forgetting_a_memory_leaves_a_trail_without_its_text(root: Client, ulla: User) -> None:
    memory = Memory.objects.create(user=ulla, agent="helper", text="likes tea")
    root.post(address(Memory, "delete", memory.pk), {"post": "yes"})
    assert not Memory.objects.exists()
    entry = AuditEntry.objects.get(action="memory.delete")
    assert "tea" not in f"{entry.note}{entry.before}{entry.after}"


def test_a_job_leads_to_its_page_in_the_console_and_back(root: Client) -> None:
    run = task("queued")
    assert f'href="/console/tasks/{run.pk}/"' in root.get(address(Job, "change", run.pk)).content.decode()
    assert address(Job, "change", run.pk) in root.get(f"/console/tasks/{run.pk}/").content.decode()


def test_an_operator_who_is_no_admin_stays_outside(operator: Client) -> None:
    assert operator.get("/admin/")["Location"].startswith("/admin/login/")
