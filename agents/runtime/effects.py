"""The ledger of what a run does to the world outside: begun, done, or nobody knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from agents.runtime.ports import ToolContext
from agents.runtime.types import ToolCall, ToolResult

#: fresh: it may run now. done: it has run, with that result, well or not. interrupted: it was begun and nobody knows
#: how it ended. given-up: a person decided that it is not to run.
EffectState = Literal["fresh", "done", "interrupted", "given-up"]


@dataclass(frozen=True, slots=True)
class Effect:
    """Where a call with effects stands."""

    state: EffectState = "fresh"
    result: Any = None
    #: How often it was begun.
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Used:
    """A call that was begun under a decision."""

    approval_id: str
    step_key: str
    tool: str
    arguments: dict[str, Any]


class Ledger(Protocol):
    """Where effects are kept. A stale owner may not begin one, but may still tell how one that it began ended.

    A tool that answers, or refuses, has told how the call ended: a failure that it tells of is known, and is taken to
    have changed nothing. One that did not answer in time, that raised anything else, or whose process died, has not.
    """

    @property
    def epoch(self) -> int:
        """A part of each key. Raised when a person wants what was done to be done again."""

    async def look(self, keys: list[str]) -> dict[str, Effect]:
        """Return what is known of calls, by idempotency key; nothing of those never begun."""

    async def used(self) -> list[Used]:
        """Return the calls of this run that were begun under decisions."""

    async def begin(self, call: ToolCall, context: ToolContext, *, idempotent: bool) -> Effect:
        """Write that the call begins, if it may; return where it then stands: `fresh`, it runs now.

        One that is done, given up, or interrupted and not idempotent stays as it is.

        Raises:
            Superseded: another owner has the run.
        """

    async def end(self, key: str, result: Any, *, known: bool) -> None:
        """Write how it ended: with that result, or (``known`` False) so that nobody knows."""


@dataclass(slots=True)
class MemoryLedger:
    """A ledger for tests and for runs that live in memory."""

    effects: dict[str, Effect] = field(default_factory=dict)
    begun: dict[str, Used] = field(default_factory=dict)
    epoch: int = 1

    async def look(self, keys: list[str]) -> dict[str, Effect]:
        """Return what it has of them."""
        return {key: self.effects[key] for key in keys if key in self.effects}

    async def used(self) -> list[Used]:
        """Return those that a decision let run."""
        return [one for one in self.begun.values() if one.approval_id]

    async def begin(self, call: ToolCall, context: ToolContext, *, idempotent: bool) -> Effect:
        """Note that it begins."""
        key = context.idempotency_key
        before = self.effects.get(key, Effect())
        if before.state in ("done", "given-up") or (before.state == "interrupted" and not idempotent):
            return before
        self.effects[key] = Effect("interrupted", None, before.attempt + 1)
        self.begun[key] = Used(context.approval_id, context.step_key, call.tool, call.arguments)
        return Effect("fresh", None, before.attempt + 1)

    async def end(self, key: str, result: Any, *, known: bool) -> None:
        """Note how it ended."""
        attempt = self.effects[key].attempt
        self.effects[key] = Effect("done" if known else "interrupted", result if known else None, attempt)


def wait_of(key: str, effect: Effect) -> str:
    """Return the key of the wait in which a person says what became of an effect. Each attempt has its own."""
    return f"effect:{key}:{effect.attempt}"


def given_up(call: ToolCall) -> ToolResult:
    """Return what the model reads of a call that a person gave up."""
    return ToolResult(
        call_id=call.id,
        tool=call.tool,
        ok=False,
        error="given-up",
        content="Nobody knows whether this call took effect. A person decided that it is not to be repeated.",
    )
