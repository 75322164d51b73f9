from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents import task_redrive
from agents.models import Run, Step
from audit import trail
from audit.models import AuditEntry
from audit.trail import Actor
from jobs.actions import Redrive
from jobs.models import Hold, Job, JobEvent, Wait
from jobs.states import State
from tests.support.statements import number_of
from tests.support.tasks import PROBLEM, fleet, step, task


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
    assert f"Redriven from {epoch}. It is queued now." in said.content.decode()


def test_discarding_wants_a_note(operator: Client) -> None:
    run = task("dead")
    assert b"say in the note why" in operator.post(url(run, "discard/"), {"note": " "}, follow=True).content
    assert Job.objects.get().state == "dead"
    operator.post(url(run, "discard/"), {"note": "a\0 duplicate\0 "})
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
    assert "Lane queue is on hold." in shown
    assert "No running worker has loaded helper@2." in shown


def test_a_parked_task_says_what_it_waits_for(operator: Client) -> None:
    run = task("waiting")
    Wait.objects.create(job=run.job, kind="person", key="approve#0")
    shown = page(operator, run)
    assert "Waits for a person" in shown


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


# --- Who was first -------------------------------------------------------------------------------------------------


def seen(client: Client, run: Run) -> str:
    """Return the generation that stands in the forms of the page."""
    found = set(re.findall(r'name="generation" value="(\d+)"', page(client, run)))
    assert len(found) == 1
    return str(found.pop())


def test_a_double_click_redrives_once_and_says_so(operator: Client) -> None:
    run = task("dead")
    form = {"from": "checkpoint", "generation": seen(operator, run)}
    operator.post(url(run, "redrive/"), form, follow=True)
    Job.objects.update(state="dead", queued_at=None, finished_at=run.job.finished_at)  # and it failed again at once
    said = operator.post(url(run, "redrive/"), form, follow=True).content.decode()
    assert "Not redriven: you redrove it already, a moment ago or in another window. It is a dead letter now." in said
    assert Job.objects.get().generation == 2
    assert AuditEntry.objects.filter(action="job.redrive").count() == 1


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_a_second_operator_is_told_who_was_first(operator: Client, verb: str) -> None:
    run = task("dead")
    generation = seen(operator, run)
    Redrive(Actor(known_as="otto")).run(run.pk)
    form = {"from": "checkpoint", "generation": generation, "note": "useless"}
    said = operator.post(url(run, f"{verb}/"), form, follow=True).content.decode()
    assert f"Not {verb}" in said
    assert "otto redrove it since you opened this page. It is queued now." in said
    assert Job.objects.get().generation == 2
    assert not AuditEntry.objects.filter(actor_name="olga").exists()


@pytest.mark.parametrize("reason", ["version", "unknown-handler"])
def test_a_task_that_only_a_person_can_unblock_can_be_redriven(operator: Client, reason: str) -> None:
    run = task("blocked", blocked_on=[reason])
    assert f'action="{url(run, "redrive")}/"' in page(operator, run)
    operator.post(url(run, "redrive/"), {"from": "start", "generation": seen(operator, run)})
    assert Job.objects.get().state == "queued"


def test_each_way_to_redrive_says_what_is_kept_and_what_it_cost(operator: Client) -> None:
    run = task("dead", run={"cost_usd": Decimal("0.0150")})
    step(run, "plan")
    step(run, "search", kind="tool")
    step(run, "fetch", kind="tool")
    shown = page(operator, run)
    assert "Keeps the 3 steps it finished (1 model call, 2 tool calls), $0.0021 paid" in shown
    assert "Runs all 3 steps again and pays again. It has cost $0.0150 so far" in shown


BAD: dict[str, Any] = {"ok": False, "content": "no such host"}


def test_tool_calls_that_failed_last_are_said_to_be_tried_again_and_are(operator: Client) -> None:
    run = task("dead", run={"steps_done": 5})
    step(run, "search", kind="tool", output=BAD)  # the program went on from this one
    step(run, "plan")
    step(run, "fetch", kind="tool", output={"ok": True})
    step(run, "crawl", kind="tool", output=BAD)
    shown = page(operator, run)
    assert "Keeps the 3 steps it finished (1 model call, 2 tool calls), $0.0021 paid" in shown
    assert "The last tool call, which failed, is tried again" in shown
    assert "Runs all 4 steps again" in shown
    step(run, "crawl", kind="tool", output=BAD)
    shown = page(operator, run)
    assert "Keeps the 3 steps" in shown
    assert "The last 2 tool calls, which failed, are tried again" in shown
    operator.post(url(run, "redrive/"), {"from": "checkpoint"})
    assert list(run.steps.order_by("id").values_list("name", flat=True)) == ["search", "plan", "fetch"]


