"""Which jobs a bulk operation is about that was asked for in Django admin: all that a list of jobs shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from jobs.bulk import Selector, Wanted
from jobs.models import Job

NAME = "jobs"
#: What a selection may narrow down by, as Django's lookups. Ids are texts in it.
LOOKUPS = frozenset({"state", "state__in", "lane", "handler", "user_id", "partition_key", "id__gte", "id__lte"})


class BadSelection(ValueError):
    """The selection holds what no list of jobs is narrowed down by."""


def jobs(wanted: Wanted) -> QuerySet[Job]:
    """Return the jobs that are meant, the newest first.

    Raises:
        BadSelection: it is none of ours.
    """
    return narrowed(Job.objects.all(), wanted.selection["where"]).filter(**wanted.lookups()).order_by("-id")


def narrowed(found: QuerySet[Job], where: Mapping[str, Any]) -> QuerySet[Job]:
    """Narrow jobs down.

    Raises:
        BadSelection: by what it may not.
    """
    if unknown := where.keys() - LOOKUPS:
        raise BadSelection(f"jobs are not selected by {', '.join(sorted(unknown))}")
    return found.filter(**where)


def _ids(wanted: Wanted, below: UUID | None, limit: int) -> list[UUID]:
    found = jobs(wanted)
    if below is not None:
        found = found.filter(id__lt=below)
    return list(found.values_list("id", flat=True)[:limit])


SELECTOR = Selector(NAME, _ids)
