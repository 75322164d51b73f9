"""What `astra.yml` says beside agents and endpoints holds for the next run, in every process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from agents import registry, services
from agents.handler import RunHandler
from agents.invoke import invoke
from agents.runtime.context import RunContext
from agents.runtime.program import program
from audit.trail import SYSTEM
from jobs import pool
from jobs.handlers import Claim, Succeeded
from tests.jobs.drive import taken, worker
from tests.support.configs import BASE, load
from tests.support.people import person

SETTINGS = """
models: {own: {model: openai:own, inputUsdPerMtok: 0.1, outputUsdPerMtok: 0.4}}
tools: {batching: {maxBatchSize: 3}, catalog: [{id: web_crawl, timeoutMs: 1500, batchable: false}]}
"""


@program("tell-options")
async def tell(ctx: RunContext) -> dict[str, Any]:
    return {"batch": ctx.options.max_batch_size}


def claimed() -> Claim:
    made = invoke("help.v1", "x", user=person("alice"), actor=SYSTEM)
    claim = taken(worker(can=registry.capabilities()))
    assert claim.job_id == made.run_id
    return claim


@pytest.fixture(autouse=True)
async def _world(transactional_db: None) -> AsyncIterator[None]:
    yield
    registry.forget()
    await services.close()
    await pool.close_pool()


async def test_a_run_gets_the_settings_of_the_newest_load() -> None:
    base = BASE.replace("model: demo", "model: demo\n    program: tell-options")
    await sync_to_async(load)(base + SETTINGS)
    claim = await sync_to_async(claimed)()
    assert await RunHandler().run(claim) == Succeeded({"batch": 3})
    assert services.model_port().prices.cost("openai:own", 1_000_000, 1_000_000) == Decimal("0.5")

    await sync_to_async(load)(base)
    assert await RunHandler().run(claim) == Succeeded({"batch": 8})


def test_a_tool_is_run_as_the_file_says() -> None:
    policy = services.toolbox({"web_crawl": {"timeout_s": 1.5, "batchable": False}}).policy("web_crawl")
    assert (policy.timeout_s, policy.batchable) == (1.5, False)
    assert services.toolbox({}).policy("web_crawl").batchable
    assert services.toolbox({}) is services.toolbox({})
