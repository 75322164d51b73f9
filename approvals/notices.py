"""Telling people that a request waits for them: who is told, once per person and turn, and by which way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from accounts import roles
from agents.chat.database import in_thread
from approvals import links
from approvals.locking import why_not
from approvals.models import Approval, Vote
from approvals.notice_words import Notice, Why, message_of
from jobs import lanes, notify, script
from jobs.handlers import Claim, Failed, Outcome, Succeeded
from jobs.notify import Message, NotSent, channels, mail
from jobs.retry import RetryPolicy
from jobs.submit import Submission, submit_script

HANDLER = "notice"
SWEEP_EVERY_S = 2.0
#: As many requests are told of in one turn, by one message for each person and channel.
PAGE = 10_000
#: A message lists as many, and counts the rest.
SHOWN = 20
#: When as many of the newest were told of within a minute, others gather for as long: a flood is a message a minute.
MANY = 20
GATHER = timedelta(minutes=1)
LOOKED_AT = 200
#: Half an hour in all: a mail server that restarts, a network that is away.
RETRY = RetryPolicy(max_attempts=6, base_s=5.0, factor=4.0, max_s=1800.0)

_SAYS_WHO = (
    *("pk", "groups", "users", "demands", "not_own", "requested_by_id"),
    *("told_at", "escalated_at", "escalate_to"),
)
_HAD_BY_ADMINS = frozenset([roles.ADMIN, roles.OPERATOR])
_ORDER: tuple[Why, ...] = ("delegated", "escalated", "reminder", "new")


@dataclass(frozen=True, slots=True)
class Audience:
    """Those who are told of a request, and why: requests with the same one are told of together."""

    why: Why
    groups: frozenset[str]
    users: frozenset[str]
    #: Who asked for it, where they may not decide on it.
    without: int | None
    #: Where several demands are to be met the groups of each.
    parties: frozenset[frozenset[str]] = frozenset()

    def has(self, user_id: int, name: str, groups: Iterable[str]) -> bool:
        """Tell whether somebody is one of them."""
        return user_id != self.without and (name in self.users or not self.groups.isdisjoint(groups))

    def lacking(self, members: Mapping[str, Collection[int]]) -> set[str]:
        """Return the groups of which nobody can be told, by who of each can: neither of them nor beside them."""
        return {
            name
            for party in self.parties or {self.groups}
            if not any(len(members[group]) > (self.without in members[group]) for group in party)
            for name in party
        }


@dataclass(slots=True)
class Digest:
    """What one person, or one channel, is told in one message."""

    items: list[tuple[UUID, Why]] = field(default_factory=list)
    more: int = 0

    def add(self, why: Why, ids: Sequence[UUID]) -> None:
        """Add requests; the first `SHOWN` are listed."""
        room = SHOWN - len(self.items)
        self.items += [(found, why) for found in ids[:room]]
        self.more += max(0, len(ids) - room)

    def payload(self, **to: Any) -> dict[str, Any]:
        """Return it as the payload of a job: no words yet, and nothing secret."""
        return {**to, "items": [[str(found), why] for found, why in self.items], "more": self.more}


def sweep() -> int:
    """Make the messages that are due and note that they were made; return of how many requests they are.

    Safe to run any number of times at once: whoever locks a request tells of it, and its jobs are written in the same
    transaction.
    """
    with transaction.atomic():
        due = _due()
        if not due:
            return 0
        _submit(due)
        ids = [found for found_of in due.values() for found in found_of]
        Approval.objects.filter(pk__in=ids, told_at=None).update(told_at=Now())
        Approval.objects.filter(pk__in=ids, remind_at__lte=Now()).update(remind_at=None)
    return len(ids)


def tell_delegate(approval: Approval, to: User, by: str) -> None:
    """Tell one person, in the caller's transaction, that somebody handed them a request."""
    if mail.is_set_up() and to.email:
        digest = Digest([(approval.pk, "delegated")])
        _write(digest.payload(way="mail", user=to.pk, by=by))


