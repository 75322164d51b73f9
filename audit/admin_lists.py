"""How Django admin lists a table of any size: counts with a bound, filters that read a bounded part, a time-out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, cast
from uuid import UUID

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db import OperationalError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from audit.time_limit import at_most, took_too_long

#: Lists are counted, and can be paged through, up to this many rows. What lies beyond is found by searching.
COUNT_UP_TO = 10_000
#: A filter that no index serves is tried on so many rows, the newest that all else lets through.
LOOK_BACK = 20_000
#: A list whose statement takes longer is given up, seconds.
GIVEN_UP_AFTER_S = 2.0

SPANS = {"1h": ("Last hour", timedelta(hours=1)), "24h": ("Last 24 hours", timedelta(hours=24))} | {
    f"{days}d": (f"Last {days} days", timedelta(days=days)) for days in (7, 30)
}


class Capped(int):
    """A count that stopped at its bound, and says so."""

    def __str__(self) -> str:
        return f"{int(self):,}+"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """A paginator that never counts a whole table."""

    #: Counts fewer than `COUNT_UP_TO` rows where each costs more.
    up_to: int | None = None

    @cached_property
    def count(self) -> int:
        """Return how many rows there are, or that there are more than it counts."""
        rows = cast("QuerySet[Any]", self.object_list)
        up_to = self.up_to or COUNT_UP_TO
        found = rows.order_by()[: up_to + 1].count()
        return found if found <= up_to else Capped(up_to)


class SearchPaginator(BoundedPaginator):
    """A paginator of rows that are found by their text."""

    up_to = 1_000


class WalkedFilter(SimpleListFilter):
    """A filter by a column without an index: it is tried on the `LOOK_BACK` newest rows that all else lets through."""

    #: The lookup that the value goes into.
    lookup: str

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Leave it to `BoundedList`, which does it last."""
        return queryset

    def condition(self) -> dict[str, Any]:
        """Return the lookup of what it lets through; nothing for everything."""
        value = self.value()
        return {self.lookup: value} if value in dict(self.lookup_choices) else {}


class BoundedList(ChangeList):
    """A list that reads a bounded number of rows, whatever filters are combined."""

    #: The id of the oldest row that the filters without an index were tried on; None where all rows were.
    oldest: Any = None

    @property
    def looked_back(self) -> str:
        """How many rows those filters are tried on."""
        return f"{LOOK_BACK:,}"

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """Narrow down by what indexes serve, then look at the newest of what is left."""
        found = super().get_queryset(request, exclude_parameters)
        walked: dict[str, Any] = {}
        for each in self.filter_specs:
            if isinstance(each, WalkedFilter):
                walked |= each.condition()
        if not walked:
            return found
        newest_first = found.order_by("-pk")
        self.oldest = newest_first.values_list("pk", flat=True)[LOOK_BACK : LOOK_BACK + 1].first()
        if self.oldest is not None:
            found = found.filter(pk__gte=self.oldest)
        return found.filter(**walked)


class SpanFilter(SimpleListFilter):
    """Rows of the last hour, day, week or month, by an indexed column of their time."""

    title = "time"
    parameter_name = "since"
    lookup: str

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the spans."""
        return [(name, words) for name, (words, _) in SPANS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list down."""
        return queryset.filter(**{self.lookup: self.lowest()}) if self.value() in SPANS else queryset

    def began(self) -> datetime:
        """Return when the chosen span began."""
        return timezone.now() - SPANS[str(self.value())][1]

    def lowest(self) -> Any:
        """Return the lowest value that a row of the span can have."""
        return self.began()


class IdSpanFilter(SpanFilter):
    """The same for rows whose id begins with their time (UUID version 7)."""

    lookup = "pk__gte"

    def lowest(self) -> UUID:
        """Return the lowest id that a row of the span can have."""
        return UUID(int=int(self.began().timestamp() * 1000) << 80)


def of_user(name: str) -> int | None:
    """Return the id of the user of this name; None if there is none.

    Users are looked up first: knowing the id, the planner finds the index that serves it.
    """
    return User.objects.filter(username=name).values_list("pk", flat=True).first()


def by_id(text: str, field: str = "id") -> dict[str, UUID] | None:
    """Return the lookups for an id or the beginning of one; None if the text is neither."""
    compact = text.strip().lower().replace("-", "")
    if not 8 <= len(compact) <= 32 or not set(compact) <= set("0123456789abcdef"):
        return None
    return {f"{field}__gte": UUID(compact.ljust(32, "0")), f"{field}__lte": UUID(compact.ljust(32, "f"))}


class GivenUp(Exception):
    """A list took too long."""


@contextmanager
def in_time() -> Iterator[None]:
    """Give a statement up that takes longer than `GIVEN_UP_AFTER_S`.

    Raises:
        GivenUp: one did.
    """
    try:
        with at_most(GIVEN_UP_AFTER_S):
            yield
    except OperationalError as error:
        if not took_too_long(error):
            raise
        raise GivenUp from error
