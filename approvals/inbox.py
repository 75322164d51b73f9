"""The inbox: which requests a person sees, as the address filters them, the nearest deadline first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from django.contrib.postgres.expressions import ArraySubquery
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from agents.queries import Page, cut, decode
from approvals.models import Approval, Vote
from approvals.models.approval import ApprovalQuerySet, Person
from audit.time_limit import in_time
from jobs.queries import Bounded

PAGE = 50
#: The list is given up when it takes longer, seconds; and so is counting.
LIST_S = 2.0
COUNT_S = 0.3
#: What waits is counted up to here, and what was decided up to a lower bound: that grows for ever.
WAITING_UP_TO = 10_000
DECIDED_UP_TO = 1_000
#: Of the decided ones, a filter looks through so many of the last.
DECIDED_AMONG = 10_000
#: A request is near its deadline within so long.
SOON = timedelta(hours=1)
#: Words of a text that are looked for.
WORDS_UP_TO = 8

FOR_YOU, ALL_PENDING, DECIDED = "", "pending", "decided"
TABS = {FOR_YOU: "For you", ALL_PENDING: "All pending", DECIDED: "Decided"}
DUE = {"1h": "Within the hour", "4h": "Within 4 hours", "today": "Today"}
CLAIMS = {"mine": "By me", "free": "By nobody"}
#: Large, and not shown in a list.
NOT_LISTED = ("plan", "asked_plan", "rules", "comment")
_PENDING = ("due", "claim")


@dataclass(frozen=True, slots=True)
class InboxFilter:
    """What the address asks for. Values that make no sense are left out."""

    tab: str = FOR_YOU
    q: str = ""
    agent: str = ""
    tool: str = ""
    group: str = ""
    kind: str = ""
    #: Of the decided ones.
    state: str = ""
    #: US dollars at least.
    amount: str = ""
    #: Of the pending ones: a key of `DUE`, and of `CLAIMS`.
    due: str = ""
    claim: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> InboxFilter:
        """Read the parameters of an address."""
        values = {name: query.get(name, "").replace("\0", "").strip()[:200] for name in cls.__slots__}
        states = [state for state in Approval.State.values if state != Approval.State.PENDING]
        known: dict[str, Any] = {
            "tab": TABS,
            "kind": Approval.Kind.values,
            "state": states,
            "due": DUE,
            "claim": CLAIMS,
        }
        for name, allowed in known.items():
            if values[name] not in allowed:
                values[name] = ""
        if _amount(values["amount"]) is None:
            values["amount"] = ""
        if values["state"]:
            values["tab"] = DECIDED
        for name in _PENDING:
            if values["tab"] == DECIDED:
                values[name] = ""
        return cls(**values)

    @property
    def number_of_fields(self) -> int:
        """How many of the form's fields are set, but for the text, which is always in sight."""
        return sum(1 for name in self.__slots__ if name not in ("tab", "q") and getattr(self, name))

    @property
    def narrows(self) -> bool:
        """Whether it narrows its tab at all."""
        return bool(self.q or self.number_of_fields)

    @property
    def looks_among_the_last(self) -> bool:
        """Whether it looks through the last `DECIDED_AMONG` of the decided ones alone: by state an index finds all."""
        return bool(self.q or self.number_of_fields - bool(self.state) - bool(self.due) - bool(self.claim))

    def apply(self, rows: ApprovalQuerySet) -> ApprovalQuerySet:
        """Narrow requests down by what both pending and decided ones have."""
        if self.agent:
            rows = rows.filter(agent=self.agent)
        if self.tool:
            rows = rows.filter(tools__contains=[self.tool])
        if self.group:
            rows = rows.filter(groups__contains=[self.group])
        if self.kind:
            rows = rows.filter(kind=self.kind)
        amount = _amount(self.amount)
        if amount is not None:
            rows = rows.filter(amount_usd__gte=amount)
        if not self.q:
            return rows
        try:
            named = UUID(self.q)
            return rows.filter(Q(pk=named) | Q(run_id=named))
        except ValueError:
            pass
        for word in self.q.split()[:WORDS_UP_TO]:
            rows = rows.filter(Q(title__icontains=word) | Q(reason__icontains=word))
        return rows

    def apply_to_pending(self, rows: ApprovalQuerySet, user: Person) -> ApprovalQuerySet:
        """Narrow pending requests down."""
        now = timezone.now()
        rows = self.apply(rows.pending())
        if self.due:
            rows = rows.filter(deadline__lte=_until(self.due, now))
        if self.claim == "mine":
            rows = rows.filter(claimed_by=user.pk, claimed_until__gt=now)
        if self.claim == "free":
            rows = rows.filter(Q(claimed_by=None) | Q(claimed_until__lte=now))
        return rows


@dataclass(frozen=True, slots=True)
class Tab:
    """A part of the inbox and how many requests the filter finds in it; None when nobody knows."""

    name: str
    label: str
    count: Bounded | None
    current: bool


@dataclass(frozen=True, slots=True)
class Results:
    """What a filter finds."""

    page: Page[Approval]
    tabs: Sequence[Tab]
    #: Finding them was given up after so many seconds; then the page is empty.
    given_up: float | None = None

    def count(self, name: str) -> Bounded | None:
        """Return how many requests a tab has."""
        return next(tab.count for tab in self.tabs if tab.name == name)


