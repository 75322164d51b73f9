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
from agents.runtime.ports import UNTOLD, ToolBox, ToolContext, ToolPolicy, Waiting
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

    @property
    def has_effects(self) -> bool:
        """Whether it goes through the ledger: what a decision lets run does, whatever the tool is."""
        return self.policy is not None and (self.policy.effect or bool(self.approval_id))


@dataclass(slots=True)
class _Turn:
    """The calls of one turn before anybody has decided on them: `agents.runtime.approving.Turn`."""

    caller: Caller
    calls: Sequence[ToolCall]
    keys: Sequence[str]

    async def needless(self, places: Sequence[int]) -> set[int]:
        return await self.caller.settled(self, places)


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
        turn = _Turn(self, calls, self._keys(branch, calls))
        calls, results, approved = await self._approving.gate(branch, turn)
        missing: list[_Pending] = []
        for index, call in enumerate(calls):
            slot = self._slot(branch, call)  # of a refused call too: a call's place says what its step is called
            if index in results:
                continue
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
                await self._finish(group, results)
            except RunError as error:
                branch.caught += [(pending.slot, problem(error)) for pending in group if pending.error is error]
                raise
        return tuple(results[index] for index in range(len(calls)))

    async def _finish(self, group: Sequence[_Pending], results: dict[int, ToolResult]) -> None:
        """Run a group to its results. Where nobody knows how a call ended the line parks."""
        while group:
            unknown = []
            for pending, result in zip(group, await self._together(group), strict=True):
                if result is None:
                    unknown.append(pending)
                else:
                    results[pending.index] = result
            group = unknown
            await self._settle_unknown(group)  # comes back if somebody has told meanwhile: a stale owner may

    async def settled(self, turn: _Turn, places: Sequence[int]) -> set[int]:
        """Return those of a turn's calls that will not run, whatever people decide: they have, or may have, already.

        They are recorded; or the ledger has them, since a run that was sent back to its start does not repeat them.
        """
        found = {place for place in places if self._recorder.knows(turn.keys[place])}
        begun: dict[str, int] = {}
        for place in places:
            policy = self._policy(turn.calls[place].tool)
            if place not in found and policy is not None and policy.effect:
                begun[self._key(turn.keys[place], turn.calls[place])] = place
        if begun:
            for key, effect in (await self._recorder.guarded(self._ledger.look(list(begun)))).items():
                policy = self._policy(turn.calls[begun[key]].tool)
                is_open = effect.state == "interrupted" and policy is not None and not policy.idempotent
                if effect.state in ("done", "given-up") or is_open:
                    found.add(begun[key])
        return found

    def _keys(self, branch: Branch, calls: Sequence[ToolCall]) -> list[str]:
        """Return the keys that the steps of the calls will have."""
        keys, seen = [], Counter[str]()
        for call in calls:
            name = _name(call)
            keys.append(branch.peek_key(name, seen[name]))
            seen[name] += 1
        return keys

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

    async def _together(self, group: Sequence[_Pending]) -> list[ToolResult | None]:
        room = asyncio.Semaphore(self._most)
        return await settle([asyncio.create_task(self._step(pending, room)) for pending in group])

    async def _step(self, pending: _Pending, room: asyncio.Semaphore) -> ToolResult | None:
        """Run one call and record it. None, and only its failure told: nobody knows whether it took effect."""
        async with room:
            recorder, slot = self._recorder, pending.slot
            started = await recorder.begin(slot)
            try:
                result, output = await self._result(pending)
            except EffectUnknown as unknown:
                # Those beside it go on: cut off, nobody would know of them either.
                await recorder.fail(slot, unknown, started)
                return None
            except Exception as raised:
                pending.error = as_run_error(raised)
                await recorder.fail(slot, pending.error, started)
                raise pending.error from pending.error.__cause__
            summary = outline(result.content) if result.ok else f"{result.error}: {result.content}"
            await recorder.keep(slot, Done(output, summary), started)
            return result

    async def _result(self, pending: _Pending) -> tuple[ToolResult, Any]:
        call = pending.call
        if pending.policy is None:
            known = ", ".join(self._names) or "none at all"
            result = _refusal(call, "unknown-tool", f"There is no tool {call.tool!r}. You may use: {known}.")
        else:
            result = _addressed(await self._call(pending, pending.policy), call)
        output = self._outcome(pending, result)
        return ToolResult.model_validate(output), output

    def _outcome(self, pending: _Pending, result: ToolResult) -> Any:
        """Return a result as the journal keeps it; one that it cannot keep says so."""
        try:
            output = plain(result, f"The result of {pending.call.tool}")
            self._recorder.measure(pending.slot, output)
        except (NotJson, OutputTooLarge) as error:
            if result.ok and pending.has_effects:  # as a failure a redrive would do it again
                note = f"It was done. What it came back with could not be kept: {error.detail}"
                return plain(result.model_copy(update={"content": note}))
            return plain(_refusal(pending.call, error.slug, error.detail))
        return output

    async def _call(self, pending: _Pending, policy: ToolPolicy) -> ToolResult:
        """Run a call; one with effects through the ledger, so that what is done is not done again."""
        call, context = pending.call, self._context(pending)
        if not pending.has_effects:
            return await self._toolbox.call(call, context)
        key = context.idempotency_key
        found = await self._recorder.guarded(self._ledger.begin(call, context, idempotent=policy.idempotent))
        if found.state == "done":
            return ToolResult.model_validate(found.result)
        if found.state == "given-up":
            return given_up(call)
        if found.state == "interrupted":
            raise EffectUnknown(f"{call.tool} was begun before: nobody knows whether it took effect.")
        result = await self._toolbox.call(call, context)
        # Out of time, or broken: it may have happened all the same. Unless repeating it is harmless a person decides.
        known = policy.idempotent or result.ok or result.error not in UNTOLD
        await self._recorder.told(self._ledger.end(key, self._outcome(pending, result), known=known))
        if not known:
            befell = "did not answer in time" if result.error == "timeout" else "broke"
            raise EffectUnknown(f"{call.tool} {befell}: nobody knows whether it took effect.")
        return result

    async def _settle_unknown(self, missing: Sequence[_Pending]) -> None:
        """Park the line where calls were begun and nobody knows how they ended: of each a person says what became."""
        asked = {
            self._key(pending.slot.key, pending.call): pending
            for pending in missing
            if pending.policy is not None and pending.has_effects and not pending.policy.idempotent
        }
        if not asked:
            return
        waits = []
        known = await self._recorder.guarded(self._ledger.look(list(asked)))
        for key, pending in asked.items():
            effect = known.get(key)
            if effect is not None and effect.state == "interrupted":
                data = {"effect": key, "tool": pending.call.tool, "arguments": plain(pending.call.arguments)}
                waits.append(Waiting(wait_of(key, effect), "person", None, data))
        if waits:
            await self._parking.park(*waits)

    def _context(self, pending: _Pending) -> ToolContext:
        return ToolContext(
            run_id=self._run_id,
            user_id=self._user_id,
            agent=self._agent,
            step_key=pending.slot.key,
            idempotency_key=self._key(pending.slot.key, pending.call),
            approval_id=pending.approval_id,
        )

    def _key(self, step_key: str, call: ToolCall) -> str:
        """Return what a call is known by outside: the same over crashes and redrives, until it is to be repeated."""
        bound = [self._run_id, step_key, call.tool, plain(call.arguments)]
        return digest(bound if self._ledger.epoch == 1 else [*bound, self._ledger.epoch])


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
