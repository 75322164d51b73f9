"""Running the tools a model asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.runtime.branches import Branch, Slot
from agents.runtime.errors import NotJson, OutputTooLarge, RunError
from agents.runtime.failures import as_run_error
from agents.runtime.parallel import settle
from agents.runtime.plain import digest, plain
from agents.runtime.ports import ToolBox, ToolContext, ToolPolicy
from agents.runtime.recorder import Done, Recorder, problem
from agents.runtime.types import AgentSpec, ToolCall, ToolResult

_NOT_IN_NAMES = re.compile(r"[^\w.:@+-]+")


@dataclass(slots=True)
class _Pending:
    """A call that is not recorded yet."""

    index: int
    call: ToolCall
    slot: Slot
    #: None: the agent has no such tool.
    policy: ToolPolicy | None
    error: RunError | None = field(default=None)

    @property
    def batchable(self) -> bool:
        return self.policy is None or self.policy.batchable


class Caller:
    """Runs calls as steps of their own: batchable neighbours side by side, any other alone, in the order asked for."""

    def __init__(
        self,
        toolbox: ToolBox,
        agent: AgentSpec,
        recorder: Recorder,
        most_at_once: int,
        run_id: str,
        user_id: int | None,
    ) -> None:
        self._toolbox = toolbox
        self._names = agent.tools
        self._recorder = recorder
        self._most = most_at_once
        self._run_id = run_id
        self._user_id = user_id
        self._agent = agent.name

    async def run(self, branch: Branch, calls: Sequence[ToolCall]) -> tuple[ToolResult, ...]:
        """Return the results in the order of the calls. What is recorded does not run again.

        A tool that fails, or is unknown, gives a result with ``ok=False`` for the model to read.
        """
        results: dict[int, ToolResult] = {}
        missing: list[_Pending] = []
        slots = [self._slot(branch, call) for call in calls]
        for index, (call, slot) in enumerate(zip(calls, slots, strict=True)):
            found = self._recorder.recall(slot)
            if found is not None:
                results[index] = _addressed(ToolResult.model_validate(plain(found.output)), call)
                await self._recorder.breathe()
            else:
                missing.append(_Pending(index, call, slot, self._policy(call.tool)))
        if missing:
            await self._recorder.flush(branch)
        for group in _groups(missing):
            try:
                for pending, result in zip(group, await self._together(group), strict=True):
                    results[pending.index] = result
            except RunError as error:
                branch.caught += [(pending.slot, problem(error)) for pending in group if pending.error is error]
                raise
        return tuple(results[index] for index in range(len(calls)))

    def _slot(self, branch: Branch, call: ToolCall) -> Slot:
        name = _NOT_IN_NAMES.sub("_", call.tool)[:80] or "tool"
        given = plain({"tool": call.tool, "arguments": call.arguments})
        return self._recorder.take(branch, name, "tool", given)

    def _policy(self, name: str) -> ToolPolicy | None:
        if name not in self._names:
            return None
        try:
            return self._toolbox.policy(name)
        except LookupError:
            return None

    async def _together(self, group: Sequence[_Pending]) -> list[ToolResult]:
        room = asyncio.Semaphore(self._most)
        return await settle([asyncio.create_task(self._step(pending, room)) for pending in group])

    async def _step(self, pending: _Pending, room: asyncio.Semaphore) -> ToolResult:
        async with room:
            recorder, slot = self._recorder, pending.slot
            started = await recorder.begin(slot)
            try:
                result, output = await self._result(pending)
            except Exception as raised:
                pending.error = as_run_error(raised)
                await recorder.fail(slot, pending.error, started)
                raise pending.error from pending.error.__cause__
            summary = outline(result.content) if result.ok else f"{result.error}: {result.content}"
            await recorder.keep(slot, Done(output, summary), started)
            return result

    async def _result(self, pending: _Pending) -> tuple[ToolResult, Any]:
        call, slot = pending.call, pending.slot
        if pending.policy is None:
            known = ", ".join(self._names) or "none at all"
            result = _refusal(call, "unknown-tool", f"There is no tool {call.tool!r}. You may use: {known}.")
        else:
            result = _addressed(await self._toolbox.call(call, self._context(call, slot)), call)
        try:
            output = plain(result, f"The result of {call.tool}")
            self._recorder.measure(slot, output)
        except (NotJson, OutputTooLarge) as error:
            result = _refusal(call, error.slug, error.detail)
            output = plain(result)
        return ToolResult.model_validate(output), output

    def _context(self, call: ToolCall, slot: Slot) -> ToolContext:
        return ToolContext(
            run_id=self._run_id,
            user_id=self._user_id,
            agent=self._agent,
            step_key=slot.key,
            idempotency_key=digest([self._run_id, slot.key, call.tool, plain(call.arguments)]),
        )


def outline(content: Any) -> str:
    """Say in a few words what came back: a text's beginning, or how many of what."""
    if isinstance(content, str):
        return content or "nothing"
    if isinstance(content, list):
        return f"{len(content)} {'item' if len(content) == 1 else 'items'}"
    if isinstance(content, dict):
        counts = [f"{len(value)} {name}" for name, value in content.items() if isinstance(value, list) and value]
        return ", ".join(counts) or "done"
    return "done"


def _groups(pending: Sequence[_Pending]) -> Iterator[list[_Pending]]:
    """Split the calls: neighbours that are batchable stay together, any other stands alone.

    So a call that changes something runs after all that were asked for before it, and before all after it.
    """
    group: list[_Pending] = []
    for one in pending:
        if not one.batchable:
            if group:
                yield group
            yield [one]
            group = []
        else:
            group.append(one)
    if group:
        yield group


def _addressed(result: ToolResult, call: ToolCall) -> ToolResult:
    return result.model_copy(update={"call_id": call.id, "tool": call.tool})


def _refusal(call: ToolCall, error: str, content: str) -> ToolResult:
    return ToolResult(call_id=call.id, tool=call.tool, ok=False, error=error, content=content)
