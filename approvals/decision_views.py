"""One decision per page: reading what is asked, and saying what one thinks of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from copy import copy
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.actors import actor_of
from accounts.problems import Problem
from agents.approval_rules import Rule
from agents.runtime.errors import NotJson
from agents.runtime.plain import plain
from agents.runtime.plans import Decision
from approvals.changing import changed, tighten
from approvals.claiming import Claim, Delegate, Release
from approvals.deciding import AGAINST, Decide, StepDecision, plan_of
from approvals.decision_page import DecisionPage, Preview, Typed
from approvals.errors import PlanChanged, Undecidable, UnknownApproval
from approvals.locking import decided_words, refuse_decided, refuse_others, why_not
from approvals.models import Approval
from approvals.plan_diff import between
from approvals.plan_form import PlanForm
from approvals.plan_words import calls_of
from approvals.quorum import demands_of, in_words
from approvals.reading import whole_step
from approvals.resolving import Finding, ResolveEffect
from approvals.viewing import saw

PAGE = "approvals/approval.html"
DECISIONS = ("approve", "approve_with_changes", "request_changes", "reject")
_IS = ("is", "are")
_FIELDS_SAY = "The changed plan does not fit. What is wrong stands beside each field."
FINDINGS = ("happened", "again", "give_up")
#: Characters of a user's name, and of what came back.
MAX_NAME = 150
MAX_RESULT = 100_000
_HASH = re.compile(r"[0-9a-f]{64}")

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, UUID, P], HttpResponse]


def _found(view: Callable[Concatenate[HttpRequest, Approval, P], HttpResponse]) -> View[P]:
    """Give a view the request that it is about; whoever may not see it is told that there is none."""

    @wraps(view)
    def checked(request: HttpRequest, approval_id: UUID, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        try:
            approval = _visible(request, approval_id)
            return view(request, approval, *args, **kwargs)
        except UnknownApproval:
            return render(request, "approvals/unknown.html", {"section": "approvals"}, status=404)

    return cast("View[P]", checked)


def _visible(request: HttpRequest, approval_id: UUID) -> Approval:
    rows = Approval.objects.visible_to(request.user).select_related(
        "run__job", "run__endpoint", "run__agent", "requested_by", "claimed_by", "effect"
    )
    found = rows.filter(pk=approval_id).first()
    if found is None:
        raise UnknownApproval(f"There is no approval {approval_id}.")
    return found


def _page(request: HttpRequest, approval: Approval, **more: Any) -> DecisionPage:
    assert isinstance(request.user, User)
    against = request.GET.get("against", "")
    chosen = int(against) if against.isascii() and against.isdigit() and len(against) < 6 else None
    return DecisionPage(approval, request.user, against=chosen, **more)


def _show(request: HttpRequest, page: DecisionPage, *, status: int = 200) -> HttpResponse:
    asks_after = bool(request.htmx) and request.htmx.target == "after"  # type: ignore[attr-defined]
    if request.method != "HEAD" and not asks_after:
        saw(actor_of(request), page.approval)
    here = reverse("approval", args=[page.approval.pk])
    shown = {"hash": page.approval.plan_hash, "votes": len(page.counted), "claim": page.claim}
    context = {
        "section": "approvals",
        "page": page,
        "approval": page.approval,
        "here_url": here,
        "pulse_url": f"{reverse('approval-pulse', args=[page.approval.pk])}?{urlencode(shown)}",
    }
    return render(request, f"{PAGE}#after" if asks_after else PAGE, context, status=status)


@require_safe
@never_cache
@_found
def approval(request: HttpRequest, found: Approval) -> HttpResponse:
    """Show a request: what is asked, why, and what can be said to it. ``edit`` asks for the fields to change it by."""
    page = _page(request, found)
    if "edit" in request.GET and page.may_decide and not page.approval.is_effect:
        page.form = PlanForm.of(page.plan)
    return _show(request, page)


@require_safe
@never_cache
@_found
def step(request: HttpRequest, found: Approval, place: int) -> HttpResponse:
    """Show one step with all of its texts; ``json`` is its exact arguments alone."""
    page = _page(request, found)
    shown = whole_step(page.plan, place)
    if shown is None:
        raise UnknownApproval(f"The plan has no step {place}.")
    if "json" in request.GET:
        answer = JsonResponse(shown.call.arguments, json_dumps_params={"ensure_ascii": False, "indent": 2})
        answer["Content-Disposition"] = f'attachment; filename="step-{place}.json"'
        return answer
    context = {"section": "approvals", "approval": found, "step": shown, "page": page}
    return render(request, "approvals/plan_step.html", context)


@require_safe
@never_cache
@_found
def pulse(request: HttpRequest, found: Approval) -> HttpResponse:
    """Say what happened since a page was opened: ``hash``, ``votes`` and ``claim`` are what it showed."""
    page = _page(request, found)
    context = {
        "approval": found,
        "page": page,
        "is_changed": page.approval.is_pending and request.GET.get("hash") != found.plan_hash,
        "has_votes": page.approval.is_pending and request.GET.get("votes") != str(len(page.counted)),
        "is_claimed": page.approval.is_pending and request.GET.get("claim") != page.claim,
        "pulse_url": request.get_full_path(),
        "decided": "" if page.approval.is_pending else decided_words(found),
    }
    return render(request, "approvals/pulse.html", context)


@require_POST
@_found
def decide(request: HttpRequest, found: Approval) -> HttpResponse:
    """Vote on the plan."""
    typed = _typed(request.POST)
    if typed.decision == "edit":
        return _edit(request, found, typed)
    if typed.decision not in DECISIONS:
        return _refused(request, typed, Undecidable("Choose what you decide."))
    calls = _calls(request.POST) if typed.decision == "approve_with_changes" else None
    action = Decide(
        actor_of(request),
        cast("Decision", typed.decision),
        request.POST.get("plan_hash", ""),
        typed.comment,
        calls=calls,
        steps=cast("Mapping[str, StepDecision]", typed.steps) if typed.decision not in AGAINST else None,
    )
    try:
        outcome = action.run(found.pk)
    except Problem as problem:
        return _refused(request, typed, problem, calls)
    messages.success(request, _said(typed.decision, outcome.missing))
    return redirect("approval", found.pk)


@require_POST
@_found
def changes(request: HttpRequest, found: Approval) -> HttpResponse:
    """Show what a reviewer's changes come to, before they confirm them; ``back`` leads to the fields again."""
    typed = _typed(request.POST)
    page = _page(request, found, typed=typed)
    if not page.may_decide or page.approval.is_effect or request.POST.get("plan_hash") != found.plan_hash:
        return _refused(request, typed, _why_no_change(page))
    page.form = form = PlanForm.of(page.plan)
    calls: list[dict[str, Any]] = []
    if "back" in request.POST:
        form.fill(_calls(request.POST) or [])
        return _show(request, page)
    try:
        calls = form.read({name: str(value) for name, value in request.POST.items()})
        page.preview = _preview(page, calls)
    except Undecidable as problem:
        form.refuse(problem, calls)
        page.refusal, page.words = problem.slug, _FIELDS_SAY if form.faults else problem.detail
        return _show(request, page, status=422)
    page.form = None
    return _show(request, page)


