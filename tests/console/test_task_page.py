from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agents.models import Run
from audit.models import AuditEntry
from jobs.models import Job, JobEvent, Wait
from jobs.states import State
from tests.support.tasks import PROBLEM, step, task


def url(run: Run, rest: str = "") -> str:
    return f"/console/tasks/{run.pk}/{rest}"


def page(client: Client, run: Run) -> str:
    response = client.get(url(run))
    assert response.status_code == 200
    return response.content.decode()


BUTTONS = {
    "scheduled": {"cancel"},
    "blocked": {"cancel"},
    "queued": {"cancel"},
    "running": {"cancel"},
    "waiting": {"cancel"},
    "succeeded": set(),
    "dead": {"redrive", "discard"},
    "discarded": set(),
    "cancelled": {"redrive"},
}


@pytest.mark.parametrize("state", State.values)
def test_a_task_has_the_buttons_that_its_state_allows_and_no_others(operator: Client, state: str) -> None:
    run = task(state)
    shown = page(operator, run)
    assert {verb for verb in ("cancel", "redrive", "discard") if f'action="{url(run, verb)}/"' in shown} == BUTTONS[
        state
    ]


def test_a_task_that_was_asked_to_stop_cannot_be_asked_again(operator: Client) -> None:
    run = task("running")
    operator.post(url(run, "cancel/"))
    shown = page(operator, run)
    assert f'action="{url(run, "cancel/")}"' not in shown
    assert "stopping" in shown


def test_a_user_may_not_discard_a_dead_letter_of_theirs(user: Client, ulla: User) -> None:
    run = task("dead", user=ulla)
    assert "discard" not in page(user, run)
    refused = user.post(url(run, "discard/"), {"note": "mine"})
    assert refused.status_code == 403
    assert b"Only operators discard dead letters." in refused.content
    assert Job.objects.get().state == "dead"


@pytest.mark.parametrize("rest", ["", "input.json", "steps/1/", "steps/1/output.json"])
def test_somebody_elses_task_looks_as_if_it_did_not_exist(user: Client, olga: User, rest: str) -> None:
    run = task("succeeded", user=olga, output="secret")
    step(run, id=1)
    assert user.get(url(run, rest)).status_code == 404


@pytest.mark.parametrize("verb", ["cancel", "redrive", "discard"])
def test_nobody_acts_on_a_task_that_they_may_not_see(user: Client, olga: User, verb: str) -> None:
    run = task("dead" if verb != "cancel" else "queued", user=olga)
    assert user.post(url(run, f"{verb}/"), {"note": "x"}).status_code in (403, 404)
    assert Job.objects.get().state == run.job.state


@pytest.mark.parametrize("verb", ["cancel", "redrive", "discard"])
def test_a_link_alone_changes_nothing(operator: Client, verb: str) -> None:
    assert operator.get(url(task("dead"), f"{verb}/")).status_code == 405


def test_cancelling_is_done_recorded_and_said(operator: Client) -> None:
    run = task("queued")
    said = operator.post(url(run, "cancel/"), follow=True)
    assert Job.objects.get().state == "cancelled"
    assert b"The task is cancelled." in said.content
    entry = AuditEntry.objects.get(action="job.cancel")
    assert (entry.actor_name, entry.target_id) == ("olga", str(run.pk))


@pytest.mark.parametrize(("start", "epoch"), [("checkpoint", "its last step"), ("start", "the start")])
def test_redriving_sends_a_dead_letter_back(operator: Client, start: str, epoch: str) -> None:
    run = task("dead")
    said = operator.post(url(run, "redrive/"), {"from": start}, follow=True)
    job = Job.objects.get()
    assert (job.state, job.generation) == ("queued", 2)
    assert f"Redriven from {epoch}." in said.content.decode()


def test_discarding_wants_a_note(operator: Client) -> None:
    run = task("dead")
    assert b"say in the note why" in operator.post(url(run, "discard/"), {"note": " "}, follow=True).content
    assert Job.objects.get().state == "dead"
    operator.post(url(run, "discard/"), {"note": "a duplicate"})
    assert Job.objects.get().state == "discarded"
    assert AuditEntry.objects.get(action="job.discard").note == "a duplicate"


def test_a_button_pressed_too_late_is_answered_in_words(operator: Client) -> None:
    run = task("succeeded")
    assert b"Not cancelled: this task is succeeded by now." in operator.post(url(run, "cancel/"), follow=True).content
    assert b"Not redriven: this task is succeeded by now." in operator.post(url(run, "redrive/"), follow=True).content


