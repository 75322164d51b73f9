"""A reviewer's changes to a plan: other arguments, calls left out. Checked before anybody decides on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents import registry, services
from agents.approval_rules import Rule
from agents.gatekeeper import SiteGatekeeper
from agents.models import Run
from agents.runtime.plain import plain
from agents.runtime.plans import Plan, PlannedCall
from agents.tools.signature import BadArguments
from agents.tools.toolbox import UnknownTool
from approvals.errors import Undecidable

#: Characters of a whole plan, as JSON.
MAX_PLAN = 1_000_000


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
        call = known.pop(str(given.get("id", "")), None)
        if call is None:
            faults.append({"loc": ["plan", "calls", place, "id"], "msg": "there is no such call in the plan, or twice"})
            continue
        if given.get("tool", call.tool) != call.tool:
            faults.append({"loc": ["plan", "calls", place, "tool"], "msg": f"this call is of {call.tool}"})
        arguments = given.get("arguments", call.arguments)
        if not isinstance(arguments, Mapping):
            faults.append({"loc": ["plan", "calls", place, "arguments"], "msg": "these are a mapping by name"})
            continue
        if arguments != call.arguments and (fault := _misfit(call.tool, arguments)):
            faults.append({"loc": ["plan", "calls", place, "arguments"], "msg": fault})
        found.append(call.model_copy(update={"arguments": plain(dict(arguments))}))
    if faults:
        raise Undecidable("; ".join(fault["msg"] for fault in faults)[:1000], errors=faults)
    if not found:
        raise Undecidable("Nothing is left of the plan. Reject it instead.")
    wanted = current.model_copy(update={"calls": tuple(found)})
    if len(wanted.model_dump_json()) > MAX_PLAN:
        raise Undecidable(f"The changed plan is larger than {MAX_PLAN:,} characters.")
    return wanted


def without(current: Plan, rejected: set[str]) -> Plan:
    """Return the plan without the calls of those ids.

    Raises:
        Undecidable: nothing is left.
    """
    return changed(current, [{"id": call.id} for call in current.calls if call.id not in rejected])


def rules_for(run: Run, plan: Plan) -> list[Rule]:
    """Return the rules of the newest load that a plan comes under, for the run that asks."""
    keeper = SiteGatekeeper.of(run)
    found: dict[str, Rule] = {}
    for call in plan.calls:
        for kept in (keeper.asks(call.as_call()) or {}).get("rules", ()):
            rule = Rule.from_json(kept)
            found[rule.name] = rule
    return list(found.values())


def _misfit(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return why a tool does not take the arguments; nothing if it does, or if only the program knows it."""
    try:
        services.toolbox(registry.current().tool_overrides).get(tool).signature.validate(arguments)
    except UnknownTool:
        return ""
    except BadArguments as error:
        return str(error)
    return ""
