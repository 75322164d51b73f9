"""Dead letters, those that are alike together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from agents import queries
from agents.models import Run
from agents.pages import page_or_region
from agents.queries import BadCursor, Page
from agents.task_list import ListFilter
from astra_site import problems
from astra_site.console.access import for_operators
from jobs import dead_letters
from jobs.dead_letters import COUNT_UP_TO, SHOWN, WALKED, Group, Kind, Sample
from jobs.models import Job
from jobs.queries import bounded_count
from jobs.states import State

PAGE = 50
#: What stands before a fingerprint in the filter of tasks, so that it is never read as words.
EXACTLY = "="
#: A detail of a failure is shown up to here; the whole of it is on the page of its task.
DETAIL_UP_TO = 4_000
#: Facts that are shown elsewhere on the page.
_SHOWN_ELSEWHERE = frozenset({"type", "title", "detail", "error", "at", "fingerprint"})


@dataclass(frozen=True, slots=True)
class Row:
    """A group as the list shows it."""

    group: Group
    #: What finds its tasks, and nothing else, in the task list.
    error: str
    #: The endpoints and other handlers that its newest letters are of.
    endpoints: Sequence[str]
    handlers: Sequence[str]
    bars: SafeString


@for_operators
@require_safe
@never_cache
def groups(request: HttpRequest) -> HttpResponse:
    """List the kinds of dead letters there are."""
    words, largest = request.GET.get("q", "").strip()[:200], request.GET.get("sort") == "count"
    found = dead_letters.groups(lambda kinds: _matching(kinds, words), largest_first=largest)
    context = {
        "section": "dead-letters",
        "rows": _rows(found.groups),
        "found": found,
        "q": words,
        "sort": "count" if largest else "",
        "walked": WALKED,
        "shown": SHOWN,
    }
    return page_or_region(request, "console/dead_letters.html", "groups", context)


@for_operators
@require_safe
@never_cache
def group(request: HttpRequest) -> HttpResponse:
    """Show one kind: what is said of it, and its dead letters, the newest first."""
    if "error" not in request.GET:
        return redirect("dead-letters")
    fingerprint = request.GET["error"].replace("\0", "")[:2_000].removeprefix(EXACTLY)
    cursor = request.GET.get("cursor", "")
    try:
        page, others = _letters(fingerprint, cursor)
    except BadCursor:
        return redirect(f"{request.path}?{_only_error(request)}")
    found = dead_letters.group(fingerprint)
    chosen = ListFilter(state=State.DEAD.value, error=EXACTLY + fingerprint)
    context = {
        "section": "dead-letters",
        "group": found,
        "row": _rows([found])[0] if found else None,
        "problem": _whole(found.sample) if found else None,
        "page": page,
        "others": others,
        "listed": len(page.items) + len(others),
        "is_first": not cursor,
        "chosen": chosen,
        "matching": bounded_count(chosen.apply(Run.objects.all()), COUNT_UP_TO) if found else None,
        "verbs": ["redrive", "discard"],
        "selectable": True,
        "shows_users": True,
    }
    return page_or_region(request, "console/dead_letter_group.html", "group", context)


def _matching(kinds: Sequence[Kind], text: str) -> Iterable[Kind]:
    """Return the kinds whose newest dead letter holds all words of the text, in whatever it says."""
    words = text.casefold().split()
    if not words:
        return kinds
    work = _work_of(kind.sample.job_id for kind in kinds)
    return [kind for kind in kinds if _holds(kind, work.get(kind.sample.job_id, ()), words)]


def _holds(kind: Kind, work: Sequence[str], words: Sequence[str]) -> bool:
    of = kind.sample
    said = [of.title, of.detail, of.type, of.error, of.at, of.handler, kind.fingerprint, str(of.job_id), *work]
    text = "\n".join(said).casefold()
    return all(word in text for word in words)


def _work_of(job_ids: Iterable[UUID]) -> dict[UUID, tuple[str, str]]:
    """Return the endpoint and the agent of those jobs that are runs."""
    found = Run.objects.filter(job_id__in=list(job_ids)).order_by()
    return {row[0]: (row[1], row[2]) for row in found.values_list("job_id", "endpoint__name", "agent__name")}


def _rows(found: Sequence[Group]) -> list[Row]:
    work = _work_of(job_id for group in found for job_id in group.newest)
    return [_row(group, work) for group in found]


def _row(group: Group, work: Mapping[UUID, tuple[str, str]]) -> Row:
    endpoints = sorted({work[job_id][0] for job_id in group.newest if job_id in work})
    is_other = any(job_id not in work for job_id in group.newest)
    handlers = [group.sample.handler] if is_other and group.sample.job_id not in work else []
    return Row(group, EXACTLY + group.fingerprint, endpoints, handlers, bars(group))


def _letters(fingerprint: str, cursor: str) -> tuple[Page[Run], list[Job]]:
    """Return a page of a group's dead letters: its tasks, and the jobs that are none."""
    letters = dead_letters.letters(fingerprint).select_related("run__endpoint", "run__agent", "run__user")
    if cursor:
        at, job_id = queries.decode(cursor, _place)
        letters = letters.filter(Q(finished_at__lt=at) | Q(finished_at=at, id__lt=job_id), finished_at__lte=at)
    cut = queries.cut(letters, PAGE, lambda job: f"{job.finished_at:%Y-%m-%dT%H:%M:%S.%f%z} {job.pk}")
    runs, others = [], []
    for job in cut.items:
        if hasattr(job, "run"):
            runs.append(job.run)
        else:
            others.append(job)
    return Page(runs, cut.next_cursor), others


