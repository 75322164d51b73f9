"""The pages of the inbox."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.models import Group
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import roles
from accounts.actors import actor_of
from accounts.problems import Problem
from agents import registry
from agents.models import AgentVersion
from agents.pages import page_or_region
from agents.queries import BadCursor
from approvals import bulk_rejecting
from approvals.badge import Badge
from approvals.bulk_rejecting import BadChoice, Result
from approvals.claiming import Claim, Release
from approvals.inbox import CLAIMS, DECIDED_AMONG, DUE, FOR_YOU, InboxFilter, find
from approvals.inbox_rows import rows_of
from approvals.models import Approval
from approvals.models.approval import Person, groups_of
from jobs.actions import MAX_NOTE, note_of

#: Groups that the filter offers.
GROUPS_UP_TO = 200


@require_safe
@never_cache
def inbox(request: HttpRequest) -> HttpResponse:
    """List what waits for the person who looks, all that they may see, or what was decided."""
    if not _is_region(request) and _decides_on_nothing(request.user):
        return render(request, "approvals/none_for_you.html", {"section": "approvals"})
    chosen = InboxFilter.read(request.GET)
    cursor = request.GET.get("cursor", "")
    try:
        results = find(request.user, chosen, cursor=cursor)
    except BadCursor:
        return redirect("approvals")
    rows = rows_of(results.page.items, request.user)
    context = {
        "section": "approvals",
        "chosen": chosen,
        "results": results,
        "page": results.page,
        "rows": rows,
        "others": results.count("pending"),
        "is_first": not cursor,
        "is_decided": chosen.tab == "decided",
        "selectable": any(row.may_reject for row in rows),
        "is_region": _is_region(request),
        "among": DECIDED_AMONG,
    }
    if not chosen.narrows and results.count(FOR_YOU) is not None:
        # The tab's count is the navigation's number: it need not be counted twice.
        context["badge"] = context["approvals_badge"] = Badge(request.user, results.count(FOR_YOU))
    if not context["is_region"]:
        context |= _choices(request)
    return page_or_region(request, "approvals/inbox.html", "inbox", context)


@require_POST
def claim(request: HttpRequest) -> HttpResponse:
    """Claim the request whose id is the field ``claim``, or give back the one of the field ``release``."""
    actor = actor_of(request)
    try:
        if "release" in request.POST:
            released = Release(actor).run(_id(request.POST["release"]))
            messages.success(request, f"Given back: {released.title}")
        else:
            claimed = Claim(actor).run(_id(request.POST.get("claim", "")))
            until = f"{timezone.localtime(claimed.claimed_until):%H:%M}"
            messages.success(request, f"You are on it until {until}: {claimed.title}")
    except Problem as problem:
        messages.warning(request, problem.detail)
    back = QueryDict(request.POST.get("back", "")).urlencode()
    return redirect(f"{reverse('approvals')}?{back}" if back else "approvals")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def reject(request: HttpRequest) -> HttpResponse:
    """Say exactly which of the chosen requests would be rejected and ask why; once that is said, reject them."""
    try:
        if request.method == "POST":
            plans = bulk_rejecting.seen(request.POST.getlist("plans"))
            note = request.POST.get("note", "")
            if note_of(note):
                return _rejected(request, bulk_rejecting.reject(plans, actor_of(request), note))
            return _proposal(request, list(plans), needs_note=True)
        return _proposal(request, bulk_rejecting.chosen(request.GET.getlist("ids")))
    except BadChoice as error:
        messages.warning(request, str(error))
        return redirect("approvals")


def _proposal(request: HttpRequest, ids: list[UUID], *, needs_note: bool = False) -> HttpResponse:
    context = {
        "section": "approvals",
        "proposal": bulk_rejecting.propose(ids, request.user),
        "needs_note": needs_note,
        "max_note": MAX_NOTE,
    }
    return render(request, "approvals/inbox_reject.html", context, status=422 if needs_note else 200)


def _rejected(request: HttpRequest, results: list[Result]) -> HttpResponse:
    context = {
        "section": "approvals",
        "done": [result for result in results if result.outcome == "rejected"],
        "not_done": [result for result in results if result.outcome != "rejected"],
    }
    return render(request, "approvals/inbox_rejected.html", context)


def _decides_on_nothing(user: Person) -> bool:
    """Tell whether somebody has no part in approvals: a plain user whom no request names."""
    return groups_of(user) <= {roles.USER} and not Approval.objects.visible_to(user).exists()


def _is_region(request: HttpRequest) -> bool:
    return bool(request.htmx) and request.htmx.target == "inbox"  # type: ignore[attr-defined]


def _choices(request: HttpRequest) -> dict[str, object]:
    """Return what the fields of the filter offer."""
    endpoints = registry.current().endpoints.values()
    versions = AgentVersion.objects.filter(pk__in={info.agent_version_id for info in endpoints})
    tools = {tool for names in versions.values_list("definition__tools", flat=True) for tool in names or ()}
    if roles.is_operator(request.user):
        groups = list(Group.objects.order_by("name").values_list("name", flat=True)[:GROUPS_UP_TO])
    else:
        groups = sorted(groups_of(request.user))
    return {
        "agents": sorted({info.agent for info in endpoints}),
        "tools": sorted(tools),
        "groups": groups,
        "kinds": Approval.Kind,
        "states": [state for state in Approval.State if state != Approval.State.PENDING],
        "due": DUE,
        "claims": CLAIMS,
    }


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Http404 from None
