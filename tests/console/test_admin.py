from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import roles, tokens
from accounts.models import ApiToken
from agents.models import AgentNote, Conversation, Feedback, Memory, Message, Run, Score
from agents.models.shop import ShopOrder, ShopRefund
from approvals.models import DecisionLink, HookCall, Review, Viewing, Vote
from astra_site.admin_site import GROUPS
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs.models import BulkOperation, Hold, IdempotencyKey, Job, Wait
from tests.support.approvals import approval, unknown_effect
from tests.support.people import person
from tests.support.tasks import fleet, step, task

OURS = ("accounts", "agents", "approvals", "audit", "jobs")
MODELS = [model for model in admin.site._registry if model._meta.app_label in OURS]
#: What people may change in Django admin; all else is history or the file's.
CHANGED_BY_HAND = {"hold": {"add", "delete"}, "memory": {"delete"}}


@pytest.fixture
def root(db: None) -> Client:
    """An admin's browser."""
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def decided(run: Run, user: User) -> None:
    """Write a row into each table about what people decide and say."""
    asked, now, name = approval(run=run, wait_key=str(uuid4())), timezone.now(), str(uuid4())
    unknown_effect(run=run, wait_key=name)
    Vote.objects.create(approval=asked, user=user, user_name=user.username, decision="approve", plan=asked.plan)
    Viewing.objects.create(approval=asked, user=user, plan_hash=asked.plan_hash)
    DecisionLink.objects.create(approval=asked, user=user, digest=name, expires_at=now)
    HookCall.objects.create(hook="approvals", webhook_id=name, status=200, answer={})
    Review.objects.create(user=user, kind="morning", since=now, until=now)
    Feedback.objects.create(run=run, user=user, user_name=user.username, grade="good")
    AgentNote.objects.create(agent="helper", text="Be brief.", user=user, user_name=user.username)
    order = ShopOrder.objects.create(number=name[:8], customer="Ann", item="A lamp", paid_usd=100)
    ShopRefund.objects.create(order=order, amount_usd=10, reason="It broke.", run_id=str(run.pk))


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
    decided(run, ulla)


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
    monkeypatch.setattr("audit.admin_lists.COUNT_UP_TO", 2)
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


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_list_asks_as_much_for_many_rows_as_for_one(root: Client, full: None, ulla: User, model: type) -> None:
    root.get(address(model))
    with CaptureQueriesContext(connection) as few:
        root.get(address(model))
    for number in range(30):
        run = task("dead", user=ulla)
        step(run)
        Score.objects.create(run=run, rubric="quality", value=0.5, judge="demo", mode=run.mode)
        Wait.objects.create(job=run.job, kind="person", key="approve")
        Memory.objects.create(user=ulla, agent="helper", text="likes tea")
        chat = Conversation.objects.create(user=ulla, endpoint=run.endpoint, title="Tea")
        Message.objects.create(conversation=chat, place=1, role="user", text="I like tea.", run=run)
        IdempotencyKey.objects.create(scope="ulla help.v1", key=str(number), body_hash="0", job=run.job)
        Hold.objects.create(key=f"agent:{number}", reason="paused", placed_by="olga")
        tokens.create(ulla, actor=SYSTEM, name=str(number))
        person(f"person-{number}", roles.USER)
        fleet()
        decided(run, ulla)
    with CaptureQueriesContext(connection) as many:
        root.get(address(model))
    assert len(many) == len(few)


