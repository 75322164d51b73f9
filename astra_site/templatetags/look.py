"""How things look in every page: icons, states, times, figures, ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from django import template
from django.conf import settings
from django.http import HttpRequest
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import roles
from accounts.preferences import chosen_theme
from agents.chat.forgetting import is_forgotten
from agents.models import Run
from approvals import plan_words
from astra_site.console.json_html import tree
from jobs.states import State

register = template.Library()

#: What agents and models say, with the marks spelled out that would show it as something else.
register.filter("visible", plan_words.visible)

#: The hue of each state: a class of the style sheet, or none. Icon and word carry the meaning without it.
HUES: dict[str, str] = {
    State.RUNNING: "busy",
    State.SUCCEEDED: "good",
    State.BLOCKED: "warn",
    State.DEAD: "bad",
}

MINUTE, HOUR, DAY = 60, 3600, 86400


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """Draw an icon of the sprite. Without a label it is decoration, and a word must stand beside it."""
    drawing = f"{static('img/icons.svg')}#{name}"
    if label:
        return format_html('<svg class="icon" role="img" aria-label="{}"><use href="{}"/></svg>', label, drawing)
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}"/></svg>', drawing)


@register.simple_tag
def status(state: str, pill: bool = False) -> SafeString:
    """Show a job's state: icon, word and hue."""
    return format_html(
        '<span class="status {}{}">{}{}</span>',
        HUES.get(state, ""),
        " pill" if pill else "",
        icon(state),
        State(state).label,
    )


@register.simple_tag
def ago(value: datetime | None, empty: str = "–") -> SafeString:
    """Show a time relative to now; the absolute one on hover and to screen readers. `time.js` keeps it true."""
    if value is None:
        return format_html('<span class="soft">{}</span>', empty)
    absolute = absolute_time(value)
    return format_html(
        '<time datetime="{}" title="{}"><span data-ago>{}</span><span class="visually-hidden">, {}</span></time>',
        value.isoformat(),
        absolute,
        relative((timezone.now() - value).total_seconds(), value),
        absolute,
    )


@register.simple_tag
def age(value: datetime | None, empty: str = "–") -> SafeString:
    """Show how long ago a moment was, as a length of time that goes on: `4 min`. `time.js` keeps it true."""
    if value is None:
        return format_html('<span class="soft">{}</span>', empty)
    return format_html(
        '<time datetime="{}" title="since {}"><span data-age>{}</span></time>',
        value.isoformat(),
        absolute_time(value),
        roughly((timezone.now() - value).total_seconds()),
    )


def roughly(seconds: float) -> str:
    """Return a length of time in its largest unit, as `time.js` does: ``12 s``, ``4 min``, ``3 h``, ``2 d``."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min"
    return f"{whole // HOUR} h" if whole < 2 * DAY else f"{whole // DAY} d"


def relative(seconds: float, value: datetime) -> str:
    """Return ``seconds`` ago (or ahead, when negative) in words; beyond thirty days the date of ``value``."""
    if abs(seconds) >= 30 * DAY:
        return f"{timezone.localtime(value):%-d %b %Y}"
    if seconds <= -1:
        return f"in {roughly(-seconds)}"
    return "just now" if seconds < 5 else f"{roughly(seconds)} ago"


@register.filter
def absolute_time(value: datetime) -> str:
    """Return a moment in full, in the site's time zone."""
    return f"{timezone.localtime(value):%-d %b %Y, %H:%M:%S %Z}"


@register.filter
def clock(value: datetime) -> str:
    """Return the time of day of a moment."""
    return f"{timezone.localtime(value):%H:%M:%S}"


@register.filter
def day_clock(value: datetime) -> str:
    """Return the time of day of a moment, with its day if that is not today."""
    local = timezone.localtime(value)
    today = timezone.localtime()
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    return f"{local:%-d %b, %H:%M:%S}" if local.year == today.year else f"{local:%-d %b %Y, %H:%M:%S}"


@register.filter
def duration(value: timedelta | float | None) -> str:
    """Return a length of time (a timedelta, or seconds) with its units: ``420 ms``, ``12.4 s``, ``3 min 20 s``."""
    if value is None:
        return "–"
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0.9995:
        return f"{max(0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    if whole < 2 * DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


@register.filter
def usd(value: Decimal | float | None) -> str:
    """Return money in US dollars, sums below one with four digits; None is a price that nobody knows."""
    if value is None:
        return "unknown"
    amount = Decimal(value)
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if amount >= Decimal("0.0001") else "<$0.0001"


@register.filter
def figure(value: object) -> str:
    """Return a whole number with its thousands set apart; anything else as it says itself."""
    return f"{value:,}" if type(value) is int else str(value)


