"""What the HTTP API of approvals takes and answers: the shapes, and how rows become them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from agents.api_shapes import Strict
from agents.models import Effect
from agents.runtime.plans import Decision, Plan
from approvals.deciding import StepDecision
from approvals.locking import decided_words, holder, why_not
from approvals.models import Approval, Vote
from approvals.models.approval import Person
from approvals.quorum import counts, demands_of, missing
from approvals.resolving import Finding
from jobs.actions import MAX_NOTE

FINDINGS = frozenset(get_args(Finding))

AnyDecision = Literal[Decision, Finding]
State = Literal["pending", "approved", "rejected", "expired", "superseded"]
Kind = Literal["plan", "effect"]
UserName = Annotated[str, Field(min_length=1, max_length=150)]
Note = Annotated[str, Field(max_length=MAX_NOTE)]


# --- What it takes ----------------------------------------------------------------------------------------------------


class CallRequest(Strict):
    """A call that is to run. What the agent said of it may be sent along as it was answered; it cannot be changed."""

    id: str = Field(max_length=120)
    arguments: dict[str, Any] | None = Field(None, description="All of them. Left out: as they are.")
    tool: Any = None
    why: Any = None
    touches: Any = None
    undoable: Any = None
    cost_usd: Any = None
    flagged: Any = None


class PlanRequest(Strict):
    """Every call that is to run, in its order; one that is left out does not."""

    calls: list[CallRequest]
    title: Any = None
    summary: Any = None


def _as_plan(value: Any) -> Any:
    """Take the list of calls for the plan."""
    return {"calls": value} if isinstance(value, list) else value


class DecisionRequest(Strict):
    """What you decide."""

    decision: AnyDecision = Field(description="The last three are of an effect: `kind` is `effect`.")
    plan_hash: str | None = Field(None, max_length=200, description="Of the plan that you looked at; due with a plan.")
    comment: Note = Field("", description="Due unless you approve.")
    plan: Annotated[PlanRequest | None, BeforeValidator(_as_plan)] = Field(
        None, description="With `approve_with_changes`: the whole plan as it is to run. May be the list of its calls."
    )
    steps: dict[str, StepDecision] | None = Field(
        None, description="By a call's id. Due for each `flagged` one; one that you reject is left out of the plan."
    )
    result: Any = Field(None, description="With `happened`: what the call came back with, for the agent to read.")


class ClaimRequest(Strict):
    """How to claim."""

    take_over: bool = Field(False, description="Though somebody else has claimed it.")


class DelegateRequest(Strict):
    """Whom to hand it to."""

    to: UserName = Field(description="A user's name.")
    note: Note = ""


# --- What it answers --------------------------------------------------------------------------------------------------


class CallOut(BaseModel):
    """One call of a plan."""

    id: str
    tool: str
    arguments: dict[str, Any]
    why: str
    touches: list[str]
    undoable: bool | None = Field(description="Null where nobody knows.")
    cost_usd: float | None
    flagged: bool = Field(description="It is decided on by itself, in `steps`.")


class PlanOut(BaseModel):
    """Calls in the order in which they are to run."""

    title: str
    summary: str
    calls: list[CallOut]


class EffectOut(BaseModel):
    """A call that was begun."""

    tool: str
    arguments: Any
    state: Literal["started", "done", "unknown", "again", "given-up"]
    attempt: int = Field(description="How often it was begun.")
    started_at: datetime
    finished_at: datetime | None
    resolved_by: str | None = Field(description="Who said what became of it, where nobody knew.")


class VoteOut(BaseModel):
    """What one person said of one version of the plan."""

    by: str
    decision: AnyDecision
    plan_hash: str
    comment: str
    at: datetime
    void: bool = Field(description="It does not count: the plan was changed after it, or they voted anew.")


class Demanded(BaseModel):
    """So many of these people must agree."""

    groups: list[str]
    users: list[str]
    quorum: int


class Who(BaseModel):
    """Who may decide."""

    groups: list[str]
    users: list[str]
    not_own: bool = Field(description="Not whoever asked for it.")


class ApprovalLinks(BaseModel):
    """Where to go from here."""

    self: str
    task: str
    page: str
    decision: str
    claim: str
    release: str
    delegate: str


class ApprovalInList(BaseModel):
    """A request that people decide, without the plan it is about."""

    id: UUID
    kind: Kind
    state: State
    decision: AnyDecision | None = Field(description="Null while it is pending, and where no answer was needed.")
    task_id: UUID
    agent: str
    agent_version: int
    endpoint: str
    title: str
    reason: str = Field(description="Why people are asked.")
    requested_by: str | None
    tools: list[str]
    amount_usd: float | None
    plan_hash: str | None = Field(description="Of the plan as it stands; null of an effect.")
    version: int = Field(description="Of the plans that this run asked about in turn.")
    revises: UUID | None
    who: Who
    #: How many must agree at least.
    quorum: int
    #: What must be met, each: so many of these groups and users.
    demands: list[Demanded]
    votes: list[VoteOut]
    missing_votes: int = Field(description="Until the plan is approved; 0 once it is decided.")
    claimed_by: str | None
    claimed_until: datetime | None
    created_at: datetime
    deadline: datetime | None
    auto_action: Literal["reject", "escalate", "return"] = Field(description="What happens at the deadline.")
    decided_at: datetime | None
    decided_by: list[str] = Field(description="Empty where the deadline decided, or nobody had to.")
    comment: str
    may_decide: bool
    why_not: str = Field(description="Why you may not decide; empty if you may.")
    links: ApprovalLinks


class ApprovalOut(ApprovalInList):
    """A request that people decide."""

    plan: PlanOut | None = Field(description="As it stands; null of an effect.")
    asked_plan: PlanOut | None = Field(description="As the agent asked for it, where a reviewer changed it.")
    effects: list[EffectOut] = Field(
        description="Of a plan the calls that it let run, as far as they have effects; else the one that it is about."
    )


class ApprovalList(BaseModel):
    """A page of approvals, newest first."""

    items: list[ApprovalInList]
    next_cursor: str | None


# --- How rows become them ---------------------------------------------------------------------------------------------


def in_list(approval: Approval, user: Person, now: datetime) -> ApprovalInList:
    """Return a request as the API lists it to a person. Its votes, its claim and who asked have been read."""
    return ApprovalInList(**_listed(approval, user, now))


def whole(approval: Approval, user: Person, effects: Iterable[Effect], now: datetime) -> ApprovalOut:
    """Return a request as the API answers it to a person."""
    return ApprovalOut(
        **_listed(approval, user, now),
        plan=plan_out(approval.plan, approval.flagged),
        asked_plan=plan_out(approval.asked_plan, approval.flagged) if approval.asked_plan != approval.plan else None,
        effects=[_effect(effect) for effect in effects],
    )


def _listed(approval: Approval, user: Person, now: datetime) -> dict[str, Any]:
    pending = approval.is_pending
    votes = list(approval.votes.all())
    agreed = [vote for vote in votes if counts(approval, vote)] if pending else []
    claimed_by = holder(approval, now)
    reason = why_not(approval, user) or ("" if pending else decided_words(approval))
    if not reason and approval.deadline is not None and approval.deadline <= now:
        reason = "Its deadline has passed."
    return {
        "id": approval.pk,
        "kind": approval.kind,
        "state": approval.state,
        "decision": approval.decision or None,
        "task_id": approval.run_id,
        "agent": approval.agent,
        "agent_version": approval.agent_version,
        "endpoint": approval.endpoint,
        "title": approval.title,
        "reason": approval.reason,
        "requested_by": approval.requested_by.get_username() if approval.requested_by else None,
        "tools": approval.tools,
        "amount_usd": None if approval.amount_usd is None else float(approval.amount_usd),
        "plan_hash": approval.plan_hash or None,
        "version": approval.version,
        "revises": approval.revises_id,
        "who": Who(groups=approval.groups, users=approval.users, not_own=approval.not_own),
        "quorum": approval.quorum,
        "demands": [Demanded(**demand.as_json()) for demand in demands_of(approval)],
        "votes": [_vote(vote) for vote in votes],
        "missing_votes": missing(approval, agreed) if pending else 0,
        "claimed_by": claimed_by.get_username() if claimed_by else None,
        "claimed_until": approval.claimed_until if claimed_by else None,
        "created_at": approval.created_at,
        "deadline": approval.deadline,
        "auto_action": approval.auto_action,
        "decided_at": approval.decided_at,
        "decided_by": approval.decided_by,
        "comment": approval.comment,
        "may_decide": not reason,
        "why_not": reason,
        "links": links_of(approval),
    }


def links_of(approval: Approval) -> ApprovalLinks:
    """Return where to go from a request."""
    base = f"/api/v1/approvals/{approval.pk}"
    return ApprovalLinks(
        self=base,
        task=f"/api/v1/tasks/{approval.run_id}",
        page=f"/approvals/{approval.pk}/",
        decision=f"{base}/decision",
        claim=f"{base}/claim",
        release=f"{base}/release",
        delegate=f"{base}/delegate",
    )


def plan_out(kept: Any, flagged: list[str]) -> PlanOut | None:
    """Return a plan as the API answers it; None of one that somebody altered in the database so that it is none."""
    try:
        plan = Plan.model_validate(kept)
    except ValidationError:
        return None
    calls = [
        CallOut(
            id=call.id,
            tool=call.tool,
            arguments=call.arguments,
            why=call.why,
            touches=list(call.touches),
            undoable=call.undoable,
            cost_usd=None if call.cost_usd is None else float(call.cost_usd),
            flagged=call.id in flagged,
        )
        for call in plan.calls
    ]
    return PlanOut(title=plan.title, summary=plan.summary, calls=calls)


def _vote(vote: Vote) -> VoteOut:
    return VoteOut(
        by=vote.user_name,
        decision=vote.decision,  # type: ignore[arg-type]  # one of them: the column's choices
        plan_hash=vote.plan_hash,
        comment=vote.comment,
        at=vote.at,
        void=vote.void,
    )


def _effect(effect: Effect) -> EffectOut:
    return EffectOut(
        tool=effect.tool,
        arguments=effect.arguments,
        state=effect.state,  # type: ignore[arg-type]  # one of them: the column's choices
        attempt=effect.attempt,
        started_at=effect.started_at,
        finished_at=effect.finished_at,
        resolved_by=effect.resolved_by or None,
    )
