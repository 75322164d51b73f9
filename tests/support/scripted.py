"""A model port and tools that do what a test wrote down, and a journal that can be cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from agents.runtime.context import RunContext
from agents.runtime.ports import (
    JOINT,
    Delta,
    MemoryJournal,
    Recorded,
    StepKind,
    StepRecord,
    Superseded,
    ToolContext,
    ToolPolicy,
)
from agents.runtime.run import RunResult, execute
from agents.runtime.types import AgentSpec, Limits, ModelCall, Models, Reply, ToolCall, ToolResult, ToolSpec, Usage

AGENT = AgentSpec(
    name="tester",
    version=1,
    instructions="Be brief.",
    program="test",
    models=Models(default="demo:strong"),
    tools=("look", "write"),
)


def reply(text: str = "", *calls: ToolCall, output: int = 10, cost: str | None = "0.01", **more: Any) -> Reply:
    """Return a reply that used ``output`` tokens."""
    usage = Usage(input_tokens=5, output_tokens=output, cost_usd=None if cost is None else Decimal(cost))
    return Reply(
        text=text, calls=calls, usage=usage, finish=more.pop("finish", "tool_calls" if calls else "stop"), **more
    )


def call(tool: str = "look", id: str = "c1", **arguments: Any) -> ToolCall:
    return ToolCall(id=id, tool=tool, arguments=arguments)


@dataclass
class Stream:
    """Pieces with the seconds before each, then the whole reply (or an error)."""

    pieces: Sequence[tuple[float, str | ToolCall]]
    end: Reply | Exception | None


Entry = Reply | Exception | Stream | Callable[[ModelCall], "Entry | Awaitable[Entry]"]


@dataclass
class ScriptedPort:
    """Answers with the entries of its script, in order; the last one again and again when it is a function."""

    script: list[Any]
    bound: Callable[[ModelCall], Decimal | None] = lambda call: Decimal(0)
    estimates: Callable[[ModelCall, str], Usage] = lambda call, text: Usage()
    calls: list[ModelCall] = field(default_factory=list)
    open_streams: int = 0

    async def request(self, call: ModelCall) -> Reply:
        entry = await self._entry(call)
        end = entry.end if isinstance(entry, Stream) else entry
        assert isinstance(end, Reply)
        return end

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta | ToolCall | Reply, None]:
        self.open_streams += 1
        try:
            entry = await self._entry(call)
            if isinstance(entry, Stream):
                for delay, piece in entry.pieces:
                    await asyncio.sleep(delay)
                    yield Delta(piece) if isinstance(piece, str) else piece
                if isinstance(entry.end, Exception):
                    raise entry.end
                if entry.end is not None:
                    yield entry.end
            else:
                yield entry
        finally:
            self.open_streams -= 1

    def upper_bound_usd(self, call: ModelCall) -> Decimal | None:
        return self.bound(call)

    def estimate(self, call: ModelCall, text: str) -> Usage:
        return self.estimates(call, text)

    async def _entry(self, call: ModelCall) -> Reply | Stream:
        self.calls.append(call)
        entry = self.script[0] if len(self.script) == 1 and callable(self.script[0]) else self.script.pop(0)
        if callable(entry):
            entry = entry(call)
            if asyncio.iscoroutine(entry):
                entry = await entry
        if isinstance(entry, Exception):
            raise entry
        assert isinstance(entry, Reply | Stream)
        return entry


Tool = Callable[[ToolCall, ToolContext], Any]


@dataclass
class ScriptedTools:
    """Tools as functions of the call; each may be async. Notes what ran, and how many ran at once."""

    functions: Mapping[str, Tool] = field(default_factory=dict)
    policies: Mapping[str, ToolPolicy] = field(default_factory=dict)
    ran: list[ToolCall] = field(default_factory=list)
    contexts: list[ToolContext] = field(default_factory=list)
    now: int = 0
    most: int = 0

    def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        return tuple(ToolSpec(name=name, description=name, parameters={"type": "object"}) for name in names)

    def policy(self, name: str) -> ToolPolicy:
        return self.policies.get(name, ToolPolicy())

    async def call(self, call: ToolCall, context: ToolContext) -> ToolResult:
        self.ran.append(call)
        self.contexts.append(context)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            function = self.functions.get(call.tool)
            result = function(call, context) if function else f"{call.tool} did it"
            if asyncio.iscoroutine(result):
                result = await result
            if isinstance(result, ToolResult):
                return result
            return ToolResult(call_id=call.id, tool=call.tool, content=result)
        finally:
            self.now -= 1


class JsonJournal(MemoryJournal):
    """Keeps text, as a database does, so that nothing but JSON survives. Cut off, it is another's."""

    def __init__(self, steps: Mapping[str, Recorded] | None = None, cut_after: int | None = None) -> None:
        super().__init__(steps=dict(steps or {}))
        self.cut_after = cut_after
        self.told: list[tuple[int, int | None, str]] = []

    async def load(self) -> Mapping[str, Recorded]:
        await asyncio.sleep(0)
        return {
            key: Recorded(key, step.input_hash, json.loads(step.output), step.kind) for key, step in self.steps.items()
        }

    async def record(self, record: StepRecord) -> None:
        if self.cut_after is not None and record.ok:
            if self.cut_after == 0:
                raise Superseded("cut off")
            self.cut_after -= 1
        await asyncio.sleep(0)
        assert record.key not in self.steps, f"{record.key} is recorded twice"
        await super().record(record)
        if record.ok:
            text = json.dumps(record.output)
            self.steps[record.key] = Recorded(record.key, record.input_hash, text, record.kind)

    async def progress(self, done: int, total: int | None, note: str) -> None:
        self.told.append((done, total, note))

    @property
    def keys(self) -> list[str]:
        return list(self.steps)


