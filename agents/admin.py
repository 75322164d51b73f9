"""Agents and what they did in Django admin."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.actors import actor_of
from agents import queries
from agents.models import (
    AgentVersion,
    ConfigLoad,
    Conversation,
    Endpoint,
    Memory,
    Message,
    Run,
    RunStat,
    RunStatCursor,
    Score,
    Step,
)
from agents.queries import TaskFilter
from audit import trail
from audit.history_admin import HistoryAdmin, LargeTableAdmin, short_id
from jobs.admin import by_id


@admin.register(AgentVersion)
class AgentVersionAdmin(HistoryAdmin[AgentVersion]):
    """What `astra.yml` declared of agents: to change one, change the file."""

    list_display = ("name", "version", "program", "created_at")
    search_fields = ("name", "program")


@admin.register(Endpoint)
class EndpointAdmin(HistoryAdmin[Endpoint]):
    """What `astra.yml` declared of endpoints: to change one, change the file."""

    list_display = ("name", "agent", "mode", "active", "updated_at")
    list_select_related = ("agent",)
    list_filter = ("mode", "active")
    search_fields = ("name", "agent__name")


@admin.register(ConfigLoad)
class ConfigLoadAdmin(HistoryAdmin[ConfigLoad]):
    """Each load of `astra.yml` that changed something."""

    list_display = ("id", "at", "actor")
    ordering = ("-id",)


@admin.register(Run)
class RunAdmin(HistoryAdmin[Run]):
    """Every run. What can be done with one is done to its job."""

    list_display = ("short", "shown_state", "endpoint", "agent", "user", "steps_done", "turns", "cost", "created_at")
    list_select_related = ("job", "endpoint", "agent", "user")
    list_filter = ("mode", "endpoint")
    search_fields = ("input",)
    search_help_text = "Words of the input, or an id or the beginning of one"
    ordering = ("-job",)
    readonly_fields = ("steps_link",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        """Find runs as the console does."""
        return queries.matching(queryset, TaskFilter(q=search_term.strip())), False

    def view_on_site(self, run: Run) -> str:
        """Return the run's page in the console."""
        return reverse("task", args=[run.pk])

    @admin.display(description="id")
    def short(self, run: Run) -> SafeString:
        """Return the id, shortened."""
        return short_id(run.pk)

    @admin.display(description="state")
    def shown_state(self, run: Run) -> SafeString:
        """Return its job's state, with a mark."""
        return format_html('<span class="astra-state astra-{}">{}</span>', run.job.state, run.job.get_state_display())

    @admin.display(description="cost, USD")
    def cost(self, run: Run) -> str:
        """Return the cost, where it is known."""
        return f"{run.cost_usd:.4f}" if run.cost_known else "unknown"

    @admin.display(description="steps")
    def steps_link(self, run: Run) -> SafeString:
        """Return a link to its journal."""
        return format_html(
            '<a href="{}?run__exact={}">Show its steps</a>', reverse("admin:agents_step_changelist"), run.pk
        )


@admin.register(Step)
class StepAdmin(HistoryAdmin[Step]):
    """The journals of runs."""

    list_display = (
        "id",
        "run_link",
        "kind",
        "name",
        "model",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "finished_at",
    )
    list_filter = ("kind",)
    search_fields = ("run__id",)
    search_help_text = "A run's id or the beginning of it"
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Step]:
        """Return steps without what went in and came out, which can be large, but for the page of one."""
        steps = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "agents_step_changelist"
        return steps.defer("input", "output") if is_list else steps

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Step], search_term: str
    ) -> tuple[QuerySet[Step], bool]:
        """Find the steps of a run."""
        if not search_term.strip():
            return queryset, False
        found = by_id(search_term, "run_id")
        return (queryset.filter(found) if found else queryset.none()), False

    @admin.display(description="run")
    def run_link(self, step: Step) -> SafeString:
        """Return a link to the run."""
        return format_html(
            '<a href="{}">{}</a>', reverse("admin:agents_run_change", args=[step.run_id]), short_id(step.run_id)
        )


@admin.register(Conversation)
class ConversationAdmin(HistoryAdmin[Conversation]):
    """Who chats with what. Its owner renames and deletes it."""

    list_display = ("id", "title", "user", "endpoint", "created_at", "updated_at")
    list_select_related = ("user", "endpoint")
    search_fields = ("=user__username",)
    search_help_text = "A user's name"
    ordering = ("-id",)
    readonly_fields = ("messages_link",)

    @admin.display(description="messages")
    def messages_link(self, conversation: Conversation) -> SafeString:
        """Return a link to what was said."""
        return format_html(
            '<a href="{}?conversation__exact={}">Show its messages</a>',
            reverse("admin:agents_message_changelist"),
            conversation.pk,
        )


@admin.register(Message)
class MessageAdmin(HistoryAdmin[Message]):
    """What was said. Only its owner may delete it, with its conversation."""

    list_display = ("id", "conversation_id", "place", "role", "status", "beginning", "run_id", "created_at")
    list_filter = ("role", "status")
    search_fields = ("conversation__id",)
    search_help_text = "A conversation's id or the beginning of it"
    ordering = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Message], search_term: str
    ) -> tuple[QuerySet[Message], bool]:
        """Find what was said in a conversation."""
        if not search_term.strip():
            return queryset, False
        found = by_id(search_term, "conversation_id")
        return (queryset.filter(found) if found else queryset.none()), False

    @admin.display(description="text")
    def beginning(self, message: Message) -> str:
        """Return the beginning of its text."""
        return message.text[:80]


@admin.register(Score)
class ScoreAdmin(HistoryAdmin[Score]):
    """Judged runs."""

    list_display = ("id", "run_id", "rubric", "value", "judge", "mode", "created_at")
    list_filter = ("mode",)
    search_fields = ("=rubric",)
    ordering = ("-id",)


@admin.register(Memory)
class MemoryAdmin(LargeTableAdmin[Memory]):
    """What agents keep of users. A user's wish to be forgotten is met by deleting."""

    list_display = ("id", "user", "agent", "text", "created_at")
    list_select_related = ("user",)
    search_fields = ("=user__username", "=agent")
    ordering = ("-id",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only agents write memories."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Memory | None = None) -> bool:
        """Only agents write memories."""
        return False

    def delete_model(self, request: HttpRequest, obj: Memory) -> None:
        """Forget one, and write down that it was forgotten, not what it said."""
        trail.record(actor_of(request), "memory.delete", "memory", obj.pk, before={"user": obj.user.username})
        obj.delete()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Memory]) -> None:
        """Forget the chosen ones."""
        for memory in queryset.select_related("user"):
            self.delete_model(request, memory)


@admin.register(RunStat)
class RunStatAdmin(HistoryAdmin[RunStat]):
    """Runs that ended, counted by the minute."""

    list_display = ("minute", "lane", "mode", "outcome", "runs", "cost_usd")
    list_filter = ("mode",)
    ordering = ("-id",)


@admin.register(RunStatCursor)
class RunStatCursorAdmin(HistoryAdmin[RunStatCursor]):
    """Up to which moment ended runs are counted."""

    list_display = ("id", "counted_until")
