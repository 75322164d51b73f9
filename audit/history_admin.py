"""How Django admin shows history: to be read and not changed, and as fast on millions of rows as on ten."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.admin_lists import BoundedList, BoundedPaginator, GivenUp, in_time

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin
else:

    class ModelAdmin(admin.ModelAdmin):
        """Django's own, which is generic in the stubs alone."""

        def __class_getitem__(cls, model: object) -> type:
            return cls


M = TypeVar("M", bound=models.Model)

#: As much of a JSON value is shown.
JSON_SHOWN = 20_000

#: An address and the words of a link to it.
Link = tuple[str, str]


class LargeTableAdmin(ModelAdmin[M]):
    """An admin that neither counts nor sorts a whole table, and leads to the console."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    sortable_by = ()
    change_list_template = "admin/large_list.html"
    #: What the trail calls such a row, where it tells of any.
    audit_type = ""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[BoundedList]:
        """Return the list that reads a bounded number of rows."""
        return BoundedList

    def list_link(self, request: HttpRequest) -> Link | None:
        """Return the page of the console that shows the same, filtered alike."""
        return None

    def row_links(self, row: M) -> list[Link]:
        """Return the pages of the console about a row."""
        return [(trail_of(self.audit_type, row.pk), "What was done to it")] if self.audit_type else []

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list, or say that it took too long."""
        context = {**(extra_context or {}), "console_link": self.list_link(request)}
        if request.method != "GET":
            return super().changelist_view(request, context)
        try:
            with in_time():
                response = super().changelist_view(request, context)
                return response.render() if isinstance(response, TemplateResponse) else response
        except GivenUp:
            if not request.GET:
                raise
            words = "Finding these took too long and was given up. Choose fewer filters, or others."
            self.message_user(request, words, messages.WARNING)
            return HttpResponseRedirect(request.path)

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show a row, with its links to the console."""
        row = kwargs.get("obj")
        context.update(console_links=self.row_links(row) if row is not None else [], hides_log=self.hides_log())
        return super().render_change_form(request, context, *args, **kwargs)

    def hides_log(self) -> bool:
        """Tell whether Django's own log never has anything of such rows."""
        return False


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

    def hides_log(self) -> bool:
        """Tell that it has nothing of them."""
        return True

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


def trail_of(kind: str, key: object) -> str:
    """Return the address of what the trail tells of one thing."""
    return f"{reverse('audit')}?{urlencode({'type': kind, 'target': str(key)})}"


def _lines_of(name: str) -> Callable[[models.Model], SafeString]:
    def lines(row: models.Model) -> SafeString:
        return json_lines(getattr(row, name))

    lines.short_description = name.replace("_", " ")  # type: ignore[attr-defined]  # how Django admin is told
    return lines


def short_id(value: object) -> SafeString:
    """Return an id that fits into a column: its two ends, and all of it on hover."""
    text = str(value)
    return format_html('<code title="{}">{}…{}</code>', text, text[:8], text[-6:])


def console_link(url: str) -> SafeString:
    """Return the link of a row to its page in the console."""
    return format_html('<a href="{}" aria-label="View in console">View</a>', url)


def seconds(value: float | None) -> str:
    """Return a duration in words that fit a column."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def json_lines(value: Any) -> SafeString:
    """Return JSON over lines, cut where it is very long."""
    if value is None:
        return format_html("{}", "–")
    text = json.dumps(value, ensure_ascii=False, indent=2)
    more = f"\n… {len(text) - JSON_SHOWN:,} more characters" if len(text) > JSON_SHOWN else ""
    return format_html('<pre class="astra-json">{}{}</pre>', text[:JSON_SHOWN], more)
