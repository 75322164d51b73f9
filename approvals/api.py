"""The HTTP API of approvals. Thin: parse, authorise, call one thing, answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal
from uuid import UUID

from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from ninja import Body, Query, Router
from pydantic import BaseModel

from accounts import roles
from accounts.api_auth import ApiAuth, caller_of
from agents import queries
from agents.api_shapes import QueryText, Strict
from agents.models import Effect
from agents.payload import Loc, bad_input
from approvals import api_shapes
from approvals.api_shapes import (
    FINDINGS,
    ApprovalList,
    ApprovalOut,
    ClaimRequest,
    DecisionRequest,
    DelegateRequest,
    Kind,
    PlanRequest,
    State,
)
from approvals.claiming import Claim, Delegate, Release
from approvals.deciding import Decide
from approvals.errors import ListGivenUp, MayNot, UnknownApproval
from approvals.inbox import for_you
from approvals.locking import why_not
from approvals.models import Approval, Vote
from approvals.models.approval import Person
from approvals.resolving import ResolveEffect
from approvals.viewing import saw
from audit.time_limit import in_time

router = Router(tags=["approvals"])

READ, WRITE = ApiAuth("approvals:read"), ApiAuth("approvals:write")
#: Effects of one decision that are answered.
EFFECTS_SHOWN = 200
#: A list that takes longer is given up, seconds: who may decide on next to nothing of very many looks at all of them.
LIST_S = 2.0


@router.get("/approvals", auth=READ, response=ApprovalList, summary="List approvals")
def list_approvals(
    request: HttpRequest,
    state: Annotated[list[State | Literal[""]], Query([], description="May be given more than once.")],
    kind: Annotated[Kind | Literal[""], Query("")],
    agent: Annotated[QueryText, Query("")],
    mine: Annotated[bool, Query(False, description="Only those that wait for you: pending, and not yet voted on.")],
    cursor: Annotated[QueryText, Query("", description="`next_cursor` of the page before.")],
    limit: Annotated[int, Query(50, ge=1, le=200)],
) -> ApprovalList:
    """List the approvals that you may decide on, decided or not, newest first; an operator sees all.

    Their plans, which can be large, are at their `links.self`. To list is not to have seen one.
    """
    user = caller_of(request).user
    found = for_you(user) if mine else Approval.objects.visible_to(user)
    wanted = [one for one in state if one]
    if wanted:
        found = found.filter(state__in=wanted)
    if kind:
        found = found.filter(kind=kind)
    if agent:
        found = found.filter(agent=agent)
    if cursor:
        found = found.filter(pk__lt=queries.decode(cursor, UUID))
    listed = _with_people(found).defer("plan", "asked_plan", "rules").order_by("-pk")
    page = in_time(LIST_S, lambda: queries.cut(listed, limit, lambda approval: approval.pk))
    if page is None:
        raise ListGivenUp(f"Finding these took more than {LIST_S:g} s. Ask for one state, or only for yours.")
    now = timezone.now()
    _learn(page.items)
    return ApprovalList(
        items=[api_shapes.in_list(approval, user, now) for approval in page.items], next_cursor=page.next_cursor
    )


@router.get("/approvals/{uuid:approval_id}", auth=READ, response=ApprovalOut, summary="Look at an approval")
def get_approval(request: HttpRequest, approval_id: UUID) -> ApprovalOut:
    """Return an approval with its plan. The trail says that you have seen this plan."""
    caller = caller_of(request)
    approval = _with_people(Approval.objects.visible_to(caller.user)).filter(pk=approval_id).first()
    if approval is None:
        raise _unknown(approval_id)
    saw(caller.actor(request), approval)
    return _whole(approval, caller.user)


@router.post("/approvals/{uuid:approval_id}/decision", auth=WRITE, response=ApprovalOut, summary="Decide")
def decide(request: HttpRequest, approval_id: UUID, payload: DecisionRequest) -> ApprovalOut:
    """Decide on a plan, bound to the hash of what you looked at; or say what became of an effect.

    Under a quorum this is your vote: `missing_votes` says how many more it takes.
    """
    caller, approval = caller_of(request), _known(request, approval_id)
    actor = caller.actor(request)
    if payload.decision in FINDINGS:
        for name in ("plan_hash", "plan", "steps"):
            if getattr(payload, name):
                raise bad_input((name,), "this goes with a plan, and a finding is about an effect")
        if payload.decision != "happened" and "result" in payload.model_fields_set:
            raise bad_input(("result",), "only what happened has a result")
        ResolveEffect(actor, payload.decision, payload.comment, payload.result).run(approval_id)  # type: ignore[arg-type]  # it is a finding
    else:
        if payload.plan_hash is None and not approval.is_effect:
            raise bad_input(("plan_hash",), "the key plan_hash is missing: it says which plan you looked at")
        if "result" in payload.model_fields_set:
            raise bad_input(("result",), "this goes with the finding happened")
        Decide(
            actor,
            payload.decision,  # type: ignore[arg-type]  # it is no finding
            payload.plan_hash or "",
            comment=payload.comment,
            calls=_calls(payload, approval),
            steps=payload.steps,
            way="api",
        ).run(approval_id)
    return _now(approval_id, caller.user)


@router.post("/approvals/{uuid:approval_id}/claim", auth=WRITE, response=ApprovalOut, summary="Claim")
def claim_approval(
    request: HttpRequest, approval_id: UUID, payload: Annotated[ClaimRequest, Body(ClaimRequest())]
) -> ApprovalOut:
    """Take an approval for some minutes, so that nobody else reads it meanwhile. Claim again to keep it."""
    caller = caller_of(request)
    _known(request, approval_id)
    Claim(caller.actor(request), take_over=payload.take_over).run(approval_id)
    return _now(approval_id, caller.user)


@router.post("/approvals/{uuid:approval_id}/release", auth=WRITE, response=ApprovalOut, summary="Release")
def release_approval(request: HttpRequest, approval_id: UUID) -> ApprovalOut:
    """Give a claim of yours back. Giving back what you do not have is harmless."""
    caller = caller_of(request)
    _known(request, approval_id)
    Release(caller.actor(request)).run(approval_id)
    return _now(approval_id, caller.user)


@router.post("/approvals/{uuid:approval_id}/delegate", auth=WRITE, response=ApprovalOut, summary="Delegate")
def delegate_approval(request: HttpRequest, approval_id: UUID, payload: DelegateRequest) -> ApprovalOut:
    """Let somebody else decide as well, and hand them the claim. They are told of it."""
    caller = caller_of(request)
    _known(request, approval_id)
    Delegate(caller.actor(request), payload.to, payload.note).run(approval_id)
    return _now(approval_id, caller.user)


def _known(request: HttpRequest, approval_id: UUID) -> Approval:
    """Return a request that the caller may see.

    Raises:
        MayNot: they may not, but its id is no secret to them: it is their own run that asks.
        UnknownApproval: to anybody else there is none.
    """
    user = caller_of(request).user
    found = Approval.objects.visible_to(user).filter(pk=approval_id).first()
    if found is not None:
        return found
    own = Approval.objects.filter(pk=approval_id, requested_by=user).first()
    if own is not None:
        raise MayNot(why_not(own, user))
    raise _unknown(approval_id)


def _unknown(approval_id: UUID) -> UnknownApproval:
    return UnknownApproval(f"There is no approval {approval_id}, or you may not see it.")


def _calls(payload: DecisionRequest, approval: Approval) -> list[dict[str, Any]] | None:
    """Return the calls of the changed plan.

    Raises:
        BadInput: something of it is changed that a reviewer cannot change.
    """
    if payload.plan is None:
        return None
    if approval.plan is not None and payload.plan_hash == approval.plan_hash:
        _refuse_other_words(payload.plan, approval)
    return [call.model_dump(include={"id", "arguments"}, exclude_none=True) for call in payload.plan.calls]


def _refuse_other_words(plan: PlanRequest, approval: Approval) -> None:
    """Refuse other words than the agent's, rather than drop them in silence.

    Raises:
        BadInput: a reviewer changes arguments, and nothing else.
    """
    shown = api_shapes.plan_out(approval.plan, approval.flagged)
    if shown is None:
        return  # `Decide` says that it can only be rejected
    if len(plan.calls) > len(shown.calls):
        raise bad_input(("plan", "calls"), f"the plan has {len(shown.calls)} calls, and none can be added")
    _refuse_other(plan, shown, ("plan",))
    known = {call.id: call for call in shown.calls}
    for place, call in enumerate(plan.calls):
        if call.id in known:  # `Decide` says of any other that it is none of the plan
            _refuse_other(call, known[call.id], ("plan", "calls", place))


def _refuse_other(given: Strict, shown: BaseModel, loc: Loc) -> None:
    told = shown.model_dump(mode="json")
    for name in given.model_fields_set - {"calls", "id", "arguments"}:
        if getattr(given, name) != told[name]:
            raise bad_input(
                (*loc, name), "this is the agent's to say: a reviewer changes arguments, or leaves calls out"
            )


def _with_people(approvals: QuerySet[Approval]) -> QuerySet[Approval]:
    """Have the votes and the people of requests read along: as many statements for many as for one."""
    votes = Prefetch("votes", Vote.objects.select_related("user").defer("plan").order_by("id"))
    return approvals.select_related("claimed_by", "requested_by").prefetch_related(votes)


def _learn(approvals: Iterable[Approval]) -> None:
    """Read at once which groups those are in who voted or claim: both count as long as they may decide."""
    people = [(approval.claimed_by, *(vote.user for vote in approval.votes.all())) for approval in approvals]
    roles.learn_groups(user for of in people for user in of if user is not None)


def _now(approval_id: UUID, user: Person) -> ApprovalOut:
    """Return a request as it is by now."""
    return _whole(_with_people(Approval.objects.all()).get(pk=approval_id), user)


def _whole(approval: Approval, user: Person) -> ApprovalOut:
    _learn([approval])
    of_it = Q(pk=approval.effect_id) if approval.effect_id else Q(approval_id=approval.pk)
    effects = Effect.objects.filter(of_it).defer("result").order_by("id")[:EFFECTS_SHOWN]
    return api_shapes.whole(approval, user, effects, timezone.now())
