"""Tools and programs that do something outside, and note it in a file: for tests of what is done once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agents.runtime.context import RunContext
from agents.runtime.ports import ToolContext
from agents.runtime.program import program
from agents.runtime.types import ToolCall
from agents.tools.registry import Refused, tool
from tests.support.programs import note


@tool(batchable=False, effect=True, idempotent=False, timeout_s=120)
async def test_wire(file: str, amount_usd: float, gate: str) -> str:
    """Wire money, and answer once a file is there."""
    note(file, f"wired-{amount_usd:g}")
    while not await asyncio.to_thread(Path(gate).exists):
        await asyncio.sleep(0.02)
    return f"wired {amount_usd:g}"


@tool(batchable=False, effect=True, idempotent=True, timeout_s=120)
async def test_put(file: str, amount_usd: float, gate: str, context: ToolContext) -> str:
    """Set a balance, and answer once a file is there."""
    note(file, f"put-{context.idempotency_key}")
    while not await asyncio.to_thread(Path(gate).exists):
        await asyncio.sleep(0.02)
    return f"put {amount_usd:g}"


@tool(effect=True, idempotent=False, timeout_s=0.2)
async def test_late(file: str, amount_usd: float) -> str:
    """Pay, and not answer in time the first time."""
    word = f"late-{amount_usd:g}"
    seen = Path(file).read_text() if Path(file).exists() else ""
    note(file, word)
    if word not in seen:
        await asyncio.sleep(60)
    return f"paid {amount_usd:g}"


@tool(batchable=False, effect=True, idempotent=False)
def test_fails_first(file: str, amount_usd: float) -> str:
    """Pay an even sum; an odd one only the second time."""
    word = f"try-{amount_usd:g}"
    seen = Path(file).read_text() if Path(file).exists() else ""
    note(file, word)
    if amount_usd % 2 and word not in seen:
        raise Refused("no-such-account", "There is no such account.")
    return f"paid {amount_usd:g}"


@tool(batchable=False, effect=True, idempotent=False)
def test_breaks_after(file: str, amount_usd: float) -> str:
    """Pay, and lose the answer the first time."""
    word = f"broken-{amount_usd:g}"
    seen = Path(file).read_text() if Path(file).exists() else ""
    note(file, word)
    if word not in seen:
        raise ConnectionResetError("the bank hung up")
    return f"paid {amount_usd:g}"


def _calls(ctx: RunContext) -> list[ToolCall]:
    more = {"gate": ctx.input["gate"]} if "gate" in ctx.input else {}
    return [
        ToolCall(
            id=str(place), tool=ctx.input["tool"], arguments={"file": ctx.input["file"], "amount_usd": amount, **more}
        )
        for place, amount in enumerate(ctx.input["amounts"])
    ]


@program("test-does")
async def does(ctx: RunContext) -> dict[str, Any]:
    """Call the tool that the input names; fail if a call did, where the input says so."""
    results = await ctx.tools(_calls(ctx))
    if ctx.input.get("strict") and not all(result.ok for result in results):
        raise RuntimeError("a call failed")
    return {"results": [[result.ok, result.error, result.content] for result in results]}


@program("test-does-later")
async def does_later(ctx: RunContext) -> dict[str, Any]:
    """Ask about the calls, wait for an event, then make them."""
    plan = await ctx.approve(_calls(ctx))
    await ctx.wait_event("go")
    return {"results": [[result.ok, result.error] for result in await ctx.tools(plan.calls)]}


CONFIG = """
programs: [tests.support.programs, tests.support.paying]
agents:
  doer:
    version: 1
    instructions: Do it.
    model: demo
    program: test-does
    tools: [test_pay, test_wire, test_put, test_late, test_fails_first, test_breaks_after]
  later: {version: 1, instructions: Do it., model: demo, program: test-does-later, tools: [test_pay]}
endpoints:
  do.v1: {agent: doer, mode: async-queue, input: {type: object}}
  later.v1: {agent: later, mode: async-queue, input: {type: object}}
approvals:
  - {when: {tool: "test_*", "amount_usd >": 100}}
"""
