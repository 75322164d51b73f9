"""Whether this process is up, and whether the whole site can do its work."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache

from astra_site import reach, schema
from jobs.lanes import CHAT, DEFAULT_SLOTS
from jobs.models import Worker

NO_DATABASE = "The database does not answer."
NO_REDIS = "Redis does not answer."
#: Lane `chat` is served by the web processes themselves, which are workers like others.
LANES = (CHAT, *DEFAULT_SLOTS)


@login_not_required
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """Answer as long as this process does."""
    return JsonResponse({"status": "ok"})


@login_not_required
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when everything is there to run work, else 503; either way with a word or a sentence per check.

    ``idle_lanes`` lists the lanes without a live worker, for a site that serves only some on purpose.
    """
    faults, idle = look()
    body = {
        "status": "unavailable" if any(faults.values()) else "ok",
        "checks": {check: fault or "ok" for check, fault in faults.items()},
        "idle_lanes": idle,
    }
    response = JsonResponse(body, status=503 if any(faults.values()) else 200)
    # Whoever asks once a second knows already; Django would log each such answer as an error.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def look() -> tuple[dict[str, str], list[str]]:
    """Return for each check what is wrong, a sentence or nothing, and the lanes that no live worker serves.

    Where the latter can't be known it is all of them.
    """
    redis = NO_REDIS if reach.redis_fault() else ""
    away = {"database": NO_DATABASE, "redis": redis, "migrations": NO_DATABASE, "lanes": NO_DATABASE}
    if database_fault():
        return away, list(LANES)
    try:
        missing = schema.missing()
        idle = list(LANES) if missing else idle_lanes()
    except DatabaseError:  # it went away just now
        return away, list(LANES)
    if missing:
        lacks = f"The database lacks {len(missing)} migrations; run manage.py migrate."
        return {"database": "", "redis": redis, "migrations": lacks, "lanes": lacks}, idle
    unserved = f"No worker serves {', '.join(idle)}." if idle else ""
    return {"database": "", "redis": redis, "migrations": "", "lanes": unserved}, idle


def database_fault() -> str:
    """Return what is wrong with PostgreSQL, or nothing."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return NO_DATABASE
    return ""


def idle_lanes() -> list[str]:
    """Return the lanes that no live worker serves."""
    served = {lane for lanes in Worker.objects.alive().values_list("lanes", flat=True) for lane in lanes}
    return [lane for lane in LANES if lane not in served]
