"""Reads of the trail: newest first, a page at a time, at a cost that does not grow with the trail.

A page follows one index back from the newest entry: the one of the filter that fits the fewest entries. What other
filters leave out is passed over, `LOOK_AT` entries at most; the page then says how far it looked, and its cursor goes
on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from django.db import connection

from audit.models import AuditEntry

#: A page looks at no more entries than this.
LOOK_AT = 20_000
#: Entries get their ids and their times in nearly the same order. So far apart, at most, two of them may stand.
OUT_OF_ORDER = 1_000
#: Kinds of deeds and of targets there may be; there are a few dozen.
MOST_KINDS = 300
HIGHEST_ID = 2**63 - 1

_TABLE = AuditEntry._meta.db_table
_COLUMNS = "id, at, actor_name, action, target_type, target_id, request_id"


@dataclass(frozen=True, slots=True)
class TrailFilter:
    """Which entries. What is empty narrows nothing down."""

    entry: int | None = None
    actor: str = ""
    action: str = ""
    target_type: str = ""
    target: str = ""
    request_id: str = ""
    #: From the first moment on, and before the second.
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TrailPage:
    """Some entries, the newest first."""

    items: list[AuditEntry]
    #: The next page begins below this id; None at the end.
    next_before: int | None
    #: The page is not full, though there may be more: so many entries were looked at, back to ``looked_to``.
    looked_at: int | None = None
    looked_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Condition:
    sql: str
    params: tuple[Any, ...]


def page(wanted: TrailFilter, *, before: int | None = None, limit: int = 50) -> TrailPage:
    """Return the newest entries that fit and whose id is below ``before``."""
    span = _span(wanted, before)
    if span is None:
        return TrailPage([], None)
    drivers, rest = _plan(wanted, span)
    if not drivers:
        return TrailPage([], None)
    ids = [row[0] for row in _rows(*_found(drivers, rest, span, limit + 1))]
    items = list(AuditEntry.objects.filter(pk__in=ids[:limit]).order_by("-pk"))
    if len(ids) > limit:
        return TrailPage(items, ids[limit - 1])
    if not rest:
        return TrailPage(items, None)
    sql, params = _looked(drivers, span)
    [(looked_at, lowest, looked_to)] = _rows(f"SELECT count(*), min(id), min(at) FROM ({sql}) looked", params)
    if looked_at < LOOK_AT:
        return TrailPage(items, None)
    return TrailPage(items, lowest, looked_at, looked_to)


def walk(
    wanted: TrailFilter, *, limit: int, before: int | None = None, chunk: int = 1_000, looks: int = 200
) -> Iterator[TrailPage]:
    """Yield pages of all entries that fit, ``limit`` entries and ``looks`` pages at most."""
    left = limit
    for _ in range(looks):
        found = page(wanted, before=before, limit=min(chunk, left))
        yield found
        before, left = found.next_before, left - len(found.items)
        if before is None or left <= 0:
            return


def actions() -> list[str]:
    """Return every action that the trail tells of."""
    return _kinds("action")


def target_types() -> list[str]:
    """Return every kind of target that the trail tells of."""
    return _kinds("target_type")


def _kinds(column: str) -> list[str]:
    """Return the different values of an index's first column: one look into the index for each."""
    return [
        kind
        for (kind,) in _rows(
            f"WITH RECURSIVE kinds AS ((SELECT {column} AS kind FROM {_TABLE} ORDER BY {column} LIMIT 1)"
            f" UNION ALL SELECT (SELECT {column} FROM {_TABLE} WHERE {column} > kinds.kind ORDER BY {column} LIMIT 1)"
            f" FROM kinds WHERE kinds.kind IS NOT NULL)"
            f" SELECT kind FROM kinds WHERE kind IS NOT NULL LIMIT {MOST_KINDS}",
            [],
        )
    ]


