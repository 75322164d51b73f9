"""What a stopped answer has used is on its run: a provider bills it, whoever stopped it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

import pytest

from agents import registry
from agents.invoke import invoke
from agents.models import Run
from audit.trail import SYSTEM
from jobs.actions import Cancel
from jobs.models import JobEvent
from tests.support.configs import load
from tests.support.openai_server import OpenAIServer, Says
from tests.support.people import person
from tests.support.processes import Processes, eventually

CONFIG = """
agents:
  talker:
    version: 1
    instructions: Talk.
    model: openai:test
    program: loop
    limits: {max_turns: 8, max_tokens: 4000, wall_clock_s: 300}
endpoints:
  talk.v1: {agent: talker, mode: async-queue}
models: {priced: {model: openai:test, inputUsdPerMtok: 1, outputUsdPerMtok: 10}}
"""
#: It says a hundred words and no more, and never ends.
HANGS = Says("word " * 200, stall_after=100)


@pytest.fixture
def model() -> Iterator[OpenAIServer]:
    with OpenAIServer(says=Says("Done.", input_tokens=40, output_tokens=12)) as server:
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


def talking(model: OpenAIServer) -> UUID:
    """Start a run and return it when it is in the middle of its answer."""
    model.will(HANGS)
    run_id = invoke("talk.v1", "Talk.", user=person("user"), actor=SYSTEM).run_id
    eventually(lambda: model.exchanges and model.exchanges[0].pieces > 100, within_s=20)
    return run_id


def charged(run_id: UUID, state: str) -> Run:
    eventually(lambda: Run.objects.filter(job_id=run_id, job__state=state).exists(), within_s=20)
    return Run.objects.get(job_id=run_id)


def test_a_cancelled_answer_is_charged(
    processes: Processes, environment: Mapping[str, str], model: OpenAIServer
) -> None:
    processes.ready_worker("queue:2", environment=environment)
    run_id = talking(model)
    Cancel(SYSTEM).run(run_id)
    run = charged(run_id, "cancelled")
    assert 1 <= run.output_tokens <= 125, "what came until then, as far as it was read"
    assert run.input_tokens > 0
    assert run.cost_usd > 0
    told = JobEvent.objects.get(job_id=run_id, kind="step", reason="failed").data
    assert told is not None
    assert told["summary"] == "stopped in the middle"
    assert told["output_tokens"] == run.output_tokens


def test_what_one_process_had_begun_to_write_is_charged_beside_what_the_next_one_writes(
    processes: Processes, environment: Mapping[str, str], model: OpenAIServer
) -> None:
    first = processes.ready_worker("queue:2", grace=1, environment=environment)
    run_id = talking(model)
    first.terminate()
    assert first.ends_within(15) == 0
    begun = charged(run_id, "queued").output_tokens
    assert 1 <= begun <= 125
    processes.worker("queue:2", environment=environment)
    run = charged(run_id, "succeeded")
    assert run.output == {"text": "Done."}
    assert run.output_tokens == begun + 12
