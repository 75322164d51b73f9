"""Write to the trail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from psycopg.types.json import Jsonb

from audit.models import AuditEntry

NAME_LENGTH = AuditEntry._meta.get_field("actor_name").max_length


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, from where. ``user`` is None for Astra itself (a sweep, a command)."""

    user: AbstractBaseUser | AnonymousUser | None = None
    address: str | None = None
    request_id: str = ""
    #: What they were called, where the user may be gone by now.
    known_as: str = ""
    #: The API token that they act with; None in the site.
    token_id: int | None = None

    @property
    def name(self) -> str:
        """What the record calls them."""
        if self.known_as:
            return self.known_as
        return self.user.get_username() if self.user is not None else "astra"

    @property
    def user_id(self) -> int | None:
        """Their key; None for Astra itself."""
        return self.user.pk if self.user is not None else None


SYSTEM = Actor()


def record(
    actor: Actor,
    action: str,
    target_type: str,
    target_id: object,
    *,
    note: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Append one entry in the caller's transaction, so that the deed and its record stand or fall together."""
    AuditEntry.objects.create(
        **_of(actor),
        action=action,
        target_type=target_type,
        target_id=str(target_id),
        note=note,
        before=before,
        after=after,
    )


def statement(
    actor: Actor,
    action: str,
    target_type: str,
    target_id: object,
    *,
    note: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> tuple[str, list[Any]]:
    """Return what `record` does as SQL and its parameters, for a transaction that is not Django's."""
    values = {
        **_of(actor),
        "action": action,
        "target_type": target_type,
        "target_id": str(target_id),
        "note": note,
        "before": Jsonb(before) if before is not None else None,
        "after": Jsonb(after) if after is not None else None,
    }
    places = ", ".join(["%s"] * len(values))
    return (
        f"INSERT INTO audit_auditentry (at, {', '.join(values)}) VALUES (clock_timestamp(), {places})",
        list(values.values()),
    )


def _of(actor: Actor) -> dict[str, Any]:
    """Return what an entry says of who acted."""
    return {
        "actor_id": actor.user_id,
        "actor_name": actor.name[:NAME_LENGTH],
        "token_id": actor.token_id,
        "address": actor.address,
        "request_id": actor.request_id,
    }