@require_POST
@_found
def claim(request: HttpRequest, found: Approval) -> HttpResponse:
    """Take it, or renew that: to read it undisturbed. ``take_over`` takes it from somebody else."""
    try:
        Claim(actor_of(request), take_over="take_over" in request.POST).run(found.pk)
    except Problem as problem:
        return _refused(request, _typed(request.POST), problem)
    if "renew" in request.POST:
        return HttpResponse(status=204)
    return redirect("approval", found.pk)


@require_POST
@_found
def release(request: HttpRequest, found: Approval) -> HttpResponse:
    """Give it back."""
    try:
        Release(actor_of(request)).run(found.pk)
    except Problem as problem:
        return _refused(request, Typed(), problem)
    return redirect("approval", found.pk)


@require_POST
@_found
def delegate(request: HttpRequest, found: Approval) -> HttpResponse:
    """Hand it to somebody else."""
    typed = _typed(request.POST)
    try:
        Delegate(actor_of(request), typed.to, typed.note).run(found.pk)
    except Problem as problem:
        return _refused(request, typed, problem)
    messages.success(request, f"Handed to {typed.to}, who may now decide on it and is told so.")
    return redirect("approval", found.pk)


@require_POST
@_found
def resolve(request: HttpRequest, found: Approval) -> HttpResponse:
    """Say what became of a call."""
    typed = _typed(request.POST)
    if typed.decision not in FINDINGS:
        return _refused(request, typed, Undecidable("Choose what became of it.", field="finding"))
    result = typed.result.strip() or None
    try:
        ResolveEffect(actor_of(request), cast("Finding", typed.decision), typed.comment, result).run(found.pk)
    except Problem as problem:
        return _refused(request, typed, problem)
    messages.success(request, "Settled. The run goes on.")
    return redirect("approval", found.pk)


def _edit(request: HttpRequest, found: Approval, typed: Typed) -> HttpResponse:
    page = _page(request, found, typed=typed)
    if not page.may_decide or page.approval.is_effect or request.POST.get("plan_hash") != found.plan_hash:
        return _refused(request, typed, _why_no_change(page))
    page.form = PlanForm.of(page.plan)
    return _show(request, page)


def _why_no_change(page: DecisionPage) -> Problem:
    """Return why a plan cannot be changed now: as a decision on it would be refused."""
    try:
        refuse_others(page.approval, page.user)
        refuse_decided(page.approval)
    except Problem as problem:
        return problem
    if page.approval.is_effect:
        return Undecidable("This asks what became of a call. There is no plan to change.")
    return PlanChanged("The plan was changed since you looked at it. Read it again, then change it.")


