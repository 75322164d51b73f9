"""How Django admin shows history: to be read and not changed, and as fast on millions of rows as on ten."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
else:

    class ModelAdmin(admin.ModelAdmin):
        """Django's own, which is generic in the stubs alone."""

        def __class_getitem__(cls, model: object) -> type:
            return cls


M = TypeVar("M", bound=models.Model)

#: Lists are counted, and can be paged through, up to this many rows. What lies beyond is found by searching.
COUNT_UP_TO = 10_000
#: As much of a JSON value is shown.
JSON_SHOWN = 20_000


class Capped(int):
    """A count that stopped at `COUNT_UP_TO`, and says so."""

    def __str__(self) -> str:
        return f"{int(self):,}+"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """A paginator that never counts a whole table."""

    @cached_property
    def count(self) -> int:
        """Return how many rows there are, or that there are more than it counts."""
        rows = cast("models.QuerySet[Any]", self.object_list)
        found = rows.order_by()[: COUNT_UP_TO + 1].count()
        return found if found <= COUNT_UP_TO else Capped(COUNT_UP_TO)


class LargeTableAdmin(ModelAdmin[M]):
    """An admin that neither counts nor sorts a whole table."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    sortable_by = ()

    class Media:
        css = {"all": ["css/admin.css"]}


class HistoryAdmin(LargeTableAdmin[M]):
    """An admin of rows that only Astra writes: nobody adds, changes or deletes them by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody may."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        """Nobody may."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        """Nobody may."""
        return False

    def get_fields(self, request: HttpRequest, obj: M | None = None) -> list[Any]:
        """Return every field in the model's order, JSON written out over lines."""
        found: list[str] = []
        for field in self.model._meta.fields:
            if isinstance(field, models.JSONField):
                name = f"{field.name}_lines"
                if not hasattr(self, name):
                    setattr(self, name, _lines_of(field.name))
                found.append(name)
            else:
                found.append(field.name)
        return [*found, *self.readonly_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: M | None = None) -> list[Any]:
        """Return all of them."""
        return self.get_fields(request, obj)


def _lines_of(name: str) -> Callable[[models.Model], SafeString]:
    def lines(row: models.Model) -> SafeString:
        return json_lines(getattr(row, name))

    lines.short_description = name.replace("_", " ")  # type: ignore[attr-defined]  # how Django admin is told
    return lines


def short_id(value: object) -> SafeString:
    """Return an id that fits into a column: its two ends, and all of it on hover."""
    text = str(value)
    return format_html('<code title="{}">{}…{}</code>', text, text[:8], text[-6:])


def json_lines(value: Any) -> SafeString:
    """Return JSON over lines, cut where it is very long."""
    if value is None:
        return format_html("{}", "–")
    text = json.dumps(value, ensure_ascii=False, indent=2)
    more = f"\n… {len(text) - JSON_SHOWN:,} more characters" if len(text) > JSON_SHOWN else ""
    return format_html('<pre class="astra-json">{}{}</pre>', text[:JSON_SHOWN], more)
