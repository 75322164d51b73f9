"""Running the tools a model asked for."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.runtime.approving import Approving
from agents.runtime.branches import Branch, Slot
from agents.runtime.effects import Ledger, given_up, wait_of
from agents.runtime.errors import EffectUnknown, NotJson, OutputTooLarge, RunError
from agents.runtime.failures import as_run_error
from agents.runtime.parallel import settle
from agents.runtime.parking import Parking
from agents.runtime.plain import digest, plain
from agents.runtime.ports import ToolBox, ToolContext, ToolPolicy, Waiting
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
    #: The decision that lets it run; "" where nobody had to decide.
    approval_id: str = ""
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
        approving: Approving,
        parking: Parking,
        ledger: Ledger,
        most_at_once: int,
        run_id: str,
        user_id: int | None,
    ) -> None:
        self._toolbox = toolbox
        self._names = agent.tools
        self._recorder = recorder
        self._approving = approving
        self._parking = parking
        self._ledger = ledger
        self._most = most_at_once
        self._run_id = run_id
        self._user_id = user_id
        self._agent = agent.name

    async def run(self, branch: Branch, calls: Sequence[ToolCall]) -> tuple[ToolResult, ...]:
        """Return the results in the order of the calls. What is recorded does not run again.

        A tool that fails, or is unknown, gives a result with ``ok=False`` for the model to read; so does a call that
        people did not approve. One that they changed runs as they changed it.
        """
        calls, results, approved = await self._approving.gate(branch, calls, self._done(branch, calls))
        missing: list[_Pending] = []
        slots = {index: self._slot(branch, call) for index, call in enumerate(calls) if index not in results}
        for index, slot in slots.items():
            call = calls[index]
            found = self._recorder.recall(slot)
            if found is not None:
                results[index] = _addressed(ToolResult.model_validate(plain(found.output)), call)
                await self._recorder.breathe()
            else:
                missing.append(_Pending(index, call, slot, self._policy(call.tool), approved.get(index, "")))
        if missing:
            await self._recorder.flush(branch)
            await self._settle_unknown(missing)
        for group in _groups(missing):
            try:
                for pending, result in zip(group, await self._together(group), strict=True):
                    results[pending.index] = result
            except EffectUnknown:
                await self._settle_unknown(group)
                raise
            except RunError as error:
                branch.caught += [(pending.slot, problem(error)) for pending in group if pending.error is error]
                raise
        return tuple(results[index] for index in range(len(calls)))

    def _done(self, branch: Branch, calls: Sequence[ToolCall]) -> set[int]:
        """Return the places of the calls that are recorded."""
        done, seen = set(), Counter[str]()
        for place, call in enumerate(calls):
            name = _name(call)
            if self._recorder.knows(branch.peek_key(name, seen[name])):
                done.add(place)
            seen[name] += 1
        return done

    def _slot(self, branch: Branch, call: ToolCall) -> Slot:
        name = _name(call)
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
            result = _addressed(await self._call(pending, pending.policy), call)
        try:
            output = plain(result, f"The result of {call.tool}")
            self._recorder.measure(slot, output)
        except (NotJson, OutputTooLarge) as error:
            result = _refusal(call, error.slug, error.detail)
            output = plain(result)
        return ToolResult.model_validate(output), output

    async def _call(self, pending: _Pending, policy: ToolPolicy) -> ToolResult:
        """Run a call; one with effects through the ledger, so that what is done is not done again."""
        call, context = pending.call, self._context(pending)
        if not (policy.effect or pending.approval_id):
            return await self._toolbox.call(call, context)
        found = await self._recorder.guarded(self._ledger.begin(call, context, idempotent=policy.idempotent))
        if found.state == "done":
            return ToolResult.model_validate(found.result)
        if found.state == "given-up":
            return given_up(call)
        result = await self._toolbox.call(call, context)
        # Out of time: it may have happened all the same. Repeating it is for a person to decide, unless it is harmless.
        known = policy.idempotent or result.error != "timeout"
        await self._recorder.guarded(self._ledger.end(context.idempotency_key, plain(result), known=known))
        if not known:
            raise EffectUnknown(f"{call.tool} did not answer in time: nobody knows whether it took effect.")
        return result

    async def _settle_unknown(self, missing: Sequence[_Pending]) -> None:
        """Park the line where a call was begun and nobody knows how it ended: a person says what became of it."""
        keys = {
            self._context(pending).idempotency_key: pending
            for pending in missing
            if pending.policy is not None
            and (pending.policy.effect or pending.approval_id)
            and not pending.policy.idempotent
        }
        if not keys:
            return
        for key, effect in (await self._recorder.guarded(self._ledger.look(list(keys)))).items():
            if effect.state == "interrupted":
                call = keys[key].call
                data = {"effect": key, "tool": call.tool, "arguments": plain(call.arguments)}
                await self._parking.park(Waiting(wait_of(key, effect), "person", None, data))

    def _context(self, pending: _Pending) -> ToolContext:
        call, slot = pending.call, pending.slot
        return ToolContext(
            run_id=self._run_id,
            user_id=self._user_id,
            agent=self._agent,
            step_key=slot.key,
            idempotency_key=digest([self._run_id, slot.key, call.tool, plain(call.arguments)]),
            approval_id=pending.approval_id,
        )


def _name(call: ToolCall) -> str:
    return _NOT_IN_NAMES.sub("_", call.tool)[:80] or "tool"


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
