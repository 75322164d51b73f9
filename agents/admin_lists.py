"""How runs, and what belongs to runs and to users, are found in Django admin."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from agents.models import Effect, Feedback, Message, Run, Step
from agents.modes import Mode
from audit.admin_lists import SpanFilter, WalkedFilter, of_user
from audit.history_admin import LargeTableAdmin
from jobs.admin import OfJobAdmin
from jobs.states import State


class ModeFilter(WalkedFilter):
    """Rows of one mode."""

    title = "mode"
    parameter_name = lookup = "mode"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the modes."""
        return [(mode.value, mode.label) for mode in Mode]


class KindFilter(WalkedFilter):
    """Steps of one kind."""

    title = "kind"
    parameter_name = lookup = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the kinds."""
        return list(Step.Kind.choices)


class RoleFilter(WalkedFilter):
    """What one side of chats said."""

    title = "role"
    parameter_name = lookup = "role"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the roles."""
        return list(Message.Role.choices)


class StatusFilter(WalkedFilter):
    """Messages of one status."""

    title = "status"
    parameter_name = lookup = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the statuses."""
        return list(Message.Status.choices)


class GradeFilter(WalkedFilter):
    """Feedback of one grade."""

    title = "grade"
    parameter_name = lookup = "grade"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the grades."""
        return list(Feedback.Grade.choices)


class EffectStateFilter(WalkedFilter):
    """Effects of one state."""

    title = "state"
    parameter_name = lookup = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the states."""
        return list(Effect.State.choices)


class StateFilter(admin.SimpleListFilter):
    """Runs by the state of their job, which has an index in the order of the list."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the states."""
        return list(State.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Run]) -> QuerySet[Run]:
        """Narrow the list down."""
        return queryset.filter(job__state=self.value()) if self.value() in State.values else queryset


class OfRunAdmin(OfJobAdmin):
    """Rows of a run."""

    owner = "run"
    owner_page = "admin:agents_run_change"
    search_fields = ("run__id",)
    search_help_text = "A run’s id or the beginning of it"

    @admin.display(description="run")
    def run_link(self, row: Any) -> SafeString:
        """Return a link to the run."""
        return self.owner_link(row)


class OfUserAdmin(LargeTableAdmin[Any]):
    """Rows of a user, found by their name."""

    search_fields = ("user__username",)
    search_help_text = "A user’s name, whole"
    list_select_related: ClassVar[tuple[str, ...]] = ("user",)
    ordering: ClassVar[tuple[str, ...]] = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the rows of a user."""
        name = search_term.strip()
        if not name:
            return queryset, False
        user = of_user(name)
        return (queryset.none() if user is None else queryset.filter(user_id=user)), False


class MinuteFilter(SpanFilter):
    """Minutes of a span."""

    lookup = "minute__gte"