def test_the_timeline_tells_the_story_in_order(operator: Client) -> None:
    run = task("dead")
    story = [moment.words for moment in operator.get(url(run)).context["page"].story]
    assert story == ["Submitted to the queue", "Taken by a worker", "Out of attempts: a dead letter"]


def test_what_was_taken_in_the_moment_it_was_made_did_not_wait(operator: Client) -> None:
    run = task("succeeded")
    made, taken, ended = JobEvent.objects.filter(job=run.job, kind="state").order_by("pk")
    JobEvent.objects.filter(pk=taken.pk).update(at=made.at)
    JobEvent.objects.filter(pk=ended.pk).update(at=made.at + timedelta(seconds=2))
    story = operator.get(url(run)).context["page"].story
    assert [moment.lasted for moment in story] == [None, timedelta(seconds=2), None]


def test_a_failed_step_stands_in_the_timeline_and_its_problem_is_told_once(operator: Client) -> None:
    run = task("queued")
    JobEvent.objects.create(job=run.job, kind="step", reason="failed", data={"name": "plan", "problem": PROBLEM})
    JobEvent.objects.create(job=run.job, kind="step", reason="finished", data={"name": "plan"})
    JobEvent.objects.create(
        job=run.job, kind="state", old="running", new="scheduled", reason="retry", data={**PROBLEM, "delay_s": 3.5}
    )
    story = operator.get(url(run)).context["page"].story
    assert [moment.words for moment in story] == [
        "Submitted to the queue",
        "Step plan failed",
        "Failed; next try in 3.5 s",
    ]
    assert [bool(moment.detail) for moment in story] == [False, True, False]


def test_a_problem_is_told_in_words_with_what_to_do(operator: Client) -> None:
    shown = page(operator, task("dead"))
    assert "The model is not available now" in shown
    assert "It was tried 3 times. Redrive it once the cause is gone." in shown
    assert '<a href="/problems/model-unavailable">' in shown


def test_a_blocked_task_says_why_in_words(operator: Client) -> None:
    shown = page(operator, task("blocked", blocked_on=["hold:lane:queue", "no-worker:agent:helper@2"]))
    assert "Lane:queue is on hold." in shown
    assert "No running worker has loaded helper@2." in shown


def test_a_parked_task_says_what_it_waits_for(operator: Client) -> None:
    run = task("waiting")
    Wait.objects.create(job=run.job, kind="person", key="approve#0")
    shown = page(operator, run)
    assert "For a person: <code>approve#0</code>" in shown


def test_steps_stand_in_order_with_their_figures(operator: Client) -> None:
    run = task("running")
    for name in ("plan", "search", "report"):
        step(run, name)
    shown = page(operator, run)
    assert shown.index(">plan<") < shown.index(">search<") < shown.index(">report<")
    assert "120" in shown
    assert "$0.0021" in shown


def test_a_tools_step_says_what_it_was_called_with(operator: Client) -> None:
    run = task("succeeded")
    step(run, "search", kind="tool", input={"tool": "search", "arguments": {"limit": 3, "words": "the river"}})
    step(run, "count", kind="tool", input={"tool": "count", "arguments": {"limit": 3}})
    step(run, "plan")
    assert [found.about for found in operator.get(url(run)).context["page"].steps.items] == ["the river", None, None]


def test_what_went_into_a_step_comes_only_when_it_is_opened(operator: Client) -> None:
    run = task("succeeded")
    made = step(run, "search", kind="tool", input={"words": "needle"}, output={"found": ["haystack"]})
    with CaptureQueriesContext(connection) as asked:
        assert ">search<" in page(operator, run)
    assert not any('"agents_step"."output"' in query["sql"] for query in asked)
    whole = operator.get(url(run, f"steps/{made.pk}/"))
    assert b"needle" in whole.content
    assert b"haystack" in whole.content
    part = operator.get(url(run, f"steps/{made.pk}/"), headers={"HX-Request": "true"}).content
    assert b"needle" in part
    assert b"<html" not in part


def test_a_large_step_does_not_make_a_large_page(operator: Client) -> None:
    run = task("succeeded")
    made = step(run, output={"pages": [{"text": "x" * 50_000} for _ in range(40)]})
    assert len(operator.get(url(run, f"steps/{made.pk}/")).content) < 300_000
    assert len(operator.get(url(run, f"steps/{made.pk}/output.json")).content) > 2_000_000


