"""Users and groups in Django admin: Django's own pages, whose changes go into the trail, too."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from accounts.actors import actor_of
from accounts.person_deletion import deletions
from audit import trail

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

    _Base = ModelAdmin[Any]
else:
    _Base = object

#: What a deleted or new user or group was, as far as it matters to who may do what.
KEPT = ("username", "name", "is_active", "is_staff", "is_superuser")


class _Audited(_Base):
    """Write what Django admin logs into the trail as well, with what was there before."""

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """Keep what the form changes for the trail."""
        before = {name: _plain(name, form.initial.get(name), "") for name in form.changed_data}
        after = {name: _plain(name, form.cleaned_data.get(name), "changed") for name in form.changed_data}
        # Django takes a time for changed that came back from the browser without its microseconds.
        names = [name for name in before if before[name] != after[name]]
        change = ({name: before[name] for name in names}, {name: after[name] for name in names})
        request._astra_change = change  # type: ignore[attr-defined]
        return super().construct_change_message(request, form, formsets, add)

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> Any:
        """Tell of a new one."""
        self._record(request, "add", obj, after=_kept(obj))
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> Any:
        """Tell of a change."""
        before, after = getattr(request, "_astra_change", ({}, {}))
        if before or after:
            self._record(request, "change", obj, before=before, after=after)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Any]) -> Any:
        """Tell of those that go."""
        for obj in queryset:
            self._record(request, "delete", obj, before=_kept(obj))
        return super().log_deletions(request, queryset)  # type: ignore[arg-type]  # Django gives it lists, too

    def _record(self, request: HttpRequest, verb: str, obj: Model, **values: Any) -> None:
        kind = str(obj._meta.model_name)
        trail.record(actor_of(request), f"{kind}.{verb}", kind, obj.pk, note=str(obj), **values)


class AuditedUserAdmin(_Audited, UserAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    """Users. Who has many tasks is deactivated instead of deleted."""

    list_display = ("username", "first_name", "last_name", "role_names", "is_active", "is_superuser", "last_login")
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """Return users with their groups."""
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="roles")
    def role_names(self, user: User) -> str:
        """Return what they are, as their groups say."""
        return ", ".join(sorted(group.name for group in user.groups.all())) or "–"

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show a user, with links to what they do and did in the console."""
        user = kwargs.get("obj")
        if user is not None:
            context["console_links"] = [
                (f"{reverse('tasks')}?{urlencode({'user': user.username})}", "Their tasks"),
                (f"{reverse('audit')}?{urlencode({'actor': user.username})}", "What they did"),
                (f"{reverse('audit')}?{urlencode({'type': 'user', 'target': user.pk})}", "What was done to them"),
            ]
        return super().render_change_form(request, context, *args, **kwargs)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """Say what deleting them does, counted with bounds, and protect who has too much."""
        found = deletions(objs)
        told = [
            f"{each.user.username}: {', '.join(map(str, each.goes))} go; {', '.join(map(str, each.stays))} stay"
            for each in found
        ]
        protected = [f"{each.user.username} has {', '.join(each.too_many)}." for each in found if each.too_many]
        return told, {"users": len(found)}, set(), protected


class AuditedGroupAdmin(_Audited, GroupAdmin):
    """Groups, among them those of the roles."""


def _kept(obj: Model) -> dict[str, Any]:
    values = {name: getattr(obj, name) for name in KEPT if hasattr(obj, name)}
    if isinstance(obj, User) and obj.pk:
        values["groups"] = sorted(obj.groups.values_list("name", flat=True))
    if isinstance(obj, Group) and obj.pk:
        values["permissions"] = sorted(map(str, obj.permissions.select_related("content_type")))
    return values


def _plain(name: str, value: Any, secret: str) -> Any:
    """Return a form's value as JSON; of a password only that there is another one."""
    if "password" in name:
        return secret
    if isinstance(value, QuerySet | list | tuple | set):
        return sorted(map(str, value))
    if isinstance(value, datetime):
        return value.replace(microsecond=0).isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)
