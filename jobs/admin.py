"""Jobs and what belongs to them in Django admin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import roles
from accounts.actors import actor_of
from audit.history_admin import HistoryAdmin, LargeTableAdmin, short_id
from jobs.actions import Cancel, Discard, InvalidState, Pause, Redrive, Resume
from jobs.models import BulkOperation, Hold, IdempotencyKey, Job, JobEvent, LaneSample, Wait, Worker
from jobs.states import State

#: An action works on this many jobs at a time; the rest stay chosen by the same filter.
ACTION_UP_TO = 1_000


class LaneFilter(admin.SimpleListFilter):
    """Jobs of one lane. The lanes are known: asking the table for them would read all of it."""

    title = "lane"
    parameter_name = "lane"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the lanes."""
        return [(lane, lane) for lane in settings.LANES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        """Narrow the list down."""
        return queryset.filter(lane=self.value()) if self.value() else queryset


class NoteForm(ActionForm):
    """The choice of an action, with the note that a discarded job needs."""

    note = forms.CharField(required=False, label="Note (to discard):", max_length=2000)


def by_id(text: str, field: str = "id") -> Q | None:
    """Return the condition for an id or the beginning of one; None if the text is neither."""
    compact = text.strip().lower().replace("-", "")
    if not 8 <= len(compact) <= 32 or not set(compact) <= set("0123456789abcdef"):
        return None
    return Q(**{f"{field}__gte": UUID(compact.ljust(32, "0")), f"{field}__lte": UUID(compact.ljust(32, "f"))})


@admin.register(Job)
class JobAdmin(HistoryAdmin[Job]):
    """Every job. Its state is changed by the same actions that the console and the API call."""

    list_display = (
        "short",
        "shown_state",
        "handler",
        "lane",
        "user",
        "attempts",
        "problem",
        "created_at",
        "finished_at",
    )
    list_select_related = ("user",)
    list_filter = ("state", LaneFilter)
    search_fields = ("id",)
    search_help_text = "An id or the beginning of one, a partition key, or a user's name"
    ordering = ("-id",)
    actions = ("cancel", "redrive", "redrive_from_start", "discard")
    action_form = NoteForm
    readonly_fields = ("events_link",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        """Find a job by what an index knows."""
        text = search_term.strip()
        if not text:
            return queryset, False
        found = by_id(text)
        return queryset.filter(found if found else Q(partition_key=text) | Q(user__username=text)), False

    def view_on_site(self, job: Job) -> str:
        """Return the job's page in the console."""
        return reverse("task", args=[job.pk])

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Tell whether the person may steer jobs."""
        return roles.is_operator(request.user)

    @admin.display(description="id")
    def short(self, job: Job) -> SafeString:
        """Return the id, shortened."""
        return short_id(job.pk)

    @admin.display(description="state")
    def shown_state(self, job: Job) -> SafeString:
        """Return the state, with a mark."""
        return format_html('<span class="astra-state astra-{}">{}</span>', job.state, job.get_state_display())

    @admin.display(description="failed")
    def attempts(self, job: Job) -> str:
        """Return the attempts that counted."""
        return f"{job.attempt} of {job.max_attempts}"

    @admin.display
    def problem(self, job: Job) -> str:
        """Return what went wrong last."""
        return str((job.error or {}).get("title", ""))

    @admin.display(description="events")
    def events_link(self, job: Job) -> SafeString:
        """Return a link to what happened to it."""
        return format_html(
            '<a href="{}?job__exact={}">Show its events</a>', reverse("admin:jobs_jobevent_changelist"), job.pk
        )

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, chosen: QuerySet[Job]) -> None:
        """Stop the chosen jobs."""
        self._each(request, chosen, Cancel(actor_of(request)).run, "cancelled")

    @admin.action(description="Redrive from the last step", permissions=["operate"])
    def redrive(self, request: HttpRequest, chosen: QuerySet[Job]) -> None:
        """Send them back, keeping what they have finished."""
        self._each(request, chosen, Redrive(actor_of(request)).run, "redriven")

    @admin.action(description="Redrive from the start", permissions=["operate"])
    def redrive_from_start(self, request: HttpRequest, chosen: QuerySet[Job]) -> None:
        """Send them back to run every step again."""
        self._each(request, chosen, Redrive(actor_of(request), from_="start").run, "redriven")

    @admin.action(description="Discard (with a note)", permissions=["operate"])
    def discard(self, request: HttpRequest, chosen: QuerySet[Job]) -> None:
        """Give the chosen dead letters up."""
        note = request.POST.get("note", "").strip()
        if not note:
            self.message_user(request, "Say in the note why they are discarded.", messages.ERROR)
            return
        self._each(request, chosen, Discard(actor_of(request), note=note).run, "discarded")

    def _each(self, request: HttpRequest, chosen: QuerySet[Job], run: Callable[[UUID], State], done: str) -> None:
        """Do it to one after the other, each in a transaction of its own, and say what became of them."""
        ids = list(chosen.order_by("id").values_list("pk", flat=True)[: ACTION_UP_TO + 1])
        refused = sum(1 for _ in _refused(ids[:ACTION_UP_TO], run))
        changed = min(len(ids), ACTION_UP_TO) - refused
        if changed:
            self.message_user(request, f"{changed:,} job{'' if changed == 1 else 's'} {done}.", messages.SUCCESS)
        if refused:
            words = f"{refused:,} could not be {done} in the state they are in."
            self.message_user(request, words, messages.WARNING)
        if len(ids) > ACTION_UP_TO:
            words = f"An action takes {ACTION_UP_TO:,} jobs at a time. Repeat it for the rest."
            self.message_user(request, words, messages.WARNING)


def _refused(ids: list[UUID], run: Callable[[UUID], State]) -> Iterator[UUID]:
    for job_id in ids:
        try:
            run(job_id)
        except InvalidState:
            yield job_id


@admin.register(JobEvent)
class JobEventAdmin(HistoryAdmin[JobEvent]):
    """What happened to jobs."""

    list_display = ("id", "at", "job_link", "kind", "old", "new", "reason", "actor", "worker")
    list_select_related = ("worker",)
    list_filter = ("kind",)
    search_fields = ("job__id",)
    search_help_text = "A job's id or the beginning of it"
    ordering = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[JobEvent], search_term: str
    ) -> tuple[QuerySet[JobEvent], bool]:
        """Find the events of a job."""
        if not search_term.strip():
            return queryset, False
        found = by_id(search_term, "job_id")
        return (queryset.filter(found) if found else queryset.none()), False

    @admin.display(description="job")
    def job_link(self, event: JobEvent) -> SafeString:
        """Return a link to the job."""
        url = reverse("admin:jobs_job_change", args=[event.job_id])
        return format_html('<a href="{}">{}</a>', url, short_id(event.job_id))


@admin.register(Wait)
class WaitAdmin(HistoryAdmin[Wait]):
    """Why jobs are parked."""

    list_display = ("id", "kind", "key", "job_link", "created_at", "until", "resolved_at")
    list_filter = ("kind", ("resolved_at", admin.EmptyFieldListFilter))
    search_fields = ("=key",)
    ordering = ("-id",)

    @admin.display(description="job")
    def job_link(self, wait: Wait) -> SafeString:
        """Return a link to the job."""
        return format_html(
            '<a href="{}">{}</a>', reverse("admin:jobs_job_change", args=[wait.job_id]), short_id(wait.job_id)
        )


@admin.register(Worker)
class WorkerAdmin(HistoryAdmin[Worker]):
    """The processes that run jobs, and their leases."""

    list_display = ("__str__", "lanes", "version", "started_at", "seen_at", "lease_until", "ended_at", "end")
    list_filter = ("end", ("ended_at", admin.EmptyFieldListFilter))
    search_fields = ("hostname", "=pid")
    ordering = ("-started_at",)


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(HistoryAdmin[IdempotencyKey]):
    """Which requests were one."""

    list_display = ("id", "scope", "key", "job_id", "expires_at")
    search_fields = ("=key", "=scope")
    ordering = ("-id",)


@admin.register(Hold)
class HoldAdmin(LargeTableAdmin[Hold]):
    """Holds are placed and lifted here; both are written to the trail."""

    list_display = ("key", "reason", "note", "placed_by", "placed_at")
    search_fields = ("key", "reason")
    fields = ("key", "reason", "note")
    ordering = ("key", "reason")

    def has_change_permission(self, request: HttpRequest, obj: Hold | None = None) -> bool:
        """Nobody changes a hold: it is lifted, and another one is placed."""
        return False

    def save_model(self, request: HttpRequest, obj: Hold, form: forms.ModelForm[Hold], change: bool) -> None:
        """Place the hold."""
        Pause(actor_of(request), note=obj.note, reason=obj.reason).run(obj.key)
        obj.pk = Hold.objects.get(key=obj.key, reason=obj.reason).pk

    def delete_model(self, request: HttpRequest, obj: Hold) -> None:
        """Lift the hold."""
        Resume(actor_of(request), reason=obj.reason).run(obj.key)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Hold]) -> None:
        """Lift the chosen holds."""
        for hold in queryset:
            self.delete_model(request, hold)


@admin.register(BulkOperation)
class BulkOperationAdmin(HistoryAdmin[BulkOperation]):
    """Changes of many jobs, and how far they have come."""

    list_display = ("id", "verb", "words", "state", "changed", "refused", "asked_by_name", "created_at", "finished_at")
    list_filter = ("state", "verb")
    ordering = ("-id",)

    def view_on_site(self, operation: BulkOperation) -> str:
        """Return the operation's page in the console."""
        return reverse("operation", args=[operation.pk])


@admin.register(LaneSample)
class LaneSampleAdmin(HistoryAdmin[LaneSample]):
    """What lanes looked like, a row a minute."""

    list_display = ("minute", "lane", "queued", "oldest_s", "running", "slots")
    list_filter = (LaneFilter,)
    ordering = ("-id",)
