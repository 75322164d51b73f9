"""Asking people: a program's plan, and the calls of a turn that the site's rules want decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from agents.runtime.branches import Branch, Slot
from agents.runtime.effects import Ledger
from agents.runtime.parking import wait_key
from agents.runtime.permits import Permits
from agents.runtime.plain import plain
from agents.runtime.plans import ChangesRequested, Decided, Gatekeeper, Plan, PlanAltered, PlannedCall, Rejected, read
from agents.runtime.recorder import Done, Recorder
from agents.runtime.types import ToolCall, ToolResult

#: The name of the step in which people decide on calls that a model asked for, before the number of the turn.
GATED = "approve calls"


class Wait(Protocol):
    """Parks the line until a person has decided: `RunContext._wait`."""

    def __call__(self, branch: Branch, slot: Slot, settled: Callable[[Any], Done], data: Any) -> Awaitable[Any]:
        """Return what the journal has of the decision, or what resolved the wait; else park."""


class Turn(Protocol):
    """The calls of one turn, as whoever runs them knows them."""

    calls: Sequence[ToolCall]
    #: The key of each call's step.
    keys: Sequence[str]

    async def needless(self, places: Sequence[int]) -> set[int]:
        """Return those of these calls that need no decision: they have run, and what they came to is known."""


def _said_by(call: PlannedCall, name: str) -> bool:
    return getattr(call, name) not in (None, ())


class Approving:
    """What people allowed this run to do.

    Rules are those of the newest load: they say which calls are asked about that nobody has decided on yet. What people
    have decided stands, whatever the rules say by now.
    """

    def __init__(self, gatekeeper: Gatekeeper, recorder: Recorder, wait: Wait, ledger: Ledger) -> None:
        self._gatekeeper = gatekeeper
        self._recorder = recorder
        self._wait = wait
        self._permits = Permits(ledger, recorder)

    async def decide(self, branch: Branch, name: str, plan: Plan, reason: str) -> Plan:
        """Return the plan as people decided on it; its calls may then run.

        Raises:
            Rejected, ChangesRequested: and what they said.
            PlanAltered: the decision in the database is not theirs.
        """
        given = {"plan": plain(plan), "reason": reason}
        slot = self._recorder.take(branch, name, "wait", given)
        plan = plan.model_copy(update={"calls": tuple(self._told(call) for call in plan.calls)})
        whys = [
            {"call": call.id, **why}
            for call in plan.calls
            if (why := self._gatekeeper.asks(call.as_call())) is not None
        ]
        decided = await self._ask(branch, slot, plan, reason, whys)
        if decided.decision == "reject":
            raise Rejected(_said("The plan was rejected", decided), comment=decided.comment)
        if decided.decision == "request_changes":
            raise ChangesRequested(_said("Changes were requested", decided), comment=decided.comment)
        self._permits.grant(decided)
        return decided.plan

    def _told(self, call: PlannedCall) -> PlannedCall:
        """Return a program's call with what the tool says of itself, where the program does not say it."""
        known = self._gatekeeper.planned(call.as_call())
        told = {name: getattr(known, name) for name in ("touches", "undoable", "cost_usd") if not _said_by(call, name)}
        return call.model_copy(update=told)

    async def gate(self, branch: Branch, turn: Turn) -> tuple[list[ToolCall], dict[int, ToolResult], dict[int, str]]:
        """Ask about the calls that people must decide on, all at once, before any call of the turn runs.

        Returns:
            The calls with the arguments that they may run with; refusals by place; and by place the decision that lets
            it run.
        """
        # Named after the turn: a decision on a later turn's calls is not taken for one on these.
        number = branch.counts["/tools"] = branch.counts.get("/tools", 0) + 1
        name = f"{GATED} {number}"
        calls = list(turn.calls)
        refused: dict[int, ToolResult] = {}
        approved: dict[int, str] = {}
        for place, call in enumerate(calls):
            if decision := await self._permits.take(call, turn.keys[place]):
                approved[place] = decision
        while True:
            whys = {
                place: why
                for place, call in enumerate(calls)
                if place not in approved and place not in refused and (why := self._gatekeeper.asks(call)) is not None
            }
            for place in await turn.needless(list(whys)):
                del whys[place]
            if not whys and not self._recorder.knows(branch.peek_key(name)):
                return calls, refused, approved
            slot = self._recorder.take(branch, name, "wait", {"calls": plain(calls)})
            asked = [self._gatekeeper.planned(calls[place]).model_copy(update={"id": _id(place)}) for place in whys]
            reasons = [{"call": _id(place), **why} for place, why in whys.items()]
            decided = await self._ask(branch, slot, Plan(calls=tuple(asked)), "", reasons)
            self._apply(decided, calls, refused, approved)

    def _apply(
        self, decided: Decided, calls: list[ToolCall], refused: dict[int, ToolResult], approved: dict[int, str]
    ) -> None:
        kept = {call.id: call for call in decided.plan.calls}
        for place, call in enumerate(calls):
            if _id(place) not in decided.asked or place in approved or place in refused:
                continue
            if decided.decision in ("reject", "request_changes"):
                slug = "rejected" if decided.decision == "reject" else "changes-requested"
                refused[place] = _refusal(call, slug, decided)
            elif _id(place) not in kept or kept[_id(place)].tool != call.tool:
                refused[place] = _refusal(call, "removed", decided)
            else:
                calls[place] = call.model_copy(update={"arguments": kept[_id(place)].arguments})
                approved[place] = decided.approval_id

    async def _ask(
        self, branch: Branch, slot: Slot, plan: Plan, reason: str, whys: Sequence[Mapping[str, Any]]
    ) -> Decided:
        data = {"plan": plain(plan), "plan_hash": plan.hash, "reason": reason, "rules": plain(list(whys))}
        key = wait_key(slot.key)

        def settled(result: Any) -> Done:
            decided = read(result, key, self._gatekeeper)
            return Done(plain(decided), _said(_DECIDED[decided.decision], decided))

        try:
            return read(await self._wait(branch, slot, settled, data), key, self._gatekeeper)
        except PlanAltered as error:
            branch.gate.stop(error)  # whatever the program makes of it, the run goes no further
            raise


def _id(place: int) -> str:
    """Return what a call is called in the plan: a model may give two of them one id."""
    return str(place + 1)


def _said(words: str, decided: Decided) -> str:
    by = f" by {', '.join(decided.by)}" if decided.by else ""
    return f"{words}{by}: {decided.comment}" if decided.comment else f"{words}{by}."


_DECIDED = {
    "approve": "Approved",
    "approve_with_changes": "Approved with changes",
    "request_changes": "Changes requested",
    "reject": "Rejected",
}
_WORDS = {
    "rejected": "This call was rejected",
    "changes-requested": "Changes to this call were requested",
    "removed": "This call was taken out of the plan",
}


def _refusal(call: ToolCall, slug: str, decided: Decided) -> ToolResult:
    return ToolResult(call_id=call.id, tool=call.tool, ok=False, error=slug, content=_said(_WORDS[slug], decided))
