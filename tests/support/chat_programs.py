"""Programs for tests of the chat, known to every process that imports what a configuration names."""

from __future__ import annotations

import os
from typing import Any

from agents.programs.loop import conversation
from agents.runtime.context import RunContext
from agents.runtime.program import program
from tests.support.programs import note


@program("test-looks-first")
async def looks_first(ctx: RunContext) -> dict[str, Any]:
    """Look at something, noted in the file that the last message names; then let a model answer in two parts."""
    messages = conversation(ctx.input)
    file = messages[-1].text
    await ctx.step("look", note, file, "looked")
    first = await ctx.compose(messages)
    await ctx.step("look-again", note, file, "looked-again")
    second = await ctx.compose([*messages, first.as_message()], name="rest")
    return {"text": f"{first.text}\n\n{second.text}"}


@program("test-kills")
async def kills(ctx: RunContext) -> dict[str, Any]:
    """Answer, unless the last message is `poison`: that ends the process as a fault in a library would."""
    messages = conversation(ctx.input)
    if messages[-1].text == "poison":
        os._exit(9)
    return {"text": (await ctx.compose(messages)).text}


@program("test-naps")
async def naps(ctx: RunContext) -> dict[str, Any]:
    """Say something, sleep for a day, and let a model answer."""
    await ctx.compose("Before.", name="before")
    await ctx.sleep(86_400)
    reply = await ctx.compose(conversation(ctx.input))
    return {"text": f"Before.\n\n{reply.text}"}
