"""What the page of one request shows, read in a fixed number of statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import Q
from django.utils import timezone

from accounts import roles
from agents.approval_rules import Rule
from agents.models import Effect
from agents.runtime.plain import digest, plain
from approvals.deciding import plan_of
from approvals.errors import Undecidable
from approvals.locking import holder, who_may, why_not
from approvals.models import Approval, Viewing, Vote
from approvals.plan_diff import PlanDiff, between
from approvals.plan_form import PlanForm
from approvals.plan_words import CallWords, call_of, visible
from approvals.quorum import IN_FAVOUR, counts, demands_of, in_words, missing, shortage
from approvals.reading import MAX_STEPS, Reader, ReadStep, rows_of, steps_of
from approvals.run_so_far import RunSoFar
from approvals.similar import Earlier, earlier_decisions
from jobs.states import ENDED

#: Versions before this one, votes and readers that are listed.
VERSIONS = 20
VOTES = 50
READERS = 20
#: Names that the field offers to whom it is handed.
OTHERS = 50
#: Calls that ran, listed after a decision.
EFFECTS = 50

#: How each decision is shown: hue, icon, word.
_STANDING = {
    "": ("", "redrive", "Not needed any more"),
    "approve": ("good", "succeeded", "Approved"),
    "approve_with_changes": ("good", "succeeded", "Approved with changes"),
    "request_changes": ("warn", "redrive", "Changes requested"),
    "reject": ("bad", "cancelled", "Rejected"),
    "happened": ("good", "succeeded", "It happened"),
    "again": ("warn", "redrive", "To be done again"),
    "give_up": ("bad", "discarded", "Given up"),
}
_EFFECTS = {
    "started": ("busy", "running", "Begun"),
    "done": ("good", "succeeded", "Done"),
    "unknown": ("warn", "warning", "Nobody knows"),
    "again": ("warn", "redrive", "To be done again"),
    "given-up": ("bad", "discarded", "Given up"),
}

Standing = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Preview:
    """A reviewer's changes, before they are confirmed."""

    calls: Sequence[Mapping[str, Any]]
    #: The same as JSON, for the form that confirms them.
    written: str
    plan_hash: str
    diff: PlanDiff
    #: Steps to be decided on one by one that are still in it.
    flagged: Sequence[CallWords]
    #: Rules that it comes under with the changes, and did not before.
    rules: Sequence[str] = ()
    #: Who must agree by those rules; nothing where that is as before.
    who: str = ""
    #: Why this person may not decide on it so.
    why_not: str = ""


@dataclass(slots=True)
class Typed:
    """What somebody typed into a form that came back."""

    comment: str = ""
    steps: Mapping[str, str] = field(default_factory=dict)
    decision: str = ""
    result: str = ""
    to: str = ""
    note: str = ""


