"""Tasks by what they hold: the beginning of an id, words of what was asked, what went wrong, any piece of the text.

A list of the newest walks from the newest on. That ends soon for what many tasks hold, but for what is rare it would
read the whole table; and a search by the index of words finds the rare at once, but would sort half of the table for a
word that is everywhere. The planner cannot tell the two apart: nothing estimates the beginnings of words. So it is
found out first, and each is asked for in the way that is quick for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.search import SearchQuery, SearchVectorExact
from django.db.models import BooleanField, Case, F, Func, Q, QuerySet, TextField, UUIDField, Value, When
from django.db.models.expressions import Col, Combinable
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce, Concat, Left
from django.db.models.lookups import GreaterThanOrEqual, LessThan

from agents.models import SEARCHED_INPUT, Run
from audit.time_limit import in_time
from jobs.models import Job
from jobs.models.job import FINGERPRINT, HAS_ERROR, SEARCHED_ERROR

#: Words that no more tasks than this hold are rare: they are looked up by the index of words.
RARE_UP_TO = 10_000
#: Words that this many of the newest tasks hold are not rare.
SAMPLE, COMMON_FROM = 400, 8
#: Looking words up is given up when it takes longer: many short beginnings of words do.
LOOK_UP_S = 0.5
#: What stands before a fingerprint that is nothing else, not even words. Nothing after it: failures without one.
EXACTLY = "="

_WORDS = re.compile(r"\w+")
_HEX = re.compile(r"[0-9a-f]{8,32}")
#: What may stand before a word: no letter or digit, or a line break as JSON writes it.
_BEFORE = r"(^|[^[:alnum:]]|\\[nrt])"

_INPUT = Left(Cast("input", TextField()), 10_000)
_SAID = Concat(
    *(
        part
        for name, length in (("title", 500), ("detail", 2_000), ("type", 200))
        for part in (
            Left(Coalesce(KeyTextTransform(name, "job__error"), Value("")), length, output_field=TextField()),
            Value(" "),
        )
    ),
    output_field=TextField(),
)
#: The job's own columns, seen from its run. The same expressions as those of the indexes.
_FAILED = Q(job__error__isnull=False) & ~Q(job__state="succeeded")
_FINGERPRINT = Coalesce(KeyTextTransform("fingerprint", "job__error"), Value(""), output_field=TextField())


class _IsOneOf(Func):
    """``a = ANY (array)``: ten thousand ids are one parameter, and an index gives their rows in its order."""

    template = "%(expressions)s)"
    arg_joiner = " = ANY ("
    output_field = BooleanField()


def by_id(runs: QuerySet[Run], text: str) -> QuerySet[Run]:
    """Return the tasks whose id begins with ``text``; none if that is not at least eight digits of an id."""
    digits = text.strip().lower().replace("-", "")
    if not _HEX.fullmatch(digits):
        return runs.none()
    low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    return runs.filter(job_id__gte=low, job_id__lte=high)


def between(runs: QuerySet[Run], first: UUID | None = None, end: UUID | None = None) -> QuerySet[Run]:
    """Return the tasks whose id is not below ``first`` and below ``end``, said of both tables.

    The planner passes on from one side of a join to the other what is equal, not what is greater: told of one table
    alone it may read the other from its end.
    """
    for compare, bound in ((GreaterThanOrEqual, first), (LessThan, end)):
        if bound is not None:
            # A column of the job is named before, so that its table is there.
            of_job = compare(Col(Job._meta.db_table, Job._meta.pk), bound)
            runs = runs.filter(job__state__isnull=False).filter(compare(F("job_id"), bound), of_job)
    return runs


def search(runs: QuerySet[Run], text: str) -> QuerySet[Run]:
    """Return the tasks whose id begins with ``text``, or whose input holds all its words or their beginnings."""
    found = by_id(runs, text)
    if found.query.is_empty() or not by_id(Run.objects.all(), text).exists():
        words = words_of(text)
        return _holding(runs, words) if words else runs.none()
    return found


def words_of(text: str) -> list[str]:
    """Return the words of a text, each once."""
    return list(dict.fromkeys(_WORDS.findall(text.lower())))


def _holding(runs: QuerySet[Run], words: Sequence[str]) -> QuerySet[Run]:
    newest = Run.objects.filter(pk__in=Run.objects.order_by("-pk").values("pk")[:SAMPLE])
    if _walked(newest, _INPUT, words).count() < COMMON_FROM:
        rare = _rare(Run.objects.filter(SearchVectorExact(SEARCHED_INPUT, _beginnings(words))))
        if rare is not None:
            return _among(runs, rare)
    return _walked(runs, _INPUT, words)


def failed_alike(runs: QuerySet[Run], text: str) -> QuerySet[Run]:
    """Return the tasks whose last failure has this fingerprint, or whose title, detail or type holds all these words.

    A fingerprint that no task has is read as words, unless it stands after `EXACTLY`.
    """
    if text.startswith(EXACTLY) or is_fingerprint(text):
        return runs.filter(_FAILED).alias(alike=_FINGERPRINT).filter(alike=text.removeprefix(EXACTLY))
    words = words_of(text)
    if not words:
        return runs.none()
    rare = _rare(Job.objects.filter(HAS_ERROR).filter(SearchVectorExact(SEARCHED_ERROR, _beginnings(words))))
    failed = runs.filter(_FAILED)
    return _walked(failed, _SAID, words) if rare is None else _among(failed, rare)


def is_fingerprint(text: str) -> bool:
    """Tell whether some task has failed with this fingerprint."""
    return bool(text) and Job.objects.filter(HAS_ERROR).alias(alike=FINGERPRINT).filter(alike=text).exists()


def exactly(text: str) -> str:
    """Return what finds the same failures at any later time: a fingerprint stays one when no task has it any more."""
    return EXACTLY + text if not text.startswith(EXACTLY) and is_fingerprint(text) else text


def newest_from(runs: QuerySet[Run], among: int) -> UUID | None:
    """Return the id of the oldest of so many of the newest tasks; None if there are fewer in all."""
    return runs.order_by("-job_id").values_list("job_id", flat=True)[among - 1 : among].first()


def holding_piece(runs: QuerySet[Run], text: str) -> QuerySet[Run]:
    """Return the tasks whose input holds a piece of text as it is, but for its case. It reads each of the tasks."""
    return _unestimated(runs, {"text": _INPUT}, Q(text__icontains=_as_in_json(text)))


def _among(runs: QuerySet[Run], ids: Sequence[UUID]) -> QuerySet[Run]:
    if not ids:
        return runs.none()
    return runs.filter(_IsOneOf(F("job_id"), Value(list(ids), output_field=ArrayField(UUIDField()))))


def _rare(found: QuerySet[Any]) -> list[UUID] | None:
    """Return the ids of what an index of words finds; None if that is much, or takes long."""
    some = found.order_by().values_list("pk", flat=True)[: RARE_UP_TO + 1]
    ids = in_time(LOOK_UP_S, lambda: list(some))
    return ids if ids is not None and len(ids) <= RARE_UP_TO else None


def _walked(runs: QuerySet[Run], text: Combinable, words: Sequence[str]) -> QuerySet[Run]:
    """Narrow down to the tasks that hold all the words, row by row."""
    holds = Q(*(Q(text__iregex=_BEFORE + re.escape(word)) for word in words))
    return _unestimated(runs, {"text": text}, holds)


def _unestimated(runs: QuerySet[Run], aliases: dict[str, Any], holds: Q) -> QuerySet[Run]:
    """Narrow down by a condition that the planner takes for true of half of the rows, as it does of any CASE.

    Else it guesses that hardly any row fulfils it, and reads and sorts the whole table to have them in order.
    """
    case = Case(When(holds, then=Value(True)), default=Value(False), output_field=BooleanField())
    return runs.alias(**aliases).alias(holds=case).filter(holds=True)


def _beginnings(words: Sequence[str]) -> SearchQuery:
    return SearchQuery(" & ".join(f"{word}:*" for word in words), config="simple", search_type="raw")


def _as_in_json(text: str) -> str:
    """Return a text as the database writes it within JSON."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return quoted.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
