"""Agents and what they did in Django admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from accounts.actors import actor_of
from agents import admin_shop as admin_shop
from agents import queries
from agents.admin_lists import (
    EffectStateFilter,
    KindFilter,
    MinuteFilter,
    ModeFilter,
    OfRunAdmin,
    OfUserAdmin,
    RoleFilter,
    StateFilter,
    StatusFilter,
)
from agents.feedback_admin import AgentNoteAdmin, FeedbackAdmin
from agents.models import (
    AgentNote,
    AgentVersion,
    ConfigLoad,
    Conversation,
    Effect,
    Endpoint,
    Feedback,
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
from audit.admin_lists import BoundedPaginator, IdSpanFilter, SearchPaginator, by_id
from audit.history_admin import HistoryAdmin, Link, console_link, seconds, short_id

admin.site.register(Feedback, FeedbackAdmin)
admin.site.register(AgentNote, AgentNoteAdmin)


@admin.register(AgentVersion)
class AgentVersionAdmin(HistoryAdmin[AgentVersion]):
    """What `astra.yml` declared of agents: to change one, change the file."""

    list_display = ("name", "version", "program", "created_at")
    search_fields = ("name", "program")
    search_help_text = "A part of an agent’s or a program’s name"

    def list_link(self, request: HttpRequest) -> Link:
        """Return where the console shows them."""
        return reverse("agents"), "Agents in the console"

    def view_on_site(self, version: AgentVersion) -> str:
        """Return the agent's page in the console."""
        return reverse("agent", args=[version.name])


@admin.register(Endpoint)
class EndpointAdmin(HistoryAdmin[Endpoint]):
    """What `astra.yml` declared of endpoints: to change one, change the file."""

    list_display = ("name", "agent", "mode", "active", "updated_at")
    list_select_related = ("agent",)
    list_filter = ("mode", "active")
    search_fields = ("name", "agent__name")
    search_help_text = "A part of an endpoint’s or an agent’s name"

    def list_link(self, request: HttpRequest) -> Link:
        """Return where the console shows them."""
        return reverse("agents"), "Agents in the console"

    def row_links(self, endpoint: Endpoint) -> list[Link]:
        """Return its tasks and its agent in the console."""
        return [
            (f"{reverse('tasks')}?{urlencode({'endpoint': endpoint.name})}", "Its tasks"),
            (reverse("agent", args=[endpoint.agent.name]), "Its agent"),
        ]


@admin.register(ConfigLoad)
class ConfigLoadAdmin(HistoryAdmin[ConfigLoad]):
    """Each load of `astra.yml` that changed something."""

    list_display = ("id", "at", "actor")
    ordering = ("-id",)


