from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles
from agents import task_selection
from agents.models import Run
from agents.task_list import ListFilter
from agents.task_selection import BadSelection, selection_of, words
from audit.models import AuditEntry
from audit.trail import Actor
from jobs import bulk
from jobs.actions import Redrive
from jobs.bulk import STATES, Wanted
from jobs.bulk_worker import BulkWorker
from jobs.ids import since, uuid7
from jobs.models import BulkOperation, Job
from jobs.states import State
from tests.console.conftest import CONFIG
from tests.support.configs import load
from tests.support.people import person
from tests.support.statements import number_of
from tests.support.tasks import task

NEW = "/console/operations/new/"
ALL = "/console/operations/"


@pytest.fixture
def work(transactional_db: None) -> Callable[[], None]:
    """Give turns until there is nothing to do. A worker has transactions of its own."""

    def to_the_end() -> None:
        while BulkWorker().turn():
            pass

    return to_the_end


def text(response: Any) -> str:
    return " ".join(response.content.decode().split())


def form(client: Client, **query: Any) -> dict[str, Any]:
    """Return what the confirmation page would send."""
    page = client.get(NEW, query)
    assert page.status_code == 200, text(page)
    sent: dict[str, Any] = {"id": str(page.context["proposal"].id)}
    for name, value in page.context["proposal"].fields:
        sent.setdefault(name, []).append(value)
    return sent


def begin(client: Client, *, options: dict[str, str] | None = None, **query: Any) -> BulkOperation:
    """Confirm what was chosen; return the operation."""
    answer = client.post(NEW, form(client, **query) | (options or {}))
    assert answer.status_code == 302, text(answer)
    return BulkOperation.objects.get(pk=answer["Location"].rstrip("/").rpartition("/")[2])


def page_of(client: Client, operation: BulkOperation, **query: str) -> Any:
    page = client.get(f"{ALL}{operation.pk}/", query)
    assert page.status_code == 200
    return page


# --- Choosing --------------------------------------------------------------------------------------------------------


def ids_of(selection: dict[str, Any], verb: str = "redrive") -> set[UUID]:
    return set(task_selection.SELECTOR.ids(Wanted(selection, STATES[verb]), None, 100))


def test_a_filter_is_kept_with_absolute_times_and_finds_what_the_list_shows(olga: User) -> None:
    near = task("dead", endpoint="dig.v1")
    task("dead", endpoint="dig.v1", submitted=timedelta(days=2))
    task("dead")
    task("succeeded", endpoint="dig.v1")
    selection, said = selection_of(QueryDict("all=1&endpoint=dig.v1&since=24h"), olga)
    assert ids_of(selection) == {near.pk}
    assert selection["filter"]["since"].startswith("20")
    assert said.startswith("tasks of dig.v1 submitted after ")


def test_tasks_that_are_chosen_one_by_one_are_these_alone_and_each_once(olga: User) -> None:
    runs = [task("dead") for _ in range(3)]
    asked = QueryDict(mutable=True)
    asked.setlist("ids", [str(runs[0].pk), str(runs[0].pk), str(runs[2].pk), str(uuid4())])
    selection, said = selection_of(asked, olga)
    assert ids_of(selection) == {runs[0].pk, runs[2].pk}
    assert said == "3 chosen tasks"


def test_everybodys_tasks_are_meant(olga: User, ulla: User) -> None:
    mine, hers = task("dead", user=olga), task("dead", user=ulla)
    assert ids_of(selection_of(QueryDict("all=1"), olga)[0]) == {mine.pk, hers.pk}


@pytest.mark.parametrize("verb", STATES)
def test_only_tasks_in_a_state_that_the_verb_is_for_are_meant(olga: User, verb: str) -> None:
    for state in State.values:
        task(state)
    found = ids_of(selection_of(QueryDict("all=1"), olga)[0], verb)
    assert sorted(Job.objects.filter(pk__in=found).values_list("state", flat=True)) == sorted(STATES[verb])


