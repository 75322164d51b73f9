"""Jobs and what belongs to them in Django admin."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from accounts.actors import actor_of
from audit.admin_lists import IdSpanFilter, SpanFilter, WalkedFilter, by_id
from audit.history_admin import HistoryAdmin, LargeTableAdmin, Link, console_link, seconds, short_id
from jobs.actions import Pause, Resume
from jobs.job_admin import JobAdmin, LaneFilter
from jobs.models import BulkOperation, Hold, IdempotencyKey, Job, JobEvent, LaneSample, Wait, Worker

admin.site.register(Job, JobAdmin)


class OfJobAdmin(HistoryAdmin[Any]):
    """Rows of a job, or of the run that has its id: found by that id."""

    #: The foreign key that leads to it, and the page it leads to.
    owner: ClassVar[str] = "job"
    owner_page: ClassVar[str] = "admin:jobs_job_change"
    search_fields: ClassVar[tuple[str, ...]] = ("job__id",)
    search_help_text = "A job’s id or the beginning of it"
    ordering: ClassVar[tuple[str, ...]] = ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the rows of a job."""
        if not search_term.strip():
            return queryset, False
        found = by_id(search_term, f"{self.owner}_id")
        return (queryset.filter(**found) if found else queryset.none()), False

    def owner_id(self, row: Any) -> UUID:
        """Return the id of the job, which is the run's."""
        found: UUID = getattr(row, f"{self.owner}_id")
        return found

    def view_on_site(self, row: Any) -> str:
        """Return its page in the console."""
        return reverse("task", args=[self.owner_id(row)])

    def owner_link(self, row: Any) -> SafeString:
        """Return a link to it in the admin."""
        found = self.owner_id(row)
        return format_html('<a href="{}">{}</a>', reverse(self.owner_page, args=[found]), short_id(found))

    @admin.display(description="job")
    def job_link(self, row: Any) -> SafeString:
        """Return a link to the job."""
        return self.owner_link(row)

    @admin.display(description="console")
    def page(self, row: Any) -> SafeString:
        """Return a link to its page in the console."""
        return console_link(self.view_on_site(row))


