"""Requests that people decide on: of runs that really parked, and written straight to the tables for lists."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth.models import User
from django.utils import timezone

from agents import handler, registry
from agents.invoke import invoke
from agents.models import Effect
from agents.runtime.plain import plain
from agents.runtime.plans import Plan, PlannedCall
from approvals.models import Approval
from audit.trail import SYSTEM, Actor
from jobs import lanes, script
from jobs.claim import claim, finish
from jobs.handlers import Outcome
from jobs.models import Wait
from jobs.pool import close_pool
from tests.jobs.drive import worker
from tests.support.people import person
from tests.support.tasks import task

#: Payments over 100 USD are for a reviewer; what else `rules` says goes into the same rule.
CONFIG = """
programs: [tests.support.programs]
agents:
  payer: {{version: 1, instructions: Pay., model: demo, program: test-pays, tools: [test_pay]}}
  planner: {{version: 1, instructions: Plan., model: demo, program: test-plans, tools: [test_pay]}}
endpoints:
  pay.v1: {{agent: payer, mode: async-queue, input: {{type: object}}}}
  plan.v1: {{agent: planner, mode: async-queue, input: {{type: object}}}}
approvals:
  - {{when: {{tool: test_pay, "amount_usd >": 100}}{rules}}}
"""


def config(rules: str = "", more: str = "") -> str:
    """Return a configuration whose rule says ``rules``, like ``quorum: 2, not_own: true``, with ``more`` rules."""
    return CONFIG.format(rules=f", {rules}" if rules else "") + more


def carry_on(lane: str = lanes.QUEUE) -> Outcome:
    """Claim the run that is queued, run it to its next stop, write what became of it, and return that."""
    found = script.run(claim(worker(lane, can=registry.capabilities()), lane))
    assert found is not None, "no run is queued"

    async def run() -> Outcome:
        try:
            return await handler.RunHandler().run(found)
        finally:
            await close_pool()

    outcome = asyncio.run(run())
    assert script.run(finish(found, outcome))
    return outcome


def asked(notes: Path, *amounts: float, user: User | None = None, endpoint: str = "pay.v1", **more: Any) -> Approval:
    """Start a run that pays these amounts, and return what it asks people first. `config` is loaded.

    ``plan.v1`` asks about all of its payments as one plan, or with ``apart`` as a plan of each; and does not revise any
    with ``stubborn``. ``pay.v1`` asks only about those that a rule is about.
    """
    given = {"file": str(notes), "amounts": list(amounts or (150,)), **more}
    run_id = invoke(endpoint, given, user=user or person("user"), actor=SYSTEM).run_id
    carry_on()
    return Approval.objects.filter(run_id=run_id, state="pending").earliest("pk")


def reviewer(name: str = "rita", *roles: str) -> Actor:
    """Return somebody who acts, by default a reviewer."""
    return Actor(user=person(name, *(roles or ("reviewer",))))


def paid(notes: Path) -> list[str]:
    """Return what was paid, in order."""
    return [line.split()[0] for line in notes.read_text().splitlines()] if notes.exists() else []


def approval(
    *calls: Mapping[str, Any],
    state: str = "pending",
    endpoint: str = "help.v1",
    due: timedelta | None = None,
    **more: Any,
) -> Approval:
    """Write a request straight to the tables, with its run, for tests of what is read and shown.

    Args:
        calls: ``{"tool", "arguments", …}`` of its plan; by default a refund.
        due: until its deadline; by default a day.
    """
    user = more.pop("requested_by", None) or person("user")
    run = more.pop("run", None) or task("waiting", endpoint=endpoint, user=user)
    given: Sequence[Mapping[str, Any]] = calls or (
        {"tool": "refund", "arguments": {"order": "A-1", "amount_usd": 150}},
    )
    plan = Plan(calls=tuple(PlannedCall(**{"id": str(n), **call}) for n, call in enumerate(given, 1)))
    deadline = timezone.now() + (timedelta(days=1) if due is None else due)
    key = more.pop("wait_key", "approve calls 1#1")
    values: dict[str, Any] = {
        "kind": "plan",
        "agent": run.agent.name,
        "agent_version": run.agent.version,
        "endpoint": run.endpoint.name,
        "title": "Refund 150 USD",
        "reason": "a refund over 100 USD",
        "asked_plan": plain(plan),
        "plan": plain(plan),
        "plan_hash": plan.hash,
        "tools": [call.tool for call in plan.calls],
        "groups": ["reviewer"],
        "deadline": deadline,
        "sort_at": deadline,
    }
    if state == "pending":
        Wait.objects.get_or_create(job_id=run.pk, key=key, defaults={"kind": "person"})
    else:
        values |= {"decided_at": timezone.now(), "decided_by": ["rita"]}
        values["decision"] = {"approved": "approve", "rejected": "reject", "expired": "reject"}.get(state, "")
    return Approval.objects.create(run=run, wait_key=key, requested_by=user, state=state, **(values | more))


def unknown_effect(**more: Any) -> Approval:
    """Write a call of which nobody knows how it ended straight to the tables, and what people are asked about it."""
    run = more.pop("run", None) or task("waiting", endpoint=more.pop("endpoint", "help.v1"), user=person("user"))
    effect = Effect.objects.create(
        key=str(uuid4()),
        run=run,
        step_key="tool pay#1",
        tool="test_pay",
        arguments={"amount_usd": 150},
        idempotent=False,
        state="unknown",
        fence=1,
    )
    values: dict[str, Any] = {"asked_plan": None, "plan": None, "plan_hash": "", "deadline": None}
    values |= {"kind": "effect", "effect": effect, "run": run, "wait_key": "effect", "sort_at": timezone.now()}
    return approval(**(values | more))


def fresh(given: Approval | UUID) -> Approval:
    """Return the request as it is now."""
    return Approval.objects.get(pk=given if isinstance(given, UUID) else given.pk)


def still() -> float:
    """Return the time of a clock that stands: a sweep's turn then ends with its work, on however slow a machine."""
    return 0.0