def test_a_failed_tool_call_alone_is_nothing_that_is_kept(operator: Client) -> None:
    run = task("dead")
    step(run, "crawl", kind="tool", output=BAD)
    shown = page(operator, run)
    assert "Tries the tool call that failed again: nothing else was finished" in shown
    assert "Keeps the" not in shown
    assert "Runs that step again" in shown


@pytest.mark.parametrize("output", [None, "text", [1], {"rows": 3}, {"ok": None}])
def test_a_tool_call_that_says_nothing_of_failing_is_kept(operator: Client, output: Any) -> None:
    run = task("dead")
    step(run, "crawl", kind="tool", output=output)
    assert "Keeps the 1 step it finished (1 tool call)" in page(operator, run)


def test_steps_of_unknown_price_are_not_said_to_cost_nothing(operator: Client) -> None:
    run = task("dead", run={"cost_known": False})
    step(run, cost_usd=None)
    shown = page(operator, run)
    assert "paid for at a price that is not known" in shown
    assert "It has cost an unknown sum so far" in shown


def test_only_steps_of_the_present_journal_are_kept(operator: Client) -> None:
    run = task("dead", run={"journal_epoch": 2})
    step(run, epoch=1)
    assert "It has finished no step, so it begins at the start" in page(operator, run)


# --- What went wrong -------------------------------------------------------------------------------------------------

FAULT = {
    "type": "/problems/program-error",
    "title": "The agent's program failed",
    "detail": "ValueError: no number",
    "error": "ValueError",
    "at": "agents.programs.research:crawl:211",
    "fingerprint": "abc123",
    "retriable": False,
}


def test_an_operator_sees_where_it_failed_and_how_many_failed_alike(operator: Client) -> None:
    run = task("dead", error=FAULT)
    assert "no other" in page(operator, run)
    for state in ("dead", "dead", "cancelled"):
        task(state, error=FAULT)
    shown = page(operator, run)
    assert "<code>ValueError</code>" in shown
    assert "<code>agents.programs.research:crawl:211</code>" in shown
    assert '<a href="/console/dead-letters/group/?error=abc123">2 other dead letters</a>' in shown


def test_what_failed_and_is_no_dead_letter_leads_to_the_list(operator: Client) -> None:
    run = task("cancelled", error=FAULT)
    other = task("dead", error=FAULT)
    link = re.search(r'<a href="(/console/tasks/[^"]*)">1 other task</a>', page(operator, run))
    assert link is not None
    assert {found.pk for found in operator.get(link[1]).context["page"].items} == {run.pk, other.pk}


def test_a_user_sees_what_failed_but_nothing_of_our_code_or_of_others(user: Client, ulla: User) -> None:
    run = task("dead", user=ulla, error=FAULT)
    task("dead", error=FAULT)
    shown = page(user, run)
    assert "ValueError: no number" in shown
    assert "crawl:211" not in shown
    assert "other dead letter" not in shown
    link = re.search(r'<a href="(/console/tasks/[^"]*)">your tasks that failed so</a>', shown)
    assert link is not None
    assert [found.pk for found in user.get(link[1]).context["page"].items] == [run.pk]


def test_each_finding_in_the_input_is_told_with_its_place(operator: Client) -> None:
    errors = [
        {"loc": ["input", "question"], "msg": "'' should be non-empty"},
        {"loc": ["input", "rows", 0, "n"], "msg": "<b>no</b>"},
        "not a finding",
    ]
    shown = page(
        operator, task("dead", error={"title": "The input does not fit", "retriable": False, "errors": errors})
    )
    assert re.search(r"<code>input\.question</code></td><td>&#x27;&#x27; should be non-empty", shown)
    assert re.search(r"<code>input\.rows\.0\.n</code></td><td>&lt;b&gt;no", shown)
    assert "Redrive it with another input." in shown