def test_a_filter_without_an_index_looks_at_the_newest_rows_and_says_so(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.admin_lists.LOOK_BACK", 2)
    old = task("queued", lane="suspect", submitted=timedelta(hours=3))
    task("queued", submitted=timedelta(hours=2))
    new = task("queued", lane="suspect", submitted=timedelta(hours=1))
    task("dead", lane="suspect", submitted=timedelta(minutes=1))
    shown = root.get(address(Job), {"lane": "suspect", "state__exact": "queued"})
    assert [job.pk for job in shown.context["cl"].result_list] == [new.pk, old.pk]
    task("queued", submitted=timedelta(seconds=30))
    shown = root.get(address(Job), {"lane": "suspect", "state__exact": "queued"})
    assert [job.pk for job in shown.context["cl"].result_list] == [new.pk]
    assert "tried on the newest 2 jobs" in shown.content.decode()


def test_a_list_that_takes_too_long_is_given_up(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> tuple[object, bool]:
        return Job.objects.order_by("id").extra(where=["pg_sleep(60) IS NOT NULL"]), False

    task("queued")
    monkeypatch.setattr("audit.admin_lists.GIVEN_UP_AFTER_S", 0.05)
    monkeypatch.setattr("jobs.job_admin.JobAdmin.get_search_results", slow)
    page = root.get(address(Job), {"q": "x"})
    assert page["Location"] == address(Job)
    assert "took too long" in str(next(iter(page.wsgi_request._messages)))  # type: ignore[attr-defined]


def test_rows_of_a_span_are_found_by_their_id(root: Client) -> None:
    task("queued", submitted=timedelta(hours=3))
    new = task("queued", submitted=timedelta(minutes=3))
    shown = root.get(address(Job), {"since": "1h"}).context["cl"].result_list
    assert [job.pk for job in shown] == [new.pk]


def many_jobs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Three dead letters, where two are many."""
    monkeypatch.setattr("jobs.job_admin.ACTION_UP_TO", 2)
    return [task("dead") for _ in range(3)]


def test_all_that_match_are_changed_in_the_background_once_that_is_confirmed(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = many_jobs(monkeypatch)
    task("dead", lane="batch")
    listed = f"{address(Job)}?lane=queue&state__exact=dead"
    data = {"action": "discard", "select_across": "1", "_selected_action": str(runs[0].pk), "note": "tidying up"}
    asked = root.post(listed, data)
    assert "Discard 3 jobs?" in asked.content.decode()
    assert not BulkOperation.objects.exists()
    sent = {**data, "confirmed": str(asked.context["operation"])}
    page = root.post(listed, sent, follow=True).content.decode()
    operation = BulkOperation.objects.get()
    assert f"/console/operations/{operation.pk}/" in page
    assert (operation.verb, operation.expected, operation.options) == ("discard", 3, {"note": "tidying up"})
    root.post(listed, sent)
    assert BulkOperation.objects.count() == 1
    assert set(operation.selection["fixed"]) == {str(run.pk) for run in runs}


def test_a_list_that_an_operation_could_not_find_again_is_refused(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, *_ = many_jobs(monkeypatch)
    data = {"action": "redrive", "select_across": "1", "_selected_action": str(run.pk), "confirmed": str(run.pk)}
    page = root.post(f"{address(Job)}?generation=1", data, follow=True).content.decode()
    assert "narrowed down by generation" in page
    assert not BulkOperation.objects.exists()


def test_who_is_no_operator_sees_no_actions(db: None) -> None:
    staff = person("sven", roles.USER)
    staff.is_staff = True
    staff.save()
    staff.user_permissions.set(Permission.objects.filter(codename="view_job"))
    client, run = Client(), task("dead")
    client.force_login(staff)
    assert "Redrive" not in client.get(address(Job)).content.decode()
    client.post(address(Job), {"action": "redrive", "_selected_action": [str(run.pk)]})
    assert Job.objects.get().state == "dead"


def test_deleting_a_user_says_what_goes_and_what_stays(root: Client, ulla: User) -> None:
    run = task("succeeded", user=ulla, output={"text": "an answer"})
    Conversation.objects.create(user=ulla, endpoint=run.endpoint, title="Tea")
    Memory.objects.create(user=ulla, agent="helper", text="likes tea")
    said = [approval(state="approved"), approval(claimed_by=ulla, claimed_until=timezone.now())]
    for asked in said:
        Vote.objects.create(approval=asked, user=ulla, user_name="ulla", decision="approve")
    url = address(User, "delete", ulla.pk)
    page = root.get(url).content.decode()
    assert "1 conversation, 1 memory, 0 api tokens, 0 views of plans, 0 decision links, 0 reviews go;" in page
    assert "1 task, 2 votes, 0 grades of tasks, 0 notes to agents stay" in page
    root.post(url, {"post": "yes"})
    assert not User.objects.filter(pk=ulla.pk).exists()
    run.refresh_from_db()
    assert (run.user, run.output) == (None, {"text": "an answer"})
    assert not Conversation.objects.exists()
    assert [(vote.user, vote.user_name) for vote in Vote.objects.all()] == [(None, "ulla")] * 2
    assert AuditEntry.objects.get(action="user.delete").target_id == str(ulla.pk)


def test_a_user_with_many_tasks_is_not_deleted(
    root: Client, ulla: User, olga: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.person_deletion.ROWS_UP_TO", 2)
    for _ in range(3):
        task("succeeded", user=ulla)
    url = address(User, "delete", ulla.pk)
    with CaptureQueriesContext(connection) as asked:
        page = root.get(url).content.decode()
    assert "ulla has 2+ tasks" in page
    assert not [query["sql"] for query in asked if '"jobs_job"' in query["sql"] and "LIMIT 3" not in query["sql"]]
    root.post(url, {"post": "yes"})
    several = {"action": "delete_selected", "_selected_action": [str(ulla.pk), str(olga.pk)], "post": "yes"}
    assert "ulla has 2+ tasks" in root.post(address(User), several).content.decode()
    assert User.objects.filter(pk__in=[ulla.pk, olga.pk]).count() == 2


def test_the_index_has_every_table_with_words_and_leads_to_the_console(root: Client) -> None:
    page = root.get("/admin/")
    tables = [table for group in page.context["app_list"] for table in group["models"]]
    assert {table["model"] for table in tables} == set(admin.site._registry)
    assert [group["name"] for group in page.context["app_list"]] == list(GROUPS)
    assert all(table["words"] for table in tables)
    assert 'href="/console/"' in page.content.decode()


def test_lists_and_rows_lead_to_the_console(root: Client, full: None) -> None:
    run = task("dead", lane="batch")
    listed = root.get(address(Job), {"state__exact": "dead", "lane": "batch"}).content.decode()
    assert 'href="/console/tasks/?state=dead&amp;lane=batch"' in listed
    assert f'href="/console/tasks/{run.pk}/"' in listed
    row = root.get(address(Job, "change", run.pk)).content.decode()
    assert f'href="/console/audit/?type=job&amp;target={run.pk}"' in row
    for model, part in ((Hold, "/console/queues/"), (BulkOperation, "/console/operations/"), (Run, "/console/tasks/")):
        assert f'href="{part}' in root.get(address(model)).content.decode()
    entry = AuditEntry.objects.first() or AuditEntry.objects.create(actor_name="olga", action="x")
    assert f'href="/console/audit/?entry={entry.pk}"' in root.get(address(AuditEntry)).content.decode()


@pytest.mark.parametrize("text", ["olga", "job.redrive", "7f0c", "r-1"])
def test_the_trail_is_found_by_name_action_target_and_request(root: Client, text: str) -> None:
    wanted = AuditEntry.objects.create(
        actor_name="olga", action="job.redrive", target_type="job", target_id="7f0c", request_id="r-1"
    )
    AuditEntry.objects.create(actor_name="ulla", action="job.cancel", target_type="job", target_id="8", request_id="r")
    found = root.get(address(AuditEntry), {"q": text}).context["cl"].result_list
    assert [entry.pk for entry in found] == [wanted.pk]


def test_a_job_leads_to_its_page_in_the_console_and_back(root: Client) -> None:
    run = task("queued")
    assert f'href="/console/tasks/{run.pk}/"' in root.get(address(Job, "change", run.pk)).content.decode()
    assert address(Job, "change", run.pk) in root.get(f"/console/tasks/{run.pk}/").content.decode()


def test_an_operator_who_is_no_admin_stays_outside(operator: Client) -> None:
    assert operator.get("/admin/")["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("operation_id", ["x", "00000000-0000-7000-8000-000000000000"])
def test_a_confirmation_that_no_page_gave_out_begins_nothing(root: Client, operation_id: str) -> None:
    run = task("dead")
    data = {"action": "redrive", "select_across": "1", "_selected_action": str(run.pk), "confirmed": operation_id}
    said = root.post("/admin/jobs/job/", data, follow=True)
    assert said.status_code == 200
    assert "This form" in said.content.decode()
    assert not BulkOperation.objects.exists()
