"""Charts that the server draws, and the figures beside them."""

from __future__ import annotations

from django import template
from django.utils.safestring import SafeString

from astra_site.console.sparkline import Values, draw

register = template.Library()


@register.simple_tag
def sparkline(values: Values, what: str) -> SafeString:
    """Draw the last hour of a figure. The figures must be reachable beside it, as text."""
    return draw(values, what)


@register.filter
def rate(value: float | None) -> str:
    """Return how often something happens, in the precision that tells: ``0``, ``<0.1``, ``3.2``, ``41``."""
    if value is None:
        return "–"
    if value == 0 or value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.05 else "<0.1"
