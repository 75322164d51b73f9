"""Dead letters, those that are alike together."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from astra_site.console.access import for_operators


@for_operators
def groups(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)


@for_operators
def group(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)
