"""What the site says of approvals, to the runtime: its rules, and the seal of what people decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from agents import registry, services
from agents.approval_rules import Rule, Rules, Situation
from agents.models import Run
from agents.parked import Settled
from agents.runtime.plain import digest, plain
from agents.runtime.plans import Decided, PlannedCall
from agents.runtime.types import ToolCall
from agents.tools.toolbox import LocalToolBox, UnknownTool

#: The rule of a tool that says of itself that a person has to agree to every call.
ALWAYS = Rule(name="the tool's own", tools=("*",))
#: Decisions that let nothing run.
AGAINST = frozenset({"request_changes", "reject"})


@dataclass(frozen=True, slots=True)
class SiteGatekeeper:
    """The rules of the newest load, for one run.

    A run reads them at each claim: a load that came while it waited counts for all that nobody has decided on yet.
    """

    run_id: str
    rules: Rules
    where: Situation
    toolbox: LocalToolBox
    #: By wait, the request that was decided last, as the database has it now.
    settled: Mapping[str, Settled] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> SiteGatekeeper:
        """Return what the newest load says of a run: for whoever looks at it from outside."""
        known = registry.current()
        where = Situation(
            run.agent.name, run.endpoint.name, run.mode, first_run_of_version=not run.agent.has_succeeded()
        )
        return cls(str(run.pk), known.approvals, where, services.toolbox(known.tool_overrides))

    def asks(self, call: ToolCall) -> Mapping[str, Any] | None:
        """Return the rules that want a person to decide on the call."""
        try:
            tool = self.toolbox.get(call.tool)
        except UnknownTool:
            return None  # it does not run at all
        found = self.rules.for_call(
            call.tool, call.arguments, self.where, has_effects=tool.policy.effect or not tool.policy.idempotent
        )
        if tool.approval and not found:
            found = [ALWAYS]
        return {"tool": call.tool, "rules": [rule.as_json() for rule in found]} if found else None

    def planned(self, call: ToolCall) -> PlannedCall:
        """Return the call as a person reads it."""
        try:
            tool = self.toolbox.get(call.tool)
        except UnknownTool:
            return PlannedCall(id=call.id, tool=call.tool, arguments=call.arguments)
        return PlannedCall(
            id=call.id,
            tool=call.tool,
            arguments=call.arguments,
            touches=tool.touches,
            undoable=True if not tool.policy.effect else tool.undoable,
            cost_usd=tool.cost_usd,
        )

    def holds(self, decided: Decided) -> bool:
        """Tell whether the site made the seal, for this run, and whether the request still says the same.

        So a decision that is copied from another run, another wait, or from before a redrive does not hold; nor does
        one whose plan was altered, wherever it is kept. A seal that was made with a former key of the site holds.
        """
        if decided.run_id != self.run_id or not _is_sealed(decided):
            return False
        found = self.settled.get(decided.wait_key)
        if found is None or found.approval_id != decided.approval_id or found.decision != decided.decision:
            return False
        return decided.decision in AGAINST or found.plan_hash == decided.plan_hash


def seal(decided: Decided, key: str | bytes | None = None) -> str:
    """Return the seal of all of a decision, made with a key: by default the site's secret key."""
    bound = digest(plain(decided.model_copy(update={"seal": ""})))
    return salted_hmac("astra.approvals", bound, secret=key, algorithm="sha256").hexdigest()


def _is_sealed(decided: Decided) -> bool:
    """Tell whether the seal was made with the site's secret key, or with one that it had before."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any(constant_time_compare(decided.seal, seal(decided, key)) for key in keys)