def for_you(user: Person) -> ApprovalQuerySet:
    """Return the pending requests that wait for this person: they may decide, and have not yet said what they think."""
    said = Vote.objects.filter(approval=OuterRef("pk"), user=user.pk, void=False)
    return Approval.objects.pending().reviewable_by(user).filter(~Exists(said))


def find(user: Person, chosen: InboxFilter, *, cursor: str = "", limit: int = PAGE) -> Results:
    """Find the requests of a filter among those that a person may see.

    Raises:
        BadCursor: it was not made here.
    """
    visible = Approval.objects.visible_to(user)
    parts = {
        FOR_YOU: chosen.apply_to_pending(for_you(user), user),
        ALL_PENDING: chosen.apply_to_pending(visible, user),
        DECIDED: _decided(chosen, visible),
    }
    after = decode(cursor, _place) if cursor else None
    counts = in_time(COUNT_S, lambda: _counts(parts)) or dict.fromkeys(parts)
    tabs = [Tab(name, label, counts[name], name == chosen.tab) for name, label in TABS.items()]
    found = _in_order(parts[chosen.tab], after, is_decided=chosen.tab == DECIDED)
    said = Vote.objects.filter(approval=OuterRef("pk"), void=False).order_by("id").values("user_name")
    listed: QuerySet[Any] = found.select_related("claimed_by", "requested_by").defer(*NOT_LISTED)
    listed = listed.annotate(voters=ArraySubquery(said))
    page = in_time(LIST_S, lambda: cut(listed, limit, _place_of))
    if page is None:
        return Results(Page([], None), tabs, given_up=LIST_S)
    return Results(page, tabs)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much waits for people, whoever they are."""

    pending: Bounded
    #: Those whose deadline comes within `SOON`.
    soon: Bounded
    #: Calls of which somebody must say how they ended.
    unknown: Bounded


def waiting() -> Waiting:
    """Count what waits for people. One statement."""
    pending = Approval.objects.pending()
    counts = _counts(
        {
            "pending": pending,
            "soon": pending.filter(deadline__lte=timezone.now() + SOON),
            # Only these have no deadline: by its index they are found without a look at the others.
            "unknown": pending.filter(deadline=None, kind=Approval.Kind.EFFECT),
        }
    )
    return Waiting(**counts)


def _decided(chosen: InboxFilter, visible: ApprovalQuerySet) -> ApprovalQuerySet:
    rows = visible.exclude(state=Approval.State.PENDING)
    if chosen.state:
        rows = rows.filter(state=chosen.state)
    if not chosen.looks_among_the_last:
        return rows
    ended = Approval.objects.exclude(state=Approval.State.PENDING).order_by("-decided_at", "-pk").values("decided_at")
    since = Coalesce(Subquery(ended[DECIDED_AMONG : DECIDED_AMONG + 1]), datetime(1971, 1, 1, tzinfo=UTC))
    return chosen.apply(rows.filter(decided_at__gte=since))


def _in_order(rows: ApprovalQuerySet, after: tuple[datetime, UUID] | None, *, is_decided: bool) -> ApprovalQuerySet:
    """Put rows in the order of their tab, after a place of it. The outer condition is the one that an index serves."""
    if is_decided:
        if after is not None:
            rows = rows.filter(Q(decided_at__lt=after[0]) | Q(pk__lt=after[1]), decided_at__lte=after[0])
        return rows.exclude(state=Approval.State.PENDING).order_by("-decided_at", "-pk")
    if after is not None:
        rows = rows.filter(Q(sort_at__gt=after[0]) | Q(pk__gt=after[1]), sort_at__gte=after[0])
    return rows.order_by("sort_at", "pk")


def _place_of(approval: Approval) -> str:
    at = approval.decided_at or approval.sort_at
    return f"{at.isoformat()} {approval.pk}"


def _place(text: str) -> tuple[datetime, UUID]:
    at, _, key = text.partition(" ")
    found = datetime.fromisoformat(at)
    if found.tzinfo is None:
        raise ValueError("a place in the list has a time zone")
    return found, UUID(key)


def _counts(parts: Mapping[str, ApprovalQuerySet]) -> dict[str, Bounded]:
    """Count each of some lists up to a bound. One statement."""
    counts = dict.fromkeys(parts, Bounded(0))
    selects: list[str] = []
    params: list[Any] = []
    for name, rows in parts.items():
        bound = DECIDED_UP_TO if name == DECIDED else WAITING_UP_TO
        try:
            sql, values = rows.order_by().values("pk")[: bound + 1].query.sql_with_params()
        except EmptyResultSet:  # who is in no group may decide on nothing
            continue
        selects.append(f"SELECT '{name}', {bound}, (SELECT count(*) FROM ({sql}) AS counted)")
        params += values
    if selects:
        with connection.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(selects), params)
            counts |= {name: Bounded.of(number, bound) for name, bound, number in cursor.fetchall()}
    return counts


def _until(due: str, now: datetime) -> datetime:
    if due == "today":
        midnight = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
        # By a day of 36 hours, so that one of 25 is passed too; then back to its beginning.
        return (midnight + timedelta(hours=36)).replace(hour=0)
    return now + {"1h": SOON, "4h": timedelta(hours=4)}[due]


def _amount(text: str) -> Decimal | None:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and abs(amount) < Decimal(10) ** 15 else None
