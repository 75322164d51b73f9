"""Requests that people decide, and what they said, in Django admin: to be read."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from agents.admin_lists import OfUserAdmin
from approvals.models import Approval, DecisionLink, HookCall, Review, Viewing, Vote
from audit.admin_lists import IdSpanFilter, WalkedFilter, by_id
from audit.history_admin import HistoryAdmin, Link, console_link, short_id, trail_of
from jobs.admin import KindFilter


class AutoActionFilter(WalkedFilter):
    """Requests by what happens at their deadline."""

    title = "at the deadline"
    parameter_name = lookup = "auto_action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return what may happen."""
        return [("reject", "Rejected"), ("escalate", "Escalated"), ("return", "Returned to the agent")]


class VotesInline(admin.TabularInline):  # type: ignore[type-arg]  # generic in the stubs alone
    """What people said of a request."""

    model = Vote
    extra = 0
    can_delete = False
    fields = readonly_fields = ("user_name", "decision", "hash", "comment", "at", "void")
    ordering = ("id",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """People vote on the request's page."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes what somebody else said."""
        return False

    @admin.display(description="plan hash")
    def hash(self, vote: Vote) -> str:
        """Return the hash of the plan that they voted on, shortened."""
        return short_id(vote.plan_hash) if vote.plan_hash else "–"


@admin.register(Approval)
class ApprovalAdmin(HistoryAdmin[Approval]):
    """Every request. People decide on its page, by the API or by a link, never here."""

    audit_type = "approval"
    list_display = (
        "short",
        "page",
        "shown_state",
        "kind",
        "title",
        "agent",
        "who",
        "decision",
        "by",
        "deadline",
        "created_at",
    )
    list_filter = ("state", IdSpanFilter, KindFilter, AutoActionFilter)
    search_fields = ("id",)
    search_help_text = "The id of a request or of its task or the beginning of one, or an agent’s name, whole"
    ordering = ("-id",)
    inlines = (VotesInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Approval]:
        """Return requests without their plans, which can be large, but for the page of one."""
        found = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "approvals_approval_changelist"
        return found.defer("plan", "asked_plan", "rules", "comment", "reason") if is_list else found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Approval], search_term: str
    ) -> tuple[QuerySet[Approval], bool]:
        """Find requests by what indexes know."""
        text = search_term.strip()
        if not text:
            return queryset, False
        own, of_run = by_id(text), by_id(text, "run_id")
        if own is not None and of_run is not None:
            return queryset.filter(Q(**own) | Q(**of_run)), False
        return queryset.filter(agent=text), False

    def list_link(self, request: HttpRequest) -> Link:
        """Return the inbox, with the decided ones of the same state."""
        state = request.GET.get("state__exact", "")
        asked = {"state": state} if state in Approval.State.values and state != Approval.State.PENDING else {}
        return f"{reverse('approvals')}{f'?{urlencode(asked)}' if asked else ''}", "Approvals in the site"

    def row_links(self, approval: Approval) -> list[Link]:
        """Return its task, and what the trail tells of it."""
        task = (reverse("task", args=[approval.run_id]), "Its task")
        return [task, *super().row_links(approval)]

    def view_on_site(self, approval: Approval) -> str:
        """Return the page on which it is decided."""
        return reverse("approval", args=[approval.pk])

    @admin.display(description="id")
    def short(self, approval: Approval) -> SafeString:
        """Return the id, shortened."""
        return short_id(approval.pk)

    @admin.display(description="site")
    def page(self, approval: Approval) -> SafeString:
        """Return a link to its page."""
        return console_link(self.view_on_site(approval))

    @admin.display(description="state")
    def shown_state(self, approval: Approval) -> SafeString:
        """Return the state, with a mark."""
        return format_html('<span class="astra-state astra-{}">{}</span>', approval.state, approval.get_state_display())

    @admin.display(description="who may decide")
    def who(self, approval: Approval) -> str:
        """Return groups and people, and how many of them it takes."""
        named = ", ".join([*approval.groups, *approval.users]) or "nobody"
        return f"{approval.quorum} of {named}" if approval.quorum > 1 else named

    @admin.display(description="decided by")
    def by(self, approval: Approval) -> str:
        """Return who decided."""
        return ", ".join(approval.decided_by) or "–"


class OfApprovalAdmin(HistoryAdmin[Any]):
    """Rows of a request: found by its id."""

    search_fields: ClassVar[tuple[str, ...]] = ("approval__id",)
    search_help_text = "The id of a request or the beginning of it"
    ordering: ClassVar[tuple[str, ...]] = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the rows of a request."""
        if not search_term.strip():
            return queryset, False
        found = by_id(search_term, "approval_id")
        return (queryset.filter(**found) if found else queryset.none()), False

    def view_on_site(self, row: Any) -> str:
        """Return the page of the request."""
        return reverse("approval", args=[row.approval_id])

    def row_links(self, row: Any) -> list[Link]:
        """Return what the trail tells of the request."""
        return [(trail_of("approval", row.approval_id), "What was done to the request")]

    @admin.display(description="request")
    def approval_link(self, row: Any) -> SafeString:
        """Return a link to the request."""
        url = reverse("admin:approvals_approval_change", args=[row.approval_id])
        return format_html('<a href="{}">{}</a>', url, short_id(row.approval_id))


@admin.register(Vote)
class VoteAdmin(OfApprovalAdmin):
    """What people said of requests."""

    list_display = ("id", "approval_link", "user_name", "decision", "at", "void")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Vote]:
        """Return votes without their plans, which can be large, but for the page of one."""
        found = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "approvals_vote_changelist"
        return found.defer("plan", "comment") if is_list else found


@admin.register(Viewing)
class ViewingAdmin(OfApprovalAdmin):
    """Who has had which version of a plan before their eyes."""

    list_display = ("id", "approval_link", "user", "at")
    list_select_related = ("user",)


@admin.register(DecisionLink)
class DecisionLinkAdmin(OfApprovalAdmin):
    """Links with which one person may decide once."""

    list_display = ("id", "approval_link", "user", "created_at", "expires_at", "used_at")
    list_select_related = ("user",)

    def get_fields(self, request: HttpRequest, obj: DecisionLink | None = None) -> list[Any]:
        """Return all but the hash."""
        return [name for name in super().get_fields(request, obj) if name != "digest"]


@admin.register(HookCall)
class HookCallAdmin(HistoryAdmin[HookCall]):
    """Webhooks that decided, or tried to."""

    list_display = ("id", "hook", "webhook_id", "status", "at")
    search_fields = ("webhook_id",)
    search_help_text = "The id of a webhook, whole"
    ordering = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[HookCall], search_term: str
    ) -> tuple[QuerySet[HookCall], bool]:
        """Find one by its id."""
        text = search_term.strip()
        return (queryset.filter(webhook_id=text) if text else queryset), False


@admin.register(Review)
class ReviewAdmin(OfUserAdmin, HistoryAdmin[Review]):
    """Morning and evening reviews that people finished."""

    list_display = ("id", "user", "kind", "since", "until", "finished_at")
