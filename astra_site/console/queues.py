"""The queues page, and pausing: a lane, an agent, an endpoint or everything."""

from __future__ import annotations

from urllib.parse import unquote

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import Resolver404, resolve, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.actors import actor_of
from agents.pages import page_or_region
from astra_site.console import pausing
from astra_site.console.access import for_operators
from astra_site.console.pausing import CannotPause, Held, moment, named
from astra_site.console.queue_page import gather
from jobs.actions import PAUSED, Pause, Resume, note_of
from jobs.holds import EVERYTHING
from jobs.models import Hold

MAX_NOTE = 500


@require_safe
@never_cache
@for_operators
def queues(request: HttpRequest) -> HttpResponse:
    """Show each lane with its depth, age, slots and last hour, the holds in force and the workers."""
    context = {
        "section": "queues",
        "seen": gather(),
        #: The lane whose figures stand in a table.
        "figures": request.GET.get("figures", ""),
    }
    return page_or_region(request, "console/queues.html", "queues", context)


@require_POST
@for_operators
def pause(request: HttpRequest) -> HttpResponse:
    """Let nothing start that has the key ``key``. ``note`` says why, ``next`` is where to go on."""
    try:
        key = pausing.check(request.POST.get("key", ""))
    except CannotPause as error:
        return _refused(request, error)
    note = note_of(request.POST.get("note", ""))[:MAX_NOTE]
    if Pause(actor_of(request), note=note).run(key):
        what = "no task or reply begins" if key == EVERYTHING else "new work of it waits"
        messages.success(request, f"{named(key)} is paused: {what} until somebody resumes it. What runs goes on.")
    elif (hold := Hold.objects.filter(key=key, reason=PAUSED).first()) is not None:
        said = f" Their note: {hold.note.rstrip('.')}." if hold.note else ""
        by = f"{hold.placed_by} at {moment(hold)}"
        messages.warning(request, f"{named(key)} was paused already by {by}.{said} Nothing was changed.")
    else:
        messages.warning(request, f"{named(key)} was resumed by somebody at the same moment, and is not paused.")
    return redirect(_next(request))


@require_POST
@for_operators
def resume(request: HttpRequest) -> HttpResponse:
    """Lift a hold on the key ``key``. One with another ``reason`` than a pause must be confirmed with ``confirm``."""
    key, reason = request.POST.get("key", ""), request.POST.get("reason") or PAUSED
    hold = Hold.objects.filter(key=key, reason=reason).first() if "\0" not in key + reason else None
    if hold is None:
        try:
            pausing.check(key)
        except CannotPause as error:
            return _refused(request, error)
        return _nothing_to_lift(request, key)
    if reason != PAUSED and request.POST.get("confirm") != reason:
        words = f"{Held(hold).words} It was not lifted: that has to be confirmed."
        return _refused(request, CannotPause(words, 422))
    if not Resume(actor_of(request), reason=reason).run(key):
        return _nothing_to_lift(request, key)
    messages.success(request, f"{named(key)} goes on. What nothing else stops is queued within seconds.")
    return redirect(_next(request))


def _nothing_to_lift(request: HttpRequest, key: str) -> HttpResponse:
    last = pausing.last_lifted(key)
    by = f"was resumed already by {last.actor_name} at {moment(last)}" if last is not None else "is not paused"
    messages.warning(request, f"{named(key)} {by}. Nothing was changed.")
    return redirect(_next(request))


def _refused(request: HttpRequest, error: CannotPause) -> HttpResponse:
    return render(request, "console/refused.html", {"words": str(error)}, status=error.status)


def _next(request: HttpRequest) -> str:
    """Return where to go on: a page of the console that the form named, else the queues."""
    path = request.POST.get("next", "")
    if path.startswith(reverse("overview")) and url_has_allowed_host_and_scheme(path, allowed_hosts=None):
        try:
            resolve(unquote(path.partition("#")[0].partition("?")[0]))
        except Resolver404:
            pass
        else:
            return path
    return reverse("queues")
