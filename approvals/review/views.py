"""The pages of the morning and the evening review."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts import roles
from accounts.actors import actor_of
from agents import queries, registry
from agents.feedback import AddNote, Grade, NoFeedback, RetireNote, may_note
from agents.models import AgentNote, Feedback
from agents.runtime.errors import BadInput
from approvals.inbox import NOT_LISTED, for_you
from approvals.models import Review
from approvals.review.happened import TIMES, happened
from approvals.review.outputs import BadCursor, one, outputs
from approvals.review.planning import MOST, Plan, endpoints, tonight
from approvals.review.window import HOURS, OLDEST, Kind, asked_hours, window
from audit import trail
from jobs.models import Job
from jobs.queries import bounded_count
from jobs.states import State

#: As many of what waits for a person are listed.
WAITING_SHOWN = 10
PLANNED_SHOWN = 10
NOTES_SHOWN = 100


@require_safe
@never_cache
def morning(request: HttpRequest) -> HttpResponse:
    """Show what happened overnight, what waits to be decided, and a form for what is next."""
    return _page(request, Kind.MORNING)


@require_safe
@never_cache
def evening(request: HttpRequest) -> HttpResponse:
    """Show what came out to be graded, and a form for the night's work."""
    return _page(request, Kind.EVENING)


@require_POST
@never_cache
def plan(request: HttpRequest, kind: str) -> HttpResponse:
    """Submit new tasks, one a line."""
    form = Plan.read(request.POST)
    try:
        made = form.submit(_person(request), actor_of(request))
    except BadInput:
        return _page(request, _kind(kind), form=form, status=422)
    count = "1 task is" if len(made) == 1 else f"{len(made)} tasks are"
    when = "" if form.start == "now" else f" for {form.at.replace('T', ', ')}"
    messages.success(request, f"{count} queued{when}.")
    return _back(request, kind, "new")


@require_POST
@never_cache
def grade(request: HttpRequest, kind: str, run_id: UUID) -> HttpResponse:
    """Keep what a person says of one task's answer and, if they want so, tell the agent."""
    user = _person(request)
    comment = request.POST.get("comment", "")
    problem = ""
    try:
        said = Grade(actor_of(request), request.POST.get("grade", ""), comment).run(run_id)
        if request.POST.get("tell") and said.comment:
            AddNote(actor_of(request), said.comment, about=run_id).run(said.run.agent.name)
    except NoFeedback as error:
        problem = error.detail
    if request.htmx:  # type: ignore[attr-defined]
        found = one(user, run_id)
        if found is None:
            raise Http404
        context = _grading(user) | {"output": found, "kind": _kind(kind), "problem": problem, "typed": comment}
        return render(request, "approvals/review.html#output", context, status=422 if problem else 200)
    if problem:
        messages.error(request, problem)
    else:
        messages.success(request, "Kept.")
    return _back(request, kind, "outputs")


@require_POST
@never_cache
def note(request: HttpRequest, kind: str) -> HttpResponse:
    """Tell an agent what to heed from now on."""
    agent = request.POST.get("agent", "")
    try:
        AddNote(actor_of(request), request.POST.get("text", "")).run(agent)
        messages.success(request, f"{agent} heeds it from its next run on.")
    except NoFeedback as error:
        messages.error(request, error.detail)
    return _back(request, kind, "notes")


@require_POST
@never_cache
def retire_note(request: HttpRequest, kind: str, note_id: int) -> HttpResponse:
    """Have an agent heed a note no more."""
    try:
        found = RetireNote(actor_of(request)).run(note_id)
        messages.success(request, f"{found.agent} heeds it no more.")
    except NoFeedback as error:
        messages.error(request, error.detail)
    return _back(request, kind, "notes")


@require_POST
@never_cache
def done(request: HttpRequest, kind: str) -> HttpResponse:
    """Finish the sitting: the next one begins where this one ended. Finished twice it is finished once."""
    user, sitting = _person(request), _kind(kind)
    since, until = (_moment(request.POST.get(name, "")) for name in ("since", "until"))
    now = timezone.now()
    if since is None or until is None or not now - OLDEST <= since <= until <= now:
        messages.error(request, "Nothing was finished: open the review again.")
        return _back(request, kind)
    made, is_new = Review.objects.get_or_create(user=user, kind=sitting, until=until, defaults={"since": since})
    if is_new:
        after = {"since": since.isoformat(), "until": until.isoformat()}
        trail.record(actor_of(request), f"review.{sitting.value}", "review", made.pk, after=after)
    messages.success(request, f"The {sitting.label.lower()} review is done. The next one begins where this one ended.")
    return redirect("approvals")


def _page(request: HttpRequest, kind: Kind, *, form: Plan | None = None, status: int = 200) -> HttpResponse:
    user = _person(request)
    time = window(kind, user, request.GET)
    waiting = for_you(user)
    late = tonight()
    if form is None:
        start = "later" if kind is Kind.EVENING else "now"
        form = Plan(start=start, at=f"{late:%Y-%m-%dT%H:%M}")
    context: dict[str, Any] = {
        "section": "approvals",
        "kind": kind,
        "time": time,
        "hours": HOURS,
        "times": TIMES,
        "happened": happened(user, time),
        "waiting": bounded_count(waiting),
        "first_waiting": list(waiting.defer(*NOT_LISTED).order_by("sort_at", "id")[:WAITING_SHOWN]),
        "form": form,
        "endpoints": endpoints(),
        "most": MOST,
        "planned": _planned(user),
        "whole": roles.is_operator(user),
    }
    graded = request.GET.get("graded") == "1"
    if kind is Kind.EVENING:
        try:
            found = outputs(user, time, graded=graded, cursor=request.GET.get("cursor", ""))
        except BadCursor:
            return redirect("approvals-evening")
        context |= {"outputs": found, "graded": graded} | _grading(user)
    context |= _notes(user)
    return render(request, "approvals/review.html", context, status=status)


def _grading(user: User) -> dict[str, Any]:
    return {"grades": Feedback.Grade.choices, "may_note": may_note(user)}


def _notes(user: User) -> dict[str, Any]:
    if not may_note(user):
        return {"may_note": False}
    standing = AgentNote.objects.filter(retired_at=None).select_related("run__job").order_by("agent", "id")
    agents = sorted({info.agent for info in registry.current().endpoints.values()})
    return {"may_note": True, "notes": list(standing[:NOTES_SHOWN]), "agents": agents}


def _planned(user: User) -> list[Any]:
    """Return the person's own tasks that are to start later, the next first."""
    due = Job.objects.filter(user=user, state=State.SCHEDULED, run__isnull=False).order_by("run_at", "id")
    ids = list(due.values_list("pk", flat=True)[:PLANNED_SHOWN])
    return sorted(queries.visible_to(user).filter(pk__in=ids), key=lambda run: (run.job.run_at, run.pk))


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def _kind(kind: str) -> Kind:
    try:
        return Kind(kind)
    except ValueError:
        raise Http404 from None


def _moment(text: str) -> Any:
    try:
        found = parse_datetime(text)
    except ValueError:
        return None
    return found if found is not None and found.tzinfo else None


def _back(request: HttpRequest, kind: str, place: str = "") -> HttpResponse:
    """Go back to the review, as it was filtered, at the part that was worked on."""
    address = reverse(f"approvals-{_kind(kind).value}")
    hours = asked_hours(request.POST)
    query = f"?hours={hours}" if hours is not None else ""
    return redirect(f"{address}{query}{f'#{place}' if place else ''}")
