"""What people decide on: an ordered list of calls, bound by its hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError

from agents.runtime.errors import RunError
from agents.runtime.plain import digest, plain
from agents.runtime.types import ToolCall, Value

#: Characters of a call's id.
MAX_ID = 100
Decision = Literal["approve", "approve_with_changes", "request_changes", "reject"]


class PlannedCall(Value):
    """One call of a plan. A person reads it: say why, what it touches, whether it can be undone, what it costs."""

    id: str = ""
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    why: str = ""
    touches: tuple[str, ...] = ()
    #: None where nobody knows.
    undoable: bool | None = None
    cost_usd: Decimal | None = None

    def as_call(self) -> ToolCall:
        """Return it as a call to run."""
        return ToolCall(id=self.id, tool=self.tool, arguments=self.arguments)


class Plan(Value):
    """Calls in the order in which they are to run."""

    title: str = ""
    summary: str = ""
    calls: tuple[PlannedCall, ...] = ()

    @property
    def hash(self) -> str:
        """SHA-256 over all of it: whoever decides, decides on exactly this."""
        return digest(plain(self))


class Decided(Value):
    """What people decided about a plan, as the wait's result holds it. ``plan`` is what may run."""

    approval_id: str
    run_id: str
    wait_key: str
    decision: Decision
    plan: Plan
    plan_hash: str
    #: Ids of the calls that people were asked about; some of them may have been taken out of the plan.
    asked: tuple[str, ...] = ()
    comment: str = ""
    by: tuple[str, ...] = ()
    #: Made when it was decided, over all of it, with the site's key: see `Gatekeeper`.
    seal: str = ""


class Gatekeeper(Protocol):
    """What the site says of approvals: which calls people decide on, and which decisions are theirs."""

    def asks(self, call: ToolCall) -> Mapping[str, Any] | None:
        """Return why a person must decide on the call and who may, JSON for whoever is asked; None if nobody must."""

    def planned(self, call: ToolCall) -> PlannedCall:
        """Return the call as a person reads it: what it touches, whether it can be undone, what it costs."""

    def holds(self, decided: Decided) -> bool:
        """Tell whether this is what people decided on this run: nobody wrote or altered it in the database by hand."""


class OpenGate:
    """Nobody has to be asked. A program's own `ctx.approve` is decided by nobody either."""

    def asks(self, call: ToolCall) -> Mapping[str, Any] | None:
        """Nobody must."""
        return None

    def planned(self, call: ToolCall) -> PlannedCall:
        """Say no more than the call does."""
        return PlannedCall(id=call.id, tool=call.tool, arguments=call.arguments)

    def holds(self, decided: Decided) -> bool:
        """Trust nothing."""
        return False


class ApprovalError(RunError):
    """Base of what a decision may mean to a program that does not handle it."""

    slug, title, users_own = "not-approved", "People did not approve it", True


class Rejected(ApprovalError):
    """The plan was rejected. `comment` says why, if a person did."""

    slug, title = "plan-rejected", "The plan was rejected"


class ChangesRequested(ApprovalError):
    """People want another plan. `comment` says which."""

    slug, title = "changes-requested", "Changes to the plan were requested"


class PlanAltered(RunError):
    """What is to run is not what people approved: the decision in the database was altered."""

    slug, title = "plan-altered", "The approved plan was altered"


def as_plan(given: Plan | Sequence[ToolCall | PlannedCall] | dict[str, Any]) -> Plan:
    """Return calls, or a model's data, as a plan.

    Raises:
        pydantic.ValidationError: data that is none.
    """
    if isinstance(given, Plan):
        plan = given
    elif isinstance(given, dict):
        plan = Plan.model_validate(given)
    else:
        calls = [
            call if isinstance(call, PlannedCall) else PlannedCall(id=call.id, tool=call.tool, arguments=call.arguments)
            for call in given
        ]
        plan = Plan(calls=tuple(calls))
    ids = {call.id for call in plan.calls if call.id.isprintable() and 0 < len(call.id) <= MAX_ID}
    if len(ids) < len(plan.calls):  # a model may give none, one id to two of them, or what no row keeps
        numbered = tuple(call.model_copy(update={"id": str(n)}) for n, call in enumerate(plan.calls, 1))
        plan = plan.model_copy(update={"calls": numbered})
    return plan


def read(result: Any, wait_key: str, gatekeeper: Gatekeeper) -> Decided:
    """Return the decision that resolved the wait of that key, if it is what people decided on it.

    Raises:
        PlanAltered: its hash or its seal does not hold.
    """
    try:
        decided = Decided.model_validate(result)
    except ValidationError:
        raise PlanAltered(
            "The decision in the database is not one that Astra wrote. Nothing of it was run. Find out who changed it,"
            " then redrive from the start: people are asked anew.",
            wait=wait_key,
        ) from None
    if decided.wait_key != wait_key or decided.plan.hash != decided.plan_hash or not gatekeeper.holds(decided):
        raise PlanAltered(
            "The plan in the database is not the one that was approved. Nothing of it was run. Find out who changed it,"
            " then redrive from the start: people are asked anew.",
            wait=wait_key,
            approval=decided.approval_id,
        )
    return decided


def call_key(tool: str, arguments: dict[str, Any]) -> str:
    """Return what a decided plan lets a call be known by."""
    return digest(plain([tool, arguments]))
