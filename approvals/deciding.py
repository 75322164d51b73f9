"""Deciding on a plan. Pages, API, links and webhooks all call `Decide`; the deadline calls `settle`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from pydantic import ValidationError

from agents.gatekeeper import seal
from agents.runtime.plain import digest, plain
from agents.runtime.plans import Decided, Decision, Plan
from approvals.asking import amount_of, title_of, tools_of
from approvals.changing import changed, tighten, without
from approvals.comments import comment_of
from approvals.errors import AlreadyDecided, MayNot, PlanChanged, Undecidable
from approvals.locking import locked, refuse_claimed, refuse_decided, refuse_others, who_may, why_not
from approvals.models import Approval, Vote
from approvals.quorum import IN_FAVOUR, counted, missing
from audit import trail
from audit.trail import Actor
from jobs import script
from jobs.waits import resolve

STATES = {
    "approve": Approval.State.APPROVED,
    "approve_with_changes": Approval.State.APPROVED,
    "request_changes": Approval.State.SUPERSEDED,
    "reject": Approval.State.REJECTED,
}
#: Decisions against a plan: they need no quorum, and say why.
AGAINST = frozenset({"request_changes", "reject"})
StepDecision = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a vote came to."""

    approval: Approval
    #: Votes that are still missing before the plan is approved.
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Decide:
    """Vote on a plan. The vote that completes the quorum, or any vote against, decides; then the run goes on."""

    actor: Actor
    decision: Decision
    #: Of the plan that they looked at.
    plan_hash: str
    comment: str = ""
    #: With changes: every call that is to run, ``{"id", "arguments"}`` each, in order.
    calls: Sequence[Mapping[str, Any]] | None = None
    #: By call what they say of it, where the policy wants each decided on.
    steps: Mapping[str, StepDecision] | None = None
    #: How they decide: "site", "api", "link" or "webhook".
    way: str = "site"

    def run(self, approval_id: UUID) -> Outcome:
        """Vote. Saying again what one has said changes nothing.

        Raises:
            UnknownApproval, AlreadyDecided, PlanChanged, MayNot, Claimed, Undecidable: and nothing is changed.
        """
        comment = comment_of(self.comment)
        with transaction.atomic():
            approval = locked(approval_id)
            self._check(approval, comment)
            current = plan_of(approval)
            wanted = current if self.decision in AGAINST else self._wanted(approval, current)
            said: dict[str, Any] = {"plan_hash": wanted.hash, "run": str(approval.run_id), "way": self.way}
            if was_changed := wanted.hash != current.hash:
                said |= self._change(approval, wanted)
            self._vote(approval, wanted, comment, said, was_changed=was_changed)
            return self._count(approval, wanted, comment)

    @property
    def _user(self) -> User:
        assert isinstance(self.actor.user, User)
        return self.actor.user

    def _check(self, approval: Approval, comment: str) -> None:
        refuse_others(approval, self._user)
        refuse_decided(approval)
        if self.decision not in STATES or approval.is_effect:
            raise Undecidable(_OTHER_KIND[Approval.Kind(approval.kind)])
        if self.plan_hash != approval.plan_hash:
            raise PlanChanged(
                "The plan was changed since you looked at it. Read it again, then decide.",
                plan_hash=approval.plan_hash,
            )
        if approval.deadline is not None and approval.deadline <= approval.locked_at:
            # The sweep has yet to come by. What happens then does not hang on how fast it is.
            raise AlreadyDecided("Its deadline has passed.", state=approval.state, decision=approval.decision, by=[])
        refuse_claimed(approval, self._user)
        if self.decision in AGAINST:
            if not comment:
                raise Undecidable("Say why: whoever asked reads it, and so does the agent.")
        elif digest(plain(approval.plan)) != approval.plan_hash:
            raise Undecidable("The plan in the database is not the one that was asked about. It can only be rejected.")
        if self.decision == "approve_with_changes" and self.calls is None and not self.steps:
            raise Undecidable("Send the changed plan, whole.")
        if self.decision != "approve_with_changes" and self.calls is not None:
            raise Undecidable("A changed plan is approved with changes, or not at all.")

    def _wanted(self, approval: Approval, current: Plan) -> Plan:
        """Return the plan that this vote is for."""
        wanted = changed(current, self.calls) if self.calls is not None else current
        steps = self.steps or {}
        known, ids = {call.id for call in current.calls}, {call.id for call in wanted.calls}
        for step, said in steps.items():
            if step not in known:
                raise Undecidable(f"The plan has no step {step!r}.")
            if said not in ("approve", "reject"):
                raise Undecidable(f"Step {step!r} is approved or rejected, nothing else.")
        if missing := [step for step in approval.flagged if step in ids and step not in steps]:
            raise Undecidable(f"Decide on each flagged step by itself: {', '.join(missing)} is missing.")
        rejected = {step for step, said in steps.items() if said == "reject"} & ids
        wanted = without(wanted, rejected) if rejected else wanted
        if self.decision == "approve_with_changes" and wanted.hash == current.hash:
            raise Undecidable("Nothing is changed. Approve it as it is, or change something.")
        return wanted

    def _change(self, approval: Approval, wanted: Plan) -> dict[str, Any]:
        """Put a reviewer's plan in the place of the one before; what others agreed to is void. Return what is new."""
        new: dict[str, Any] = {"changed_from": approval.plan_hash}
        if tighten(approval, wanted):
            if why := why_not(approval, self._user):
                raise MayNot(f"With these changes only {who_may(approval)} may decide on it. {why}")
            new |= {"groups": approval.groups, "users": approval.users, "quorum": approval.quorum}
            # Others may decide now: they are told.
            approval.told_at = None
        approval.votes.filter(void=False).update(void=True)
        plan: dict[str, Any] = plain(wanted)
        approval.plan, approval.plan_hash = plan, wanted.hash
        # Whoever reads of it in a list or a message reads of the plan as it stands.
        approval.title, approval.tools = title_of(plan, plan["calls"]), tools_of(plan["calls"])
        approval.amount_usd = amount_of(plan["calls"])
        approval.save(update_fields=_CHANGED)
        return new

    def _vote(self, approval: Approval, wanted: Plan, comment: str, said: dict[str, Any], *, was_changed: bool) -> None:
        decision: Decision = self.decision
        if decision in IN_FAVOUR:
            decision = "approve_with_changes" if was_changed else "approve"
            mine = approval.votes.filter(user=self._user, void=False, plan_hash=wanted.hash, decision__in=IN_FAVOUR)
            if any(comment in ("", vote.comment) for vote in mine):
                return
        approval.votes.filter(user=self._user, void=False).update(void=True)
        Vote.objects.create(
            approval=approval,
            user=self._user,
            user_name=self._user.username,
            decision=decision,
            plan_hash=wanted.hash,
            plan=plain(wanted) if was_changed else None,
            comment=comment,
        )
        after = {"decision": decision, **said}
        trail.record(self.actor, "approval.vote", "approval", approval.pk, note=comment, after=after)

    def _count(self, approval: Approval, wanted: Plan, comment: str) -> Outcome:
        """Decide, if that was the vote to do so."""
        if self.decision in AGAINST:
            settle(approval, self.decision, wanted, self.actor, by=[self._user.username], comment=comment)
            return Outcome(approval)
        votes = counted(approval)
        if lacking := missing(approval, votes):
            approval.claimed_by, approval.claimed_until = None, None
            approval.save(update_fields=["claimed_by", "claimed_until"])
            return Outcome(approval, lacking)
        asked = plan_of(approval, as_asked=True)
        decision: Decision = "approve" if wanted.hash == asked.hash else "approve_with_changes"
        said = "\n".join(vote.comment for vote in votes if vote.comment)
        settle(approval, decision, wanted, self.actor, by=[vote.user_name for vote in votes], comment=said)
        return Outcome(approval)


