"""What a decision lets run, runs once: real workers, killed by SIGKILL around what they do outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agents import registry
from agents.invoke import invoke
from agents.models import Effect, Run
from approvals.deciding import Decide
from approvals.errors import AlreadyDecided
from approvals.models import Approval
from approvals.resolving import ResolveEffect
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs import lanes, script, wakeups
from jobs.handlers import Succeeded
from jobs.models import Job
from jobs.waits import resolve
from tests.jobs.drive import at_once
from tests.support.approvals import carry_on, reviewer
from tests.support.configs import load
from tests.support.deaths import DIE_AT
from tests.support.paying import CONFIG
from tests.support.people import person
from tests.support.processes import Processes, eventually, wait_until_ready


@pytest.fixture
def processes(transactional_db: None) -> Iterator[Processes]:
    load(CONFIG)
    try:
        with Processes() as started:
            yield started
    finally:
        registry.forget()


class Task:
    """A run that calls one tool, and what it did."""

    def __init__(self, folder: Path, tool: str, amount: float = 150, endpoint: str = "do.v1") -> None:
        self.file, self.gate = folder / "log", folder / "gate"
        asked: dict[str, Any] = {"file": str(self.file), "tool": tool, "amounts": [amount]}
        if tool in ("test_wire", "test_put"):
            asked["gate"] = str(self.gate)
        self.id: UUID = invoke(endpoint, asked, user=person("user"), actor=SYSTEM).run_id

    def words(self) -> list[str]:
        return [line.split()[0] for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def asks(self) -> Approval:
        """Run it in this process until it asks."""
        carry_on()
        return self.request

    @property
    def request(self) -> Approval:
        return Approval.objects.get(run_id=self.id, state="pending")

    def approve(self) -> Approval:
        approval = self.request
        Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)
        return approval

    def reaches(self, *states: str) -> None:
        eventually(lambda: Job.objects.filter(id=self.id, state__in=states).exists(), within_s=30)

    def results(self) -> list[Any]:
        self.reaches("succeeded", "dead")
        job = Job.objects.get(id=self.id)
        assert job.state == "succeeded", job.error
        output = Run.objects.get(pk=self.id).output
        assert output is not None
        return list(output["results"])


@pytest.mark.parametrize("boundary", ["before effect", "after ledger"])
def test_an_agent_that_is_killed_between_decision_and_record_executes_once(
    processes: Processes, tmp_path: Path, boundary: str
) -> None:
    task = Task(tmp_path, "test_pay")
    approval = task.asks()
    processes.scheduler()
    victim = processes.worker("queue:1", environment={DIE_AT: boundary})
    wait_until_ready(victim, processes.worker("suspect:1"))
    task.approve()
    victim.ends_within(20)
    assert task.results() == [[True, None, "paid-150"]]
    assert task.words() == ["paid-150"]
    effect = Effect.objects.get(run=task.id)
    assert (effect.state, effect.attempt, effect.approval_id) == ("done", 1, approval.pk)
    trail = AuditEntry.objects.filter(target_type="approval", target_id=str(approval.pk)).order_by("id")
    assert [entry.action for entry in trail if entry.action.startswith("effect.")] == ["effect.begin", "effect.end"]


@pytest.mark.parametrize(
    ("finding", "result", "words"),
    [
        ("happened", [True, None, "receipt 7"], 1),
        ("again", [True, None, "paid-150"], 2),
        ("give_up", [False, "given-up", None], 1),
    ],
)
def test_of_a_call_whose_process_died_before_the_ledger_heard_of_it_a_person_says_what_became(
    processes: Processes, tmp_path: Path, finding: Any, result: list[Any], words: int
) -> None:
    task = Task(tmp_path, "test_pay")
    task.asks()
    processes.scheduler()
    victim = processes.worker("queue:1", environment={DIE_AT: "after effect"})
    wait_until_ready(victim, processes.worker("suspect:1"))
    task.approve()
    victim.ends_within(20)
    task.reaches("waiting")
    question = task.request
    assert (question.kind, question.tools) == ("effect", ["test_pay"])
    assert task.words() == ["paid-150"]
    processes.ready_worker("queue:1")
    ResolveEffect(reviewer(), finding, "I asked the bank.", result="receipt 7").run(question.pk)
    (found,) = task.results()
    assert found[: 3 if result[2] else 2] == result[: 3 if result[2] else 2]
    assert task.words() == ["paid-150"] * words


def test_a_call_that_is_killed_inside_its_tool_is_asked_about(processes: Processes, tmp_path: Path) -> None:
    processes.scheduler()
    victim = processes.worker("queue:1")
    wait_until_ready(victim, processes.worker("suspect:1"))
    task = Task(tmp_path, "test_wire", 5)
    eventually(lambda: task.words() == ["wired-5"], within_s=20)
    victim.kill()
    task.gate.touch()
    task.reaches("waiting")
    assert task.request.kind == "effect"
    assert task.words() == ["wired-5"]


def test_an_idempotent_call_that_is_killed_inside_its_tool_is_repeated_under_its_key(
    processes: Processes, tmp_path: Path
) -> None:
    processes.scheduler()
    victim = processes.worker("queue:1")
    wait_until_ready(victim, processes.worker("suspect:1"))
    task = Task(tmp_path, "test_put", 5)
    eventually(task.words, within_s=20)
    victim.kill()
    task.gate.touch()
    assert task.results() == [[True, None, "put 5"]]
    first, second = task.words()
    assert first == second
    assert Effect.objects.get(run=task.id).attempt == 2
    assert not Approval.objects.exists()


def test_a_worker_that_stood_still_and_tells_late_settles_the_question_by_itself(
    processes: Processes, tmp_path: Path
) -> None:
    processes.scheduler()
    stalled = processes.worker("queue:1", environment={DIE_AT: "stalled after effect"})
    wait_until_ready(stalled, processes.worker("suspect:1"))
    task = Task(tmp_path, "test_pay", 5)
    task.reaches("waiting")
    question = task.request
    assert task.words() == ["paid-5"]
    stalled.go_on()
    processes.worker("queue:1")
    assert task.results() == [[True, None, "paid-5"]]
    assert task.words() == ["paid-5"]
    question.refresh_from_db()
    assert (question.state, question.decided_by) == ("superseded", [])


def test_a_run_that_is_resumed_five_times_does_it_once(transactional_db: None, tmp_path: Path) -> None:
    load(CONFIG)
    try:
        task = Task(tmp_path, "test_pay")
        approval = task.asks()
        found = at_once(*[lambda: Decide(reviewer(), "approve", approval.plan_hash).run(approval.pk)] * 5)
        assert sum(isinstance(one, AlreadyDecided) for one in found) == 4
        for _ in range(5):
            wakeups.push([lanes.QUEUE])
            assert script.run(resolve(task.id, approval.wait_key, {"decision": "approve"})) is False
        assert isinstance(carry_on(), Succeeded)
        with pytest.raises(AssertionError, match="no run is queued"):
            carry_on()
        assert task.words() == ["paid-150"]
    finally:
        registry.forget()