def test_nothing_is_meant_that_was_submitted_or_that_ended_later(olga: User) -> None:
    early, late = task("dead"), task("dead", finished_at=timezone.now())
    live, future = task("queued"), task("queued", created_at=timezone.now() + timedelta(hours=1))
    at = timezone.now() - timedelta(seconds=1)
    selection = selection_of(QueryDict("all=1"), olga)[0]

    def found(verb: str) -> set[UUID]:
        return set(task_selection.SELECTOR.ids(Wanted(selection, STATES[verb], at), None, 100))

    assert found("redrive") == found("discard") == {early.pk}
    assert found("cancel") == {live.pk}
    assert late.pk != future.pk


def test_pages_of_ids_follow_each_other_from_the_newest_back(olga: User) -> None:
    runs = [task("dead", submitted=timedelta(seconds=age)) for age in range(5)]
    wanted = Wanted({"filter": {}}, STATES["redrive"])
    found: list[UUID] = []
    while part := task_selection.SELECTOR.ids(wanted, found[-1] if found else None, 2):
        found += part
    assert found == [run.pk for run in runs]


@pytest.mark.parametrize(
    "query",
    ["", "ids=", "ids=none", "ids=1&ids=2", "ids=%00", "ids=" + "0" * 400, f"ids={UUID(int=7)}&ids=../../etc", "all="],
)
def test_what_names_no_task_is_refused(olga: User, query: str) -> None:
    with pytest.raises(BadSelection):
        selection_of(QueryDict(query), olga)


def test_the_replies_of_a_chat_are_redriven_as_one_by_one(
    operator: Client, work: Callable[[], None], ulla: User
) -> None:
    chat = "endpoints:\n  chat.v1: {agent: helper, mode: streaming-sync, escape: help.v1}\n"
    load(CONFIG.replace("endpoints:\n", chat))
    said = task("dead", user=ulla, endpoint="chat.v1", lane="chat", home_lane="chat")
    begin(operator, verb="redrive", ids=str(said.pk))
    work()
    assert Job.objects.get().state == "queued"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "all tasks"),
        ("state=dead", "dead letters"),
        ("state=running&lane=batch", "running tasks in lane batch"),
        ("state=dead&endpoint=dig.v1&user=ulla", "dead letters of dig.v1 of ulla"),
        ("agent=helper&mode=async-queue&q=river", "tasks of agent helper in mode Queue with “river”"),
        ("state=dead&error=no+such+thing", "dead letters that failed with “no such thing”"),
        ("state=dead&endpoint=dig.v1&error=0123456789abcdef", "dead letters of dig.v1 that failed with Timeout"),
        ("error=feedbeef00000000", "tasks that failed with “Gone”"),
        ("error=%3Dfeedbeef00000000", "tasks that failed with “Gone”"),
        ("error=%3D", "tasks that failed with an error of no kind"),
        ("until=2026-01-02T03:04:00%2B00:00", "tasks submitted before 2 Jan 2026, 03:04"),
    ],
)
def test_a_selection_is_said_in_words(olga: User, query: str, said: str, settings: Any) -> None:
    with timezone.override("UTC"):
        task("dead", error={"title": "Too slow", "error": "Timeout", "fingerprint": "0123456789abcdef"})
        task("dead", error={"title": "Gone", "fingerprint": "feedbeef00000000"})
        assert words(ListFilter.read(QueryDict(query), olga)) == said
        selection, frozen = selection_of(QueryDict(f"all=1&{query}"), olga)
        assert frozen == said
        assert ListFilter(**selection["filter"]).frozen() == selection["filter"], "frozen is frozen"


# --- Asking ----------------------------------------------------------------------------------------------------------


