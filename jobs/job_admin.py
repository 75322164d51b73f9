"""Jobs in Django admin: found by what indexes know, changed by the classes that the console and the API call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME, ActionForm
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from accounts import roles
from accounts.actors import actor_of
from audit.admin_lists import SPANS, BoundedList, IdSpanFilter, WalkedFilter, by_id, of_user
from audit.history_admin import HistoryAdmin, Link, console_link, seconds, short_id
from jobs import bulk, handlers, selection
from jobs.actions import Cancel, Discard, InvalidState, Redrive, UnknownJob
from jobs.bulk import BulkError, Wanted
from jobs.ids import uuid7
from jobs.models import BulkOperation, Job
from jobs.queries import Bounded, bounded_count
from jobs.states import LIVE, State

#: So many jobs are changed while somebody waits for the page; more of them in the background.
ACTION_UP_TO = 1_000
#: What may stand in a list's address, for an operation to find the same jobs again; and what changes nothing.
KEPT = frozenset({"state__exact", "since", "lane", "handler", "q", "p", "o"})
#: How a list says which operation a person has said yes to.
CONFIRMED = "confirmed"

Verb = BulkOperation.Verb
_DONE = {Verb.CANCEL: "cancelled", Verb.REDRIVE: "redriven", Verb.DISCARD: "discarded"}


class LaneFilter(WalkedFilter):
    """Rows of one lane. The lanes are known: asking the table for them would read all of it."""

    title = "lane"
    parameter_name = lookup = "lane"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the lanes."""
        return [(lane, lane) for lane in settings.LANES]