@dataclass
class Screen:
    """A transport that shows the answer as a person would see it."""

    shown: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    #: Everything it was told, in order, as (what, text).
    told: list[tuple[str, str]] = field(default_factory=list)

    async def begin(self, key: str, name: str, kind: StepKind) -> None:
        self.begun.append(key)
        self.told.append(("begin", key))

    async def step(self, record: StepRecord) -> None:
        self.steps.append(record)
        self.told.append(("step" if record.ok else "failed", record.key))

    async def delta(self, text: str) -> None:
        self.shown.append(text)
        self.times.append(asyncio.get_running_loop().time())
        self.told.append(("delta", text))

    async def part(self, text: str) -> None:
        self.parts.append(text)
        self.told.append(("part", text))

    async def withdraw(self, reason: str) -> None:
        self.withdrawn.append(reason)
        self.told.append(("withdraw", reason))

    @property
    def text(self) -> str:
        """What a person sees: the finished parts, and what came since the last of them."""
        ends = [at for at, (what, _) in enumerate(self.told) if what in ("part", "withdraw")]
        since = self.told[ends[-1] + 1 if ends else 0 :]
        return JOINT.join(self.parts) + "".join(text for what, text in since if what == "delta")


def context(journal: Any = None, port: Any = None, toolbox: Any = None, **more: Any) -> RunContext:
    """Return a context on which everything that is not given is harmless."""
    limits = more.pop("limits", None)
    return RunContext(
        run_id=more.pop("run_id", "run-1"),
        agent=more.pop("agent", AGENT),
        input=more.pop("input", "hello"),
        journal=JsonJournal() if journal is None else journal,
        port=port or ScriptedPort([lambda call: reply(f"re: {call.messages[-1].text}")]),
        toolbox=toolbox or ScriptedTools(),
        limits=Limits(**limits) if isinstance(limits, dict) else limits,
        **more,
    )


async def go(program: Callable[[RunContext], Awaitable[Any]], *args: Any, **more: Any) -> RunResult:
    """Make a context and run the program with it."""
    return await execute(program, context(*args, **more))