#: Of a request that this is not the way to decide on.
_OTHER_KIND = {
    Approval.Kind.PLAN: "A plan is approved, approved with changes, sent back for changes or rejected.",
    Approval.Kind.EFFECT: "This asks what became of a call. Say that it happened, do it again, or give it up.",
}
#: What a reviewer's changes touch.
_CHANGED = (
    *("plan", "plan_hash", "flagged", "rules", "groups", "users", "quorum", "demands"),
    *("title", "tools", "amount_usd", "not_own", "links", "webhook"),
    *("auto_action", "escalate_to", "escalate_at", "told_at"),
)


def plan_of(approval: Approval, *, as_asked: bool = False) -> Plan:
    """Return the plan as it stands or as the agent asked for it; an empty one if that is none any more.

    So what somebody altered in the database can still be rejected, by a person or at its deadline.
    """
    try:
        return Plan.model_validate(approval.asked_plan if as_asked else approval.plan)
    except ValidationError:
        return Plan()


def settle(
    approval: Approval,
    decision: Decision,
    plan: Plan,
    actor: Actor,
    *,
    by: Sequence[str],
    comment: str,
    state: Literal["expired"] | None = None,
) -> None:
    """Write what was decided and let the run go on. The request is `locked`.

    Raises:
        AlreadyDecided: the run does not wait for it. Nothing is to be decided then.
    """
    close(approval, decision, state or STATES[decision], actor, by=by, comment=comment)
    decided = Decided(
        approval_id=str(approval.pk),
        run_id=str(approval.run_id),
        wait_key=approval.wait_key,
        decision=decision,
        plan=plan,
        plan_hash=plan.hash,
        asked=tuple(call.id for call in plan_of(approval, as_asked=True).calls),
        comment=comment,
        by=tuple(by),
    )
    sealed = decided.model_copy(update={"seal": seal(decided)})
    if not script.run(resolve(approval.run_id, approval.wait_key, plain(sealed))):
        raise AlreadyDecided("The run does not wait for this any more.")


def close(approval: Approval, decision: str, state: str, actor: Actor, *, by: Sequence[str], comment: str) -> None:
    """Write on the request, and in the trail, how it ended."""
    approval.state, approval.decision = state, decision
    approval.comment, approval.decided_by = comment, list(by)
    approval.decided_at = approval.locked_at
    approval.claimed_by, approval.claimed_until = None, None
    approval.save(
        update_fields=["state", "decision", "comment", "decided_by", "decided_at", "claimed_by", "claimed_until"]
    )
    trail.record(
        actor,
        "approval.decide",
        "approval",
        approval.pk,
        note=comment,
        before={"state": "pending"},
        after={
            "state": state,
            "decision": decision,
            "plan_hash": approval.plan_hash,
            "by": list(by),
            "run": str(approval.run_id),
        },
    )
