"""Lanes, what they have to do, and pausing."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from astra_site.console.access import for_operators


@for_operators
def queues(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)


@for_operators
def pause(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)


@for_operators
def resume(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)
