"""Changes of many tasks: asking for one, its progress, stopping it."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest, HttpResponse

from astra_site.console.access import for_operators


@for_operators
def operations(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)


@for_operators
def new(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)


@for_operators
def operation(request: HttpRequest, operation_id: UUID) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)


@for_operators
def stop(request: HttpRequest, operation_id: UUID) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)
