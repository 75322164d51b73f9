"""Seal the trail into a hash chain, verify it, write it out.

Each link is SHA-256 over the link before it and one entry, as canonical JSON (see `content`). Entries are sealed in the
order in which the sweep meets them, a few seconds after they are written: a transaction that began early and commits
late is sealed late, and nothing is passed over. Whoever can write to the database could still make a whole chain anew:
so keep its head, a place and a hash, somewhere else (`manage.py audit head`), and give it to `verify`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction

from audit.models import AuditEntry, AuditSeal

#: What the first link stands on.
GENESIS = "0" * 64
#: One turn of the sweep seals so many at most.
PAGE = 1_000
#: Ids of entries that one turn looks through, back from the newest sealed one, for some that were committed late.
LOOK_BACK = 10_000
_LOCK = 7_204


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends."""

    place: int
    digest: str

    def __str__(self) -> str:
        return f"{self.place}:{self.digest}"

    @classmethod
    def read(cls, text: str) -> Head:
        """Read what `str` of a head gives.

        Raises:
            ValueError: it is no place and hash.
        """
        place, _, digest = text.strip().partition(":")
        if not place.isdigit() or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"{text!r} is no place and hash, like 12:3f5a….")
        return cls(int(place), digest)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was sealed."""

    place: int
    words: str

    def __str__(self) -> str:
        return f"Link {self.place}: {self.words}" if self.place else self.words


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found."""

    head: Head
    #: Entries that no link seals yet.
    unsealed: int
    #: The first faults, at most `FAULTS_UP_TO`.
    faults: tuple[Fault, ...]


#: So many faults are told.
FAULTS_UP_TO = 20


def content(entry: AuditEntry) -> dict[str, Any]:
    """Return what is sealed of an entry. Times are UTC to the microsecond; the rest is as it stands in the database."""
    return {
        "id": entry.pk,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor_id": entry.actor_id,
        "actor_name": entry.actor_name,
        "token_id": entry.token_id,
        "action": entry.action,
        "target_type": entry.target_type,
        "target_id": entry.target_id,
        "note": entry.note,
        "before": entry.before,
        "after": entry.after,
        "address": entry.address,
        "request_id": entry.request_id,
    }


def digest(before: str, entry: AuditEntry) -> str:
    """Return the hash of the link that seals ``entry`` and stands on the link ``before``."""
    text = json.dumps(content(entry), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()


def head() -> Head:
    """Return the end of the chain; place 0 of an empty one."""
    last = AuditSeal.objects.order_by("-place").first()
    return Head(last.place, last.digest) if last else Head(0, GENESIS)


def seal(*, page: int = PAGE) -> int:
    """Seal entries that are not yet; return how many. Any number of processes may call it at once: one does it."""
    return _seal(max(0, _newest_sealed() - LOOK_BACK), None, page)


@dataclass(slots=True)
class LateSeal:
    """Seals what was committed so late that `seal` looks past it: goes through all entries, `LOOK_BACK` ids a turn."""

    above: int = 0

    def turn(self) -> int:
        """Look at the next ids, from the first on again after the last. Returns how many entries were sealed."""
        if self.above >= _newest_sealed():
            self.above = 0
        first, self.above = self.above, self.above + LOOK_BACK
        return _seal(first, self.above, PAGE)


def _newest_sealed() -> int:
    return AuditSeal.objects.order_by("-entry_id").values_list("entry_id", flat=True).first() or 0


def _seal(above: int, up_to: int | None, page: int) -> int:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
            if not cursor.fetchone()[0]:
                return 0
        found = AuditEntry.objects.filter(seal=None, pk__gt=above)
        if up_to is not None:
            found = found.filter(pk__lte=up_to)
        end = head()
        place, last = end.place, end.digest
        links = []
        for entry in found.order_by("pk")[:page]:
            place, last = place + 1, digest(last, entry)
            links.append(AuditSeal(place=place, entry=entry, digest=last))
        AuditSeal.objects.bulk_create(links)
    return len(links)


def verify(anchor: Head | None = None) -> Verdict:
    """Go through the whole chain and compare it with the entries.

    Args:
        anchor: a head that was kept elsewhere: the chain must still go through it.
    """
    faults: list[Fault] = []
    place, last = 0, GENESIS
    for link, entry in _links():
        place += 1
        if link.place != place:
            faults.append(Fault(place, f"missing: the next link has the place {link.place}."))
            place = link.place
        if entry is None:
            faults.append(Fault(place, f"entry {link.entry_id} is gone."))
        elif digest(last, entry) != link.digest:
            faults.append(Fault(place, f"entry {link.entry_id}, or the link itself, is not what was sealed."))
        last = link.digest
        if anchor is not None and place == anchor.place and last != anchor.digest:
            faults.append(Fault(place, "the chain was made anew: its hash is not the one that was kept."))
        if len(faults) >= FAULTS_UP_TO:
            break
    if anchor is not None and not faults and place < anchor.place:
        faults.append(Fault(0, f"The chain ends at place {place}, before the one that was kept ({anchor.place})."))
    unsealed = AuditEntry.objects.filter(seal=None).count()
    return Verdict(Head(place, last), unsealed, tuple(faults))


def export(since: datetime | None = None, until: datetime | None = None) -> Iterator[dict[str, Any]]:
    """Yield what is sealed, in the chain's order: each entry's content with its ``place`` and ``digest``.

    With ``previous``, the digest of the link before, anybody can verify each without Astra: see `content` and `digest`.
    """
    previous = GENESIS
    for link, entry in _links():
        if entry is not None and not (since and entry.at < since) and not (until and entry.at >= until):
            yield {"place": link.place, "previous": previous, "digest": link.digest, "entry": content(entry)}
        previous = link.digest


def _links() -> Iterator[tuple[AuditSeal, AuditEntry | None]]:
    """Yield the links in their order, each with its entry if that is there, a page in memory at a time."""
    place = 0
    while page := list(AuditSeal.objects.filter(place__gt=place).order_by("place")[:PAGE]):
        entries = AuditEntry.objects.in_bulk([link.entry_id for link in page])
        yield from ((link, entries.get(link.entry_id)) for link in page)
        place = page[-1].place
