"""A reviewer's changes to a plan: other arguments, calls left out. Checked before anybody decides on them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from agents import registry, services
from agents.approval_rules import Rule
from agents.gatekeeper import SiteGatekeeper
from agents.models import Run
from agents.runtime.errors import NotJson
from agents.runtime.plain import digest, plain
from agents.runtime.plans import Plan, PlannedCall
from agents.tools.signature import BadArguments
from agents.tools.toolbox import UnknownTool
from approvals.errors import Undecidable
from approvals.models import Approval
from approvals.quorum import demand, demands_of
from approvals.terms import terms_of

#: Characters of a whole plan, as JSON. What an agent asked for may be larger, and may be made smaller.
MAX_PLAN = 1_000_000
#: Of the places that do not fit as many are named.
MAX_FAULTS = 20


def changed(current: Plan, calls: Sequence[Mapping[str, Any]]) -> Plan:
    """Return the plan with only the calls given, in their order, each with the arguments given.

    What a person cannot change stays: which tool it is, and what the agent said of it.

    Args:
        calls: ``{"id", "arguments"}`` each; ``arguments`` left out stay as they are.

    Raises:
        Undecidable: a call that the plan does not have, another tool, or arguments that the tool does not take. Its
            ``errors`` name the places.
    """
    known = {call.id: call for call in current.calls}
    faults: list[dict[str, Any]] = []
    found: list[PlannedCall] = []
    for place, given in enumerate(calls):
        call = known.pop(str(given.get("id", "")), None) if isinstance(given, Mapping) else None
        if call is None:
            faults.append(_fault(place, "id", "there is no such call in the plan, or twice"))
        elif given.get("tool", call.tool) != call.tool:
            faults.append(_fault(place, "tool", f"this call is of {call.tool}"))
        else:
            try:
                found.append(_with_arguments(call, given.get("arguments", call.arguments)))
            except (BadArguments, NotJson) as error:
                faults.append(_fault(place, "arguments", str(error)))
        if len(faults) == MAX_FAULTS:
            break
    if faults:
        raise Undecidable("; ".join(fault["msg"] for fault in faults)[:1000], errors=faults)
    if not found:
        raise Undecidable("Nothing is left of the plan. Reject it instead.")
    wanted = current.model_copy(update={"calls": tuple(found)})
    size = _size(wanted)
    if size > MAX_PLAN and size > _size(current):
        raise Undecidable(f"The changed plan is larger than {MAX_PLAN:,} characters.")
    return wanted


def _fault(place: int, part: str, words: str) -> dict[str, Any]:
    return {"loc": ["plan", "calls", place, part], "msg": words}


def _with_arguments(call: PlannedCall, arguments: Any) -> PlannedCall:
    """Return a call with these arguments: the same call if they say nothing new.

    Raises:
        BadArguments: the tool does not take them.
        NotJson: no JSON can hold them.
    """
    if not isinstance(arguments, Mapping):
        raise BadArguments("these are a mapping by name")
    kept = plain(dict(arguments), "This")
    if digest(_whole(kept)) == digest(_whole(plain(call.arguments))):
        return call
    try:
        tool = services.toolbox(registry.current().tool_overrides).get(call.tool)
    except UnknownTool:
        pass  # only the program knows what it takes
    else:
        taken = tool.signature.validate(kept)
        if place := next(_booleans_for_numbers(kept, taken), None):
            raise BadArguments(f"{'.'.join(place)}: a number is wanted here, not true or false")
    return call.model_copy(update={"arguments": kept})


def _booleans_for_numbers(given: Any, taken: Any) -> Iterator[tuple[str, ...]]:
    """Yield the places where the tool took true for 1 or false for 0: what a person means, it does not say."""
    if isinstance(given, bool):
        if isinstance(taken, int | float | Decimal) and not isinstance(taken, bool):
            yield ()
        return
    pairs: Sequence[tuple[Any, Any, Any]] = ()
    if isinstance(given, dict):
        inner = taken if isinstance(taken, Mapping) else getattr(taken, "__dict__", {})
        pairs = [(name, value, inner.get(name)) for name, value in given.items()]
    elif isinstance(given, list) and isinstance(taken, list | tuple):
        pairs = [(place, *both) for place, both in enumerate(zip(given, taken, strict=False))]
    for name, value, got in pairs:
        yield from ((str(name), *place) for place in _booleans_for_numbers(value, got))


def _whole(value: Any) -> Any:
    """Return a plain value in which 2.0 is 2: a browser writes no other, and nobody changed it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


def _size(plan: Plan) -> int:
    try:
        return len(plan.model_dump_json())
    except ValueError:  # pydantic's own limit: what is nested deeper has no hash either
        raise Undecidable("The changed plan is nested too deeply.") from None


def without(current: Plan, rejected: Collection[str]) -> Plan:
    """Return the plan without the calls of those ids.

    Raises:
        Undecidable: nothing is left.
    """
    return changed(current, [{"id": call.id} for call in current.calls if call.id not in rejected])


def rules_for(run: Run, plan: Plan) -> dict[str, list[Rule]]:
    """Return by call the rules of the newest load that it comes under, for the run that asks."""
    keeper = SiteGatekeeper.of(run)
    return {
        call.id: [Rule.from_json(kept) for kept in (keeper.asks(call.as_call()) or {}).get("rules", ())]
        for call in plan.calls
    }


def tighten(approval: Approval, wanted: Plan) -> bool:
    """Hold a request to every rule that a changed plan comes under as well. Nothing is ever loosened by it.

    What the further rules demand comes on top of what is demanded already. Those to whom it was escalated or delegated
    had it from people of the demands of before, and count for these alone.

    Returns:
        Whether other people must agree now, or more of them.
    """
    kept = [Rule.from_json(rule) for rule in approval.rules]
    by_call = rules_for(approval.run, wanted)
    more: list[Rule] = []
    for rule in (rule for rules in by_call.values() for rule in rules):
        if rule not in kept and rule not in more:
            more.append(rule)
    approval.flagged = [
        call for call, rules in by_call.items() if call in approval.flagged or any(rule.per_step for rule in rules)
    ]
    if not more:
        return False
    further = terms_of(more)
    before, was_not_own = demands_of(approval), approval.not_own
    approval.rules = [rule.as_json() for rule in (*kept, *more)]
    demand(approval, [*before, *further.demands])
    approval.not_own |= further.not_own
    approval.links &= further.links
    approval.webhook &= further.webhook
    return before != demands_of(approval) or was_not_own != approval.not_own