async def deliver(claim: Claim) -> Outcome:
    """Send the message of a job, as things stand now: what was decided meanwhile is left out."""
    payload = claim.payload
    try:
        if payload["way"] == "mail":
            letter = await in_thread(_letter, payload)
            if letter is not None:
                to, message = letter
                await notify.in_thread(mail.send, to, message, str(claim.job_id))
        else:
            post = await in_thread(_post, payload)
            if post is not None:
                channel, message = post
                await notify.in_thread(channels.send, channel, message)
    except NotSent as error:
        return Failed(error.problem(), retriable=error.retriable)
    return Succeeded()


# --- Who is told -----------------------------------------------------------------------------------------------------


def _due() -> dict[Audience, list[UUID]]:
    """Lock what somebody is to be told of and that nobody else is telling of. The most urgent comes first."""
    untold = Q(told_at=None)
    if _gathers():
        untold &= Q(created_at__lt=Now() - GATHER) | Q(escalated_at__isnull=False)
    found: dict[UUID, Mapping[str, Any]] = {}
    # Two statements, each with an index of its own.
    for which, order in ((Q(remind_at__lte=Now()), "remind_at"), (untold, "id")):
        rows = (
            Approval.objects.pending()
            .filter(which)
            .select_for_update(skip_locked=True, no_key=True)
            .order_by(order)
            .values(*_SAYS_WHO)
        )
        found |= {row["pk"]: row for row in rows[: PAGE - len(found)]}
    audiences: dict[Audience, list[UUID]] = defaultdict(list)
    for row in found.values():
        audiences[_audience(row)].append(row["pk"])
    return dict(sorted(audiences.items(), key=lambda item: _ORDER.index(item[0].why)))


def _gathers() -> bool:
    """Tell whether so many are asked now that the next ones wait for others: until the first has waited a minute."""
    pending = Approval.objects.pending()
    if pending.filter(told_at=None, created_at__lt=Now() - GATHER).exists():
        return False
    newest = pending.order_by("-id").values("told_at")[:LOOKED_AT]
    since = timezone.now() - GATHER
    return sum(row["told_at"] is not None and row["told_at"] > since for row in newest) >= MANY


def _audience(row: Mapping[str, Any]) -> Audience:
    without = row["requested_by_id"] if row["not_own"] else None
    parties = frozenset(frozenset(demand["groups"]) for demand in row["demands"])
    if row["told_at"] is not None:
        return Audience("reminder", frozenset(row["groups"]), frozenset(row["users"]), without, parties)
    if row["escalated_at"] is not None and row["escalate_to"] in row["groups"]:
        # Those who were asked first know of it.
        return Audience("escalated", frozenset([row["escalate_to"]]), frozenset(), without)
    return Audience("new", frozenset(row["groups"]), frozenset(row["users"]), without, parties)


def _submit(due: Mapping[Audience, Sequence[UUID]]) -> None:
    if mail.is_set_up():
        people = _people(due)
        admins, lacking = _stand_ins(due, people)
        for user_id in sorted({*people, *admins}):
            name, groups = people.get(user_id, ("", set()))
            roles_too = admins.get(user_id, frozenset())
            digest = Digest()
            for audience, ids in due.items():
                stands_in = user_id != audience.without and not roles_too.isdisjoint(lacking.get(audience, ()))
                if stands_in or audience.has(user_id, name, groups):
                    digest.add(audience.why, ids)
            if digest.items:
                _write(digest.payload(way="mail", user=user_id))
    for channel in channels.all_channels():
        digest = Digest()
        for audience, ids in due.items():
            if not channel.group or channel.group in audience.groups:
                digest.add(audience.why, ids)
        if digest.items:
            _write(digest.payload(way="channel", channel=channel.number))