class HandlerFilter(WalkedFilter):
    """Jobs of one handler; this process knows their names."""

    title = "handler"
    parameter_name = lookup = "handler"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the handlers."""
        return [(name, name) for name in handlers.names()]


class NoteForm(ActionForm):
    """The choice of an action, with the note that a discarded job needs."""

    note = forms.CharField(required=False, label="Note (to discard):", max_length=2000)


class JobAdmin(HistoryAdmin[Job]):
    """Every job. Its state is changed by the same actions that the console and the API call."""

    audit_type = "job"
    list_display = (
        "short",
        "page",
        "shown_state",
        "handler",
        "lane",
        "user",
        "attempts",
        "problem",
        "created_at",
        "took",
    )
    list_select_related = ("user",)
    list_filter = ("state", IdSpanFilter, LaneFilter, HandlerFilter)
    search_fields = ("id",)
    search_help_text = "An id or the beginning of one, a user’s name, or the partition key of jobs that have not ended"
    ordering = ("-id",)
    actions = ("cancel", "redrive", "redrive_from_start", "discard")
    action_form = NoteForm
    readonly_fields = ("events_link",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """Return jobs without what a list does not show and can be large."""
        found = super().get_queryset(request)
        resolved = request.resolver_match
        is_list = resolved is not None and resolved.url_name == "jobs_job_changelist"
        return found.defer("payload", "progress") if is_list else found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        """Find a job by what an index knows."""
        return selection.narrowed(queryset, _searched(search_term)), False

    def list_link(self, request: HttpRequest) -> Link:
        """Return the task list, of the same state, lane and time."""
        asked = {
            name: value
            for name, key in (("state", "state__exact"), ("lane", "lane"), ("since", "since"))
            if (value := request.GET.get(key))
        }
        return f"{reverse('tasks')}?{urlencode(asked)}", "Tasks in the console"

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
        return str(job.error.get("title", ""))[:120] if isinstance(job.error, dict) else ""

    @admin.display(description="took")
    def took(self, job: Job) -> str:
        """Return how long it took from its first claim to its end."""
        if job.started_at is None or job.finished_at is None:
            return "–"
        return seconds((job.finished_at - job.started_at).total_seconds())

    @admin.display(description="console")
    def page(self, job: Job) -> SafeString:
        """Return a link to the job's page in the console."""
        return console_link(self.view_on_site(job))

    @admin.display(description="events")
    def events_link(self, job: Job) -> SafeString:
        """Return a link to what happened to it."""
        return format_html('<a href="{}?q={}">Show its events</a>', reverse("admin:jobs_jobevent_changelist"), job.pk)

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        """Stop the chosen jobs."""
        return self._do(request, chosen, Verb.CANCEL, {}, Cancel(actor_of(request)).run)

    @admin.action(description="Redrive from the last step", permissions=["operate"])
    def redrive(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        """Send them back, keeping what they have finished."""
        return self._do(request, chosen, Verb.REDRIVE, {}, Redrive(actor_of(request)).run)

    @admin.action(description="Redrive from the start", permissions=["operate"])
    def redrive_from_start(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        """Send them back to run every step again."""
        run = Redrive(actor_of(request), from_="start").run
        return self._do(request, chosen, Verb.REDRIVE, {"from": "start"}, run)

    @admin.action(description="Discard (with a note)", permissions=["operate"])
    def discard(self, request: HttpRequest, chosen: QuerySet[Job]) -> HttpResponse | None:
        """Give the chosen dead letters up."""
        note = request.POST.get("note", "").strip()
        if not note:
            self.message_user(request, "Say in the note why they are discarded.", messages.ERROR)
            return None
        return self._do(request, chosen, Verb.DISCARD, {"note": note}, Discard(actor_of(request), note=note).run)

    def _do(
        self,
        request: HttpRequest,
        chosen: QuerySet[Job],
        verb: BulkOperation.Verb,
        options: dict[str, Any],
        run: Callable[[UUID], State],
    ) -> HttpResponse | None:
        """Do it to a few at once, each in a transaction of its own; to many in the background, once confirmed."""
        if request.POST.get("select_across") == "1":
            if other := request.GET.keys() - KEPT:
                words = f"All of these can’t be chosen: the list is narrowed down by {', '.join(sorted(other))}."
                self.message_user(request, words, messages.ERROR)
                return None
            if CONFIRMED in request.POST:
                self._begin(request, verb, options)
                return None
            where = self._where(request)
            found = bounded_count(selection.jobs(Wanted({"where": where}, bulk.STATES[verb])))
            if found.more or found.number > ACTION_UP_TO:
                return self._ask(request, verb, options, found)
            chosen = chosen.filter(state__in=bulk.STATES[verb])
        self._each(request, list(chosen.order_by("id").values_list("pk", flat=True)[:ACTION_UP_TO]), verb, run)
        return None

    def _each(
        self, request: HttpRequest, ids: list[UUID], verb: BulkOperation.Verb, run: Callable[[UUID], State]
    ) -> None:
        refused = 0
        for job_id in ids:
            try:
                run(job_id)
            except (InvalidState, UnknownJob):
                refused += 1
        done, changed = _DONE[verb], len(ids) - refused
        if changed:
            self.message_user(request, f"{changed:,} job{'' if changed == 1 else 's'} {done}.", messages.SUCCESS)
        if refused:
            words = f"{refused:,} could not be {done} in the state they are in."
            self.message_user(request, words, messages.WARNING)
        if not ids:
            self.message_user(request, f"None of these can be {done}.", messages.WARNING)

    def _ask(
        self, request: HttpRequest, verb: BulkOperation.Verb, options: dict[str, Any], found: Bounded
    ) -> TemplateResponse:
        """Show how many there are, and ask whether they are meant."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"{verb.label} {found} jobs?",
            "found": found,
            "done": _DONE[verb],
            "note": options.get("note", ""),
            "from_start": options.get("from") == "start",
            "action": request.POST["action"],
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME)[:1],
            "operation": uuid7(),
        }
        return TemplateResponse(request, "admin/jobs/job/confirm.html", context)

    def _begin(self, request: HttpRequest, verb: BulkOperation.Verb, options: dict[str, Any]) -> None:
        """Hand it to the background."""
        where = self._where(request)
        try:
            operation = bulk.start(
                actor_of(request),
                bulk.form_id(request.POST[CONFIRMED]),
                verb,
                selected_by=selection.NAME,
                selection={"where": where},
                words=_words(request),
                options=options,
            )
        except BulkError as error:
            self.message_user(request, str(error), messages.ERROR)
        else:
            url = reverse("operation", args=[operation.pk])
            words = format_html('It is done in the background. <a href="{}">See how far it has come</a>.', url)
            self.message_user(request, words, messages.SUCCESS)

    def _where(self, request: HttpRequest) -> dict[str, Any]:
        """Return what narrows the list down, as a selection keeps it: at any later time the same jobs."""
        shown = self.get_changelist_instance(request)
        assert isinstance(shown, BoundedList)
        where = _searched(shown.query)
        if state := request.GET.get("state__exact"):
            where["state"] = state
        low = [UUID(where["id__gte"])] if "id__gte" in where else []
        low += [shown.oldest] if shown.oldest is not None else []
        for each in shown.filter_specs:
            if isinstance(each, WalkedFilter):
                where |= each.condition()
            elif isinstance(each, IdSpanFilter) and each.value() in SPANS:
                low.append(each.lowest())
        if low:
            where["id__gte"] = str(max(low))
        return where


def _searched(text: str) -> dict[str, Any]:
    """Return what finds the jobs that a text is about: by id, by user or, while they live, by partition."""
    text = text.strip()
    if not text:
        return {}
    if (found := by_id(text)) is not None:
        return {name: str(value) for name, value in found.items()}
    if (user := of_user(text)) is not None:
        return {"user_id": user}
    return {"partition_key": text, "state__in": sorted(LIVE)}


def _words(request: HttpRequest) -> str:
    """Say what the list shows."""
    said = [f"jobs in state {state}" if (state := request.GET.get("state__exact")) else "jobs"]
    if lane := request.GET.get("lane"):
        said.append(f"in lane {lane}")
    if handler := request.GET.get("handler"):
        said.append(f"of handler {handler}")
    if span := request.GET.get("since"):
        said.append(f"of the last {span}")
    if text := request.GET.get("q"):
        said.append(f"found by “{text}”")
    return f"{' '.join(said)}, in Django admin"
