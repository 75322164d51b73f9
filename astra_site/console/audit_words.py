"""The trail's entries in words: what was done to what, what it was before, and where to look."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.urls import reverse
from django.utils.http import urlencode

from accounts import login
from accounts.models import ApiToken
from astra_site.templatetags.look import short_id
from audit.models import AuditEntry
from jobs.actions import PAUSED
from jobs.holds import EVERYTHING

#: What each action was, as what follows a name, and its icon. The target's words come after it.
VERBS: Mapping[str, tuple[str, str]] = {
    "agent.note": ("gave a note to", "compose"),
    "agent.note-retire": ("took a note back from", "cross"),
    "approval.altered": ("refused what somebody altered in", "warning"),
    "approval.claim": ("claimed", "claimed"),
    "approval.decide": ("decided on", "approvals"),
    "approval.delegate": ("delegated", "person"),
    "approval.escalate": ("escalated", "warning"),
    "approval.release": ("released", "claimed"),
    "approval.request": ("asked people to decide on", "approvals"),
    "approval.supersede": ("dropped", "discarded"),
    "approval.view": ("looked at", "search"),
    "approval.vote": ("voted on", "approvals"),
    "audit.export": ("exported", "download"),
    "bulk.start": ("started", "queues"),
    "bulk.stop": ("stopped", "stop"),
    "config.load": ("loaded", "agents"),
    "conversation.delete": ("deleted", "discarded"),
    "conversation.rename": ("renamed", "compose"),
    "effect.begin": ("began a call of", "play"),
    "effect.end": ("ended a call of", "check"),
    "group.add": ("added", "plus"),
    "group.change": ("changed", "compose"),
    "group.delete": ("deleted", "discarded"),
    "hold.lift": ("resumed", "play"),
    "hold.place": ("paused", "pause"),
    "job.cancel": ("cancelled", "cancelled"),
    "job.discard": ("discarded", "discarded"),
    "job.redrive": ("redrove", "redrive"),
    "login.fail": ("failed to sign in as", "warning"),
    "login.succeed": ("signed in as", "person"),
    "login.throttle": ("slowed down sign-ins as", "warning"),
    "logout": ("signed out as", "leave"),
    "memory.delete": ("deleted", "discarded"),
    "run.grade": ("graded", "check"),
    "task.redrive_edited": ("ran again, with another input,", "redrive"),
    "task.submit": ("submitted", "tasks"),
    "token.create": ("made", "key"),
    "token.revoke": ("revoked", "key"),
    "user.add": ("added", "plus"),
    "user.change": ("changed", "compose"),
    "user.delete": ("deleted", "discarded"),
}
#: What a vote on an approval was, and a decision, by what it came to.
VOTES = {
    "approve": "voted for",
    "approve_with_changes": "voted for, with changes,",
    "request_changes": "wanted changes to",
    "reject": "voted against",
}
DECISIONS: Mapping[str, tuple[str, str]] = {
    "approve": ("approved", "check"),
    "approve_with_changes": ("approved, with changes,", "check"),
    "request_changes": ("requested changes to", "redrive"),
    "reject": ("rejected", "cross"),
    "happened": ("found that it happened, of", "check"),
    "again": ("had it done again, of", "redrive"),
    "give_up": ("gave up", "discarded"),
}
#: What a target is called before its id.
NOUNS = {
    "approval": "approval",
    "job": "task",
    "run": "task",
    "operation": "operation",
    "config": "configuration",
    "token": "token",
    "user": "user",
    "group": "group",
    "memory": "memory",
    "conversation": "conversation",
    "trail": "the trail",
}
#: The pages of what has an id, by their names in the site's addresses.
PAGES = {"job": "task", "run": "task", "operation": "operation", "approval": "approval"}
#: What one does to oneself needs no target.
_OF_ONESELF = {"login.succeed": "signed in", "logout": "signed out"}
#: Longer changes start folded: so many rows, or so many characters of one value.
ROWS_SHOWN = 6
VALUE_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that an entry tells of before, after, or both; None where it does not."""

    name: str
    before: str | None
    after: str | None

    @property
    def only(self) -> str:
        """What is told of one side alone: of something new, gone, or only stated."""
        return (self.after if self.before is None else self.before) or ""

    @property
    def is_long(self) -> bool:
        """Whether it takes more than a line or two."""
        return max(len(self.before or ""), len(self.after or "")) > VALUE_SHOWN


@dataclass(frozen=True, slots=True)
class Told:
    """One entry, in words."""

    entry: AuditEntry
    who: str
    #: What it was done with or by, where that is no person in the site.
    by: str
    verb: str
    icon: str
    target: str
    target_link: str
    changes: Sequence[Change]

    @property
    def is_folded(self) -> bool:
        """Whether its changes start folded."""
        return len(self.changes) > ROWS_SHOWN or any(change.is_long for change in self.changes)