def _people(due: Iterable[Audience]) -> dict[int, tuple[str, set[str]]]:
    """Return who can be written to of all who are named: each with their name and the groups that count."""
    groups = sorted({name for audience in due for name in audience.groups})
    users = sorted({name for audience in due for name in audience.users})
    named = User.objects.filter(is_active=True).exclude(email="")
    found: dict[int, tuple[str, set[str]]] = {}
    rows = named.filter(Q(groups__name__in=groups) | Q(username__in=users)).order_by("pk")
    for pk, name, group in rows.values_list("pk", "username", F("groups__name")):
        found.setdefault(pk, (name, set()))[1].add(group or "")
    return found


def _stand_ins(
    due: Iterable[Audience], people: Mapping[int, tuple[str, set[str]]]
) -> tuple[dict[int, frozenset[str]], dict[Audience, set[str]]]:
    """Return the admins that can be written to, with the roles they have besides, and for which groups they stand in.

    Admins decide as operators do, and superusers as admins (`accounts.roles`). To spare them they are told of a request
    only where nobody else can be.
    """
    members: dict[str, set[int]] = defaultdict(set)
    for user_id, (_, names) in people.items():
        for name in names:
            members[name].add(user_id)
    lacking = {audience: found for audience in due if (found := audience.lacking(members) & _HAD_BY_ADMINS)}
    if not lacking:
        return {}, {}
    admins = User.objects.filter(Q(is_superuser=True) | Q(groups__name=roles.ADMIN), is_active=True).exclude(email="")
    had = admins.distinct().values_list("pk", "is_superuser")
    return {pk: _HAD_BY_ADMINS if above else frozenset([roles.OPERATOR]) for pk, above in had}, lacking


def _write(payload: dict[str, Any]) -> None:
    script.run(submit_script(Submission(HANDLER, payload, lanes.DELIVERY)))


# --- What they are told ----------------------------------------------------------------------------------------------


def _letter(payload: Mapping[str, Any]) -> tuple[str, Message] | None:
    """Return a person's address and what to write; None if nothing waits for them any more."""
    user = User.objects.filter(pk=payload["user"], is_active=True).exclude(email="").first()
    if user is None:
        return None
    pending = _pending(payload)
    voted = set(Vote.objects.filter(approval__in=pending, user=user, void=False).values_list("approval_id", flat=True))
    notices = [
        Notice(approval, why, links.make(approval, user) if links.allowed(approval) else "")
        for approval, why in pending.items()
        if approval.pk not in voted and not why_not(approval, user)
    ]
    message = _message(notices, payload, Approval.objects.reviewable_by(user))
    return (user.email, message) if message else None


def _post(payload: Mapping[str, Any]) -> tuple[channels.Channel, Message] | None:
    """Return a channel and what to say there; None if nothing waits any more, or the channel is gone."""
    channel = channels.find(payload["channel"])
    if channel is None:
        return None
    notices = [
        Notice(approval, why)
        for approval, why in _pending(payload).items()
        # The addresses may stand in another order than when the job was made.
        if not channel.group or channel.group in approval.groups
    ]
    theirs = Approval.objects.filter(groups__contains=[channel.group]) if channel.group else Approval.objects.all()
    message = _message(notices, payload, theirs)
    return (channel, message) if message else None


def _pending(payload: Mapping[str, Any]) -> dict[Approval, Why]:
    whys: dict[UUID, Why] = {UUID(found): why for found, why in payload["items"]}
    rows = Approval.objects.pending().filter(pk__in=whys).select_related("requested_by")
    return {found: whys[found.pk] for found in sorted(rows, key=lambda found: list(whys).index(found.pk))}


def _message(notices: Sequence[Notice], payload: Mapping[str, Any], theirs: QuerySet[Approval]) -> Message | None:
    more = payload["more"]
    if not notices and not (more and theirs.filter(state=Approval.State.PENDING).exists()):
        return None
    return message_of(notices, more, by=payload.get("by", ""))