@dataclass
class DecisionPage:
    """One request as its page shows it to one person."""

    approval: Approval
    user: User
    typed: Typed = field(default_factory=Typed)
    #: Why what they wanted was not done: the problem's slug, and its words.
    refusal: str = ""
    words: str = ""
    #: What is wrong, by field: comment, steps, finding, to, plan.
    errors: Mapping[str, str] = field(default_factory=dict)
    form: PlanForm | None = None
    preview: Preview | None = None
    #: What changed since the plan that they looked at.
    since_read: PlanDiff | None = None
    #: The version to compare with; by default the one before.
    against: int | None = None

    # --- What is asked ----------------------------------------------------------------------------------------------

    @cached_property
    def title(self) -> str:
        """What it is about, as the inbox calls it; what each of its calls does stands above the step."""
        return visible(self.approval.title)

    @property
    def standing(self) -> Standing:
        """Hue, icon and word of its state."""
        if self.approval.is_pending:
            return "busy", "waiting", "Waits for a decision"
        if self.approval.state == Approval.State.EXPIRED:
            return "warn", "scheduled", "Expired"
        return _STANDING[self.approval.decision]

    @cached_property
    def rules(self) -> list[str]:
        """Why a person is asked: the rules that want it, in words."""
        words = dict.fromkeys(Rule.from_json(kept).words() for kept in self.approval.rules)
        # The reason is the rules' own words where the agent gave none, one after the other.
        said = [f"; {line};" for line in self.approval.reason.splitlines()]
        return [word for word in words if not any(f"; {word};" in line for line in said)]

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """The plan as it stands; an empty one of a request that has none, or none that can be read."""
        found: Mapping[str, Any] = plain(plan_of(self.approval))
        return found

    @cached_property
    def is_altered(self) -> bool:
        """Whether somebody changed the plan in the database."""
        return not self.approval.is_effect and digest(plain(self.approval.plan)) != self.approval.plan_hash

    @cached_property
    def steps(self) -> list[ReadStep]:
        """The plan as it stands, step by step."""
        return steps_of(self.plan, self.approval.flagged, self.typed.steps)

    @property
    def summary(self) -> str:
        """What the agent says of the whole plan."""
        return visible(str(self.plan["summary"]))

    @property
    def not_shown(self) -> int:
        """How many steps are too many for the page."""
        return max(0, len(self.plan["calls"]) - MAX_STEPS)

    @cached_property
    def call(self) -> CallWords | None:
        """The call of which nobody knows how it ended."""
        effect = self.approval.effect
        return call_of(effect.tool, effect.arguments) if effect is not None else None

    @cached_property
    def call_rows(self) -> Sequence[Any]:
        """Its arguments."""
        return [Reader().row(row) for row in self.call.rows] if self.call is not None else ()

    @cached_property
    def exact_call(self) -> str:
        """Its arguments as JSON."""
        return Reader().exact(self.call.arguments)[0] if self.call is not None else ""

    # --- Who --------------------------------------------------------------------------------------------------------

    @cached_property
    def why_not(self) -> str:
        """Why this person may not decide; nothing if they may."""
        return why_not(self.approval, self.user)

    @property
    def may_decide(self) -> bool:
        """Whether this person may decide, now."""
        return self.approval.is_pending and not self.why_not

    @property
    def who_may(self) -> str:
        """Who may decide, in words."""
        return who_may(self.approval)

    @cached_property
    def votes(self) -> list[Vote]:
        """What was said, oldest first."""
        found = list(self.approval.votes.defer("plan").select_related("user").order_by("id")[:VOTES])
        if self.approval.is_pending:
            roles.learn_groups(vote.user for vote in found if vote.user is not None)
        return found

    @property
    def counted(self) -> list[Vote]:
        """The votes for the plan as it stands: while it is pending those that count, as `Decide` counts them."""
        if self.approval.is_pending:
            return [vote for vote in self.votes if counts(self.approval, vote)]
        now = self.approval.plan_hash
        return [vote for vote in self.votes if not vote.void and vote.plan_hash == now and vote.decision in IN_FAVOUR]

    @cached_property
    def shortage(self) -> str:
        """Why too few people can decide on it, and what helps; nothing if there are enough."""
        return shortage(self.approval) if self.approval.is_pending else ""

    @property
    def missing(self) -> int:
        """How many more must agree."""
        return missing(self.approval, self.counted)

    @property
    def agreement(self) -> str:
        """Who must agree, in words, where that is more than one person."""
        demands = demands_of(self.approval)
        return in_words(demands) if len(demands) > 1 or demands[0].quorum > 1 else ""

    @cached_property
    def others(self) -> list[str]:
        """Names of people to whom it may be handed: some of those who may decide as well."""
        groups = set(self.approval.groups)
        named = Q(username__in=self.approval.users)
        if roles.OPERATOR in groups:
            groups.add(roles.ADMIN)
        if roles.ADMIN in groups:
            named |= Q(is_superuser=True)
        found = User.objects.filter(named | Q(groups__name__in=groups), is_active=True).exclude(pk=self.user.pk)
        if self.approval.not_own and self.approval.requested_by_id is not None:
            found = found.exclude(pk=self.approval.requested_by_id)
        return list(found.order_by("username").distinct().values_list("username", flat=True)[:OTHERS])

    @property
    def completes(self) -> bool:
        """Whether this person's vote is the one that is missing."""
        return missing(self.approval, [*self.counted, Vote(user=self.user, user_name=self.user.get_username())]) == 0

    @property
    def has_voted(self) -> bool:
        """Whether this person's vote counts already."""
        return any(vote.user_id == self.user.pk for vote in self.counted)

    @cached_property
    def readers(self) -> list[Viewing]:
        """Who has looked at the plan as it stands."""
        found = Viewing.objects.filter(approval=self.approval, plan_hash=self.approval.plan_hash)
        return list(found.exclude(user=self.user).select_related("user").order_by("id")[:READERS])

    @property
    def claim(self) -> str:
        """Who is on it: "mine", the name of somebody else, or nothing."""
        found = holder(self.approval, timezone.now()) if self.approval.is_pending else None
        if found is None:
            return ""
        return "mine" if found == self.user else found.get_username()

    @property
    def is_operator(self) -> bool:
        """Whether this person sees everybody's work."""
        return roles.is_operator(self.user)

    # --- Beside it --------------------------------------------------------------------------------------------------

    @cached_property
    def run(self) -> RunSoFar:
        """What the run has come to."""
        return RunSoFar.read(self.approval.run, self.user)

    @cached_property
    def versions(self) -> list[Approval]:
        """The versions of this plan before this one, the newest first."""
        if self.approval.revises_id is None:
            return []
        before = Approval.objects.filter(run=self.approval.run_id, pk__lt=self.approval.pk)
        found = {one.pk: one for one in before.defer("plan", "asked_plan").order_by("-pk")[: VERSIONS * 2]}
        chain: list[Approval] = []
        at: UUID | None = self.approval.revises_id
        while at in found and len(chain) < VERSIONS:
            chain.append(found[at])
            at = found[at].revises_id
        return chain

    @cached_property
    def compared(self) -> tuple[Approval, PlanDiff] | None:
        """The version that this one is compared with, and what is different."""
        if not self.versions:
            return None
        chosen = next((one for one in self.versions if one.version == self.against), self.versions[0])
        old = Approval.objects.get(pk=chosen.pk)
        return chosen, between(plain(plan_of(old)), self.plan)

    @cached_property
    def reviewers_changes(self) -> PlanDiff | None:
        """What reviewers changed of what the agent asked for."""
        if self.approval.is_effect or self.approval.asked_plan == self.approval.plan:
            return None
        return between(plain(plan_of(self.approval, as_asked=True)), self.plan)

    @property
    def changed_by(self) -> str:
        """Who changed it last."""
        changed = [vote for vote in self.votes if vote.decision == "approve_with_changes"]
        return changed[-1].user_name if changed else "a reviewer"

    @cached_property
    def similar(self) -> list[Earlier]:
        """Earlier decisions on plans like this one."""
        return earlier_decisions(self.approval, self.user)

    # --- Afterwards -------------------------------------------------------------------------------------------------

    @cached_property
    def effects(self) -> list[tuple[Effect, CallWords, Standing, Sequence[Any]]]:
        """What ran because of the decision, in order: the calls of the ledger."""
        if self.approval.is_pending:
            return []
        found = Effect.objects.filter(approval_id=self.approval.pk)
        if self.approval.effect_id is not None:
            found = Effect.objects.filter(pk=self.approval.effect_id)
        return [
            (effect, call_of(effect.tool, effect.arguments), _EFFECTS[effect.state], _result(effect))
            for effect in found.order_by("id")[:EFFECTS]
        ]

    @property
    def run_has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.approval.run.job.state in ENDED

    @cached_property
    def next(self) -> Approval | None:
        """The next request in this person's inbox that nobody else is on."""
        others = Q(claimed_until__gt=timezone.now()) & ~Q(claimed_by=self.user)
        waiting = Approval.objects.pending().reviewable_by(self.user).exclude(pk=self.approval.pk)
        return waiting.exclude(others).defer("plan", "asked_plan").order_by("sort_at", "id").first()

    def refuse(self, problem: Undecidable, place: str) -> None:
        """Say what is wrong beside the field that it is about."""
        self.refusal, self.words = problem.slug, problem.detail
        self.errors = {**self.errors, place: problem.detail}


def _result(effect: Effect) -> Sequence[Any]:
    result = effect.result
    if result is None:
        return ()
    content = result.get("content", result) if isinstance(result, dict) else result
    return rows_of({"it_came_back_with": content}, Reader(8_000, 4_000))
