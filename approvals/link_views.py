"""The page behind a link in a mail: it shows the plan and asks. Opening it does nothing; only its form decides."""

from __future__ import annotations

from dataclasses import replace

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.actors import actor_of
from accounts.problems import Problem
from approvals import links, plan_words
from approvals.errors import AlreadyDecided, MayNot, PlanChanged, UnknownApproval
from approvals.links import DECISIONS, Held, LinkRefused
from approvals.notice_words import due, headline, moment, usd, what_then
from approvals.plan_words import CallWords, Row, visible
from jobs.actions import MAX_NOTE

#: After these the link is of no more use: its page says so, in place of the form.
_FINAL = (AlreadyDecided, PlanChanged, MayNot, UnknownApproval)
_DONE = {
    "approve": "You approved it",
    "request_changes": "You asked for changes",
    "reject": "You rejected it",
}


@login_not_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def link(request: HttpRequest, token: str) -> HttpResponse:
    """Show what a link is about and ask, or take the answer."""
    try:
        held = links.read(token)
        response = _decide(request, held) if request.method == "POST" else _ask(request, held)
    except LinkRefused as refused:
        context = {"words": str(refused), "approval_id": refused.approval_id, "status": refused.status}
        response = render(request, "approvals/link_refused.html", context, status=refused.status)
    # The address is the key: nobody is told of it. "no-referrer" would also hide where our own form comes from, and
    # it would be refused; this tells the site's name and nothing after it.
    response.headers["Referrer-Policy"] = "strict-origin"
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    return response


def _decide(request: HttpRequest, held: Held) -> HttpResponse:
    said, comment = request.POST.get("decision", ""), request.POST.get("comment", "")
    decision = next((known for known in DECISIONS if known == said), None)
    if decision is None:
        return _ask(request, held, "Choose what you decide.", comment, status=422)
    try:
        outcome = links.decide(held, decision, comment, actor_of(request, held.user))
    except _FINAL as refused:
        raise LinkRefused(str(refused), refused.status, held.approval.pk) from None
    except Problem as problem:
        return _ask(request, held, str(problem), comment, status=problem.status)
    context = {"held": held, "approval": held.approval, "done": _DONE[decision], "outcome": outcome}
    context["title"] = visible(headline(held.approval))
    return render(request, "approvals/link_done.html", context)


def _whole(call: CallWords) -> tuple[Row, ...]:
    """Return a call's arguments with long texts spelled out as short ones are."""
    return tuple(replace(row, value=visible(row.value)) if row.kind == "long" else row for row in call.rows)


def _ask(request: HttpRequest, held: Held, fault: str = "", comment: str = "", *, status: int = 200) -> HttpResponse:
    approval = held.approval
    context = {
        "held": held,
        "approval": approval,
        "title": visible(headline(approval)),
        "reason": visible(approval.reason),
        "summary": visible(str(approval.plan.get("summary", ""))),
        "calls": [replace(call, rows=_whole(call)) for call in plan_words.calls_of(approval.plan)],
        "amount": usd(approval.amount_usd) if approval.amount_usd is not None else "",
        "deadline": moment(approval.deadline) if approval.deadline else "",
        "due": due(approval),
        "what_then": what_then(approval),
        "fault": fault,
        "comment": comment,
        "max_comment": MAX_NOTE,
    }
    return render(request, "approvals/link.html", context, status=status)
