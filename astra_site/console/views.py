"""The overview."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import roles
from astra_site.console.overview import gather
from astra_site.console.verdict import judge


@require_safe
@never_cache
def overview(request: HttpRequest) -> HttpResponse:
    """Show whether anything is wrong, then depth, dead letters, modes, decisions and workers."""
    if not roles.is_operator(request.user):
        raise PermissionDenied("The overview is for operators. Your own tasks are under Tasks.")
    seen = gather()
    context = {"section": "overview", "seen": seen, "verdict": judge(seen)}
    template = "console/overview.html" + ("#overview" if request.htmx else "")  # type: ignore[attr-defined]
    return render(request, template, context)