def test_the_page_shows_what_will_happen_before_it_does(operator: Client) -> None:
    for number in range(7):
        task("dead", input=f"question {number}", submitted=timedelta(seconds=number))
    task("succeeded")
    page = operator.get(NEW, {"verb": "redrive", "all": "1"})
    proposal = page.context["proposal"]
    assert (str(proposal.count), str(proposal.left_out)) == ("7", "1")
    assert [run.input for run in proposal.sample] == [f"question {number}" for number in range(5)]
    assert "Redrive 7 tasks" in text(page)
    assert "Keeps the steps" in text(page) or "keeps the steps" in text(page)
    assert "Runs every step again and pays for it" in text(page)
    assert not BulkOperation.objects.exists()
    assert not Job.objects.filter(state="queued").exists()


def test_one_task_is_no_tasks(operator: Client) -> None:
    page = text(operator.get(NEW, {"verb": "cancel", "ids": str(task("queued").pk)}))
    assert "Cancel 1 task<" in page
    assert "1 chosen task<" in page
    assert "This task" in page


@pytest.mark.parametrize(
    ("verb", "options", "new"),
    [
        ("redrive", {}, "queued"),
        ("redrive", {"from": "start"}, "queued"),
        ("cancel", {}, "cancelled"),
        ("discard", {"note": "Too old."}, "discarded"),
    ],
)
def test_what_is_confirmed_is_begun_done_and_told(
    operator: Client, work: Callable[[], None], verb: str, options: dict[str, str], new: str
) -> None:
    for _ in range(3):
        task("queued" if verb == "cancel" else "dead", lane="batch")
    made = begin(operator, verb=verb, all="1", lane="batch", options=options)
    assert (made.asked_by_name, made.words, made.expected) == ("olga", "tasks in lane batch", 3)
    assert made.options == {"redrive": {"from": "checkpoint"}, "cancel": {}, "discard": {}}[verb] | options
    assert "Pending" in text(page_of(operator, made))
    work()
    assert set(Job.objects.values_list("state", flat=True)) == {new}
    page = text(page_of(operator, made))
    past = {"redrive": "redriven", "cancel": "cancelled", "discard": "discarded"}[verb]
    assert f"3 {past}." in page
    assert f'data-live="{"on" if verb == "redrive" else "ended"}"' in page, "redriven tasks go on"
    entries = AuditEntry.objects.exclude(action="config.load").order_by("id")
    assert [entry.action for entry in entries] == ["bulk.start", *[f"job.{verb}"] * 3]
    assert {entry.actor_name for entry in entries} == {"olga"}


def test_a_form_that_is_sent_twice_is_one_operation(operator: Client, work: Callable[[], None]) -> None:
    task("dead")
    sent = form(operator, verb="redrive", all="1", since="24h")
    first = operator.post(NEW, sent)
    work()
    second = operator.post(NEW, sent)
    assert first["Location"] == second["Location"]
    assert BulkOperation.objects.count() == 1
    assert Job.objects.get().generation == 2


def test_another_person_cannot_use_the_same_form(operator: Client) -> None:
    task("dead")
    sent = form(operator, verb="redrive", all="1")
    operator.post(NEW, sent)
    other = Client()
    other.force_login(person("otto", roles.OPERATOR))
    answer = other.post(NEW, sent)
    assert answer.status_code == 422
    assert "has been sent before" in text(answer)
    assert BulkOperation.objects.get().asked_by_name == "olga"


def test_a_discard_without_a_note_comes_back_with_words_beside_the_field(operator: Client) -> None:
    task("dead")
    answer = operator.post(NEW, form(operator, verb="discard", all="1") | {"note": " "})
    assert answer.status_code == 422
    assert "Say why they are given up" in text(answer)
    assert 'aria-invalid="true"' in text(answer)
    assert not BulkOperation.objects.exists()


def test_what_was_chosen_stays_chosen_when_the_form_comes_back(operator: Client) -> None:
    run = task("dead")
    sent = form(operator, verb="redrive", ids=str(run.pk)) | {"id": "x", "from": "start"}
    answer = operator.post(NEW, sent)
    assert answer.status_code == 422
    assert 'value="start" checked' in text(answer)
    assert f'name="ids" value="{run.pk}"' in text(answer)
    assert str(answer.context["proposal"].id) != "x"