def _preview(page: DecisionPage, calls: list[dict[str, Any]]) -> Preview:
    found = page.approval
    wanted = changed(plan_of(found), calls)
    if wanted.hash == found.plan_hash:
        raise Undecidable("Nothing is changed. Change something, or go back and approve it as it is.")
    plan = plain(wanted)
    then = copy(found)
    stricter = tighten(then, wanted)
    kept = [rule["name"] for rule in found.rules]
    return Preview(
        calls=calls,
        written=json.dumps(calls, ensure_ascii=False, separators=(",", ":")),
        plan_hash=wanted.hash,
        diff=between(page.plan, plan),
        flagged=[call for call in calls_of(plan) if call.id in then.flagged],
        rules=[Rule.from_json(rule).words() for rule in then.rules if rule["name"] not in kept],
        who=in_words(demands_of(then)) if stricter else "",
        why_not=why_not(then, page.user) if stricter else "",
    )


def _refused(
    request: HttpRequest, typed: Typed, problem: Problem, calls: list[dict[str, Any]] | None = None
) -> HttpResponse:
    """Show the request as it is now, why nothing was done, and what was typed."""
    assert request.resolver_match is not None
    found = _visible(request, request.resolver_match.kwargs["approval_id"])
    page = _page(request, found, typed=typed, refusal=problem.slug, words=problem.detail)
    if isinstance(problem, PlanChanged):
        old = _plan_of(found, request.POST.get("plan_hash", ""))
        page.since_read = between(old, page.plan) if old is not None else None
    elif isinstance(problem, Undecidable):
        place = _place(problem, typed)
        open_steps = [str(step.place) for step in page.steps if step.is_flagged and not step.said]
        if place == "steps" and open_steps and calls is None:
            page.words = f"Say yes or no to each flagged step: {', '.join(open_steps)} {_IS[len(open_steps) > 1]} open."
        page.errors = {place: page.words}
        if calls is not None and page.may_decide:
            page.form = PlanForm.of(page.plan)
            page.form.fill(calls)
            page.form.refuse(problem, calls)
            if problem.extra.get("errors"):
                page.words = _FIELDS_SAY
            else:
                page.preview, page.form = _preview_again(page, calls)
    return _show(request, page, status=problem.status)


def _preview_again(page: DecisionPage, calls: list[dict[str, Any]]) -> tuple[Preview | None, PlanForm | None]:
    """Return the preview that was refused, or the fields where it cannot be shown again."""
    try:
        return _preview(page, calls), None
    except Undecidable:
        return None, page.form


def _place(problem: Undecidable, typed: Typed) -> str:
    """Return the field that a refusal is about."""
    if "field" in problem.extra:
        return str(problem.extra["field"])
    if typed.to or typed.note:
        return "to"
    if (typed.decision in AGAINST or typed.decision in FINDINGS) and not typed.comment.strip():
        return "comment"
    return "steps" if "step" in problem.detail else "plan"


def _plan_of(found: Approval, plan_hash: str) -> Mapping[str, Any] | None:
    """Return the plan of a hash that this request had once, to compare with."""
    if not _HASH.fullmatch(plan_hash):
        return None
    asked = plan_of(found, as_asked=True)
    if asked.hash == plan_hash:
        return cast("Mapping[str, Any]", plain(asked))
    plan = found.votes.filter(plan_hash=plan_hash, plan__isnull=False).values_list("plan", flat=True).first()
    return cast("Mapping[str, Any] | None", plan)


def _typed(data: Mapping[str, str]) -> Typed:
    steps = {
        name.removeprefix("step-"): value
        for name, value in data.items()
        if name.startswith("step-") and value in ("approve", "reject")
    }
    return Typed(
        comment=data.get("comment", ""),
        steps=steps,
        decision=data.get("decision", "") or data.get("finding", ""),
        result=data.get("result", "")[:MAX_RESULT],
        to=data.get("to", "").strip()[:MAX_NAME],
        note=data.get("note", ""),
    )


def _calls(data: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Return the calls that the form of the preview holds; none if it is not of ours."""
    try:
        calls = plain(json.loads(data.get("calls", "")))
    except (ValueError, RecursionError, NotJson):
        return None
    good = isinstance(calls, list) and all(isinstance(call, dict) and isinstance(call.get("id"), str) for call in calls)
    return calls if good else None


def _said(decision: str, missing: int) -> str:
    if missing:
        return f"Your vote counts. {missing} more {'person has' if missing == 1 else 'people have'} to agree."
    return {
        "approve": "Approved. The run goes on.",
        "approve_with_changes": "Approved with changes. The run goes on with the plan as you changed it.",
        "request_changes": "Changes requested. The agent reads what you wrote and may ask again.",
        "reject": "Rejected. Nothing of it runs, and the agent is told why.",
    }[decision]
