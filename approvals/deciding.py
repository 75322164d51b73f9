"""Deciding on a plan. Pages, API, links and webhooks all call `Decide`; the deadline calls `settle`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from agents.approval_rules import Rule
from agents.gatekeeper import seal
from agents.runtime.plain import plain
from agents.runtime.plans import Decided, Decision, Plan
from approvals.changing import changed, rules_for, without
from approvals.errors import Claimed, PlanChanged, Undecidable
from approvals.locking import locked, refuse_decided, refuse_others
from approvals.models import Approval, Vote
from approvals.terms import terms_of
from audit import trail
from audit.trail import Actor
from jobs import script
from jobs.actions import note_of
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
        """Vote.

        Raises:
            UnknownApproval, AlreadyDecided, PlanChanged, MayNot, Claimed, Undecidable: and nothing is changed.
        """
        with transaction.atomic():
            approval = locked(approval_id)
            self._check(approval)
            current = Plan.model_validate(approval.plan)
            wanted = self._wanted(approval, current)
            if wanted.hash != current.hash:
                self._change(approval, wanted)
            return self._vote(approval, wanted, was_changed=wanted.hash != current.hash)

    def _check(self, approval: Approval) -> None:
        user = self.actor.user
        assert user is not None
        refuse_others(approval, user)
        refuse_decided(approval)
        if approval.kind != Approval.Kind.PLAN:
            raise Undecidable("This asks what became of a call. Say that it happened, do it again, or give it up.")
        if self.plan_hash != approval.plan_hash:
            raise PlanChanged(
                "The plan was changed since you looked at it. Read it again, then decide.",
                plan_hash=approval.plan_hash,
            )
        claimed_until = approval.claimed_until
        if claimed_until and claimed_until > timezone.now() and approval.claimed_by_id != user.pk:
            name = approval.claimed_by.get_username() if approval.claimed_by else "Somebody else"
            raise Claimed(f"{name} is on it until {claimed_until:%H:%M} UTC. Take it over if that cannot wait.")
        if self.decision in AGAINST and not note_of(self.comment):
            raise Undecidable("Say why: whoever asked reads it, and so does the agent.")
        if self.decision == "approve_with_changes" and self.calls is None and not self.steps:
            raise Undecidable("Send the changed plan, whole.")
        if self.decision != "approve_with_changes" and self.calls is not None:
            raise Undecidable("A changed plan is approved with changes, or not at all.")

    def _wanted(self, approval: Approval, current: Plan) -> Plan:
        """Return the plan that this vote is for."""
        if self.decision in AGAINST:
            return current
        wanted = changed(current, self.calls) if self.calls is not None else current
        steps = self.steps or {}
        ids = {call.id for call in wanted.calls}
        if unknown := [step for step in steps if step not in {call.id for call in current.calls}]:
            raise Undecidable(f"The plan has no step {unknown[0]!r}.")
        if missing := [step for step in approval.flagged if step in ids and step not in steps]:
            raise Undecidable(f"Decide on each flagged step by itself: {', '.join(missing)} is missing.")
        rejected = {step for step, said in steps.items() if said == "reject"} & ids
        return without(wanted, rejected) if rejected else wanted

    def _change(self, approval: Approval, wanted: Plan) -> None:
        """Put a reviewer's plan in the place of the one that was asked for. What others agreed to is void."""
        rules = [Rule.from_json(kept) for kept in approval.rules]
        more = rules_for(approval.run, wanted)
        terms = terms_of([*rules, *more])
        approval.rules = list({rule.name: rule.as_json() for rule in (*rules, *more)}.values())
        if more and (terms.quorum, terms.not_own, terms.groups) != (
            approval.quorum,
            approval.not_own,
            tuple(approval.groups),
        ):
            # With the changes it comes under a stricter rule, or another: that one says who decides.
            before = terms_of(rules)
            if terms != before:
                approval.quorum, approval.not_own = terms.quorum, terms.not_own
                approval.groups, approval.users = list(terms.groups), list(terms.users)
                approval.links, approval.webhook = terms.links, terms.webhook
                assert self.actor.user is not None
                refuse_others(approval, self.actor.user)
        approval.votes.filter(void=False).update(void=True)
        approval.plan, approval.plan_hash = plain(wanted), wanted.hash

    def _vote(self, approval: Approval, wanted: Plan, *, was_changed: bool) -> Outcome:
        user: Any = self.actor.user
        comment = note_of(self.comment)
        approval.votes.filter(user=user, void=False).update(void=True)
        decision: Decision = self.decision if self.decision in AGAINST else "approve"
        if was_changed:
            decision = "approve_with_changes"
        Vote.objects.create(
            approval=approval,
            user=user,
            user_name=user.username,
            decision=decision,
            plan_hash=wanted.hash,
            plan=plain(wanted) if was_changed else None,
            comment=comment,
        )
        trail.record(
            self.actor,
            "approval.vote",
            "approval",
            approval.pk,
            note=comment,
            after={"decision": decision, "plan_hash": wanted.hash, "run": str(approval.run_id), "way": self.way},
        )
        votes = list(approval.votes.filter(void=False).order_by("id"))
        missing = approval.quorum - len(votes)
        if decision not in AGAINST and missing > 0:
            approval.claimed_by, approval.claimed_until = None, None
            approval.save()
            return Outcome(approval, missing)
        if decision not in AGAINST:
            asked = Plan.model_validate(approval.asked_plan)
            decision = "approve" if wanted.hash == asked.hash else "approve_with_changes"
            comment = "\n".join(vote.comment for vote in votes if vote.comment)
        names = [user.username] if decision in AGAINST else [vote.user_name for vote in votes]
        settle(approval, decision, wanted, self.actor, by=names, comment=comment)
        return Outcome(approval)


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
    """Write what was decided and let the run go on. The request is `locked`."""
    close(approval, decision, state or STATES[decision], actor, by=by, comment=comment)
    decided = Decided(
        approval_id=str(approval.pk),
        run_id=str(approval.run_id),
        wait_key=approval.wait_key,
        decision=decision,
        plan=plan,
        plan_hash=plan.hash,
        asked=tuple(call["id"] for call in approval.asked_plan["calls"]),
        comment=comment,
        by=tuple(by),
    )
    sealed = decided.model_copy(update={"seal": seal(decided)})
    script.run(resolve(approval.run_id, approval.wait_key, plain(sealed)))


def close(approval: Approval, decision: str, state: str, actor: Actor, *, by: Sequence[str], comment: str) -> None:
    """Write on the request, and in the trail, how it ended."""
    approval.state, approval.decision = state, decision
    approval.comment, approval.decided_by = comment, list(by)
    approval.decided_at = Now()  # the database's clock
    approval.claimed_by, approval.claimed_until = None, None
    approval.save()
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