@pytest.mark.parametrize(
    "error", [{}, {"title": None, "detail": 3, "errors": {"a": 1}, "fingerprint": ["x"]}, "lost", ["lost"], 7]
)
def test_a_problem_of_any_shape_can_be_shown(operator: Client, error: Any) -> None:
    run = task("dead", error=error)
    JobEvent.objects.create(job=run.job, kind="state", old="running", new="dead", reason="finished", data=error)
    assert 'id="problem"' in page(operator, run)
    assert operator.get(f"/api/v1/tasks/{run.pk}").status_code == 200


# --- Where it stands -------------------------------------------------------------------------------------------------


def test_a_suspect_is_explained(operator: Client) -> None:
    shown = page(operator, task("queued", lane="suspect"))
    assert "It runs next alone in a process of its own (lane suspect), because its worker died." in shown


def test_the_holds_that_stop_a_task_are_told_to_operators_with_the_way_to_lift_them(
    operator: Client, user: Client, ulla: User
) -> None:
    Hold.objects.create(key="lane:queue", reason="paused", placed_by="otto", note="down until noon")
    Hold.objects.create(key="lane:batch", reason="paused", placed_by="otto", note="unrelated")
    for run in (
        task("blocked", user=ulla, blocked_on=["hold:lane:queue"], hold_keys=["all", "lane:queue"]),
        task("queued", user=ulla, hold_keys=["all", "lane:queue"]),
    ):
        shown = page(operator, run)
        assert "down until noon" in shown
        assert '<a href="/console/queues/">' in shown
        assert "unrelated" not in shown
        assert "down until noon" not in page(user, run)


def test_a_queue_that_nobody_serves_is_told(operator: Client) -> None:
    run = task("queued")
    assert "No worker serves lane queue now" in page(operator, run)
    fleet()
    assert "No worker serves" not in page(operator, run)


def test_a_task_and_its_edited_copies_lead_to_each_other(operator: Client) -> None:
    old = task("dead")
    new = task("succeeded", run={"redriven_from": old})
    assert f'<dt>Redriven as</dt><dd class="copies"><span><a href="{url(new)}">' in page(operator, old)
    assert f'<dt>Redriven from</dt><dd><a href="{url(old)}">' in page(operator, new)


def test_a_dead_letter_that_was_run_again_says_so_and_the_menu_warns(operator: Client) -> None:
    old = task("dead")
    plain = page(operator, old)
    assert "It was run again" not in plain
    assert "This runs the old input again." not in plain
    new = task("succeeded", input="Where does the brook end?", run={"redriven_from": old})
    shown = page(operator, old)
    said = f'It was run again with another input: <a href="{url(new)}">Where does the brook end?</a>, succeeded.'
    assert f'<p id="mended">{said}</p>' in shown
    assert f"This runs the old input again. {said}" in shown
    for number in range(4):
        task("dead", input=f"try {number}", run={"redriven_from": old})
    assert page(operator, old).count("and others.") == 2
    assert 'id="mended"' not in page(operator, new)


def test_an_operator_sees_from_where_it_was_submitted_and_what_was_done_to_it(operator: Client, ulla: User) -> None:
    run = task("dead", user=ulla)
    trail.record(Actor(known_as="otto", address="192.0.2.7"), "task.submit", "job", run.pk)
    shown = " ".join(page(operator, run).split())
    assert 'for <a href="/console/tasks/?user=ulla">ulla</a> by otto <span class="soft">from 192.0.2.7' in shown
    assert f'<a href="/console/audit/?target={run.pk}">' in shown


def test_a_user_sees_neither_addresses_nor_operators_pages(user: Client, ulla: User) -> None:
    run = task("dead", user=ulla)
    trail.record(Actor(known_as="otto", address="192.0.2.7"), "task.submit", "job", run.pk)
    shown = page(user, run)
    assert "192.0.2.7" not in shown
    assert not re.search(r'href="/console/(audit|queues|agents|dead-letters)/', shown)


def test_only_staff_is_led_to_django_admin(operator: Client, olga: User) -> None:
    run = task("dead")
    assert "/admin/" not in page(operator, run)
    User.objects.filter(pk=olga.pk).update(is_staff=True)
    assert f"/admin/jobs/job/{run.pk}/change/" in page(operator, run)


# --- Large and hostile -----------------------------------------------------------------------------------------------


