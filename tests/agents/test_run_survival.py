"""Runs of real agents in real worker processes that are killed, stopped and told to end. The model is real HTTP."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from agents import registry
from agents.invoke import invoke
from agents.models import Run
from audit.trail import SYSTEM
from jobs.actions import Cancel, Redrive
from jobs.models import Job, JobEvent
from tests.support.configs import load
from tests.support.openai_server import OpenAIServer, Says, stalls
from tests.support.people import person
from tests.support.processes import Processes, eventually, wait_until_ready

CONFIG = """
programs: [tests.support.programs]
agents:
  reporter:
    version: 1
    instructions: Report.
    model: openai:test
    program: test-report
    limits: {max_turns: 8, max_tokens: 4000, wall_clock_s: 300}
  hasty:
    version: 1
    instructions: Report, quickly.
    model: openai:test
    program: test-report
    limits: {max_turns: 8, max_tokens: 4000, wall_clock_s: 4}
  mortal:
    version: 1
    instructions: Die.
    model: openai:test
    program: test-one-step-a-life
endpoints:
  report.v1: {agent: reporter, mode: async-queue, input: {type: object}}
  haste.v1: {agent: hasty, mode: async-queue, input: {type: object}}
  death.v1: {agent: mortal, mode: async-queue, input: {type: object}}
models: {priced: {model: openai:test, inputUsdPerMtok: 1, outputUsdPerMtok: 1}}
"""


@pytest.fixture
def model() -> Iterator[OpenAIServer]:
    with OpenAIServer(says=Says("A plan.", input_tokens=40, output_tokens=12)) as server:
        yield server


@pytest.fixture
def environment(model: OpenAIServer) -> Mapping[str, str]:
    return model.environment


@pytest.fixture
def processes(transactional_db: None) -> Iterator[Processes]:
    load(CONFIG)
    try:
        with Processes() as started:
            yield started
    finally:
        registry.forget()


class Task:
    """A run that a test started."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.file, self.gate = folder / "log", folder / "gate"
        asked = {"file": str(self.file), "gate": str(self.gate)}
        self.id: UUID = invoke(endpoint, asked, user=person("user"), actor=SYSTEM).run_id

    def run(self) -> Run:
        return Run.objects.select_related("job").get(job_id=self.id)

    def words(self) -> list[str]:
        return [line.split()[0] for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def reaches(self, *states: str, within_s: float = 30) -> None:
        eventually(lambda: Job.objects.filter(id=self.id, state__in=states).exists(), within_s=within_s)

    def writes(self, word: str) -> None:
        eventually(lambda: word in self.words(), within_s=15)

    def steps(self) -> dict[str, int]:
        """Return the fence under which each step was recorded, by key."""
        return dict(self.run().steps.values_list("key", "fence"))


def _whole(task: Task) -> None:
    """See that the run ended well, and that what it used was counted once."""
    run = task.run()
    assert (run.job.state, run.job.attempt, run.job.crashes) == ("succeeded", 0, 0)
    assert run.output == {"text": "A plan."}
    assert (run.steps_done, run.turns, run.input_tokens, run.output_tokens) == (run.steps.count(), 2, 80, 24)
    assert float(run.cost_usd) == pytest.approx(104e-6)


def test_a_run_whose_worker_is_killed_goes_on_from_its_last_step_within_ten_seconds(
    processes: Processes, environment: Mapping[str, str], model: OpenAIServer, tmp_path: Path
) -> None:
    processes.scheduler()
    victim = processes.worker("queue:2", environment=environment)
    heir = processes.worker("suspect:1", environment=environment)
    wait_until_ready(victim, heir)
    task = Task("report.v1", tmp_path)
    task.writes("review-began")

    victim.kill()
    killed_at = datetime.now(UTC)
    task.gate.touch()
    task.reaches("succeeded", "dead")

    claims = JobEvent.objects.filter(job_id=task.id, reason="claimed").order_by("id")
    assert [claim.fence for claim in claims] == [1, 2]
    assert (claims[1].at - killed_at).total_seconds() < 10
    # The review was cut off in its middle.
    once = {"part-0": 1, "part-1": 1, "part-2": 1}
    assert Counter(task.words()) == once | {"review-began": 2, "review-ended": 1}
    assert len(model.requests) == 2  # the plan and the answer, once each
    fences = {key.split("#")[0].split("/")[-1]: fence for key, fence in task.steps().items()}
    assert fences["plan"] == 1
    assert fences["review"] == fences["compose"] == 2
    _whole(task)


def test_a_run_that_gets_one_step_further_with_each_crash_is_never_given_up(
    processes: Processes, environment: Mapping[str, str], tmp_path: Path
) -> None:
    task = Task("death.v1", tmp_path)
    Job.objects.filter(id=task.id).update(lane="suspect")  # as if its first worker had died
    processes.scheduler()
    processes.ready_worker("suspect:1", environment=environment)
    task.reaches("succeeded", "dead", within_s=60)
    run = task.run()
    assert (run.job.state, run.output) == ("succeeded", {"text": "survived"})
    assert JobEvent.objects.filter(job_id=task.id, reason="worker-died").count() == 6
    assert task.words() == [f"life-{number}" for number in range(6)]


def test_sigterm_hands_a_long_run_back_and_another_worker_finishes_it(
    processes: Processes, environment: Mapping[str, str], model: OpenAIServer, tmp_path: Path
) -> None:
    first = processes.ready_worker("queue:2", grace=1, environment=environment)
    task = Task("report.v1", tmp_path)
    task.writes("review-began")
    first.terminate()
    assert first.ends_within(15) == 0
    assert task.run().job.state == "queued"

    task.gate.touch()
    processes.worker("queue:2", environment=environment)
    task.reaches("succeeded", "dead")
    assert Counter(task.words())["part-1"] == 1
    assert len(model.requests) == 2
    _whole(task)


def test_a_cancel_cuts_off_the_call_to_the_model(
    processes: Processes, environment: Mapping[str, str], model: OpenAIServer, tmp_path: Path
) -> None:
    processes.ready_worker("queue:2", environment=environment)
    model.will(stalls)
    task = Task("report.v1", tmp_path)
    assert model.wait_until(lambda server: server.busy == 1, 15)
    began = time.monotonic()
    Cancel(SYSTEM).run(task.id)
    assert model.wait_until(lambda server: server.exchanges[0].abandoned, 5)
    assert time.monotonic() - began < 2.5
    task.reaches("cancelled")


def test_the_wall_clock_stops_a_run_with_what_it_finished_kept_for_a_redrive(
    processes: Processes, tmp_path: Path
) -> None:
    processes.ready_worker("queue:2", environment={"ASTRA_MODEL": "demo"})
    task = Task("haste.v1", tmp_path)
    task.reaches("dead")
    error = task.run().job.error
    assert error is not None
    assert error["type"] == "/problems/wall-clock"
    kept = task.steps()
    assert len(kept) == task.run().steps_done == 4  # the plan and the three parts

    task.gate.touch()
    Redrive(SYSTEM).run(task.id)
    task.reaches("succeeded")
    assert Counter(task.words())["part-1"] == 1
    assert kept.items() < task.steps().items()