@register.filter
def percent(part: int, whole: int) -> str:
    """Return what share of ``whole`` ``part`` is, in percent; a dash of nothing."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.0f} %" if share == 0 or share >= 9.95 else f"{share:.1f} %"


@register.filter
def until(start: datetime | None, end: datetime | None) -> str:
    """Return the length of time between two moments."""
    return duration(end - start if start is not None and end is not None else None)


@register.filter
def is_text(value: object) -> bool:
    """Tell whether a JSON value is a text."""
    return isinstance(value, str)


@register.filter
def gist(value: object) -> str:
    """Return a task's input in one line: its text, or the first text in it."""
    if isinstance(value, dict):
        value = next((item for item in value.values() if isinstance(item, str) and item.strip()), value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.split())
    return f"{line[:140]}…" if len(line) > 141 else line or "(empty)"


@register.filter
def subject(run: Run) -> str:
    """Return what a task is about in one line; of a reply whose conversation was deleted there is nothing to tell."""
    return "(deleted)" if is_forgotten(run) else gist(run.input)


@register.filter
def signed(value: float) -> str:
    """Return a difference with its sign: ``+0.03``, ``−0.02``, ``±0.00``."""
    rounded = round(value, 2)
    sign = "±" if rounded == 0 else "+" if rounded > 0 else "−"
    return f"{sign}{abs(rounded):.2f}"


@register.filter
def by_lane(slots: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the slots of each lane in the order in which lanes are shown everywhere; names not known come last."""
    known = {name: at for at, name in enumerate(settings.LANES)}
    return sorted(slots.items(), key=lambda one: (known.get(one[0], len(known)), one[0]))


@register.filter
def total(values: Iterable[int]) -> int:
    """Return the sum of some numbers."""
    return sum(values)


@register.filter
def short_id(value: object) -> str:
    """Return an id shortened in the middle, where ids made one after the other look alike."""
    text = str(value)
    return text if len(text) <= 14 else f"{text[:4]}…{text[-6:]}"


@register.inclusion_tag("partials/id.html")
def full_id(value: object, what: str = "id") -> dict[str, object]:
    """Show a shortened id with a button that copies it whole."""
    return {"value": str(value), "what": what}


@register.inclusion_tag("partials/copy.html")
def copy_button(value: object, what: str) -> dict[str, object]:
    """Show a button that copies a value."""
    return {"value": str(value), "what": what}


@register.simple_tag
def json_tree(value: object) -> SafeString:
    """Show a JSON value as a tree whose branches open and close."""
    return tree(value, icon("right"))


@register.simple_tag(takes_context=True)
def theme(context: template.Context) -> str:
    """Return the theme that the person chose, or nothing: then it is the system's."""
    request = context.get("request")
    return chosen_theme(request) if isinstance(request, HttpRequest) else ""


@register.filter
def is_operator(user: roles.Person) -> bool:
    """Tell whether the user sees everybody's work."""
    return roles.is_operator(user)


@register.filter
def role(user: roles.Person) -> str:
    """Return the user's most telling role, as a word."""
    found = roles.of(user)
    return next((name for name in roles.ROLES if name in found), "no role")


@register.simple_tag(takes_context=True)
def here(context: template.Context, **changes: object) -> str:
    """Return the page's own address with some parameters changed; an empty one falls away."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        if value in (None, ""):
            query.pop(name, None)
        else:
            query[name] = str(value)
    return f"?{query.urlencode()}" if query else "?"


@register.simple_tag(takes_context=True)
def without(context: template.Context, name: str) -> str:
    """Return the page's own address without one of its parameters."""
    return here(context, **{name: "", "cursor": ""})


@register.inclusion_tag("partials/pager.html", takes_context=True)
def pager(
    context: template.Context,
    count: int,
    what: str,
    after: object,
    is_first: bool,
    by: str = "cursor",
    anchor: str = "",
    ascending: bool = False,
    further: str = "",
    label: str = "Pages",
) -> dict[str, object]:
    """Lead to the next page of a list, and back to its first.

    Args:
        count: how many rows this page shows; ``what`` they are, in the plural.
        after: the cursor of the next page; nothing at the end. It goes into the address as the parameter ``by``.
        ascending: the list begins with the oldest.
    """
    if is_first:
        words = f"The {'first' if ascending else 'newest'} {count:,}"
    else:
        words = f"{count:,} {'later' if ascending else 'older'} {what}"
    return {
        "words": words,
        "label": label,
        "ascending": ascending,
        "first": "" if is_first else here(context, **{by: ""}) + anchor,
        "next": here(context, **{by: after}) + anchor if after else "",
        "further": further or ("Later" if ascending else "Older"),
    }
