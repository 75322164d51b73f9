"""Agents, their versions and endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from agents import agent_page
from agents.models import AgentVersion, Endpoint
from agents.pages import page_or_region
from astra_site.console.access import for_operators
from astra_site.console.agent_words import EndpointSign, differences, endpoint_words, models_of, tools_of
from jobs.actions import PAUSED
from jobs.holds import EVERYTHING
from jobs.models import Hold
from jobs.states import State

#: PostgreSQL's largest integer: no version is above it.
HIGHEST = 2_147_483_647


@require_safe
@for_operators
@never_cache
def agents(request: HttpRequest) -> HttpResponse:
    """List every agent with its endpoints, and how it does; those that nothing declared starts any more apart."""
    rows = [(row, [EndpointSign.of(it) for it in row.endpoints]) for row in agent_page.agent_rows()]
    context = {
        "section": "agents",
        "used": [listed for listed in rows if listed[0].in_use],
        "retired": [listed for listed in rows if not listed[0].in_use],
    }
    return page_or_region(request, "console/agents.html", "agents", context)


@require_safe
@for_operators
@never_cache
def agent(request: HttpRequest, name: str) -> HttpResponse:
    """Show one agent: what it is, its endpoints, its versions, and what changed between two of them."""
    endpoints = agent_page.endpoints_of(name) if "\0" not in name else []
    shown = _shown(name, endpoints) if "\0" not in name else None
    if shown is None:
        return render(request, "console/agent_unknown.html", {"section": "agents", "name": name[:80]}, status=404)
    below = _number(request, "below")
    versions = agent_page.versions_of(name, below=below)
    holds = agent_page.holds_on(name, endpoints)
    site = f"{request.scheme}://{request.get_host()}"
    context = {
        "section": "agents",
        "name": name,
        "shown": shown,
        "in_use": any(endpoint.active for endpoint in endpoints),
        "definition": shown.definition,
        "models": models_of(shown.definition),
        "tools": tools_of(shown.definition),
        "figures": agent_page.figures_of(name),
        "versions": versions,
        "unfinished": [(State(state), count) for state, count in versions.unfinished.items()],
        "is_first": below is None,
        "endpoints": [endpoint_words(it, holds.get(f"endpoint:{it.name}", ()), site) for it in endpoints],
        "holds": holds.get(f"agent:{name}", ()),
        "everything": holds.get(EVERYTHING, ()),
        "is_paused": _is_paused(holds.get(f"agent:{name}", ())),
        **_comparison(request, name, versions),
    }
    return render(request, "console/agent.html", context)


def _shown(name: str, endpoints: Sequence[Endpoint]) -> AgentVersion | None:
    """Return the version that the page tells of: the newest that an endpoint starts, else the newest there is."""
    started = [endpoint.agent for endpoint in endpoints if endpoint.active]
    if started:
        return max(started, key=lambda version: version.version)
    return AgentVersion.objects.filter(name=name).order_by("-version").first()


def _is_paused(holds: Sequence[Hold]) -> bool:
    return any(hold.reason == PAUSED for hold in holds)


def _comparison(request: HttpRequest, name: str, versions: agent_page.Versions) -> dict[str, Any]:
    """Compare the two versions that the address names, or the newest two on the page."""
    listed = [row.version.version for row in versions.rows]
    new = _number(request, "new") or (listed[0] if listed else None)
    old = _number(request, "old") or next((number for number in listed if new is not None and number < new), None)
    context: dict[str, Any] = {"listed": listed, "old": old, "new": new, "asked": "old" in request.GET}
    if old is None or new is None:
        return context | {"differences": None}
    before, after = agent_page.version_of(name, old), agent_page.version_of(name, new)
    if before is None or after is None:
        return context | {"differences": None, "is_missing": True}
    found = differences(before.definition, after.definition)
    return context | {"differences": found, "other_code": before.program_hash != after.program_hash}


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text[:12]) <= HIGHEST and len(text) < 11 else None