class KindFilter(WalkedFilter):
    """Rows of one kind."""

    title = "kind"
    parameter_name = lookup = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the kinds."""
        return list(model_admin.model.Kind.choices)


class OpenFilter(admin.SimpleListFilter):
    """Waits that nothing has resolved yet: there is an index of those."""

    title = "resolved"
    parameter_name = "resolved"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("no", "Still open"), ("yes", "Resolved")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Wait]) -> QuerySet[Wait]:
        """Narrow the list down."""
        return queryset.filter(resolved_at__isnull=self.value() == "no") if self.value() in ("no", "yes") else queryset


@admin.register(JobEvent)
class JobEventAdmin(OfJobAdmin):
    """What happened to jobs."""

    list_display = ("id", "page", "at", "job_link", "kind", "old", "new", "reason", "actor", "worker")
    list_select_related = ("worker",)
    list_filter = (KindFilter,)


@admin.register(Wait)
class WaitAdmin(OfJobAdmin):
    """Why jobs are parked."""

    list_display = ("id", "page", "kind", "key", "job_link", "created_at", "until", "resolved_at")
    list_filter = (OpenFilter, KindFilter)


@admin.register(Worker)
class WorkerAdmin(HistoryAdmin[Worker]):
    """The processes that run jobs, and their leases."""

    list_display = ("__str__", "slots_of_lanes", "version", "started_at", "seen_at", "lease_until", "ended_at", "end")
    list_filter = ("end", ("ended_at", admin.EmptyFieldListFilter))
    search_fields = ("hostname", "=pid")
    search_help_text = "A part of a host’s name, or a process id"
    ordering = ("-started_at",)

    def list_link(self, request: HttpRequest) -> Link:
        """Return where the console lists them."""
        return f"{reverse('overview')}#workers", "Workers in the console"

    @admin.display(description="slots")
    def slots_of_lanes(self, worker: Worker) -> str:
        """Return the slots of each lane."""
        return ", ".join(f"{lane} {slots}" for lane, slots in worker.slots.items()) or "none"


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(OfJobAdmin):
    """Which requests were one."""

    list_display = ("id", "page", "scope", "key", "job_link", "expires_at")
    search_help_text = "A job’s id or the beginning of it, or a scope, whole"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyKey], search_term: str
    ) -> tuple[QuerySet[IdempotencyKey], bool]:
        """Find keys by what an index knows."""
        text = search_term.strip()
        if text and by_id(text) is None:
            return queryset.filter(scope=text), False
        return super().get_search_results(request, queryset, text)


@admin.register(Hold)
class HoldAdmin(LargeTableAdmin[Hold]):
    """Holds are placed and lifted here; both are written to the trail."""

    audit_type = "hold"
    list_display = ("key", "reason", "note", "placed_by", "placed_at")
    search_fields = ("key", "reason")
    fields = ("key", "reason", "note")
    ordering = ("key", "reason")

    def list_link(self, request: HttpRequest) -> Link:
        """Return where the console shows what is paused."""
        return reverse("queues"), "Queues in the console"

    def row_links(self, hold: Hold) -> list[Link]:
        """Return where the console shows it, and what the trail tells of it: by its key, for that outlives the row."""
        asked = urlencode({"type": "hold", "target": hold.key})
        return [(reverse("queues"), "Queues"), (f"{reverse('audit')}?{asked}", "Who placed and lifted it")]

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

    audit_type = "operation"
    list_display = (
        "short",
        "page",
        "verb",
        "words",
        "state",
        "of_expected",
        "refused",
        "asked_by_name",
        "created_at",
        "took",
    )
    list_filter = ("state", "verb", IdSpanFilter)
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[BulkOperation]:
        """Return operations without their selections, which hold thousands of ids, but for the page of one."""
        found = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "jobs_bulkoperation_changelist"
        return found.defer("selection") if is_list else found

    def list_link(self, request: HttpRequest) -> Link:
        """Return where the console lists them."""
        return reverse("operations"), "Operations in the console"

    def view_on_site(self, operation: BulkOperation) -> str:
        """Return the operation's page in the console."""
        return reverse("operation", args=[operation.pk])

    @admin.display(description="id")
    def short(self, operation: BulkOperation) -> SafeString:
        """Return the id, shortened."""
        return short_id(operation.pk)

    @admin.display(description="changed")
    def of_expected(self, operation: BulkOperation) -> str:
        """Return how many were changed, of how many that were counted at first."""
        return f"{operation.changed:,} of {operation.expected:,}{'+' if operation.expected_more else ''}"

    @admin.display(description="took")
    def took(self, operation: BulkOperation) -> str:
        """Return how long it took."""
        if operation.started_at is None or operation.finished_at is None:
            return "–"
        return seconds((operation.finished_at - operation.started_at).total_seconds())

    @admin.display(description="console")
    def page(self, operation: BulkOperation) -> SafeString:
        """Return a link to the operation's page in the console."""
        return console_link(self.view_on_site(operation))


class MinuteFilter(SpanFilter):
    """Samples of a span."""

    lookup = "minute__gte"


@admin.register(LaneSample)
class LaneSampleAdmin(HistoryAdmin[LaneSample]):
    """What lanes looked like, a row a minute."""

    list_display = ("minute", "lane", "queued", "oldest", "running", "slots")
    list_filter = (LaneFilter, MinuteFilter)
    ordering = ("-id",)

    def list_link(self, request: HttpRequest) -> Link:
        """Return where the console draws them."""
        return reverse("queues"), "Queues in the console"

    @admin.display(description="oldest")
    def oldest(self, sample: LaneSample) -> str:
        """Return how long the oldest had been queued."""
        return seconds(sample.oldest_s)
