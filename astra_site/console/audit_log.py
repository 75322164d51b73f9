"""Who did what, when, from where."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from astra_site.console.access import for_operators


@for_operators
def audit_log(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)
