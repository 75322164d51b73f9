"""A request, who looked at it and what they said."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from accounts import roles
from agents.models import Effect, Run
from jobs.ids import uuid7

Person = AbstractBaseUser | AnonymousUser


class ApprovalQuerySet(models.QuerySet["Approval"]):
    """Requests, by what is to be done with them."""

    def pending(self) -> ApprovalQuerySet:
        """Return those that nobody has decided."""
        return self.filter(state=Approval.State.PENDING)

    def reviewable_by(self, user: Person) -> ApprovalQuerySet:
        """Return those that a person may decide on, decided or not."""
        if not user.is_active:
            return self.none()
        named = Q(groups__overlap=sorted(groups_of(user))) | Q(users__contains=[user.get_username()])
        return self.filter(named).exclude(not_own=True, requested_by=user.pk)

    def visible_to(self, user: Person) -> ApprovalQuerySet:
        """Return those that a person may look at: an operator all, anybody else those they may decide on."""
        return self if roles.is_operator(user) else self.reviewable_by(user)


def groups_of(user: Person) -> frozenset[str]:
    """Return the names of all groups and roles of a user, read once per user object."""
    return roles.group_names(user) | roles.of(user)


class Approval(models.Model):
    """One request that people decide: a plan, bound by its hash, or an effect of which nobody knows how it ended."""

    class Kind(models.TextChoices):
        PLAN = "plan", "Plan"
        EFFECT = "effect", "Unknown effect"

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        EXPIRED = "expired", "Expired"
        #: A newer version takes its place, or the run needs no answer any more.
        SUPERSEDED = "superseded", "Superseded"

    class Decision(models.TextChoices):
        APPROVE = "approve", "Approved"
        WITH_CHANGES = "approve_with_changes", "Approved with changes"
        REQUEST_CHANGES = "request_changes", "Changes requested"
        REJECT = "reject", "Rejected"
        #: Of an effect.
        HAPPENED = "happened", "It happened"
        AGAIN = "again", "To be done again"
        GIVE_UP = "give_up", "Given up"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="approvals", db_index=False)
    wait_key = models.CharField(max_length=200, help_text="Of the run's wait that a decision resolves.")
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )
    agent = models.CharField(max_length=80)
    agent_version = models.PositiveIntegerField()
    endpoint = models.CharField(max_length=80)
    title = models.CharField(max_length=300, help_text="What it is about, in a line.")
    reason = models.TextField(blank=True, help_text="Why a person is asked.")
    rules = models.JSONField(default=list, help_text="The rules that want it, as they were then.")

    asked_plan: Any = models.JSONField(null=True, help_text="The plan as the agent asked for it.")
    plan: Any = models.JSONField(null=True, help_text="The plan as it stands: as asked, or as a reviewer changed it.")
    plan_hash = models.CharField(max_length=64, blank=True, help_text="Of the plan as it stands.")
    flagged = ArrayField(
        models.CharField(max_length=120), default=list, help_text="Ids of the calls to be decided on one by one."
    )
    effect = models.ForeignKey(Effect, null=True, on_delete=models.CASCADE, related_name="approvals", db_index=False)
    tools = ArrayField(models.CharField(max_length=120), default=list)
    amount_usd = models.DecimalField(max_digits=18, decimal_places=2, null=True)
    version = models.PositiveIntegerField(default=1, help_text="Of the plans that this run asked about in turn.")
    revises = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="revisions", db_index=False)

    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    groups = ArrayField(models.CharField(max_length=150), default=list, help_text="Who may decide.")
    users = ArrayField(models.CharField(max_length=150), default=list)
    quorum = models.PositiveSmallIntegerField(default=1, help_text="How many of them must agree at least.")
    demands: Any = models.JSONField(
        default=list,
        help_text="So many of these groups and users each, where several rules ask.",
    )
    delegated: Any = models.JSONField(
        default=dict, help_text="Who decides in whose place, by name: their votes count as one."
    )
    not_own = models.BooleanField(default=False, help_text="Nobody approves what they asked for themselves.")
    links = models.BooleanField(default=False, help_text="A signed one-time link may decide.")
    webhook = models.BooleanField(default=False, help_text="A signed webhook may decide.")

    created_at = models.DateTimeField(db_default=Now())
    deadline = models.DateTimeField(null=True)
    sort_at = models.DateTimeField(help_text="Its place in the inbox: the deadline, or without one when it was asked.")
    auto_action = models.CharField(max_length=10, default="reject", help_text="What happens at the deadline.")
    remind_at = models.DateTimeField(null=True, help_text="When to remind; none once that is done.")
    escalate_at = models.DateTimeField(null=True, help_text="When to escalate; none once that is done.")
    escalate_to = models.CharField(max_length=150, blank=True)
    escalated_at = models.DateTimeField(null=True)
    told_at = models.DateTimeField(null=True, help_text="When those who may decide were told of it.")

    claimed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )
    claimed_until = models.DateTimeField(null=True)

    decision = models.CharField(max_length=20, choices=Decision.choices, blank=True)
    decided_at = models.DateTimeField(null=True)
    decided_by = ArrayField(models.CharField(max_length=150), default=list, help_text="Nobody: the deadline did.")
    comment = models.TextField(blank=True)

    #: The database's time when it was `locking.locked`: only then it has one.
    locked_at: datetime

    objects = ApprovalQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["pending", "approved", "rejected", "expired", "superseded"]),
                name="approval_state_known",
            ),
            models.CheckConstraint(
                condition=Q(auto_action__in=["reject", "escalate", "return"]), name="approval_auto_action_known"
            ),
            models.CheckConstraint(
                condition=Q(state="pending", decided_at=None) | ~Q(state="pending") & Q(decided_at__isnull=False),
                name="approval_decided_has_time",
            ),
            models.CheckConstraint(
                condition=Q(kind="plan", plan__isnull=False, asked_plan__isnull=False, effect=None)
                | Q(kind="effect", effect__isnull=False, plan=None),
                name="approval_is_about_something",
            ),
            models.CheckConstraint(condition=Q(quorum__gte=1), name="approval_quorum_positive"),
            models.CheckConstraint(
                condition=Q(claimed_by=None) | Q(claimed_until__isnull=False), name="approval_claim_has_end"
            ),
            models.UniqueConstraint(
                fields=["run", "wait_key"], condition=Q(state="pending"), name="approval_pending_once"
            ),
        ]
        indexes = [
            # The inbox: what is pending, the nearest deadline first; and its sweep.
            models.Index(fields=["sort_at", "id"], condition=Q(state="pending"), name="approval_inbox"),
            models.Index(fields=["deadline"], condition=Q(state="pending"), name="approval_due"),
            # What was decided, the last first; of one state.
            models.Index(fields=["-decided_at", "-id"], condition=~Q(state="pending"), name="approval_decided"),
            models.Index(fields=["state", "-id"], name="approval_by_state"),
            # Sweeps: reminders, escalations, who is to be told, and effects that were told of.
            models.Index(
                fields=["remind_at"], condition=Q(state="pending", remind_at__isnull=False), name="approval_remind"
            ),
            models.Index(
                fields=["escalate_at"],
                condition=Q(state="pending", escalate_at__isnull=False),
                name="approval_escalate",
            ),
            models.Index(fields=["id"], condition=Q(state="pending", told_at=None), name="approval_untold"),
            models.Index(fields=["effect"], condition=Q(state="pending", kind="effect"), name="approval_open_effects"),
            # A run's requests, in order; earlier decisions on similar plans.
            models.Index(fields=["run", "id"], name="approval_by_run"),
            models.Index(fields=["agent", "-id"], name="approval_by_agent"),
            # What somebody may decide on who is in few groups or none: the number in the navigation, their inbox.
            GinIndex(fields=["groups"], name="approval_by_groups"),
            GinIndex(fields=["users"], name="approval_by_users"),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.state})"

    @property
    def is_pending(self) -> bool:
        """Whether nobody has decided."""
        return self.state == self.State.PENDING

    @property
    def is_effect(self) -> bool:
        """Whether it asks what became of a call."""
        return self.kind == self.Kind.EFFECT


class Vote(models.Model):
    """What one person said about one version of a plan. The quorum counts those of the hash that is decided on."""

    approval = models.ForeignKey(Approval, on_delete=models.CASCADE, related_name="votes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    user_name = models.CharField(max_length=150)
    decision = models.CharField(max_length=20, choices=Approval.Decision.choices)
    plan_hash = models.CharField(max_length=64, blank=True)
    plan: Any = models.JSONField(null=True, help_text="With changes: the whole plan as they want it.")
    comment = models.TextField(blank=True)
    void = models.BooleanField(default=False, help_text="Somebody changed the plan after it, or they voted anew.")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["approval", "user"], condition=Q(void=False), name="vote_once"),
        ]

    def __str__(self) -> str:
        return f"{self.user_name}: {self.decision}"


class Viewing(models.Model):
    """That a person has had a version of a plan before their eyes."""

    approval = models.ForeignKey(Approval, on_delete=models.CASCADE, related_name="viewings", db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    plan_hash = models.CharField(max_length=64, blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["approval", "user", "plan_hash"], name="viewing_once"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} saw {self.approval_id}"
