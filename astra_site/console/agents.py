"""Agents, their versions and endpoints."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from astra_site.console.access import for_operators


@for_operators
def agents(request: HttpRequest) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)


@for_operators
def agent(request: HttpRequest, name: str) -> HttpResponse:
    """Not there yet."""
    return HttpResponse(status=501)
