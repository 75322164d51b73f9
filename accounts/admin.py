"""API tokens, users and groups in Django admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts import tokens
from accounts.actors import actor_of
from accounts.models import ApiToken
from accounts.people_admin import AuditedGroupAdmin, AuditedUserAdmin
from audit.history_admin import HistoryAdmin

# Django's own pages are registered by now: ours are made from them.
admin.site.unregister([User, Group])
admin.site.register(User, AuditedUserAdmin)
admin.site.register(Group, AuditedGroupAdmin)


@admin.register(ApiToken)
class ApiTokenAdmin(HistoryAdmin[ApiToken]):
    """Tokens are made on their owners' page or by `manage.py create_token`; here all are seen and revoked."""

    list_display = ("name", "user", "beginning", "scope_list", "state", "created_at", "last_used_at", "expires_at")
    list_select_related = ("user",)
    list_filter = (("user", admin.RelatedOnlyFieldListFilter),)
    search_fields = ("name", "=user__username", "=prefix")
    actions = ("revoke",)

    def get_fields(self, request: HttpRequest, obj: ApiToken | None = None) -> list[Any]:
        """Return all but the hash."""
        return [name for name in super().get_fields(request, obj) if name != "digest"]

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Tell whether the person may revoke tokens: whoever may change them."""
        return isinstance(request.user, User) and request.user.has_perm("accounts.change_apitoken")

    @admin.display(description="begins with")
    def beginning(self, token: ApiToken) -> str:
        """Return what its owner can tell it by."""
        return f"{token.prefix}…"

    @admin.display(description="scopes")
    def scope_list(self, token: ApiToken) -> str:
        """Return the scopes in one line."""
        return ", ".join(token.scopes)

    @admin.display
    def state(self, token: ApiToken) -> str:
        """Return whether it can be used."""
        if token.revoked_at:
            return "revoked"
        return "expired" if token.expires_at and token.expires_at <= timezone.now() else "usable"

    @admin.action(description="Revoke the chosen tokens", permissions=["revoke"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiToken]) -> None:
        """Revoke them; those that were revoked before stay as they are."""
        revoked = sum(tokens.revoke(token, actor=actor_of(request)) for token in chosen.select_related("user"))
        self.message_user(request, f"{revoked} token{'' if revoked == 1 else 's'} revoked.", messages.SUCCESS)
