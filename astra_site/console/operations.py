"""Changes of many tasks: asking for one, its progress, stopping it."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.actors import actor_of
from agents import queries, task_selection
from agents.pages import page_or_region
from agents.queries import BadCursor
from agents.task_selection import BadSelection
from astra_site.console.access import for_operators
from astra_site.console.operation_form import DONE, Proposal
from astra_site.console.operation_page import OperationPage, Progress
from jobs import bulk
from jobs.actions import MAX_NOTE
from jobs.bulk import BulkError, Stop, UnknownOperation
from jobs.models import BulkOperation

PAGE = 50


@require_safe
@never_cache
@for_operators
def operations(request: HttpRequest) -> HttpResponse:
    """List the operations, the newest first."""
    found = BulkOperation.objects.defer("selection").order_by("-pk")
    cursor = request.GET.get("cursor", "")
    if cursor:
        try:
            found = found.filter(pk__lt=queries.decode(cursor, UUID))
        except BadCursor:
            return redirect("operations")
    page = queries.cut(found, PAGE, lambda operation: operation.pk)
    now = timezone.now()
    rows = [Progress(operation, now) for operation in page.items]
    context = {
        "section": "tasks",
        "rows": rows,
        "page": page,
        "is_first": not cursor,
        "goes_on": not all(row.operation.has_ended for row in rows),
    }
    return page_or_region(request, "console/operations.html", "operations", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@for_operators
def new(request: HttpRequest) -> HttpResponse:
    """Show what would be done to which tasks; sent, begin it."""
    if request.method != "POST":
        return _proposal(request, request.GET)
    data = request.POST
    try:
        operation_id = bulk.form_id(data.get("id", ""))
        selection, words = task_selection.selection_of(data, request.user)
        bulk.start(
            actor_of(request),
            operation_id,
            data.get("verb", ""),
            selected_by=task_selection.NAME,
            selection=selection,
            words=words,
            options={"from": data.get("from", ""), "note": data.get("note", "")},
        )
    except (BulkError, BadSelection) as error:
        return _proposal(request, data, problem=error)
    return redirect("operation", operation_id)


def _proposal(request: HttpRequest, data: QueryDict, problem: ValueError | None = None) -> HttpResponse:
    """Show the form, with what is wrong with it if something is."""
    proposal = None
    try:
        proposal = Proposal.read(data, request.user)
    except (BulkError, BadSelection) as error:
        problem = error
    context = {
        "section": "tasks",
        "proposal": proposal,
        "done": DONE.get(proposal.verb) if proposal else "",
        "problem": problem,
        "needs_note": isinstance(problem, bulk.NoteMissing),
        "from": data.get("from", ""),
        "note": data.get("note", ""),
        "max_note": MAX_NOTE,
    }
    return render(request, "console/operation_new.html", context, status=422 if problem else 200)


@require_safe
@never_cache
@for_operators
def operation(request: HttpRequest, operation_id: UUID) -> HttpResponse:
    """Show how far an operation has come."""
    try:
        asked = request.GET
        page = OperationPage.read(operation_id, cursor=asked.get("tasks", ""), group=asked.get("now", ""))
    except BulkOperation.DoesNotExist:
        raise Http404 from None
    context = {"section": "tasks", "page": page, "progress": page.progress, "operation": page.progress.operation}
    return page_or_region(request, "console/operation.html", "operation", context)


@require_POST
@for_operators
def stop(request: HttpRequest, operation_id: UUID) -> HttpResponse:
    """Let an operation change no further task."""
    try:
        Stop(actor_of(request)).run(operation_id)
    except UnknownOperation:
        raise Http404 from None
    except BulkError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "Stopped. What it has changed stays as it is.")
    return redirect("operation", operation_id)
