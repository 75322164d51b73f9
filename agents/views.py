"""The task pages of the console."""

from __future__ import annotations

from typing import Any
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
from accounts.problems import Problem
from agents import queries, registry
from agents.invoke import edit_and_redrive, invoke
from agents.models import Run, Step
from agents.modes import policy
from agents.queries import BadCursor
from agents.runtime.errors import BadInput
from agents.task_form import TaskForm
from agents.task_list import PAGE, ListFilter, tabs
from agents.task_page import TaskPage
from jobs.actions import Cancel, Discard, InvalidState, Redrive
from jobs.states import State


@require_safe
@never_cache
def tasks(request: HttpRequest) -> HttpResponse:
    """List tasks, newest first, as the address filters them."""
    runs = queries.visible_to(request.user)
    chosen = ListFilter.read(request.GET, request.user)
    try:
        page = queries.page(chosen.apply(runs), cursor=request.GET.get("cursor", ""), limit=PAGE)
    except BadCursor:
        return redirect("tasks")
    context = {
        "section": "tasks",
        "chosen": chosen,
        "tabs": tabs(runs, chosen),
        "page": page,
        "is_first": not request.GET.get("cursor"),
        "endpoints": sorted(registry.current().endpoints),
        "agents": sorted({info.agent for info in registry.current().endpoints.values()}),
        "shows_users": roles.is_operator(request.user),
    }
    return render(request, "agents/tasks.html" + ("#tasks" if _wants(request, "tasks") else ""), context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def new_task(request: HttpRequest) -> HttpResponse:
    """Ask for an endpoint and its input, and submit the task. ``from`` names an ended task to start from."""
    origin = _origin(request)
    endpoints = _endpoints()
    if origin is not None and origin.endpoint.name not in endpoints:
        messages.error(
            request, f"{origin.endpoint.name} takes no tasks, so this can't be run again with another input."
        )
        return redirect("task", origin.job_id)
    asked = request.POST.get("endpoint") or request.GET.get("endpoint") or ""
    name = origin.endpoint.name if origin else asked if asked in endpoints else next(iter(endpoints), "")
    context: dict[str, Any] = {"section": "tasks", "endpoints": endpoints.values(), "origin": origin, "form": None}
    status = 200
    headers: dict[str, str] = {}
    if name in endpoints:
        wants_json = (request.POST.get("as") or request.GET.get("as")) == "json"
        form = TaskForm(endpoints[name], as_json=wants_json, initial=origin.input if origin else None)
        context["form"] = form
        if request.method == "POST":
            try:
                return _go(request, reverse("task", args=[_submit(request, form, origin)]))
            except BadInput as error:
                form.refuse(error)
                status = 422
            except Problem as problem:
                form.problem, status, headers = problem.detail, problem.status, problem.headers
            except InvalidState as error:
                form.problem, status = str(error), 409
    template = "agents/new_task.html" + ("#new-task" if _wants(request, "new-task") else "")
    response = render(request, template, context, status=status)
    for header, value in headers.items():
        response[header] = value
    return response


@require_safe
@never_cache
def task(request: HttpRequest, task_id: UUID) -> HttpResponse:
    """Show one task: what can be done with it, its story, its steps, what went in and what came out."""
    page = TaskPage.read(
        _run(request, task_id), request.user, epoch=_number(request, "epoch"), cursor=request.GET.get("steps", "")
    )
    context = {"section": "tasks", "page": page, "run": page.run, "job": page.job}
    return render(request, "agents/task.html" + ("#task" if _wants(request, "task") else ""), context)


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
        messages.error(request, f"Not cancelled: this task is {State(error.state).label.lower()} by now.")
    else:
        said = "It was asked to stop and stops at once." if state is State.RUNNING else "The task is cancelled."
        messages.success(request, said)
    return redirect("task", task_id)


@require_POST
def redrive(request: HttpRequest, task_id: UUID) -> HttpResponse:
    """Send an ended task back, from its last step or from the start."""
    _run(request, task_id)
    start = request.POST.get("from") == "start"
    try:
        Redrive(actor_of(request), from_="start" if start else "checkpoint").run(task_id)
    except InvalidState as error:
        messages.error(request, f"Not redriven: this task is {State(error.state).label.lower()} by now.")
    else:
        messages.success(request, f"Redriven from {'the start' if start else 'its last step'}.")
    return redirect("task", task_id)


@require_POST
def discard(request: HttpRequest, task_id: UUID) -> HttpResponse:
    """Give a dead letter up, with a note."""
    if not roles.is_operator(request.user):
        raise PermissionDenied("Only operators discard dead letters.")
    _run(request, task_id)
    try:
        Discard(actor_of(request), note=request.POST.get("note", "")).run(task_id)
    except InvalidState as error:
        messages.error(request, f"Not discarded: this task is {State(error.state).label.lower()} by now.")
    except ValueError:
        messages.error(request, "Not discarded: say in the note why it is given up.")
    else:
        messages.success(request, "Discarded.")
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


def _submit(request: HttpRequest, form: TaskForm, origin: Run | None) -> UUID:
    given = form.read(request.POST)
    actor = actor_of(request)
    if origin is not None:
        return edit_and_redrive(origin, given, actor=actor).run_id
    return invoke(form.endpoint.name, given, user=request.user, actor=actor).run_id  # type: ignore[arg-type]


def _go(request: HttpRequest, url: str) -> HttpResponse:
    """Go to another page: htmx follows a redirect by itself and would put the whole page into a part of this one."""
    return HttpResponseClientRedirect(url) if request.htmx else redirect(url)  # type: ignore[attr-defined]


def _wants(request: HttpRequest, region: str) -> bool:
    """Tell whether htmx asks for one region of the page alone."""
    return bool(request.htmx) and request.htmx.target == region  # type: ignore[attr-defined]


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _json(thing: Run | Step, part: str, name: str) -> HttpResponse:
    if part not in ("input", "output"):
        raise Http404
    response = JsonResponse(getattr(thing, part), safe=False, json_dumps_params={"ensure_ascii": False, "indent": 2})
    response["Content-Disposition"] = f'attachment; filename="{name}.json"'
    return response
