"""The task pages of the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from accounts import roles
from accounts.actors import actor_of
from accounts.problems import Problem as Refusal
from agents import queries, registry
from agents.invoke import edit_and_redrive, hold_keys, invoke
from agents.models import Run, Step
from agents.modes import policy
from agents.pages import page_or_region
from agents.queries import BadCursor
from agents.runtime.errors import BadInput
from agents.task_form import TaskForm
from agents.task_list import SPAN_WORDS, ListFilter
from agents.task_page import TaskPage
from agents.task_problem import Problem
from agents.task_redrive import changed_since, in_words, standing
from agents.task_results import NOT_LISTED, PAGE, find
from agents.waiting import attach_waits
from jobs.actions import Cancel, Discard, InvalidState, Redrive, Seen
from jobs.holds import EVERYTHING
from jobs.models import Hold
from jobs.states import REDRIVABLE, State

#: Digits of the largest number that the database takes, less one.
MAX_DIGITS = 18


@require_safe
@never_cache
def tasks(request: HttpRequest) -> HttpResponse:
    """List tasks, newest first, as the address filters them."""
    runs = queries.visible_to(request.user)
    chosen = ListFilter.read(request.GET, request.user)
    is_operator = roles.is_operator(request.user)
    cursor = request.GET.get("cursor", "")
    try:
        results = find(runs.defer(*NOT_LISTED), chosen, whole=is_operator, cursor=cursor, limit=PAGE)
    except BadCursor:
        return redirect("tasks")
    attach_waits(results.page.items, request.user)
    context = {
        "section": "tasks",
        "chosen": chosen,
        "results": results,
        "page": results.page,
        "is_first": not cursor,
        "spans": SPAN_WORDS,
        "endpoints": sorted(registry.current().endpoints),
        "agents": sorted({info.agent for info in registry.current().endpoints.values()}),
        "shows_users": is_operator,
        "selectable": is_operator and results.verbs,
    }
    return page_or_region(request, "agents/tasks.html", "tasks", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def new_task(request: HttpRequest) -> HttpResponse:
    """Ask for an endpoint and its input, and submit the task. ``from`` names an ended task to start from."""
    origin = _origin(request)
    endpoints = _endpoints()
    refusal = _no_edit(request, origin, endpoints) if origin is not None else ""
    if origin is not None and refusal:
        messages.error(request, refusal)
        return redirect("task", origin.job_id)
    asked = request.POST.get("endpoint") or request.GET.get("endpoint") or ""
    name = origin.endpoint.name if origin else asked if asked in endpoints else next(iter(endpoints), "")
    context: dict[str, Any] = {"section": "tasks", "endpoints": endpoints.values(), "origin": origin, "form": None}
    if origin is not None:
        seen = request.POST.get("generation") or origin.job.generation
        context |= {"problem": Problem.of(origin), "copies": origin.redrives.order_by("-job_id")[:5], "seen": seen}
    status = 200
    headers: dict[str, str] = {}
    if name in endpoints:
        way = request.POST.get("as", "fields") if request.method == "POST" else request.GET.get("as", "")
        form = TaskForm(
            endpoints[name],
            as_json=way == "json" if way else None,
            initial=origin.input if origin else None,
            token=request.POST.get("form", ""),
        )
        context["form"] = form
        if request.method == "POST":
            try:
                made = _submit(request, form, origin)
                messages.success(request, "Submitted as a new task." if origin else "Submitted.")
                return _go(request, reverse("task", args=[made]))
            except BadInput as error:
                form.refuse(error)
                status = 422
            except Refusal as problem:
                form.problem, status, headers = problem.detail, problem.status, problem.headers
            except InvalidState as error:
                form.problem, status = in_words(error, "submitted", request.user), 409
        context |= {"holds": _holds_on(endpoints[name]), "is_operator": roles.is_operator(request.user)}
    response = page_or_region(request, "agents/new_task.html", "new-task", context, status=status)
    for header, value in headers.items():
        response[header] = value
    return response


@require_safe
@never_cache
def task(request: HttpRequest, task_id: UUID) -> HttpResponse:
    """Show one task: what can be done with it, its story, its steps, what went in and what came out."""
    page = TaskPage.read(
        _run(request, task_id),
        request.user,
        epoch=_number(request.GET.get("epoch", "")),
        cursor=request.GET.get("steps", ""),
        before=_number(request.GET.get("before", "")),
    )
    context = {"section": "tasks", "page": page, "run": page.run, "job": page.job}
    return page_or_region(request, "agents/task.html", "task", context)


@require_safe
@never_cache
def step(request: HttpRequest, task_id: UUID, step_id: int) -> HttpResponse:
    """Show what went into a finished step and what came out of it."""
    run = _run(request, task_id)
    found = get_object_or_404(Step, run=run, pk=step_id)
    context = {"section": "tasks", "run": run, "step": found}
    return render(request, "agents/step.html" + ("#step" if request.htmx else ""), context)  # type: ignore[attr-defined]


@require_safe
@never_cache
def download(request: HttpRequest, task_id: UUID, part: str) -> HttpResponse:
    """Return a task's input or output, whole."""
    return _json(_run(request, task_id), part, f"{task_id}-{part}")


@require_safe
@never_cache
def download_step(request: HttpRequest, task_id: UUID, step_id: int, part: str) -> HttpResponse:
    """Return a step's input or output, whole."""
    return _json(get_object_or_404(Step, run=_run(request, task_id), pk=step_id), part, f"{task_id}-{step_id}-{part}")


