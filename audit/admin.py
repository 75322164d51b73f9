"""The trail in Django admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from audit import reading
from audit.admin_lists import SpanFilter
from audit.history_admin import HistoryAdmin, Link, console_link
from audit.models import AuditEntry, AuditSeal


class ActionFilter(admin.SimpleListFilter):
    """Entries of one action. Those there are cost one look into the index each."""

    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the actions."""
        return [(action, action) for action in reading.actions()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        """Narrow the list down."""
        return queryset.filter(action=self.value()) if self.value() else queryset


class TimeFilter(SpanFilter):
    """Entries of a span."""

    lookup = "at__gte"


@admin.register(AuditEntry)
class AuditEntryAdmin(HistoryAdmin[AuditEntry]):
    """Who did what to what, when and from where."""

    list_display = ("at", "page", "actor_name", "action", "target_type", "target_id", "note", "address")
    list_filter = (TimeFilter, ActionFilter)
    search_fields = ("target_id",)
    search_help_text = "A target’s id, a user’s name, an action or a request’s id, whole"
    ordering = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEntry], search_term: str
    ) -> tuple[QuerySet[AuditEntry], bool]:
        """Find entries by the first of these that the trail knows; each has its index."""
        text = search_term.strip()
        if not text:
            return queryset, False
        lookups: list[dict[str, Any]] = [
            {"target_type__in": reading.target_types(), "target_id": text},
            {"actor_name": text},
            {"action": text},
            {"request_id": text},
        ]
        for lookup in lookups:
            if AuditEntry.objects.filter(**lookup).order_by().exists():
                return queryset.filter(**lookup), False
        return queryset.none(), False

    def list_link(self, request: HttpRequest) -> Link:
        """Return the trail in the console, of the same action and time."""
        asked = {name: value for name in ("action", "since") if (value := request.GET.get(name))}
        return f"{reverse('audit')}?{urlencode(asked)}", "Audit in the console"

    def view_on_site(self, entry: AuditEntry) -> str:
        """Return the entry in the console."""
        return f"{reverse('audit')}?entry={entry.pk}"

    @admin.display(description="console")
    def page(self, entry: AuditEntry) -> SafeString:
        """Return a link to the entry in the console."""
        return console_link(self.view_on_site(entry))


@admin.register(AuditSeal)
class AuditSealAdmin(HistoryAdmin[AuditSeal]):
    """The chain that seals the trail."""

    list_display = ("place", "entry_id", "digest", "at")
    search_fields = ("=entry__id",)
    search_help_text = "The number of an entry"
    ordering = ("-place",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditSeal], search_term: str
    ) -> tuple[QuerySet[AuditSeal], bool]:
        """Find the seal of an entry."""
        text = search_term.strip()
        if not text:
            return queryset, False
        known = text.isascii() and text.isdigit() and len(text) < 19
        return (queryset.filter(entry_id=int(text)) if known else queryset.none()), False
