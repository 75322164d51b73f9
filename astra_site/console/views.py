"""The overview."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from agents.pages import page_or_region
from astra_site.console.access import for_operators
from astra_site.console.overview import gather
from astra_site.console.verdict import judge


@require_safe
@never_cache
@for_operators
def overview(request: HttpRequest) -> HttpResponse:
    """Show whether anything is wrong, then depth, dead letters, modes, decisions and workers."""
    seen = gather()
    context = {"section": "overview", "seen": seen, "verdict": judge(seen)}
    return page_or_region(request, "console/overview.html", "overview", context)
