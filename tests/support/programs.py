"""Programs for tests of runs, known to every process that imports what a configuration names."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.runtime.context import RunContext
from agents.runtime.plans import Plan, PlannedCall
from agents.runtime.program import program
from agents.runtime.types import Message, ToolCall, ToolResult
from agents.tools.registry import tool


def note(file: str, word: str) -> str:
    """Append a line to the file, so that a test sees each execution."""
    with Path(file).open("a") as lines:
        lines.write(f"{word} {os.getpid()}\n")
    return word


async def wait_for(file: str, gate: str) -> str:
    """Note that it began, wait until a file appears, note that it ended."""
    note(file, "review-began")
    while not await asyncio.to_thread(Path(gate).exists):
        await asyncio.sleep(0.02)
    return note(file, "review-ended")


@program("test-report")
async def report(ctx: RunContext) -> dict[str, Any]:
    """Ask a model, take notes side by side, wait for a file, write an answer."""
    file = ctx.input["file"]
    plan = await ctx.model("plan", "Plan it.", max_tokens=50)
    parts = await ctx.gather(*(ctx.step("part", note, file, f"part-{number}") for number in range(3)))
    await ctx.step("review", wait_for, file, ctx.input["gate"])
    asked = Message(role="user", text=f"Write it, of {plan.text} and {', '.join(parts)}.")
    answer = await ctx.compose([asked], max_tokens=50)
    return {"text": answer.text}


@program("test-one-step-a-life")
async def one_step_a_life(ctx: RunContext) -> dict[str, Any]:
    """Do six steps; after each the process that did it dies."""
    file = Path(ctx.input["file"])
    for number in range(6):
        await ctx.step(f"life-{number}", note, str(file), f"life-{number}")
        if (marker := file.with_name(f"died-{number}")).exists():
            continue
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"text": "survived"}


@program("test-slowly")
async def slowly(ctx: RunContext) -> dict[str, Any]:
    """Take one short step after another for two seconds."""
    for _ in range(20):
        await ctx.step("nap", asyncio.sleep, 0.1)
    return {"text": "rested"}


@program("test-patiently")
async def patiently(ctx: RunContext) -> dict[str, Any]:
    """Note something, sleep and wait for an event side by side, note something again."""
    file = ctx.input["file"]
    await ctx.step("before", note, file, "before")
    _, paid = await ctx.gather(ctx.sleep(3600), ctx.wait_event("paid", timeout_s=7200))
    await ctx.step("after", note, file, "after")
    return {"paid": paid, "age_over_an_hour": ctx._age_s() > 3600}


@tool(batchable=False, effect=True, idempotent=False, touches=["the test's ledger"], undoable=False)
def test_pay(file: str, amount_usd: float) -> str:
    """Pay somebody."""
    return note(file, f"paid-{amount_usd:g}")


@program("test-pays")
async def pays(ctx: RunContext) -> dict[str, Any]:
    """Pay what the input says."""
    calls = [
        ToolCall(id=str(place), tool="test_pay", arguments={"file": ctx.input["file"], "amount_usd": amount})
        for place, amount in enumerate(ctx.input["amounts"])
    ]
    return {"results": [[result.ok, result.error, result.content] for result in await ctx.tools(calls)]}


@program("test-plans")
async def plans(ctx: RunContext) -> dict[str, Any]:
    """Ask about all payments as one plan, revise it as often as changes are requested, then pay."""
    file = ctx.input["file"]

    def payments(amounts: list[float]) -> Plan:
        calls = tuple(
            PlannedCall(id=str(n), tool="test_pay", arguments={"file": file, "amount_usd": amount}, why="It is due.")
            for n, amount in enumerate(amounts, 1)
        )
        return Plan(title="Pay the suppliers", summary="What is due this week.", calls=calls)

    async def revise(plan: Plan, comment: str) -> Plan:
        return payments([call.arguments["amount_usd"] / 2 for call in plan.calls])

    async def pay(amounts: list[float]) -> Sequence[ToolResult]:
        reason = "money leaves the house"
        plan = await ctx.approve(payments(amounts), reason=reason, revise=None if "stubborn" in ctx.input else revise)
        return await ctx.tools(plan.calls)

    amounts = ctx.input["amounts"]
    if "apart" in ctx.input:  # a plan of each, side by side
        results = [one for paid in await ctx.gather(*(pay([amount]) for amount in amounts)) for one in paid]
    else:
        results = list(await pay(amounts))
    return {"results": [[result.ok, result.error, result.content] for result in results]}
