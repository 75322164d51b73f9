"""Keeping a long conversation within what a model reads well: the oldest part of it is summed up, once."""

from __future__ import annotations

from collections.abc import Sequence

from agents.runtime.context import RunContext
from agents.runtime.errors import BadReply, BudgetExceeded, ContextOverflow, ModelRefused
from agents.runtime.sizes import likely_tokens
from agents.runtime.types import Message

#: The fact that a part of the history was summed up: `{"messages": how many of its first items, "text": the summary}`.
COMPACTED = "conversation.compacted"
#: The newest messages that stay word for word, however long they are …
KEPT_LEAST = 4
#: … and without a summary, which leaves them alone.
KEPT_WITHOUT_SUMMARY = 2
SUMMARY_TOKENS = 600
#: A summary takes this share of a run's tokens at most, and is not worth a call under so many tokens.
SUMMARY_SHARE = 4
LEAST_SUMMARY_TOKENS = 100
#: Of one message, what the summary is made from: its beginning and its end, in characters.
HEAD, TAIL = 3_000, 1_000
#: What a message takes beside its text, in tokens.
ENVELOPE = 4

INSTRUCTIONS = (
    "You keep a conversation short enough to go on with. Write down what matters of its earlier part: what the user "
    "is called and wants, facts, numbers and names, what was decided, what is still open. Write in the language of "
    "the conversation, 300 words at most, without an introduction."
)
REQUEST = "Summarise the earlier part of this conversation:"
SUMMED_UP = "[This conversation has grown long. Its earlier part is summed up here; it is no message to answer.]\n\n"
LEFT_OUT = "[This conversation has grown long. Its earlier part is left out.]"


async def fitted(ctx: RunContext, history: Sequence[Message], message: str) -> list[Message]:
    """Return the history as it goes to a model: as it is, or with a summary instead of its oldest part.

    From `ctx.limits.history_tokens` on the oldest messages are summed up in the step ``compact``, so that about half of
    that remains, and the fact is published as `COMPACTED`. Where no summary can be had within the run's budget, the
    oldest messages are left out.

    Raises:
        RunError: as `ctx.model`, where the model is unavailable: the answer would fail as well.
    """
    sizes = [likely_tokens(said.text) + ENVELOPE for said in history]
    most, own = ctx.limits.history_tokens, likely_tokens(message)
    if sum(sizes) + own <= most:
        return list(history)
    kept = max(_newest(sizes, most // 2 - own), KEPT_LEAST)
    old = history[: max(0, len(history) - kept)]
    if not old:
        return list(history)
    summary = await _summary(ctx, old)
    if summary is None:
        kept = max(_newest(sizes, most - own), KEPT_WITHOUT_SUMMARY)
        return [Message(role="user", text=LEFT_OUT), *history[max(0, len(history) - kept) :]]
    await ctx.emit(COMPACTED, {"messages": len(old), "text": summary})
    return [Message(role="user", text=SUMMED_UP + summary), *history[len(old) :]]


def _newest(sizes: Sequence[int], room: int) -> int:
    """Return how many of the newest messages fit."""
    count = 0
    for size in reversed(sizes):
        room -= size
        if room < 0:
            break
        count += 1
    return count


async def _summary(ctx: RunContext, old: Sequence[Message]) -> str | None:
    """Return the summary, None where there is no budget for one or the model does not write it."""
    most = min(SUMMARY_TOKENS, ctx.limits.max_tokens // SUMMARY_SHARE)
    if most < LEAST_SUMMARY_TOKENS or ctx.limits.max_turns < 2:
        return None
    asked = f"{REQUEST}\n\n{_transcript(old, ctx.limits.history_tokens)}"
    messages = [Message(role="system", text=INSTRUCTIONS), Message(role="user", text=asked)]
    try:
        return (await ctx.model("compact", messages, max_tokens=most)).text.strip() or None
    except (BudgetExceeded, BadReply, ModelRefused, ContextOverflow):
        return None


def _transcript(old: Sequence[Message], most: int) -> str:
    """Return what was said, each message shortened to its ends; of more than ``most`` tokens the middle is left out.

    The first message always stays: it may be the summary of all that was before.
    """
    lines = [f"{said.role.title()}: {_ends(said.text)}" for said in old]
    sizes = [likely_tokens(line) + ENVELOPE for line in lines]
    kept = _newest(sizes[1:], most - sizes[0])
    if kept < len(lines) - 1:
        lines = [lines[0], "[…]", *lines[len(lines) - kept :]]
    return "\n\n".join(lines)


def _ends(text: str) -> str:
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} […] {text[-TAIL:]}"
