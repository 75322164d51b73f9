"""The program `refunds`: looks an order up, asks for a refund, and says of it only what the shop's books have."""

from __future__ import annotations

from typing import Any

from agents.programs import refund_claims
from agents.programs.compaction import fitted
from agents.programs.loop import conversation
from agents.programs.refund_claims import Facts
from agents.runtime.context import RunContext
from agents.runtime.ports import JOINT
from agents.runtime.program import program
from agents.runtime.types import Message


@program("refunds", verifies=True)
async def refunds(ctx: RunContext) -> dict[str, Any]:
    """Answer a customer: a text, or `{"message", "history"?}`.

    Which refunds wait for people is not decided here but by the rules in `astra.yml`. Each part of the answer is judged
    by `refund_claims.judge` before it leaves, where the agent says `verify: buffered`.

    Returns `{"text", "refunds": [{"order_id", "amount_usd", "refund"}]}`: what was said, and what was really paid back.
    """
    *history, message = conversation(ctx.input)
    messages = [*await fitted(ctx, history, message.text), message]
    facts = Facts()
    facts.hear(ctx.agent.instructions)
    for said in messages:
        if said.role == "user":
            facts.hear(said.text)
    parts: list[str] = []
    made: list[dict[str, Any]] = []
    while True:
        reply = await ctx.compose(messages, check=lambda text: refund_claims.judge(text, facts))
        if reply.text and not reply.preamble:
            parts.append(reply.text)
        if not reply.calls:
            output = {"text": JOINT.join(parts), "refunds": made}
            return output | {"truncated": True} if reply.finish == "length" else output
        results = await ctx.tools(reply.calls)
        refund_claims.all_of(reply.calls, results, facts)
        made += [
            {key: result.content[key] for key in ("order_id", "amount_usd", "refund")}
            for result in results
            if result.ok and result.tool == "refund" and _says_what(result.content)
        ]
        messages = [*messages, reply.as_message(), Message(role="tool", results=results)]


def _says_what(content: Any) -> bool:
    """Tell whether a result is the tool's own; where a person said how a call ended, it may be any words."""
    return isinstance(content, dict) and {"order_id", "amount_usd", "refund"} <= content.keys()