def _place(text: str) -> tuple[datetime, UUID]:
    at, _, job_id = text.partition(" ")
    moment = datetime.fromisoformat(at)
    if moment.tzinfo is None or not 1000 <= moment.year <= 9000:
        raise ValueError("no moment at which a task can have ended")
    return moment.astimezone(UTC), UUID(job_id)


def _whole(sample: Sample) -> dict[str, Any]:
    """Return what the newest dead letter of a group says of itself, and what the house has to say of its type."""
    found = Job.objects.filter(pk=sample.job_id).values_list("error", flat=True).first()
    error = found if isinstance(found, dict) else {}
    detail = error.get("detail")
    detail = detail if isinstance(detail, str) else sample.detail
    known = problems.registry().get(sample.slug)
    return {
        "detail": detail[:DETAIL_UP_TO] if detail != sample.name else "",
        "is_cut": len(detail) > DETAIL_UP_TO,
        "facts": {name: value for name, value in error.items() if name not in _SHOWN_ELSEWHERE},
        "known": known,
        "meaning": problems.marked(known.meaning) if known else "",
        "advice": problems.marked(known.advice) if known else "",
    }


def bars(group: Group) -> SafeString:
    """Draw how many came in each of the last hours. The words of it stand in its title."""
    known = [number for number in group.hours if number is not None]
    top = max([4, *known])
    shapes = []
    for place, number in enumerate(group.hours):
        height = 24 if number is None else max(1, round(24 * number / top)) if number else 1
        kind = "unknown" if number is None else "some" if number else "none"
        shapes.append((kind, place * 5, 24 - height, height))
    words = _bars_in_words(group, known)
    return format_html(
        '<svg class="bars" viewBox="0 0 119 24" role="img" aria-label="{}"><title>{}</title>{}</svg>',
        words,
        words,
        format_html_join("", '<rect class="{}" x="{}" y="{}" width="4" height="{}"/>', shapes),
    )


def _bars_in_words(group: Group, known: Sequence[int]) -> str:
    hours = len(group.hours)
    if len(known) < hours:
        span = "hour" if len(known) == 1 else f"{len(known)} hours"
        return f"The last {hours} hours: more than {COUNT_UP_TO:,} in the last {span}, not counted before"
    if not any(known):
        return f"The last {hours} hours: none"
    return f"The last {hours} hours: {sum(known):,}, at most {max(known):,} in one, {known[-1]:,} in the last"


def _only_error(request: HttpRequest) -> str:
    query = request.GET.copy()
    query.pop("cursor", None)
    return query.urlencode()
