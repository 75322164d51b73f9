"""What a run's own pages, and its chat, tell of its requests: plain data for `agents.parked`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.urls import reverse
from psycopg.types.json import Jsonb

from accounts import roles
from agents.parked import Request
from agents.runtime.plain import plain
from agents.runtime.plans import Plan
from approvals.models import Approval
from jobs.script import Row, Script

#: Requests of one run that are told.
MOST = 100
_COLUMNS = (
    "id, run_id, wait_key, kind, title, groups, users, quorum, state, created_at, deadline, auto_action, escalate_to,"
    " decided_at, decision, decided_by, comment"
)


def pending(run_ids: Sequence[UUID]) -> Script[list[Request]]:
    """Return the requests of runs that nobody has decided yet, in the order in which they were made."""
    rows = yield (
        f"SELECT {_COLUMNS} FROM approvals_approval WHERE run_id = ANY(%s) AND state = 'pending' ORDER BY id LIMIT %s",
        [list(run_ids), MOST * max(1, len(run_ids))],
    )
    return [_request(row) for row in rows]


def requests(run_ids: Sequence[UUID]) -> Script[list[Request]]:
    """Return the newest requests of runs, decided or not, oldest first."""
    rows = yield (
        f"SELECT {_COLUMNS} FROM approvals_approval WHERE run_id = ANY(%s) ORDER BY id DESC LIMIT %s",
        [list(run_ids), MOST * max(1, len(run_ids))],
    )
    return [_request(row) for row in reversed(rows)]


def forget(run_ids: Sequence[UUID]) -> Script[None]:
    """Take what runs wanted, and what was said of it, out of their requests. Who decided what, and when, stays."""
    nothing = Jsonb(plain(Plan()))
    yield (
        "UPDATE approvals_approval SET title = '(deleted)', reason = '', comment = '', amount_usd = NULL,"
        " plan = CASE WHEN plan IS NOT NULL THEN %s END, asked_plan = CASE WHEN asked_plan IS NOT NULL THEN %s END"
        " WHERE run_id = ANY(%s)",
        [nothing, nothing, list(run_ids)],
    )
    yield (
        "UPDATE approvals_vote SET plan = NULL, comment = '' FROM approvals_approval a"
        " WHERE a.id = approval_id AND a.run_id = ANY(%s)",
        [list(run_ids)],
    )


def links(user: Any, ids: Sequence[UUID]) -> Mapping[UUID, str]:
    """Return where a person finds those of these requests that they may look at."""
    seen = Approval.objects.visible_to(user).filter(pk__in=list(ids)).values_list("pk", flat=True)
    return {found: reverse("approval", args=[found]) for found in seen} if ids else {}


def who(groups: Sequence[str], users: Sequence[str], quorum: int = 1) -> str:
    """Say who may decide: "a reviewer", "a reviewer or olga", "2 people (reviewers, olga)"."""
    if quorum > 1:
        named = [*(f"{name}s" if name in roles.ROLES else name for name in groups), *users]
        return f"{quorum} people ({', '.join(named)})"
    named = [*(_one_of(name) for name in groups), *users]
    return " or ".join(named) or "a person"


def _one_of(group: str) -> str:
    if group not in roles.ROLES:
        return f"somebody of {group}"
    return f"{'an' if group[0] in 'aeio' else 'a'} {group}"


_ENDED = {
    "approve": "Approved",
    "approve_with_changes": "Approved with changes",
    "request_changes": "Changes requested",
    "reject": "Rejected",
    "happened": "Settled: it happened",
    "again": "Settled: it is done again",
    "give_up": "Settled: given up",
}


def outcome(state: str, decision: str, by: Sequence[str]) -> str:
    """Say how a request ended, and who saw to it; nothing of a pending one."""
    if state == Approval.State.PENDING:
        return ""
    if state == Approval.State.EXPIRED:
        return "Nobody decided in time: rejected" if decision == "reject" else "Nobody decided in time: sent back"
    if not decision:
        return "No answer was needed any more"
    return _ENDED[decision] + (f" by {' and '.join(by)}" if by else "")


def _request(row: Row) -> Request:
    return Request(
        id=row["id"],
        run_id=row["run_id"],
        wait_key=row["wait_key"],
        title=f"what became of {row['title']}" if row["kind"] == Approval.Kind.EFFECT else row["title"],
        who=who(row["groups"], row["users"], row["quorum"]),
        is_pending=row["state"] == Approval.State.PENDING,
        asked_at=row["created_at"],
        deadline=row["deadline"],
        otherwise=_otherwise(row),
        decided_at=row["decided_at"],
        outcome=outcome(row["state"], row["decision"], row["decided_by"]),
        is_approved=row["state"] == Approval.State.APPROVED,
        comment=row["comment"],
    )


def _otherwise(row: Row) -> str:
    if row["deadline"] is None:
        return ""
    if row["auto_action"] == "escalate" and row["escalate_to"]:
        return f"then {_one_of(row['escalate_to'])} is asked"
    return "then the agent is told to go on without it" if row["auto_action"] == "return" else "then it is rejected"
