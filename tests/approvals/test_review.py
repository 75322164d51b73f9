"""The morning and the evening review: what happened, what waits, what came out, and what is next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from agents.invoke import QueueFull, invoke
from agents.models import AgentNote, Feedback
from agents.runtime.errors import BadInput
from approvals.models import Review, Vote
from approvals.review import planning
from approvals.review.happened import happened
from approvals.review.outputs import outputs
from approvals.review.planning import Plan, tonight
from approvals.review.window import Kind, Window, window
from audit.models import AuditEntry
from audit.trail import Actor
from jobs.models import Job
from tests.support.approvals import approval
from tests.support.configs import loaded
from tests.support.people import person
from tests.support.tasks import task

pytestmark = pytest.mark.django_db

_config = loaded()
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def olga() -> User:
    return person("olga", "operator", "reviewer")


@pytest.fixture
def ulla() -> User:
    return person("ulla", "user")


@pytest.fixture
def site(client: Client, olga: User) -> Client:
    client.force_login(olga)
    return client


def hours(number: float = 12) -> Window:
    now = timezone.now()
    return Window(now - timedelta(hours=number), now)


def ended(state: str = "succeeded", *, ago: timedelta = timedelta(hours=1), cost: str = "0.01", **more: Any) -> Any:
    at = timezone.now() - ago
    took = more.pop("took", timedelta(seconds=4))
    return task(
        state,
        submitted=ago,
        started_at=at - took,
        finished_at=at,
        run={"cost_usd": cost, **more.pop("run", {})},
        **more,
    )


def test_a_first_review_looks_back_to_the_evening_or_the_morning_before(olga: User) -> None:
    assert window(Kind.MORNING, olga, {}, now=NOON).since == datetime(2026, 11, 20, 18, tzinfo=UTC)
    assert window(Kind.EVENING, olga, {}, now=NOON).since == datetime(2026, 11, 21, 6, tzinfo=UTC)
    early = NOON.replace(hour=6, minute=30)
    assert window(Kind.EVENING, olga, {}, now=early).since == datetime(2026, 11, 20, 6, tzinfo=UTC)


def test_the_next_review_begins_where_the_last_one_ended_and_not_too_far_back(olga: User, ulla: User) -> None:
    Review.objects.create(user=olga, kind="morning", since=NOON - timedelta(days=2), until=NOON - timedelta(days=1))
    Review.objects.create(user=ulla, kind="morning", since=NOON - timedelta(days=30), until=NOON - timedelta(days=29))
    assert window(Kind.MORNING, olga, {}, now=NOON).since == NOON - timedelta(days=1)
    assert window(Kind.MORNING, ulla, {}, now=NOON).since == NOON - timedelta(days=3)


@pytest.mark.parametrize("asked", ["", "0", "13", "-12", "１２", "12.5", "0012", "0024" + "9" * 20, "9" * 5000, "abc"])
def test_hours_that_are_not_offered_are_the_reviews_own(olga: User, asked: str) -> None:
    assert window(Kind.MORNING, olga, {"hours": asked}, now=NOON).hours == 0
    assert window(Kind.MORNING, olga, {"hours": "24"}, now=NOON).since == NOON - timedelta(hours=24)


def test_what_ended_is_counted_by_agent_with_what_it_cost(olga: User) -> None:
    ended(cost="0.25")
    ended(cost="0.5")
    ended("dead")
    ended("cancelled")
    ended(ago=timedelta(hours=13))
    task("running")
    found = happened(olga, hours(12))
    (helper,) = found.agents
    assert (helper.agent, helper.succeeded, helper.dead, helper.other) == ("helper", 2, 1, 1)
    assert (found.succeeded, found.dead) == (2, 1)
    assert float(found.cost_usd) == pytest.approx(0.77)


def test_a_person_who_is_no_operator_sees_their_own(ulla: User) -> None:
    ended(user=ulla)
    ended(user=person("other"))
    assert happened(ulla, hours()).succeeded == 1
    assert len(outputs(ulla, hours(), graded=True).items) == 0, "neither has an output"


def test_spending_and_runs_far_over_the_usual_are_named(olga: User) -> None:
    for _ in range(6):
        ended(ago=timedelta(days=2), cost="0.02")
    dear = ended(cost="5")
    slow = ended(cost="0.02", took=timedelta(minutes=10))
    ended(cost="0.02")
    found = happened(olga, hours())
    assert {run.run_id: (run.is_dear, run.is_slow) for run in found.unusual} == {
        dear.pk: (True, False),
        slow.pk: (False, True),
    }
    (agent,) = found.over
    assert agent.usual_usd is not None
    assert float(agent.usual_usd) == pytest.approx(0.12 / 7 / 2)


def test_where_too_little_is_known_nothing_is_unusual(olga: User) -> None:
    ended(ago=timedelta(days=2), cost="0.02")
    ended(cost="5")
    found = happened(olga, hours())
    assert (list(found.unusual), found.agents[0].usual_usd) == ([], None)


def test_the_morning_page_names_what_waits_what_failed_and_what_finished(site: Client) -> None:
    ended()
    ended("dead")
    waiting = approval(title="Refund 150 USD")
    text = site.get(reverse("approvals-morning")).content.decode()
    assert "1 task finished, 1 failed for good, 1 waits for you." in text
    assert reverse("approval", args=[waiting.pk]) in text


def test_what_a_person_has_voted_on_waits_for_others(site: Client, olga: User) -> None:
    voted = approval(title="Refund 150 USD", quorum=2)
    Vote.objects.create(approval=voted, user=olga, user_name="olga", decision="approve", plan_hash=voted.plan_hash)
    text = site.get(reverse("approvals-morning")).content.decode()
    assert "nothing waits for you." in text
    assert reverse("approval", args=[voted.pk]) not in text


def test_a_page_on_which_nothing_happened_says_so(site: Client) -> None:
    for kind in ("morning", "evening"):
        text = site.get(reverse(f"approvals-{kind}")).content.decode()
        assert "0 tasks finished, none failed, nothing waits for you." in text


def test_an_answer_is_graded_and_the_agent_told(site: Client, olga: User) -> None:
    run = ended(output={"text": "The river ends in **the sea**."})
    text = site.get(reverse("approvals-evening")).content.decode()
    assert "<strong>the sea</strong>" in text
    data = {"grade": "fair", "comment": "Name the sea.", "tell": "1"}
    answer = site.post(reverse("approvals-grade", args=["evening", run.pk]), data)
    assert answer.status_code == 302
    said = Feedback.objects.get(run=run, user=olga)
    assert (said.grade, said.comment) == ("fair", "Name the sea.")
    assert AgentNote.objects.get(agent="helper").run_id == run.pk
    assert "The river ends" not in site.get(reverse("approvals-evening")).content.decode()
    assert "The river ends" in site.get(reverse("approvals-evening") + "?graded=1").content.decode()


def test_grading_answers_htmx_with_the_one_answer(site: Client) -> None:
    run = ended(output={"text": "The river ends in the sea."})
    address = reverse("approvals-grade", args=["evening", run.pk])
    answer = site.post(address, {"grade": "good"}, headers={"HX-Request": "true"})
    assert answer.content.decode().lstrip().startswith(f'<li class="output" id="output-{run.pk}">')
    refused = site.post(address, {"grade": "", "comment": ""}, headers={"HX-Request": "true"})
    assert refused.status_code == 422
    assert "Choose a grade" in refused.content.decode()


def test_somebody_elses_answer_can_not_be_graded(client: Client, ulla: User) -> None:
    run = ended(user=person("other"), output={"text": "Secret."})
    client.force_login(ulla)
    address = reverse("approvals-grade", args=["evening", run.pk])
    assert client.post(address, {"grade": "good"}, headers={"HX-Request": "true"}).status_code == 404
    client.post(address, {"grade": "good"})
    assert not Feedback.objects.exists()


def test_tasks_are_queued_one_a_line_and_only_once(site: Client, olga: User) -> None:
    data = {"endpoint": "help.v1", "lines": "One\n\n Two \n", "start": "now", "form": "x" * 20}
    for _ in range(2):
        assert site.post(reverse("approvals-plan", args=["morning"]), data).status_code == 302
    runs = sorted(job.run.input for job in Job.objects.filter(user=olga))
    assert runs == ["One", "Two"]


def test_the_nights_work_starts_at_its_time(site: Client, olga: User) -> None:
    at = tonight()
    data = {"endpoint": "help.v1", "lines": "One", "start": "later", "at": f"{at:%Y-%m-%dT%H:%M}", "form": "x" * 20}
    site.post(reverse("approvals-plan", args=["evening"]), data)
    job = Job.objects.get(user=olga)
    assert (job.state, job.run_at) == ("scheduled", at)
    assert "Your next tasks" in site.get(reverse("approvals-evening")).content.decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": " \n "}, "Write one task a line."),
        ({"lines": "a\n" * 51}, "That is 51 tasks"),
        ({"endpoint": "count.v1"}, "Choose an endpoint that takes texts."),
        ({"start": "later", "at": "tonight"}, "Say when"),
        ({"start": "later", "at": "2020-01-01T00:00"}, "This time is past"),
        ({"start": "later", "at": "9999-01-01T00:00"}, "a hundred years ahead"),
    ],
)
def test_a_plan_that_can_not_be_keeps_what_was_typed(site: Client, change: dict[str, str], message: str) -> None:
    data = {"endpoint": "help.v1", "lines": "One", "start": "now", "form": "x" * 20} | change
    answer = site.post(reverse("approvals-plan", args=["evening"]), data)
    assert answer.status_code == 422
    assert message in answer.content.decode()
    assert not Job.objects.exists()


def test_all_lines_are_queued_or_none(olga: User, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def second_is_refused(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise QueueFull("The queue is full.")
        return invoke(*args, **more)

    monkeypatch.setattr(planning, "invoke", second_is_refused)
    form = Plan(endpoint="help.v1", lines="One\nTwo")
    with pytest.raises(BadInput):
        form.submit(olga, Actor(user=olga))
    assert form.errors == {"lines": "The queue is full."}
    assert not Job.objects.exists()


def test_notes_are_told_and_retired(site: Client) -> None:
    site.post(reverse("approvals-note", args=["morning"]), {"agent": "helper", "text": "Be brief."})
    note = AgentNote.objects.get()
    assert "Be brief." in site.get(reverse("approvals-morning")).content.decode()
    site.post(reverse("approvals-note-retire", args=["morning", note.pk]))
    note.refresh_from_db()
    assert note.retired_by == "olga"
    assert {"agent.note", "agent.note-retire"} <= set(AuditEntry.objects.values_list("action", flat=True))


def test_a_user_neither_sees_nor_tells_notes(client: Client, ulla: User) -> None:
    client.force_login(ulla)
    assert "Notes to agents" not in client.get(reverse("approvals-morning")).content.decode()
    client.post(reverse("approvals-note", args=["morning"]), {"agent": "helper", "text": "Be brief."})
    assert not AgentNote.objects.exists()


def test_a_finished_review_is_finished_once(site: Client, olga: User) -> None:
    until = timezone.now() - timedelta(minutes=5)
    data = {"since": (until - timedelta(hours=12)).isoformat(), "until": until.isoformat()}
    for _ in range(2):
        site.post(reverse("approvals-review-done", args=["morning"]), data)
    assert [review.until for review in Review.objects.filter(user=olga)] == [until]
    assert AuditEntry.objects.filter(action="review.morning").count() == 1


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("", ""),
        # PostgreSQL keeps it as a year before Christ, which Python cannot read: no review would open again.
        ("0001-01-01T00:00+14:00", "0001-01-01T00:00+14:00"),
        ("x", "y"),
        ("2026-01-01T00:00", "2026-01-02T00:00"),
        ("2026-01-03T00:00Z", "2026-01-02T00:00Z"),
        ("2026-01-01T00:00Z", "9999-01-01T00:00Z"),
    ],
)
def test_a_review_of_no_time_is_not_finished(site: Client, since: str, until: str) -> None:
    site.post(reverse("approvals-review-done", args=["evening"]), {"since": since, "until": until})
    assert not Review.objects.exists()


@pytest.mark.parametrize("name", ["approvals-plan", "approvals-note", "approvals-review-done"])
def test_there_are_no_other_reviews(site: Client, name: str) -> None:
    assert site.post(reverse(name, args=["noon"]), {}).status_code == 404


@pytest.mark.parametrize("kind", ["morning", "evening"])
def test_its_queries_do_not_grow_with_what_happened(site: Client, kind: str) -> None:
    def count() -> int:
        with CaptureQueriesContext(
            connection,
        ) as caught:
            assert site.get(reverse(f"approvals-{kind}") + "?graded=1").status_code == 200
        return len(caught)

    def more() -> None:
        run = ended(output={"text": "Words."})
        Feedback.objects.create(run=run, user=person("olga"), user_name="olga", grade="good")
        ended("dead")
        approval()
        AgentNote.objects.create(agent="helper", text=f"Note {run.pk}", user_name="olga", run=run)
        task("scheduled", user=person("olga"))

    more()
    site.get(reverse(f"approvals-{kind}"))
    before = count()
    for _ in range(12):
        more()
    assert count() == before