@admin.register(Run)
class RunAdmin(HistoryAdmin[Run]):
    """Every run. What can be done with one is done to its job."""

    audit_type = "job"
    list_display = (
        "short",
        "page",
        "shown_state",
        "endpoint",
        "agent",
        "user",
        "steps_done",
        "tokens",
        "cost",
        "first_token",
        "created_at",
    )
    list_select_related = ("job", "endpoint", "agent", "user")
    list_filter = (StateFilter, "endpoint", IdSpanFilter, ModeFilter)
    search_fields = ("input",)
    search_help_text = "Words of the input, or an id or the beginning of one"
    ordering = ("-job",)
    readonly_fields = ("steps_link",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """Return runs without what a list does not show and can be large."""
        runs = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "agents_run_changelist"
        large = ("input", "output", "budget", "job__payload", "job__error", "agent__definition", "endpoint__definition")
        return runs.defer(*large) if is_list else runs

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], search_term: str
    ) -> tuple[QuerySet[Run], bool]:
        """Find runs as the console does."""
        return queries.matching(queryset, TaskFilter(q=search_term.strip())), False

    def get_paginator(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return one that counts less where words are looked for."""
        return (SearchPaginator if request.GET.get("q") else BoundedPaginator)(*args, **kwargs)

    def list_link(self, request: HttpRequest) -> Link:
        """Return the task list, with the same words, of the same state, mode and time."""
        asked = {name: value for name in ("q", "state", "mode", "since") if (value := request.GET.get(name))}
        return f"{reverse('tasks')}?{urlencode(asked)}", "Tasks in the console"

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

    @admin.display(description="tokens in / out")
    def tokens(self, run: Run) -> str:
        """Return what models were told, and what they said."""
        return f"{run.input_tokens:,} / {run.output_tokens:,}"

    @admin.display(description="first token")
    def first_token(self, run: Run) -> str:
        """Return how long the first token took."""
        return "–" if run.first_token_ms is None else f"{run.first_token_ms:,} ms"

    @admin.display(description="console")
    def page(self, run: Run) -> SafeString:
        """Return a link to the run's page in the console."""
        return console_link(self.view_on_site(run))

    @admin.display(description="cost, USD")
    def cost(self, run: Run) -> str:
        """Return the cost, where it is known."""
        return f"{run.cost_usd:.4f}" if run.cost_known else "unknown"

    @admin.display(description="steps")
    def steps_link(self, run: Run) -> SafeString:
        """Return a link to its journal."""
        return format_html('<a href="{}?q={}">Show its steps</a>', reverse("admin:agents_step_changelist"), run.pk)


@admin.register(Step)
class StepAdmin(OfRunAdmin):
    """The journals of runs."""

    list_display = (
        "id",
        "page",
        "run_link",
        "kind",
        "name",
        "model",
        "tokens",
        "cost",
        "took",
        "finished_at",
    )
    list_filter = (KindFilter,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Step]:
        """Return steps without what went in and came out, which can be large, but for the page of one."""
        steps = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "agents_step_changelist"
        return steps.defer("input", "output") if is_list else steps

    def view_on_site(self, step: Step) -> str:
        """Return the step's page in the console."""
        return reverse("task-step", args=[step.run_id, step.pk])

    @admin.display(description="tokens in / out")
    def tokens(self, step: Step) -> str:
        """Return what the model was told, and what it said."""
        return f"{step.input_tokens:,} / {step.output_tokens:,}" if step.model else "–"

    @admin.display(description="cost, USD")
    def cost(self, step: Step) -> str:
        """Return the cost, where it is known."""
        return "–" if step.cost_usd is None else f"{step.cost_usd:.4f}"

    @admin.display(description="took")
    def took(self, step: Step) -> str:
        """Return how long it took."""
        return seconds((step.finished_at - step.started_at).total_seconds())


@admin.register(Effect)
class EffectAdmin(OfRunAdmin):
    """What runs did to the world outside."""

    list_display = ("id", "page", "run_link", "tool", "state", "attempt", "started_at", "finished_at", "resolved_by")
    list_filter = (EffectStateFilter,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Effect]:
        """Return effects without what went in and came out, which can be large, but for the page of one."""
        effects = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "agents_effect_changelist"
        return effects.defer("arguments", "result") if is_list else effects


@admin.register(Conversation)
class ConversationAdmin(OfUserAdmin, HistoryAdmin[Conversation]):
    """Who chats with what. Its owner renames and deletes it."""

    list_display = ("id", "title", "user", "endpoint", "created_at", "updated_at")
    list_select_related = ("user", "endpoint")
    list_filter = (IdSpanFilter,)
    readonly_fields = ("messages_link",)

    @admin.display(description="messages")
    def messages_link(self, conversation: Conversation) -> SafeString:
        """Return a link to what was said."""
        return format_html(
            '<a href="{}?q={}">Show its messages</a>',
            reverse("admin:agents_message_changelist"),
            conversation.pk,
        )


@admin.register(Message)
class MessageAdmin(HistoryAdmin[Message]):
    """What was said. Only its owner may delete it, with its conversation."""

    list_display = ("id", "conversation_id", "place", "role", "status", "beginning", "run_id", "created_at")
    list_filter = (IdSpanFilter, RoleFilter, StatusFilter)
    search_fields = ("conversation__id",)
    search_help_text = "A conversation’s id or the beginning of it"
    ordering = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Message], search_term: str
    ) -> tuple[QuerySet[Message], bool]:
        """Find what was said in a conversation."""
        if not search_term.strip():
            return queryset, False
        found = by_id(search_term, "conversation_id")
        return (queryset.filter(**found) if found else queryset.none()), False

    @admin.display(description="text")
    def beginning(self, message: Message) -> str:
        """Return the beginning of its text."""
        return message.text[:80]


@admin.register(Score)
class ScoreAdmin(OfRunAdmin):
    """Judged runs."""

    list_display = ("id", "page", "run_link", "rubric", "value", "judge", "mode", "created_at")
    list_filter = (ModeFilter,)


@admin.register(Memory)
class MemoryAdmin(OfUserAdmin):
    """What agents keep of users. A user's wish to be forgotten is met by deleting."""

    list_display = ("id", "user", "agent", "text", "created_at")

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
    list_filter = (MinuteFilter, ModeFilter)
    ordering = ("-id",)


@admin.register(RunStatCursor)
class RunStatCursorAdmin(HistoryAdmin[RunStatCursor]):
    """Up to which moment ended runs are counted."""

    list_display = ("id", "counted_until")