@require_POST
def cancel(request: HttpRequest, task_id: UUID) -> HttpResponse:
    """Stop a task."""
    _run(request, task_id)
    try:
        state = Cancel(actor_of(request)).run(task_id)
    except InvalidState as error:
        messages.warning(request, in_words(error, "cancelled", request.user))
    else:
        said = "It was asked to stop and stops at once." if state is State.RUNNING else "The task is cancelled."
        messages.success(request, said)
    return redirect("task", task_id)


@require_POST
def redrive(request: HttpRequest, task_id: UUID) -> HttpResponse:
    """Send an ended task back, from its last step or from the start. One that was sent back since is left alone."""
    _run(request, task_id)
    start = request.POST.get("from") == "start"
    repeat = request.POST.get("repeat_effects") == "yes"
    if repeat and not roles.is_operator(request.user):
        raise PermissionDenied("Only operators have done again what a task did outside.")
    if repeat and not start:
        messages.warning(request, "Not redriven: what it did outside is done again only from the start.")
        return redirect("task", task_id)
    try:
        way: Literal["start", "checkpoint"] = "start" if start else "checkpoint"
        state = Redrive(actor_of(request), from_=way, seen=_seen(request), repeat_effects=repeat).run(task_id)
    except InvalidState as error:
        messages.warning(request, in_words(error, "redriven", request.user))
    else:
        again = ", with what it did outside done again" if repeat else ""
        said = f"Redriven from {'the start' if start else 'its last step'}{again}. It is {standing(state)} now."
        messages.success(request, said)
    return redirect("task", task_id)


@require_POST
def discard(request: HttpRequest, task_id: UUID) -> HttpResponse:
    """Give a dead letter up, with a note."""
    if not roles.is_operator(request.user):
        raise PermissionDenied("Only operators discard dead letters.")
    _run(request, task_id)
    try:
        Discard(actor_of(request), note=request.POST.get("note", ""), seen=_seen(request)).run(task_id)
    except InvalidState as error:
        messages.warning(request, in_words(error, "discarded", request.user))
    except ValueError:
        messages.error(request, "Not discarded: say in the note why it is given up.")
    else:
        messages.success(request, "Discarded. The note is in the audit trail.")
    return redirect("task", task_id)


def _run(request: HttpRequest, task_id: UUID) -> Run:
    """Return a task that the person may see; anybody else's looks as if it did not exist."""
    return get_object_or_404(queries.visible_to(request.user), pk=task_id)


def _origin(request: HttpRequest) -> Run | None:
    text = request.POST.get("from") or request.GET.get("from")
    if not text:
        return None
    try:
        return _run(request, UUID(text))
    except ValueError:
        raise Http404 from None


def _endpoints() -> dict[str, registry.EndpointInfo]:
    known = registry.current().endpoints
    return {
        name: known[name]
        for name in sorted(known)
        if known[name].active and policy(known[name].mode).concurrency.entrance == "tasks"
    }


def _holds_on(endpoint: registry.EndpointInfo) -> list[tuple[str, Hold]]:
    """Return what would stop a new task, with what it is on: ``agent researcher``."""
    found = Hold.objects.filter(key__in=hold_keys(endpoint)).order_by("placed_at", "id")
    return [("everything" if hold.key == EVERYTHING else hold.key.replace(":", " ", 1), hold) for hold in found]


def _no_edit(request: HttpRequest, origin: Run, endpoints: Mapping[str, registry.EndpointInfo]) -> str:
    """Say why a task can't be run again with another input; nothing if it can, or if something was typed already."""
    if origin.endpoint.name not in endpoints:
        return f"{origin.endpoint.name} takes no tasks, so this can't be run again with another input."
    if request.method != "POST" and origin.job.state not in REDRIVABLE:
        now = standing(origin.job.state)
        return f"Only a dead letter or a cancelled task is run again with another input. This one is {now} now."
    return ""


def _submit(request: HttpRequest, form: TaskForm, origin: Run | None) -> UUID:
    """Submit what was typed. The same form sent twice, with the same input, is one task."""
    given = form.read(request.POST)
    actor = actor_of(request)
    key = form.idempotency_key(given)
    if origin is not None:
        changed = changed_since(origin.job, _number(request.POST.get("generation", "")), "submitted")
        if changed is not None:
            raise changed
        return edit_and_redrive(origin, given, actor=actor, idempotency_key=key).run_id
    return invoke(
        form.endpoint.name,
        given,
        user=request.user,  # type: ignore[arg-type]
        actor=actor,
        idempotency_key=key,
    ).run_id


def _seen(request: HttpRequest) -> Seen:
    """Return what the person looked at when they pressed the button: the generation that stood in the form."""
    return Seen(generation=_number(request.POST.get("generation", "")))


def _go(request: HttpRequest, url: str) -> HttpResponse:
    """Go to another page: htmx follows a redirect by itself and would put the whole page into a part of this one."""
    return HttpResponseClientRedirect(url) if request.htmx else redirect(url)  # type: ignore[attr-defined]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def _json(thing: Run | Step, part: str, name: str) -> HttpResponse:
    if part not in ("input", "output"):
        raise Http404
    value = getattr(thing, part)
    try:
        response = JsonResponse(value, safe=False, json_dumps_params={"ensure_ascii": False, "indent": 2})
    except RecursionError:  # it is nested too deep to be set out in lines
        response = JsonResponse(value, safe=False, json_dumps_params={"ensure_ascii": False})
    response["Content-Disposition"] = f'attachment; filename="{name}.json"'
    return response
