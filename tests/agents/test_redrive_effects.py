"""A redrive and what was done outside: what failed is tried again, what was done is not, unless a person wants it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from accounts.problems import Forbidden
from agents import registry
from agents.effect_ledger import RunLedger
from agents.invoke import invoke
from agents.models import Effect, Run
from agents.runtime.plain import digest, plain
from agents.runtime.ports import ToolContext
from agents.runtime.types import ToolCall
from approvals.deciding import Decide
from approvals.models import Approval
from approvals.resolving import ResolveEffect
from audit.models import AuditEntry
from audit.trail import SYSTEM, Actor
from jobs import lanes, lease, script
from jobs.actions import Redrive
from jobs.claim import claim
from jobs.handlers import Failed, Parked, Succeeded
from jobs.models import Job, JobEvent
from jobs.pool import close_pool
from tests.jobs.drive import worker
from tests.support.approvals import carry_on, paid, reviewer
from tests.support.configs import loaded
from tests.support.paying import CONFIG
from tests.support.people import person
from tests.support.tasks import task

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(CONFIG)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def _started(notes: Path, *amounts: float, tool: str = "test_fails_first", strict: bool = True) -> UUID:
    given = {"file": str(notes), "tool": tool, "amounts": list(amounts), "strict": strict}
    return invoke("do.v1", given, user=person("user"), actor=SYSTEM).run_id


def _failed(run_id: UUID) -> None:
    """Let it fail for good."""
    Job.objects.filter(pk=run_id).update(max_attempts=1)
    assert isinstance(carry_on(), Failed)
    assert Job.objects.get(pk=run_id).state == "dead"


def _ended(run_id: UUID) -> None:
    """End it badly, whatever it came to."""
    Job.objects.filter(pk=run_id).update(state="dead")


def _results(run_id: UUID) -> list[Any]:
    output = Run.objects.get(pk=run_id).output
    assert output is not None
    return [found[2] for found in output["results"]]


@pytest.mark.parametrize("way", ["checkpoint", "start"])
def test_what_failed_is_tried_again_and_what_was_done_is_not(notes: Path, way: Any) -> None:
    run_id = _started(notes, 2, 5)
    _failed(run_id)
    failed = Effect.objects.get(run=run_id, arguments__amount_usd=5)
    assert failed.state == "done"
    assert isinstance(failed.result, dict)
    assert failed.result["ok"] is False, "the tool told that it failed: that is known"
    Redrive(SYSTEM, from_=way).run(run_id)
    assert isinstance(carry_on(), Succeeded)
    assert _results(run_id) == ["paid 2", "paid 5"]
    assert paid(notes) == ["try-2", "try-5", "try-5"]
    failed.refresh_from_db()
    assert (failed.state, failed.attempt) == ("done", 2)


def test_another_attempt_reads_the_same_failure_again(notes: Path) -> None:
    run_id = _started(notes, 5)
    assert isinstance(carry_on(), Failed)
    Job.objects.filter(pk=run_id).update(state="queued", run_at=None)
    assert isinstance(carry_on(), Failed)
    assert paid(notes) == ["try-5"], "its step is on record"


def test_a_redrive_from_the_start_takes_what_was_done_from_the_record(notes: Path) -> None:
    run_id = _started(notes, 2, 4)
    assert isinstance(carry_on(), Succeeded)
    _ended(run_id)
    Redrive(SYSTEM, from_="start").run(run_id)
    assert isinstance(carry_on(), Succeeded)
    assert _results(run_id) == ["paid 2", "paid 4"]
    assert paid(notes) == ["try-2", "try-4"]


def test_a_redrive_that_repeats_effects_does_them_once_more_and_keeps_what_was_before(notes: Path) -> None:
    run_id = _started(notes, 2)
    assert isinstance(carry_on(), Succeeded)
    _ended(run_id)
    Redrive(Actor(user=person("olga", "operator")), from_="start", repeat_effects=True).run(run_id)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["try-2", "try-2"]
    first, second = Effect.objects.filter(run=run_id).order_by("id")
    assert first.key != second.key
    assert (first.state, second.state) == ("done", "done")
    entry = AuditEntry.objects.get(action="job.redrive")
    assert (entry.actor_name, entry.after) == (
        "olga",
        {"state": "queued", "from_": "start", "repeat_effects": True},
    )
    assert JobEvent.objects.get(job_id=run_id, reason="redriven").data["repeat_effects"] is True  # type: ignore[index]
    _ended(run_id)
    Redrive(SYSTEM, from_="start").run(run_id)
    assert isinstance(carry_on(), Succeeded)
    assert len(paid(notes)) == 2, "what was repeated is on record like anything else"


def test_a_repetition_in_which_its_process_dies_is_not_repeated_by_itself(notes: Path) -> None:
    run_id = _started(notes, 2)
    assert isinstance(carry_on(), Succeeded)
    _ended(run_id)
    Redrive(SYSTEM, from_="start", repeat_effects=True).run(run_id)
    repeated = _begin_and_die(Run.objects.get(pk=run_id))
    assert isinstance(carry_on(lanes.SUSPECT), Parked)
    question = Approval.objects.get(run=run_id, state="pending")
    assert question.effect_id == repeated.pk
    ResolveEffect(reviewer(), "happened", "It did.").run(question.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["try-2"], "what was before is done, and what a person says happened is too"
    assert _results(run_id) == ["It did."]


def _begin_and_die(run: Run) -> Effect:
    """Claim the run, begin in its present epoch what it did before, and be gone."""
    victim = worker("queue", can=registry.capabilities())
    found = script.run(claim(victim, "queue"))
    assert found is not None
    old = Effect.objects.get(run=run)
    key = digest([str(run.pk), old.step_key, old.tool, plain(old.arguments), run.effects_epoch])

    async def begin() -> None:
        try:
            await RunLedger(found, run.effects_epoch).begin(
                ToolCall(id="0", tool=old.tool, arguments=old.arguments),
                ToolContext(str(run.pk), None, "doer", old.step_key, key),
                idempotent=False,
            )
        finally:
            await close_pool()

    asyncio.run(begin())
    script.run(lease.end(victim, "died"))
    return Effect.objects.get(key=key)


def test_what_a_decision_let_run_is_not_asked_about_again_unless_it_is_done_again(notes: Path) -> None:
    run_id = _started(notes, 150, tool="test_pay")
    carry_on()
    approval = Approval.objects.get(run=run_id, state="pending")
    Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
    assert isinstance(carry_on(), Succeeded)
    _ended(run_id)
    Redrive(SYSTEM, from_="start").run(run_id)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]
    _ended(run_id)
    Redrive(SYSTEM, from_="start", repeat_effects=True).run(run_id)
    assert isinstance(carry_on(), Parked)
    assert paid(notes) == ["paid-150"]
    again = Approval.objects.get(run=run_id, state="pending")
    Decide(reviewer(), "approve", again.plan_hash).run(again.pk)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150", "paid-150"]


def test_effects_are_repeated_only_from_the_start(notes: Path) -> None:
    run_id = _started(notes, 2)
    assert isinstance(carry_on(), Succeeded)
    _ended(run_id)
    with pytest.raises(ValueError, match="from the start"):
        Redrive(SYSTEM, repeat_effects=True).run(run_id)
    assert Job.objects.get(pk=run_id).generation == 1


# --- The page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def olga() -> Client:
    client = Client()
    client.force_login(person("olga", "operator"))
    return client


def test_the_page_lists_what_was_done_outside_and_offers_to_do_it_again(notes: Path, olga: Client) -> None:
    run_id = _started(notes, 2, 5)
    _failed(run_id)
    html = olga.get(reverse("task", args=[run_id])).content.decode()
    assert "What it did outside" in html
    assert "amount_usd 2" in html
    assert "Already done: test_fails_first once." in html, "what failed was not done"
    olga.post(
        reverse("task-redrive", args=[run_id]), {"from": "checkpoint", "repeat_effects": "yes", "generation": "1"}
    )
    assert Job.objects.get(pk=run_id).generation == 1
    answer = olga.post(
        reverse("task-redrive", args=[run_id]),
        {"from": "start", "repeat_effects": "yes", "generation": "1"},
        follow=True,
    )
    assert "with what it did outside done again" in answer.content.decode()
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["try-2", "try-5", "try-2", "try-5"]


def test_whoever_is_no_operator_redrives_their_own_task_without_doing_it_again(notes: Path) -> None:
    run_id = _started(notes, 2, 5)
    _failed(run_id)
    ulla, url = Client(), reverse("task-redrive", args=[run_id])
    ulla.force_login(User.objects.get(username="user"))
    html = ulla.get(reverse("task", args=[run_id])).content.decode()
    assert "repeat_effects" not in html
    assert "What it did outside is not done again<small>Already done: test_fails_first once." in html
    again = {"from": "start", "repeat_effects": "yes", "generation": "1"}
    assert ulla.post(url, again).status_code == 403
    assert Job.objects.get(pk=run_id).generation == 1
    with pytest.raises(Forbidden):
        Redrive(Actor(user=person("rita", "reviewer")), from_="start", repeat_effects=True).run(run_id)
    assert ulla.post(url, {"from": "start", "generation": "1"}).status_code == 302
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["try-2", "try-5", "try-5"], "only what had failed"


@pytest.mark.parametrize(
    ("state", "idempotent", "hue", "words"),
    [
        ("running", False, None, "Begun"),
        ("dead", False, " warn", "Nobody knows whether it took effect; a redrive asks"),
        ("cancelled", False, " warn", "Nobody knows whether it took effect; a redrive asks"),
        ("discarded", False, " warn", "Nobody knows whether it took effect"),
        ("dead", True, None, "Begun"),
    ],
)
def test_the_page_says_of_a_call_that_was_cut_off_with_its_run_that_nobody_knows(
    notes: Path, olga: Client, state: str, idempotent: bool, hue: str | None, words: str
) -> None:
    run = task(state, endpoint="do.v1", user=person("user"))
    Effect.objects.create(
        key="k", run=run, step_key="pay#1", tool="pay", arguments={}, idempotent=idempotent, state="started", fence=1
    )
    html = olga.get(reverse("task", args=[run.pk])).content.decode()
    shown = re.search(r'<span class="effect-state status( warn)?">.*?<span>([^<]*)</span></span>', html)
    assert shown is not None
    assert shown.groups() == (hue, words)


def test_the_page_of_a_run_that_did_nothing_outside_offers_nothing(olga: Client) -> None:
    run_id = invoke("do.v1", {"tool": "", "file": "", "amounts": []}, user=person("user"), actor=SYSTEM).run_id
    assert isinstance(carry_on(), Succeeded)
    _ended(run_id)
    html = olga.get(reverse("task", args=[run_id])).content.decode()
    assert "repeat_effects" not in html
    assert "What it did outside" not in html


# --- The first run of a version --------------------------------------------------------------------------------------


def test_a_version_keeps_when_it_first_succeeded(notes: Path) -> None:
    run_id = _started(notes, 5)
    _failed(run_id)
    agent = Run.objects.get(pk=run_id).agent
    assert not agent.has_succeeded()
    _started(notes, 2)
    assert isinstance(carry_on(), Succeeded)
    agent.refresh_from_db()
    first = agent.first_succeeded_at
    assert agent.has_succeeded()
    _started(notes, 4)
    assert isinstance(carry_on(), Succeeded)
    agent.refresh_from_db()
    assert agent.first_succeeded_at == first