def test_many_steps_come_in_pages(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.task_page.STEPS_SHOWN", 2)
    run = task("succeeded")
    for number in range(3):
        step(run, f"step-{number}", kind="step")
    first = operator.get(url(run)).context["page"].steps
    assert [found.name for found in first.items] == ["step-0", "step-1"]
    second = operator.get(url(run), {"steps": first.next_cursor}).context["page"].steps
    assert [found.name for found in second.items] == ["step-2"]
    assert second.next_cursor is None


def test_the_steps_of_before_a_redrive_from_the_start_can_still_be_read(operator: Client) -> None:
    run = task("succeeded", run={"journal_epoch": 2})
    step(run, "old", kind="step", epoch=1)
    step(run, "new", kind="step", epoch=2)
    assert [found.name for found in operator.get(url(run)).context["page"].steps.items] == ["new"]
    assert [found.name for found in operator.get(url(run), {"epoch": "1"}).context["page"].steps.items] == ["old"]
    assert operator.get(url(run), {"epoch": "99"}).status_code == 200


REPORT = {
    "report": "# Found\n\nIt is **so** [1].\n\n<script>alert(1)</script>\n\n[bad](javascript:alert(1)) ![i](https://e.org/i.png)",
    "citations": [
        {"title": "The page", "url": "https://example.org/page", "quote": "it is so"},
        {"title": "Not a page", "url": "javascript:alert(2)"},
    ],
    "pages_read": 4,
}


def test_a_report_is_shown_as_text_with_its_sources_as_links(operator: Client) -> None:
    shown = page(operator, task("succeeded", output=REPORT))
    assert "<h3>Found</h3>" in shown
    assert "<strong>so</strong>" in shown
    assert '<a href="#source-1"' in shown
    assert '<a href="https://example.org/page" rel="noopener noreferrer nofollow">The page</a>' in shown
    assert "pages_read" in shown


def test_a_report_cannot_bring_scripts_or_pictures(operator: Client) -> None:
    shown = page(operator, task("succeeded", output=REPORT))
    assert "<script>alert" not in shown
    assert 'href="javascript:' not in shown
    assert '<img src="https://e.org' not in shown


@pytest.mark.parametrize(
    "output", ["plain words", {"answer": "plain words"}, {"text": "plain words", "sources": "none"}]
)
def test_an_answer_is_found_where_programs_put_it(operator: Client, output: Any) -> None:
    assert "<p>plain words</p>" in page(operator, task("succeeded", output=output))


def test_any_other_output_is_shown_as_json(operator: Client) -> None:
    shown = page(operator, task("succeeded", output={"rows": [{"n": 1}, None, True]}))
    assert '<span class="key">rows:</span>' in shown
    assert '<span class="literal">true</span>' in shown


def test_input_and_output_can_be_taken_whole(operator: Client) -> None:
    run = task("succeeded", input={"q": "é"}, output=REPORT)
    answer = operator.get(url(run, "output.json"))
    assert json.loads(answer.content) == REPORT
    assert "attachment" in answer["Content-Disposition"]
    assert "no-store" in answer["Cache-Control"]
    assert json.loads(operator.get(url(run, "input.json")).content) == {"q": "é"}
    assert operator.get(url(run, "payload.json")).status_code == 404


def test_an_ended_task_is_not_looked_at_again_and_a_live_one_is(operator: Client) -> None:
    assert 'data-live="ended"' in page(operator, task("succeeded"))
    assert 'data-live="on"' in page(operator, task("running"))


def test_the_time_in_each_state_adds_up(operator: Client) -> None:
    shown = operator.get(url(task("succeeded"))).context["page"]
    assert dict(shown.spent) == {State.QUEUED: timedelta(seconds=1), State.RUNNING: timedelta(seconds=1)}
    assert [stretch.state for stretch in shown.stretches] == ["queued", "running"]
    assert shown.stretches[-1].x + shown.stretches[-1].width <= 1000


def test_an_unknown_task_is_not_there(operator: Client) -> None:
    assert operator.get(f"/console/tasks/{uuid4()}/").status_code == 404


def test_the_page_asks_as_many_queries_for_a_long_story_as_for_a_short_one(operator: Client) -> None:
    run = task("running")
    step(run)
    operator.get(url(run))
    with CaptureQueriesContext(connection) as few:
        operator.get(url(run))
    for _ in range(20):
        step(run)
        JobEvent.objects.create(
            job=run.job, kind="state", old="running", new="queued", reason="lease-lost", worker=run.job.worker
        )
    with CaptureQueriesContext(connection) as many:
        operator.get(url(run))
    assert len(many) == len(few) <= 9