def test_nothing_left_to_do_is_said_before_and_after_confirming(operator: Client) -> None:
    run = task("dead", input="lost")
    sent = form(operator, verb="redrive", ids=str(run.pk))
    Redrive(Actor(person("alice"))).run(run.pk)
    answer = operator.post(NEW, sent)
    assert answer.status_code == 422
    assert "none of these is a dead letter or cancelled now" in text(answer)
    assert "No task is left for this" in text(operator.get(NEW, {"verb": "redrive", "ids": str(run.pk)}))
    assert not BulkOperation.objects.exists()


def test_whoever_is_about_to_confirm_sees_that_somebody_just_did(operator: Client, work: Callable[[], None]) -> None:
    for _ in range(2):
        task("dead")
    made = begin(operator, verb="redrive", all="1", state="dead")
    work()
    other = Client()
    other.force_login(person("otto", roles.OPERATOR))
    page = other.get(NEW, {"verb": "redrive", "all": "1", "state": "dead"})
    assert "olga asked" in text(page)
    assert "to redrive dead letters: 2 redriven." in text(page)
    assert f"{ALL}{made.pk}/" in text(page)
    assert "asked" not in text(other.get(NEW, {"verb": "discard", "all": "1"}))


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"verb": "explode", "all": "1"},
        {"verb": "redrive"},
        {"verb": "redrive", "ids": "no-id"},
        {"verb": "redrive", "ids": ["\0", "🦉"]},
        {"verb": "redrive", "ids": [str(uuid4()) for _ in range(task_selection.CHOSEN_UP_TO + 1)]},
        {"verb": "redrive", "ids": str(uuid4())},
    ],
)
@pytest.mark.parametrize("method", ["get", "post"])
def test_hostile_input_is_refused_in_words(operator: Client, sent: dict[str, Any], method: str) -> None:
    task("dead")
    answer = getattr(operator, method)(NEW, sent if method == "get" else sent | {"id": str(uuid7())})
    assert answer.status_code == (200 if method == "get" and "ids" in sent and _is_one(sent["ids"]) else 422)
    assert b"<h1>" in answer.content
    assert not BulkOperation.objects.exists()


def _is_one(ids: Any) -> bool:
    return isinstance(ids, str) and ids != "no-id"


@pytest.mark.parametrize("method", ["get", "post"])
def test_ten_thousand_ids_are_refused(operator: Client, method: str) -> None:
    sent = {"verb": "redrive", "ids": [str(uuid4()) for _ in range(10_000)]}
    assert getattr(operator, method)(NEW, sent).status_code in (400, 413, 422)
    assert not BulkOperation.objects.exists()


@pytest.mark.parametrize(
    "bad",
    ["", "x", "\0", str(uuid4()), str(UUID(int=0)), str(UUID(int=2**128 - 1)), str(since(2 * 86400))],
    ids=["none", "word", "nul", "random", "zero", "largest", "old"],
)
def test_a_form_with_an_id_that_no_page_gave_out_is_refused(operator: Client, bad: str) -> None:
    task("dead")
    answer = operator.post(NEW, form(operator, verb="redrive", all="1") | {"id": bad})
    assert answer.status_code == 422
    assert "Look at" in text(answer)
    assert not BulkOperation.objects.exists()


