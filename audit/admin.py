"""The trail in Django admin."""

from __future__ import annotations

from django.contrib import admin

from audit.history_admin import HistoryAdmin
from audit.models import AuditEntry, AuditSeal


@admin.register(AuditEntry)
class AuditEntryAdmin(HistoryAdmin[AuditEntry]):
    """Who did what to what, when and from where."""

    list_display = ("at", "actor_name", "action", "target_type", "target_id", "note", "address")
    search_fields = ("=target_id", "=actor_name", "=action", "=request_id")
    search_help_text = "A target's id, a user's name, an action or a request's id, whole"
    ordering = ("-id",)


@admin.register(AuditSeal)
class AuditSealAdmin(HistoryAdmin[AuditSeal]):
    """The chain that seals the trail."""

    list_display = ("place", "entry_id", "digest", "at")
    search_fields = ("=entry__id",)
    search_help_text = "The number of an entry"
    ordering = ("-place",)