def _span(wanted: TrailFilter, before: int | None) -> tuple[int, int] | None:
    """Return the lowest id, and the one above the highest, that an entry can have; None if none can."""
    low, high = 0, HIGHEST_ID if before is None else before
    if wanted.entry is not None:
        low, high = max(low, wanted.entry), min(high, wanted.entry + 1)
    if wanted.since is not None:
        [(found,)] = _rows(
            f"SELECT min(id) FROM (SELECT id FROM {_TABLE} WHERE at >= %s ORDER BY at LIMIT {OUT_OF_ORDER}) s",
            [wanted.since],
        )
        if found is None:
            return None
        low = max(low, found)
    if wanted.until is not None:
        [(found,)] = _rows(
            f"SELECT max(id) FROM (SELECT id FROM {_TABLE} WHERE at < %s ORDER BY at DESC LIMIT {OUT_OF_ORDER}) s",
            [wanted.until],
        )
        if found is None:
            return None
        high = min(high, found + 1)
    return (low, high) if low < high else None


def _plan(wanted: TrailFilter, span: tuple[int, int]) -> tuple[list[_Condition], list[_Condition]]:
    """Return what the entries are looked up by, one condition or several to be merged, and what else they must fit."""
    by = {
        name: _Condition(f"{column} = %s", (value,))
        for name, column, value in (
            ("request", "request_id <> '' AND request_id", wanted.request_id),
            ("target", "target_id", wanted.target),
            ("actor", "actor_name", wanted.actor),
            ("action", "action", wanted.action),
            ("type", "target_type", wanted.target_type),
        )
        if value
    }
    times = [
        _Condition(sql, (value,))
        for sql, value in (("at >= %s", wanted.since), ("at < %s", wanted.until))
        if value is not None
    ]
    if "request" in by:
        return [by.pop("request")], [*by.values(), *times]
    if "target" in by:
        del by["target"]
        by.pop("type", None)
        found = _of_target(wanted)
        if len(found) != 1:
            return found, [*by.values(), *times]
        by["target"] = found[0]
    name = _rarest(by, span)
    return [by.pop(name) if name else _Condition("true", ())], [*by.values(), *times]


def _of_target(wanted: TrailFilter) -> list[_Condition]:
    """Return a condition for each kind of thing that has this id."""
    kinds = [wanted.target_type] if wanted.target_type else target_types()
    known = _rows(
        f"SELECT kind FROM unnest(%s::text[]) kind"
        f" WHERE EXISTS (SELECT 1 FROM {_TABLE} WHERE target_type = kind AND target_id = %s)",
        [kinds, wanted.target],
    )
    return [_Condition("target_type = %s AND target_id = %s", (kind, wanted.target)) for (kind,) in known]


def _rarest(by: dict[str, _Condition], span: tuple[int, int]) -> str:
    """Return the name of the condition that the fewest entries fit; counting stops at `LOOK_AT`.

    The index of the target is not in the order of ids: a type is looked up by it only if it has few entries.
    """
    if not by or (len(by) == 1 and "type" not in by):
        return next(iter(by), "")
    counted = {
        name: _rows(
            f"SELECT count(*) FROM (SELECT 1 FROM {_TABLE} WHERE {each.sql} AND id >= %s AND id < %s"
            f" LIMIT {LOOK_AT}) counted",
            [*each.params, *span],
        )[0][0]
        for name, each in by.items()
    }
    if counted.get("type", 0) >= LOOK_AT:
        del counted["type"]
    return min(counted, key=lambda name: counted[name], default="")


def _looked(drivers: Sequence[_Condition], span: tuple[int, int]) -> tuple[str, list[Any]]:
    """Return the statement of the entries that are looked at."""
    parts = [
        f"(SELECT {_COLUMNS} FROM {_TABLE} WHERE {each.sql} AND id >= %s AND id < %s ORDER BY id DESC LIMIT {LOOK_AT})"
        for each in drivers
    ]
    params = [value for each in drivers for value in (*each.params, *span)]
    if len(parts) == 1:
        return parts[0], params
    return f"SELECT * FROM ({' UNION ALL '.join(parts)}) parts ORDER BY id DESC LIMIT {LOOK_AT}", params


def _found(
    drivers: Sequence[_Condition], rest: Sequence[_Condition], span: tuple[int, int], limit: int
) -> tuple[str, list[Any]]:
    sql, params = _looked(drivers, span)
    where = " AND ".join(each.sql for each in rest) or "true"
    more = [value for each in rest for value in each.params]
    return f"SELECT id FROM ({sql}) looked WHERE {where} ORDER BY id DESC LIMIT {limit}", [*params, *more]


def _rows(sql: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cast("list[tuple[Any, ...]]", cursor.fetchall())
