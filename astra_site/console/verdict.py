"""Say in words whether anything is wrong, and where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from approvals.inbox import ALL_PENDING
from astra_site.console.overview import Overview
from astra_site.console.pausing import Held
from jobs.holds import EVERYTHING
from jobs.lanes import CHAT
from jobs.models import BulkOperation, Worker
from jobs.queries import ALIKE_UP_TO, HOLDS_UP_TO, Bounded, LaneLoad, Stuck
from jobs.timeline import in_words

#: A lane whose oldest job has been queued for longer than this many seconds is behind. A lane that is not named may be:
#: batches and evaluations are there to wait.
BEHIND_AFTER_S = {"chat": 10, "queue": 120, "scheduled": 120, "tools": 60, "delivery": 120, "suspect": 120}
#: Schedulers sample the lanes each minute, within its first seconds: so many minutes without a sample, and none runs.
UNSAMPLED_MIN = 3
#: A site that has just started has no sample yet.
STARTED = timedelta(minutes=3)
#: What a failure is called is told up to here.
TITLE_UP_TO = 200
#: More holds than this are told as one.
HOLDS_TOLD = 4


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
    #: The worst finding's words, if there is one.
    headline: str
    detail: str
    findings: Sequence[Finding]

    @property
    def others(self) -> Sequence[Finding]:
        """Return what is wrong besides the worst."""
        return self.findings[1:]


def judge(seen: Overview) -> Verdict:
    """Return the verdict, the worst finding first."""
    findings = sorted(_findings(seen), key=lambda finding: finding.level != "bad")
    unread = f"Could not be read now: {', '.join(seen.unread)}." if seen.unread else ""
    if not findings:
        if unread:
            return Verdict("warn", "Nothing wrong is seen, but not everything could be read.", unread, ())
        return Verdict("good", "All is well.", _calm(seen), ())
    headline = findings[0].words
    if unread:
        headline += " Not everything could be read."
    return Verdict(findings[0].level, headline, unread, findings)


def tasks_link(**filters: str) -> str:
    """Return the address of the task list with these filters."""
    return f"{reverse('tasks')}?{urlencode(filters)}"


def _findings(seen: Overview) -> Iterator[Finding]:
    if seen.workers is not None:
        yield from _fleet(seen)
    for lane in seen.lanes or ():
        yield from _lane(lane, seen)
    if seen.stuck is not None:
        yield from _stuck(seen.stuck, seen)
    yield from _scheduler(seen)
    yield from _holds(seen)
    yield from _approvals(seen)
    for operation in seen.idle_operations or ():
        yield _idle(operation)
    for mode in seen.modes or ():
        if mode.begins_late:
            words = f"{mode.policy.mode.label} answers begin later than they should."
            yield Finding("warn", words, "#modes", "Modes")


def _takes_tasks(worker: Worker) -> bool:
    return any(lane != CHAT for lane in worker.lanes)


def _fleet(seen: Overview) -> Iterator[Finding]:
    if not any(map(_takes_tasks, seen.live_workers)):
        waiting = f" {_tasks(seen.queued)} in the queue." if seen.queued else ""
        yield Finding("bad", f"No worker is running, so no task can start.{waiting}", "#workers", "Workers")
    if dead := sum(worker.ended_at is not None for worker in seen.workers or ()):
        who, ran = ("A worker", "it") if dead == 1 else (f"{dead} workers", "they")
        words = f"{who} died in the last hour. What {ran} ran is taken over by others."
        yield Finding("warn", words, "#workers", "Workers")
    versions = Counter(worker.version for worker in seen.live_workers)
    if len(versions) > 1:
        told = " and ".join(f"{version} ({number})" for version, number in sorted(versions.items()))
        yield Finding("warn", f"Workers run different versions of Astra: {told}.", "#workers", "Workers")


def _lane(lane: LaneLoad, seen: Overview) -> Iterator[Finding]:
    link = tasks_link(state="queued", lane=lane.name)
    if {EVERYTHING, f"lane:{lane.name}"} & {hold.key for hold in seen.holds or ()}:
        return  # it is told as what it is
    if lane.queued and not lane.slots:
        if any(map(_takes_tasks, seen.live_workers)):
            words = f"No worker serves lane {lane.name}, and {_tasks(lane.queued)} wait{_s(lane.queued)} in it."
            yield Finding("bad", words, link, "Show them")
        return
    limit = BEHIND_AFTER_S.get(lane.name)
    if limit is not None and lane.oldest_s is not None and lane.oldest_s > limit:
        minutes = round(lane.oldest_s / 60)
        waited = f"{minutes} min" if minutes >= 2 else f"{lane.oldest_s:.0f} s"
        words = f"Lane {lane.name} is behind: its oldest task has been queued for {waited}."
        yield Finding("warn", words, link, "Queued tasks")


def _stuck(stuck: Stuck, seen: Overview) -> Iterator[Finding]:
    if today := stuck.dead_today:
        one = str(today) == "1"
        words = "One task became a dead letter" if one else f"{today} tasks became dead letters"
        newest = seen.dead_letters[0] if seen.dead_letters else None
        alike = ""
        if stuck.alike is not None and newest is not None and isinstance(newest.error, dict):
            title = str(newest.error.get("title") or "")[:TITLE_UP_TO].rstrip(".")
            which = f"The newest {ALIKE_UP_TO:,}" if today.number > ALIKE_UP_TO else "All"
            alike = f" {'' if one else f'{which} are alike: '}{title}." if title else ""
        yield Finding("bad", f"{words} in the last 24 hours.{alike}", reverse("dead-letters"), "Dead letters")
    if overdue := stuck.overdue:
        words = f"{_tasks(overdue)} should have started by now: no scheduler seems to be running."
        yield Finding("bad", words, tasks_link(state="scheduled"), "Scheduled tasks")
    told = {f"hold:{hold.key}" for hold in seen.holds or ()}
    for reason, number in stuck.blocked:
        if reason == "partition" or reason in told:
            continue  # the order that its owner asked for; and holds are told as what they are
        who = _tasks(Bounded(number))
        if reason.startswith("hold:") and seen.holds is not None and len(seen.holds) < HOLDS_UP_TO:
            # Lifted, and the sweep has not come to all that it stopped.
            words = f"{who} whose hold was lifted {'is' if number == 1 else 'are'} being queued."
        else:
            words = f"{who} can’t go on: {in_words([reason])[0]}."
        yield Finding("warn", words, tasks_link(state="blocked"), "Blocked tasks")


def _scheduler(seen: Overview) -> Iterator[Finding]:
    missing = seen.unsampled_min
    if missing is None or missing < UNSAMPLED_MIN or (seen.stuck is not None and seen.stuck.overdue):
        return
    began = min((worker.started_at for worker in seen.live_workers), default=None)
    if began is None or began > timezone.now() - STARTED:
        return
    hour = seen.samples is not None and all(missing == len(line) for line in seen.samples.values())
    since = "in the last hour" if hour else f"for {missing} min"
    words = f"No scheduler seems to be running: nobody has looked after the lanes {since}."
    yield Finding("bad", words, reverse("queues"), "Queues")


def _holds(seen: Overview) -> Iterator[Finding]:
    holds, page = seen.holds or (), reverse("queues")
    waiting = dict(seen.stuck.blocked) if seen.stuck is not None else {}
    for hold in holds[:HOLDS_TOLD]:
        held, number = Held(hold), waiting.get(f"hold:{hold.key}", 0)
        words = f"{held.words} {_tasks(Bounded(number))} wait{_s(Bounded(number))} for it." if number else held.words
        yield Finding("warn", words, f"{page}#{held.anchor}", "Resume it" if held.is_pause else "Show it")
    if len(holds) > HOLDS_TOLD:
        yield Finding("warn", f"{len(holds) - HOLDS_TOLD} more holds are in force.", f"{page}#holds", "Holds")


def _approvals(seen: Overview) -> Iterator[Finding]:
    if seen.waiting is None:
        return
    page = reverse("approvals")
    if soon := seen.waiting.soon:
        one = str(soon) == "1"
        words = "1 plan waits for people, and its deadline is" if one else ""
        words = words or f"{soon} plans wait for people, and their deadlines are"
        words += " within the hour."
        yield Finding(
            "warn", words, f"{page}?{urlencode({'tab': ALL_PENDING, 'due': '1h'})}", "Show it" if one else "Show them"
        )
    if unknown := seen.waiting.unknown:
        one = str(unknown) == "1"
        words = f"Nobody knows how {unknown} call{'' if one else 's'} ended: a person has to say what became of"
        words += " it." if one else " them."
        link = f"{page}?{urlencode({'tab': ALL_PENDING, 'kind': 'effect'})}"
        yield Finding("warn", words, link, "Unknown effects")


def _idle(operation: BulkOperation) -> Finding:
    since = timezone.now() - (operation.worked_at or operation.created_at)
    minutes = round(since.total_seconds() / 60)
    verb = operation.get_verb_display().lower()
    words = f"{operation.asked_by_name}’s operation (to {verb} {operation.words}) has stood still for {minutes} min."
    return Finding("warn", words, reverse("operation", args=[operation.pk]), "Operation")


def _calm(seen: Overview) -> str:
    processes = sum(map(_takes_tasks, seen.live_workers))
    pending = seen.waiting.pending if seen.waiting is not None else None
    people = f" {pending} wait{_s(pending)} for a person." if pending else ""
    return (
        f"{processes} worker{'' if processes == 1 else 's'} with {_slots(seen)} slots for tasks, no lane is behind, and"
        f" nothing failed for good in the last 24 hours.{people}"
    )


def _slots(seen: Overview) -> int:
    return sum(lane.slots for lane in seen.lanes or () if lane.name != CHAT)


def _tasks(count: Bounded) -> str:
    return f"{count} task{'' if str(count) == '1' else 's'}"


def _s(count: Bounded) -> str:
    return "s" if str(count) == "1" else ""
