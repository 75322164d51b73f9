"""Say in words whether anything is wrong, and where to look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.urls import reverse
from django.utils.http import urlencode

from astra_site.console.overview import Overview
from jobs.queries import Bounded, LaneLoad
from jobs.timeline import in_words

#: A lane whose oldest job has been queued for longer than this many seconds is behind. A lane that is not named may be:
#: batches and evaluations are there to wait.
BEHIND_AFTER_S = {"chat": 10, "queue": 120, "scheduled": 120, "tools": 60, "delivery": 120, "suspect": 120}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    #: "bad" asks for somebody now, "warn" for somebody today.
    level: str
    words: str
    link: str
    link_words: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first line of the overview."""

    level: str
    headline: str
    detail: str
    findings: Sequence[Finding]


def judge(seen: Overview) -> Verdict:
    """Return the verdict, the worst finding first."""
    findings = sorted(_findings(seen), key=lambda finding: finding.level != "bad")
    if not findings:
        return Verdict("good", "All is well.", _calm(seen), ())
    if len(findings) == 1:
        return Verdict(findings[0].level, findings[0].words, "", findings)
    return Verdict(findings[0].level, f"{len(findings)} things need somebody’s attention.", "", findings)


def tasks_link(**filters: str) -> str:
    """Return the address of the task list with these filters."""
    return f"{reverse('tasks')}?{urlencode(filters)}"


def _findings(seen: Overview) -> Iterator[Finding]:
    if not seen.live_workers:
        waiting = f" {_tasks(seen.queued)} in the queue." if seen.queued else ""
        yield Finding("bad", f"No worker is running, so no task can start.{waiting}", "#workers", "Workers")
    for lane in seen.lanes:
        yield from _lane(lane, any_worker=bool(seen.live_workers))
    if today := seen.stuck.dead_today:
        words = "One task became a dead letter" if str(today) == "1" else f"{today} tasks became dead letters"
        link = tasks_link(state="dead", ended="24h")
        yield Finding("bad", f"{words} in the last 24 hours.", link, "Dead letters")
    if overdue := seen.stuck.overdue:
        words = f"{_tasks(overdue)} should have started by now: no scheduler seems to be running."
        yield Finding("bad", words, tasks_link(state="scheduled"), "Scheduled tasks")
    for reason, number in seen.stuck.blocked:
        if reason == "partition":
            continue  # the order that its owner asked for
        words = f"{_tasks(Bounded(number))} can’t go on: {in_words([reason])[0]}."
        yield Finding("warn", words, tasks_link(state="blocked"), "Blocked tasks")
    for mode in seen.modes:
        if mode.begins_late:
            words = f"{mode.policy.mode.label} answers begin later than they should."
            yield Finding("warn", words, "#modes", "Modes")


def _lane(lane: LaneLoad, *, any_worker: bool) -> Iterator[Finding]:
    link = tasks_link(state="queued", lane=lane.name)
    if lane.queued and not lane.slots:
        if any_worker:
            words = f"No worker serves lane {lane.name}, and {_tasks(lane.queued)} wait{_s(lane.queued)} in it."
            yield Finding("bad", words, link, "Show them")
        return
    limit = BEHIND_AFTER_S.get(lane.name)
    if limit is not None and lane.oldest_s is not None and lane.oldest_s > limit:
        minutes = round(lane.oldest_s / 60)
        waited = f"{minutes} min" if minutes >= 2 else f"{lane.oldest_s:.0f} s"
        words = f"Lane {lane.name} is behind: its oldest task has been queued for {waited}."
        yield Finding("warn", words, link, "Queued tasks")


def _calm(seen: Overview) -> str:
    processes = len(seen.live_workers)
    people = f" {seen.waiting} wait{_s(seen.waiting)} for a person." if seen.waiting else ""
    return (
        f"{processes} worker{'' if processes == 1 else 's'} with {seen.slots} slots, no lane is behind, and nothing"
        f" failed for good in the last 24 hours.{people}"
    )


def _tasks(count: Bounded) -> str:
    return f"{count} task{'' if str(count) == '1' else 's'}"


def _s(count: Bounded) -> str:
    return "s" if str(count) == "1" else ""
