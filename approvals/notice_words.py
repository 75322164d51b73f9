"""What people are told of requests that wait for them: plain text that nobody else has a say in.

A request's title and reason come from models. They stand in one line each, cut, without anything that a mail program or
a chat would make a link, a mention or another line of.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from django.conf import settings
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from approvals import plan_words
from approvals.models import Approval
from jobs.notify import Message

Why = Literal["new", "reminder", "escalated", "delegated"]

MAX_TITLE = 120
MAX_REASON = 300
_UNSAFE = str.maketrans({"@": "＠", "<": "‹", ">": "›"})
_OPENINGS: dict[Why, tuple[str, str]] = {
    "new": ("A request waits for your decision.", "{count} requests wait for your decision."),
    "reminder": ("Reminder: a request still waits for your decision.", "Reminder: {count} requests still wait."),
    "escalated": ("A request was escalated to you.", "{count} requests were escalated to you."),
    "delegated": ("A request was handed to you.", "{count} requests were handed to you."),
}
_SUBJECTS: dict[Why, str] = {
    "new": "To decide: {title}",
    "reminder": "Reminder, {due}: {title}",
    "escalated": "Escalated to you: {title}",
    "delegated": "Handed to you: {title}",
}
#: Beside its title, where a message tells of requests for several reasons.
_MARKS: dict[Why, str] = {
    "new": "",
    "reminder": " (reminder)",
    "escalated": " (escalated to you)",
    "delegated": " (handed to you)",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """A request that somebody is told of, why, and the link with which they decide without signing in, if any."""

    approval: Approval
    why: Why
    link: str = ""


def message_of(notices: Sequence[Notice], more: int = 0, *, by: str = "") -> Message:
    """Return the one message that tells of these requests.

    Args:
        more: as many others wait as well that the message does not list.
        by: who handed them over.
    """
    count = len(notices) + more
    whys = {notice.why for notice in notices}
    why: Why = next(iter(whys)) if len(whys) == 1 else "new"
    opening = _OPENINGS[why][count != 1].format(count=f"{count:,}")
    if by and why == "delegated":
        opening = opening.removesuffix(".") + f" by {safe(by, 150)}."
    items = [
        {
            "title": safe(headline(notice.approval), MAX_TITLE) + (_MARKS[notice.why] if len(whys) > 1 else ""),
            "facts": _facts(notice),
        }
        for notice in notices
    ]
    if count == 1 and notices:
        of = notices[0].approval
        subject = _SUBJECTS[why].format(title=safe(headline(of), MAX_TITLE), due=due(of))
    else:
        subject = opening.removesuffix(".")
    context = {
        "opening": opening,
        "items": items,
        "more": (f"And {more:,} more" if notices else "All of them") if more else "",
        "inbox": address("approvals"),
        "footer": "A link that works without signing in is yours alone: do not pass it on."
        if any(notice.link for notice in notices)
        else "",
    }
    return Message(subject, render_to_string("approvals/mail.txt", context).strip() + "\n")


def headline(approval: Approval) -> str:
    """Return what a request is about in a line: the plan's own title, or its first call in words."""
    plan = approval.plan or {}
    if plan.get("title") or not plan.get("calls"):
        return approval.title
    calls = plan["calls"]
    [first] = plan_words.calls_of({"calls": calls[:1]})
    more = f" and {len(calls) - 1:,} more" if len(calls) > 1 else ""
    return (f"{first.title}: {first.gist}" if first.gist else first.title) + more


def safe(text: str, limit: int) -> str:
    """Return a text of anybody's as one short line that is nothing but text, wherever it is read."""
    kept = "".join(" " if one.isspace() else one for one in text if one.isspace() or not _is_hidden(one))
    line = " ".join(kept.split()).translate(_UNSAFE)
    # A mail program makes links of these by itself.
    line = line.replace("://", ": //").replace("www.", "www .").replace("WWW.", "WWW .")
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def address(name: str, *args: object) -> str:
    """Return the whole address of one of the site's pages."""
    return f"{settings.PUBLIC_URL}{reverse(name, args=args)}"


def moment(at: datetime) -> str:
    """Return a time as the site shows it, with its zone."""
    return f"{timezone.localtime(at):%-d %B %Y, %H:%M %Z}"


def span(length: timedelta) -> str:
    """Return how long that is, roughly: ``2 h``."""
    seconds = max(0, int(length.total_seconds()))
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{round(seconds / size)} {unit}"
    return f"{seconds} s"


def usd(amount: Decimal) -> str:
    """Return a sum of money."""
    return f"{amount:,.2f} USD"


def what_then(approval: Approval) -> str:
    """Say what happens when nobody decides in time."""
    if approval.auto_action == "escalate" and approval.escalate_to:
        return f"it goes to the group {safe(approval.escalate_to, 150)}"
    return "it goes back to the agent" if approval.auto_action == "return" else "it is rejected"


def due(approval: Approval) -> str:
    """Say how long there is to decide."""
    if approval.deadline is None:
        return "no deadline"
    left = approval.deadline - timezone.now()
    return f"due in {span(left)}" if left > timedelta(0) else "due now"


def _facts(notice: Notice) -> list[tuple[str, str]]:
    approval = notice.approval
    asker = approval.requested_by.get_username() if approval.requested_by else "somebody who is gone"
    found = [("Asked by", safe(f"{approval.agent}, for {asker}", 200))]
    if approval.amount_usd is not None:
        found.append(("Amount", usd(approval.amount_usd)))
    if approval.reason:
        found.append(("Why you", safe(approval.reason, MAX_REASON)))
    if approval.deadline is not None:
        found.append(("Decide by", f"{moment(approval.deadline)} ({due(approval)}); else {what_then(approval)}"))
    elif approval.is_effect:
        found.append(("Decide by", "no deadline: it waits until somebody says what became of it"))
    found.append(("Read and decide", address("approval", approval.pk)))
    if notice.link:
        found.append(("Decide without signing in, once", notice.link))
    return found


def _is_hidden(one: str) -> bool:
    return unicodedata.category(one) in ("Cc", "Cf", "Co", "Cs", "Cn")