def test_a_count_that_takes_too_long_is_left_out(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    task("dead")
    monkeypatch.setattr(task_selection, "COUNT_TIMEOUT_S", 0.02)
    slow = "(SELECT 1 FROM pg_sleep(0.5)) IS NOT NULL"
    monkeypatch.setattr(ListFilter, "apply", lambda self, runs: runs.extra(where=[slow]))
    page = operator.get(NEW, {"verb": "redrive", "all": "1"})
    assert page.status_code == 200
    assert "Not counted" in text(page)
    assert "Redrive all tasks that match" in text(page)
    operator.post(NEW, form(operator, verb="redrive", all="1"))
    assert BulkOperation.objects.get().expected == 1


# --- Who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [roles.REVIEWER, roles.USER, ""])
def test_only_operators_ask_look_and_stop(operator: Client, role: str) -> None:
    task("dead")
    sent = form(operator, verb="redrive", all="1")
    made = begin(operator, verb="redrive", all="1")
    client = Client()
    client.force_login(person("rita", *([role] if role else [])))
    for path in (ALL, f"{NEW}?verb=redrive&all=1", f"{ALL}{made.pk}/"):
        assert client.get(path).status_code == 403
    assert client.post(NEW, sent | {"id": str(uuid7())}).status_code == 403
    assert client.post(f"{ALL}{made.pk}/stop/").status_code == 403
    assert BulkOperation.objects.get().state == "pending"


def test_whoever_is_not_signed_in_is_led_to_sign_in(db: None) -> None:
    for path in (ALL, NEW, f"{ALL}{uuid4()}/"):
        assert Client().get(path).status_code in (302, 403)
    assert Client().post(NEW, {"verb": "redrive", "all": "1"}).status_code in (302, 403)


def test_a_form_from_elsewhere_is_refused(operator: Client, olga: User) -> None:
    task("dead")
    sent = form(operator, verb="redrive", all="1")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(olga)
    assert strict.post(NEW, sent).status_code == 403
    assert not BulkOperation.objects.exists()


# --- One operation ---------------------------------------------------------------------------------------------------


def test_the_second_operator_is_told_plainly_who_was_first(operator: Client, work: Callable[[], None]) -> None:
    for _ in range(5):
        task("dead")
    alice, bob = Client(), Client()
    alice.force_login(person("alice", roles.OPERATOR))
    bob.force_login(person("bob", roles.OPERATOR))
    query = {"verb": "redrive", "all": "1", "state": "dead"}
    first, second = form(alice, **query), form(bob, **query)
    alice.post(NEW, first)
    bob.post(NEW, second)
    work()
    hers, his = BulkOperation.objects.order_by("created_at")
    assert "5 redriven." in text(page_of(alice, hers))
    page = text(page_of(bob, his))
    assert "0 redriven; 5 were already redriven by alice." in page
    assert f"{ALL}{hers.pk}/" in page
    assert "alice: 5 redriven" in page
    assert set(Job.objects.values_list("generation", flat=True)) == {2}


def _operation(**more: Any) -> BulkOperation:
    now = timezone.now()
    values: dict[str, Any] = {
        "verb": "redrive",
        "options": {"from": "checkpoint"},
        "selector": "tasks",
        "selection": {"filter": {"state": "dead"}},
        "words": "dead letters",
        "expected": 100,
        "asked_by_name": "olga",
        "created_at": now - timedelta(seconds=30),
    }
    return BulkOperation.objects.create(**(values | more))


def _at_work(**more: Any) -> BulkOperation:
    now = timezone.now()
    values: dict[str, Any] = {
        "state": "running",
        "started_at": now - timedelta(seconds=20),
        "worked_at": now,
        "taken_by": uuid4(),
        "taken_until": now + timedelta(seconds=6),
        "changed": 30,
        "refused": 10,
        "refusals": {"already redriven by alice": 7, "running by then": 3},
    }
    return _operation(**(values | more))


def test_progress_rate_and_what_is_left_are_told_while_it_goes_on(operator: Client) -> None:
    counted = {"already redriven by alice": 700, "running by then": 300}
    begun = timezone.now() - timedelta(seconds=2000)
    made = _at_work(expected=10_000, changed=3_000, refused=1_000, refusals=counted, started_at=begun)
    page = text(page_of(operator, made))
    assert "3,000 redriven; 700 were already redriven by alice; 300 were refused." in page
    assert '<progress value="4000" max="10000"' in page
    assert "4,000 of 10,000 tasks" in page
    assert "2.0 tasks a second, about 50 min left" in page
    assert 'data-live="on"' in page
    assert "Stop</button>" in page
    assert "Not redriven: running by then" in page


def test_of_an_open_end_no_remaining_time_is_guessed(operator: Client) -> None:
    page = text(page_of(operator, _at_work(expected=10_000, expected_more=True)))
    assert "40 of more than 10,000 tasks" in page
    assert "left" not in page.partition('class="operation-pace"')[2].partition("</p>")[0]
    page = text(page_of(operator, _at_work(expected=0, expected_more=True)))
    assert "40 tasks" in page


def test_the_bar_is_full_only_when_all_is_done(operator: Client) -> None:
    def bar(**more: Any) -> str:
        page = text(page_of(operator, _at_work(**more)))
        return page.partition("<progress ")[2].partition(">")[0].removesuffix(' aria-label="Progress"')

    ended = {"finished_at": timezone.now(), "taken_until": None}
    open_ended = {"expected": 50, "expected_more": True}
    assert bar() == 'value="40" max="100"'
    assert bar(**open_ended) == 'aria-label="Progress"', "nobody knows"
    assert bar(state="stopped", **ended) == 'value="40" max="100"'
    assert bar(state="stopped", **ended, **open_ended) == 'value="40" max="51"'
    assert bar(state="finished", **ended, **open_ended) == 'value="1" max="1"'


def test_it_is_said_when_no_scheduler_works_on_it(operator: Client) -> None:
    alone = _operation()
    assert "No scheduler works on it" in text(page_of(operator, alone))
    _at_work()
    page = text(page_of(operator, alone))
    assert "It waits for its turn" in page
    assert "No scheduler" not in page
    for fresh in (_operation(created_at=timezone.now()), _at_work()):
        page = text(page_of(operator, fresh))
        assert "No scheduler" not in page
        assert "waits for its turn" not in page


def test_an_operation_that_failed_or_was_stopped_says_why_and_has_no_stop_button(operator: Client) -> None:
    ended = {"finished_at": timezone.now(), "taken_until": None}
    for state, problem in (("failed", "Finding took too long."), ("stopped", "otto stopped it.")):
        page = text(page_of(operator, _at_work(state=state, problem=problem, **ended)))
        assert problem in page
        assert "Stop</button>" not in page
        assert 'data-live="ended"' in page


def test_an_operation_is_stopped_from_its_page_and_a_second_time_is_told(
    operator: Client, work: Callable[[], None]
) -> None:
    task("dead")
    made = begin(operator, verb="redrive", all="1")
    answer = operator.post(f"{ALL}{made.pk}/stop/", follow=True)
    assert "Stopped. What it has changed stays as it is." in text(answer)
    assert "olga stopped it." in text(answer)
    work()
    assert Job.objects.get().state == "dead"
    assert "it had been stopped already" in text(operator.post(f"{ALL}{made.pk}/stop/", follow=True))
    assert AuditEntry.objects.filter(action="bulk.stop").count() == 1


def test_the_tasks_it_is_about_follow_each_other_on_pages(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astra_site.console.operation_page.TASKS_SHOWN", 2)
    runs = [task("dead", submitted=timedelta(seconds=10 + age)) for age in range(5)]
    made = begin(operator, verb="redrive", all="1")
    seen: list[UUID] = []
    cursor: str | None = ""
    while cursor is not None:
        page = page_of(operator, made, tasks=cursor).context["page"]
        seen += [run.pk for run in page.tasks.items]
        cursor = page.tasks.next_cursor
    assert seen == [run.pk for run in runs]
    assert page_of(operator, made, tasks="%%%").context["page"].is_first


def _redriven(*states: str, before: tuple[str, ...] = (), **more: Any) -> BulkOperation:
    """Write an operation whose tasks ended before it was asked for, and have come to these states since."""
    now = timezone.now()
    made = [task(state, submitted=timedelta(minutes=9)) for state in before]
    made += [task(state, submitted=timedelta(minutes=9)) for state in states]
    ended = [run.pk for run in made[len(before) :] if run.job.finished_at]
    Job.objects.filter(pk__in=ended).update(finished_at=now)
    values: dict[str, Any] = {"state": "finished", "finished_at": now, "changed": len(states), "refused": 0}
    values |= {"selection": {"filter": {}, bulk.FIXED: [str(run.pk) for run in made]}, "expected": len(made)}
    return _at_work(**(values | {"refusals": {}, "taken_until": None} | more))


def now_line(page: Any) -> str:
    line = text(page).partition('class="operation-now">')[2].partition("</p>")[0]
    return " ".join(re.sub("<[^>]*>", "", line).split())


def hue(page: Any) -> str:
    return text(page).partition('class="status pill ')[2].partition('"')[0]


def test_what_came_of_the_redriven_tasks_is_told_each_number_a_link_to_its_tasks(operator: Client) -> None:
    made = _redriven("dead", "dead", "running", "queued", before=("dead", "cancelled"), state="stopped")
    task("succeeded")
    task("dead")
    page = page_of(operator, made)
    assert now_line(page) == "Now: 0 succeeded, 1 running, 1 queued, 2 dead letters again, 2 not redriven"
    for group in page.context["progress"].came.groups:
        link = f"{ALL}{made.pk}/?now={group.key}#concerned"
        assert (link in text(page)) == bool(group.number)
        shown = page_of(operator, made, now=group.key)
        assert len(shown.context["page"].tasks.items) == group.number
        assert f"Tasks it is about: {group.words}" in text(shown)
    for nonsense in ("nonsense", "\0", "'"):
        assert len(page_of(operator, made, now=nonsense).context["page"].tasks.items) == 6


def test_one_dead_letter_is_no_dead_letters(operator: Client) -> None:
    assert now_line(page_of(operator, _redriven("dead"))) == "Now: 0 succeeded, 1 dead letter again"


@pytest.mark.parametrize(
    ("came", "mark"),
    [
        (["succeeded"] * 3, "good"),
        (["succeeded"] * 10 + ["dead"], "good"),
        (["succeeded"] * 9 + ["dead"], "warn"),
        (["dead"] * 3, "warn"),
        (["running"] * 9 + ["dead"], "warn"),
        (["succeeded", "queued"], ""),
    ],
)
def test_the_mark_of_a_redrive_is_green_only_once_its_tasks_went_well(
    operator: Client, came: list[str], mark: str
) -> None:
    assert hue(page_of(operator, _redriven(*came))) == mark


def test_the_page_stays_live_until_the_redriven_tasks_have_ended(operator: Client) -> None:
    assert 'data-live="on"' in text(page_of(operator, _redriven("dead", "scheduled")))
    assert 'data-live="ended"' in text(page_of(operator, _redriven("dead", "succeeded")))


def test_pages_of_one_outcome_follow_each_other(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astra_site.console.operation_page.TASKS_SHOWN", 2)
    made = _redriven("dead", "succeeded", "dead", "succeeded", "dead")
    first = page_of(operator, made, now="dead").context["page"].tasks
    rest = page_of(operator, made, now="dead", tasks=first.next_cursor).context["page"].tasks
    assert [run.job.state for run in first.items + rest.items] == ["dead"] * 3
    assert rest.next_cursor is None


def test_what_came_of_too_many_tasks_is_left_out_in_words(operator: Client) -> None:
    made = _at_work(state="finished", finished_at=timezone.now(), taken_until=None, expected_more=True)
    page = page_of(operator, made)
    assert "What came of them is not counted: they were too many" in now_line(page)
    assert hue(page) == "", "nobody knows"


def test_an_outcome_that_takes_too_long_to_count_is_left_out_in_words(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _redriven("dead")
    monkeypatch.setattr("astra_site.console.operation_outcome.in_time", lambda seconds, read: None)
    page = page_of(operator, made)
    assert "could not be counted now" in now_line(page)
    assert hue(page) == ""


def test_of_a_cancel_no_outcome_is_told(operator: Client) -> None:
    page = page_of(operator, _redriven("cancelled", verb="cancel", options={}))
    assert now_line(page) == ""
    assert hue(page) == "good"


def test_the_page_links_to_what_matches_and_to_the_trail(operator: Client) -> None:
    task("dead")
    made = begin(operator, verb="redrive", all="1", state="dead", endpoint="help.v1")
    page = text(page_of(operator, made))
    assert "/console/tasks/?state=dead&amp;endpoint=help.v1" in page
    assert f"/console/audit/?type=operation&amp;target={made.pk}" in page


def test_what_people_wrote_is_never_markup(operator: Client) -> None:
    evil = "<script>alert(1)</script>"
    made = _at_work(words=evil, asked_by_name=evil, refusals={evil: 10}, options={"note": evil}, problem=evil)
    for page in (page_of(operator, made), operator.get(ALL), operator.get(NEW, {"verb": "redrive", "all": "1"})):
        assert b"<script>alert" not in page.content


@pytest.mark.parametrize("path", [f"{ALL}{UUID(int=7)}/", f"{ALL}nonsense/"])
def test_an_operation_that_does_not_exist_is_not_found(operator: Client, path: str) -> None:
    assert operator.get(path).status_code == 404
    assert operator.post(f"{path}stop/").status_code == 404


def test_htmx_gets_the_region_alone(operator: Client) -> None:
    made = _at_work()
    for path, region in ((f"{ALL}{made.pk}/", "operation"), (ALL, "operations")):
        part = operator.get(path, headers={"HX-Request": "true", "HX-Target": region}).content
        assert f'id="{region}"'.encode() in part
        assert b"<html" not in part


# --- All of them -----------------------------------------------------------------------------------------------------


def test_the_newest_operation_comes_first_and_pages_follow_each_other(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astra_site.console.operations.PAGE", 2)
    made = [_operation() for _ in range(5)]
    seen: list[UUID] = []
    cursor: str | None = ""
    while cursor is not None:
        context = operator.get(ALL, {"cursor": cursor}).context
        seen += [row.operation.pk for row in context["rows"]]
        cursor = context["page"].next_cursor
    assert seen == [each.pk for each in reversed(made)]
    assert operator.get(ALL, {"cursor": "%%%"}).status_code == 302


def test_without_operations_the_list_says_how_to_begin(operator: Client) -> None:
    assert "No operation yet" in text(operator.get(ALL))


def _queries(client: Client, path: str, **query: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(path, query).status_code == 200
    return number_of(asked)


def test_each_page_asks_as_many_queries_for_many_as_for_few(operator: Client, ulla: User) -> None:
    def fill(times: int) -> BulkOperation:
        for number in range(times):
            task("dead", user=person(f"person-{number}"), endpoint=("help.v1", "dig.v1")[number % 2])
            _operation()
            _at_work()
        made = begin(operator, verb="redrive", all="1", state="dead")
        BulkOperation.objects.filter(pk=made.pk).update(changed=1)
        return made

    def cost(made: BulkOperation) -> list[int]:
        return [
            _queries(operator, ALL),
            _queries(operator, NEW, verb="redrive", all="1"),
            _queries(operator, f"{ALL}{made.pk}/"),
            _queries(operator, f"{ALL}{made.pk}/", now="untouched"),
        ]

    cost(fill(1))
    few = cost(fill(1))
    many = cost(fill(30))
    assert few == many
    assert max(many) <= 20, many


def test_an_id_list_of_thousands_is_not_read_for_a_page(operator: Client) -> None:
    """The fixed selection stays in the database: a page reads the few tasks that it shows."""
    big = {"filter": {}, bulk.FIXED: [str(uuid7()) for _ in range(10_000)]}
    made = _at_work(selection=big)
    with CaptureQueriesContext(connection) as asked:
        page_of(operator, made)
        operator.get(ALL)
        operator.get(NEW, {"verb": "redrive", "all": "1"})
    bare = '"jobs_bulkoperation"."selection",'
    assert not [query["sql"] for query in asked.captured_queries if bare in query["sql"]]
    assert Run.objects.count() == 0
