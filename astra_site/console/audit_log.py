"""Who did what, when, from where, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.http import HttpRequest, QueryDict
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.actors import actor_of
from agents.pages import page_or_region
from agents.task_list import SPANS, moment
from astra_site.console import audit_export
from astra_site.console.access import for_operators
from astra_site.console.audit_words import tell
from audit import reading, trail
from audit.reading import TrailFilter

PAGE = 50

SPAN_WORDS = {"1h": "1 h", "24h": "24 h", "7d": "7 days", "30d": "30 days"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for, as it stands there. Values that make no sense are left out."""

    actor: str = ""
    action: str = ""
    type: str = ""
    target: str = ""
    request: str = ""
    entry: str = ""
    since: str = ""
    until: str = ""
    #: Entries below this id.
    before: str = ""

    @classmethod
    def read(cls, query: QueryDict) -> Asked:
        """Read the parameters. Of a time that is there twice, as a span and as a field, the last that is set counts."""
        values = {}
        for name in ("actor", "action", "type", "target", "request", "entry", "since", "until", "before"):
            given = [value.strip().replace("\0", "")[:200] for value in query.getlist(name)]
            values[name] = next((value for value in reversed(given) if value), "")
        for name in ("since", "until"):
            if moment(values[name]) is None:
                values[name] = ""
        for name in ("entry", "before"):
            if not (values[name].isascii() and values[name].isdigit() and len(values[name]) < 19):
                values[name] = ""
        return cls(**values)

    @property
    def filter(self) -> TrailFilter:
        """What the trail is read by."""
        return TrailFilter(
            entry=int(self.entry) if self.entry else None,
            actor=self.actor,
            action=self.action,
            target_type=self.type,
            target=self.target,
            request_id=self.request,
            since=moment(self.since) if self.since else None,
            until=moment(self.until) if self.until else None,
        )

    @property
    def is_any(self) -> bool:
        """Whether it narrows the trail down at all."""
        return self.filter != TrailFilter()

    @property
    def span(self) -> str:
        """The span that was asked for; empty where it is a moment, or none."""
        return self.since if self.since in SPANS else ""

    @property
    def since_field(self) -> str:
        """The beginning as a field takes it."""
        return "" if self.span else _local(moment(self.since)) if self.since else ""

    @property
    def until_field(self) -> str:
        """The end as a field takes it."""
        return _local(moment(self.until)) if self.until else ""

    @property
    def below(self) -> int | None:
        """The id below which the page begins; None at the newest."""
        return int(self.before) if self.before else None

    def told(self) -> dict[str, str]:
        """Return what is set, for the record of an export."""
        names = ("actor", "action", "type", "target", "request", "entry", "since", "until", "before")
        return {name: value for name in names if (value := getattr(self, name))}


@require_safe
@for_operators
@never_cache
def audit_log(request: HttpRequest) -> HttpResponseBase:
    """Show the trail as the address filters it, or give it out as a file."""
    asked = Asked.read(request.GET)
    kind = request.GET.get("format", "")
    if kind in audit_export.FORMATS and request.method == "GET":
        trail.record(actor_of(request), "audit.export", "trail", "", after={"format": kind, **asked.told()})
        return audit_export.answer(asked.filter, kind, before=asked.below)
    page = reading.page(asked.filter, before=asked.below, limit=PAGE)
    context = {
        "section": "audit",
        "asked": asked,
        "page": page,
        "told": tell(page.items, is_staff=getattr(request.user, "is_staff", False)),
        "is_first": not asked.before,
        "spans": {name: words for name, words in SPAN_WORDS.items() if name in SPANS},
        "export_up_to": audit_export.MOST,
        # Read where the page has its form, and not for the trail alone.
        "actions": reading.actions,
        "types": reading.target_types,
    }
    return page_or_region(request, "console/audit.html", "trail", context)


def _local(at: datetime | None) -> str:
    return f"{timezone.localtime(at):%Y-%m-%dT%H:%M}" if at is not None else ""