def tell(entries: Sequence[AuditEntry], *, is_staff: bool) -> list[Told]:
    """Say what the entries tell. Two statements, for the names of people and of tokens."""
    users = User.objects.in_bulk([int(entry.target_id) for entry in entries if _is_numbered(entry, "user")])
    token_ids = {int(entry.target_id) for entry in entries if _is_numbered(entry, "token")}
    token_ids |= {entry.token_id for entry in entries if entry.token_id is not None}
    tokens = ApiToken.objects.only("name", "prefix").in_bulk(list(token_ids))
    return [_tell(entry, users, tokens, is_staff) for entry in entries]


def _tell(entry: AuditEntry, users: Mapping[int, User], tokens: Mapping[int, ApiToken], is_staff: bool) -> Told:
    verb, icon = VERBS.get(entry.action, (entry.action, "audit"))
    if entry.action.startswith("hold.") and _reason(entry) != PAUSED:
        verb = "lifted the hold on" if entry.action == "hold.lift" else "placed a hold on"
    if entry.action in ("approval.vote", "approval.decide"):
        verb, icon = _decided(entry, verb, icon)
    who, by = entry.actor_name, ""
    if entry.token_id is not None:
        token = tokens.get(entry.token_id)
        by = f"with token “{token.name}”" if token else f"with token {entry.token_id}"
    elif entry.actor_id is None:
        who, by = ("Somebody", "") if who == login.SOMEBODY else ("Astra", "by itself")
    if entry.action in _OF_ONESELF and entry.target_id == str(entry.actor_id):
        return Told(entry, who, by, _OF_ONESELF[entry.action], icon, "", "", list(_changes(entry)))
    return Told(
        entry,
        who,
        by,
        verb,
        icon,
        target=_target(entry, users, tokens),
        target_link=_link(entry, users, is_staff),
        changes=list(_changes(entry)),
    )


def _decided(entry: AuditEntry, verb: str, icon: str) -> tuple[str, str]:
    """Return what somebody voted, or what was decided, as far as the entry says."""
    after = _side(entry.after)
    decision = str(after.get("decision"))
    if entry.action == "approval.vote":
        return VOTES.get(decision, verb), icon
    if after.get("state") == "expired":
        return "closed, because nobody decided in time,", "warning"
    return DECISIONS.get(decision, (verb, icon))


def _reason(entry: AuditEntry) -> Any:
    return (_side(entry.after) or _side(entry.before)).get("reason", PAUSED)


def _target(entry: AuditEntry, users: Mapping[int, User], tokens: Mapping[int, ApiToken]) -> str:
    kind, key = entry.target_type, entry.target_id
    if kind == "hold":
        return "everything" if key == EVERYTHING else key.replace(":", " ", 1)
    if kind == "user":
        user = users.get(int(key)) if _is_numbered(entry, "user") else None
        if user is not None:
            return user.username
        return entry.note or (f"user {key}" if key else "an account that there is not")
    if kind == "token":
        token = tokens.get(int(key)) if _is_numbered(entry, "token") else None
        return f"token “{token.name}” ({token.prefix}…)" if token else f"token {key}"
    if kind == "group":
        return f"group {entry.note or key}"
    if kind == "agent":
        return f"agent {key}"
    return " ".join(part for part in (NOUNS.get(kind, kind), short_id(key)) if part)


def _link(entry: AuditEntry, users: Mapping[int, User], is_staff: bool) -> str:
    """Return the address of what it was done to; nothing where there is no page of it for an operator."""
    kind, key = entry.target_type, entry.target_id
    if kind in PAGES and _is_uuid(key):
        return reverse(PAGES[kind], args=[key])
    if kind == "agent":
        return reverse("agent", args=[key]) if key and "/" not in key else ""
    if kind == "hold":
        what, _, name = key.partition(":")
        return reverse("agent", args=[name]) if what == "agent" and name and "/" not in name else reverse("queues")
    if kind == "config":
        return reverse("agents")
    if kind == "user" and _is_numbered(entry, "user") and int(key) in users:
        if is_staff:
            return reverse("admin:auth_user_change", args=[key])
        return f"{reverse('tasks')}?{urlencode({'user': users[int(key)].username})}"
    return ""


def _changes(entry: AuditEntry) -> Iterator[Change]:
    before, after = _side(entry.before), _side(entry.after)
    if entry.action.startswith("hold.") and _reason(entry) == PAUSED:
        before, after = ({key: value for key, value in side.items() if key != "reason"} for side in (before, after))
    for name in [*before, *(name for name in after if name not in before)]:
        was = _text(before[name]) if name in before else None
        now = _text(after[name]) if name in after else None
        if was != now:
            yield Change(name.rstrip("_").replace("_", " "), was, now)


def _side(told: Any) -> dict[str, Any]:
    """Return what an entry tells of one side. Somebody may have written another shape to the table: it is shown."""
    if isinstance(told, dict):
        return told
    return {} if told is None else {"value": told}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "(empty)"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value) if any(len(item) > 40 for item in value) else ", ".join(value) or "none"
    return json.dumps(value, ensure_ascii=False)


def _is_numbered(entry: AuditEntry, kind: str) -> bool:
    key = entry.target_id
    return entry.target_type == kind and key.isascii() and key.isdigit() and len(key) < 10


def _is_uuid(key: str) -> bool:
    try:
        UUID(key)
    except ValueError:
        return False
    return True