def test_each_attempt_stands_with_its_worker_and_its_end(operator: Client) -> None:
    run = task("queued")
    lost = fleet(hostname="far-away", pid=77, ended="died")
    at = timezone.now()
    for new, reason in (("running", "claimed"), ("queued", "worker-died")):
        JobEvent.objects.create(job=run.job, kind="state", old="queued", new=new, reason=reason, fence=1, worker=lost)
    JobEvent.objects.filter(job=run.job, reason="claimed").update(old="queued", at=at)
    JobEvent.objects.filter(job=run.job, reason="worker-died").update(old="running", at=at + timedelta(seconds=7))
    shown = re.search(r'<section class="panel" id="attempts".*?</section>', page(operator, run), re.DOTALL)
    assert shown is not None
    assert [word in shown[0] for word in ("far-away:77", "Its worker died", "7.0 s")] == [True] * 3


def test_a_long_story_is_folded_and_its_earlier_parts_are_a_link_away(operator: Client) -> None:
    run = task("running")
    events = []
    for number in range(400):
        for old, new, reason in (("running", "queued", "lease-lost"), ("queued", "running", "claimed")):
            events.append(JobEvent(job=run.job, kind="state", old=old, new=new, reason=reason, fence=number + 2))
    JobEvent.objects.bulk_create(events)
    shown = page(operator, run)
    assert len(shown) < 400_000
    assert "279 more" in shown
    assert "earlier attempts" in shown
    earlier = re.search(r'href="\?before=(\d+)#timeline"', shown)
    assert earlier is not None
    past = operator.get(url(run), {"before": earlier[1]}).context["page"]
    assert past.is_past
    assert past.story[-1].event_id < int(earlier[1])
    for nonsense in ("x", "0", "9" * 18, "9" * 40):
        assert operator.get(url(run), {"before": nonsense}).status_code == 200


def nested(depth: int) -> Any:
    value: Any = "the bottom"
    for _ in range(depth):
        value = {"k": value}
    return value


def test_a_value_that_is_nested_deep_is_shown_as_far_as_it_can_be_read(operator: Client) -> None:
    run = task("succeeded", output={"rows": nested(500)})
    shown = page(operator, run)
    assert "the bottom" not in shown
    assert shown.count('<span class="key">k:</span>') == 30
    assert json.loads(operator.get(url(run, "output.json")).content) == {"rows": nested(500)}


def test_a_megabyte_in_many_small_parts_does_not_make_a_large_page(operator: Client) -> None:
    run = task("succeeded", output={"rows": [{"number": number, "word": "w" * 20} for number in range(25_000)]})
    shown = page(operator, run)
    assert len(shown) < 300_000
    assert "… and 24,800 more" in shown


def test_many_long_texts_do_not_make_a_large_page(operator: Client) -> None:
    run = task("dead", input={"question": "?", "rows": [["x" * 3_000] * 10 for _ in range(100)]})
    assert len(page(operator, run)) < 700_000


def test_a_long_text_is_cut_and_can_be_had_whole(operator: Client) -> None:
    run = task("dead", input="word " * 200_000)
    shown = page(operator, run)
    assert len(shown) < 60_000
    assert "1,000,000 characters in all" in shown
    assert f'href="{url(run, "input.json")}" download' in shown


def test_hostile_text_stays_text(operator: Client) -> None:
    evil = "<script>alert(1)</script>"
    shown = page(operator, task("dead", input={evil: evil}, error={"title": evil, "detail": evil, "at": evil}))
    assert evil not in shown
    assert shown.count("&lt;script&gt;") >= 4


def test_the_page_asks_as_many_queries_for_a_long_story_as_for_a_short_one(operator: Client) -> None:
    run = task("running")
    step(run)
    operator.get(url(run))
    with CaptureQueriesContext(connection) as few:
        operator.get(url(run))
    for _ in range(200):
        step(run)
        JobEvent.objects.create(
            job=run.job, kind="state", old="running", new="queued", reason="lease-lost", worker=run.job.worker
        )
    with CaptureQueriesContext(connection) as many:
        operator.get(url(run))
    assert number_of(many) == number_of(few) <= 12


@pytest.mark.parametrize("state", State.values)
def test_no_state_asks_for_more_than_a_few_statements(operator: Client, state: str) -> None:
    run = task(state, error=FAULT if state in ("dead", "scheduled") else None)
    with CaptureQueriesContext(connection) as asked:
        operator.get(url(run))
    assert number_of(asked) <= 13


def test_a_redrive_says_of_every_kind_of_step_how_many_it_keeps() -> None:
    assert set(task_redrive._NOUNS) == set(Step.Kind)
