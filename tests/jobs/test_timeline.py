"""A job's story and its attempts, told from its events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs import attempts, lanes, timeline
from jobs.history import CHANGES, NOTES, History
from jobs.models import Job, JobEvent, Worker
from jobs.states import State

BEGAN = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)
PROBLEM = {"title": "The model is not available now", "detail": "503", "retriable": True}


class Story:
    """Events of a job that is not in the database, a second apart."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.fence = 0

    def add(self, old: str, new: str, reason: str, *, kind: str = "state", **more: Any) -> Story:
        at = BEGAN + timedelta(seconds=len(self.events))
        number = len(self.events) + 1
        self.events.append(
            JobEvent(pk=number, at=at, kind=kind, old=old, new=new, reason=reason, fence=self.fence, **more)
        )
        return self

    def claimed(self, worker: Worker | None = None) -> Story:
        self.fence += 1
        return self.add("queued", "running", "claimed", worker=worker)

    def redriven(self, by: str, start: str = "checkpoint") -> Story:
        return self.add("dead", "queued", "redriven", actor=by, data={"from": start})

    def history(self, generation: int = 1) -> History:
        return History(self.events, generation, None)


def submitted() -> Story:
    return Story().add("", "queued", "submitted")


def words(story: Story, lane: str = "queue") -> list[str]:
    return [moment.words for moment in timeline.tell(story.events, lane=lane)]


@pytest.mark.parametrize(
    ("new", "reason", "data", "told"),
    [
        ("succeeded", "finished", None, "Succeeded"),
        ("dead", "failed", PROBLEM, "Failed"),
        ("cancelled", "cancelled", None, "Cancelled"),
        ("cancelled", "worker-died", None, "Cancelled"),
        ("queued", "handed-back", None, "Handed back: its worker stopped"),
        ("queued", "lease-lost", None, "Its worker stopped answering"),
        ("queued", "worker-died", None, "Its worker died"),
        ("dead", "worker-died", PROBLEM, "Its worker died"),
        ("queued", "worker-stopped", None, "Its worker was stopped"),
        ("queued", "orphaned", None, "Its worker had lost track of it"),
        ("scheduled", "retry", {**PROBLEM, "delay_s": 3.5}, "Failed"),
        ("waiting", "parked", {"waits": []}, "Parked: it waits without a worker"),
        ("blocked", "version", PROBLEM, "Could not go on"),
    ],
)
def test_every_end_of_an_attempt_has_its_words(new: str, reason: str, data: Any, told: str) -> None:
    story = submitted().claimed().add("running", new, reason, data=data)
    [generation] = attempts.attempts(story.history())
    [attempt] = generation.attempts
    assert (attempt.words, attempt.number, attempt.lasted) == (told, 1, timedelta(seconds=1))
    assert (attempt.problem is not None) == (data is not None and "title" in data)


def test_an_attempt_names_its_worker_as_it_was() -> None:
    story = submitted().claimed(Worker(hostname="host", pid=4121)).add("running", "succeeded", "finished")
    assert attempts.attempts(story.history())[0].attempts[0].worker == "host:4121"


def test_an_attempt_that_goes_on_has_no_end() -> None:
    attempt = attempts.attempts(submitted().claimed().history())[0].attempts[0]
    assert (attempt.words, attempt.ended, attempt.lasted) == ("Running", None, None)


def test_asking_a_running_job_to_stop_ends_no_attempt() -> None:
    story = submitted().claimed().add("running", "running", "cancel-requested", actor="olga")
    assert [attempt.words for attempt in attempts.attempts(story.history())[0].attempts] == ["Running"]
    assert words(story)[-1] == "olga asked it to stop"


def test_a_retry_says_after_what_time_and_the_last_one_when() -> None:
    story = submitted()
    for _ in range(2):
        story.claimed().add("running", "scheduled", "retry", data={**PROBLEM, "delay_s": 3.5})
        story.add("scheduled", "queued", "due")
    due = BEGAN + timedelta(hours=1)
    last, first = attempts.attempts(story.history(), next_at=due)[0].attempts
    assert (first.delay, first.next_at) == (timedelta(seconds=3.5), None)
    assert last.next_at == due


def test_attempts_stand_by_generation_the_newest_first() -> None:
    story = submitted().claimed().add("running", "dead", "failed", data=PROBLEM).redriven("olga")
    story.claimed().add("running", "dead", "failed", data=PROBLEM).redriven("otto", "start").claimed()
    found = attempts.attempts(story.history(generation=3))
    assert [(part.number, part.by, part.start) for part in found] == [
        (3, "otto", "start"),
        (2, "olga", "checkpoint"),
        (1, "", ""),
    ]
    assert [attempt.number for part in found for attempt in part.attempts] == [3, 2, 1]
    assert attempts.count(found) == 3


def test_a_generation_that_nobody_claimed_has_no_heading() -> None:
    story = submitted().claimed().add("running", "dead", "failed", data=PROBLEM).redriven("olga")
    assert [part.number for part in attempts.attempts(story.history(generation=2))] == [1]


def test_a_task_was_submitted_and_a_reply_was_asked_for() -> None:
    story = submitted().claimed()
    assert words(story) == ["Submitted to the queue", "Taken by a worker"]
    assert words(story, lanes.CHAT) == ["Asked in the chat", "Taken by a web process"]


@pytest.mark.parametrize(
    ("reason", "lane", "alone"),
    [
        ("worker-died", "queue", True),
        ("lease-lost", "queue", True),
        ("worker-stopped", "queue", False),
        ("orphaned", "queue", False),
        ("worker-died", lanes.CHAT, False),
    ],
)
def test_only_what_killed_its_worker_runs_alone_next(reason: str, lane: str, alone: bool) -> None:
    story = submitted().claimed().add("running", "queued", reason)
    detail = timeline.tell(story.events, lane=lane)[-1].detail
    assert ("alone in a process of its own" in detail) == alone


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("partition", "an older task of the same partition key goes first"),
        ("hold:all", "everything is on hold"),
        ("hold:lane:queue", "lane queue is on hold"),
        ("hold:endpoint:a.v1", "endpoint a.v1 is on hold"),
        ("hold:custom", "custom is on hold"),
        ("no-worker:agent:helper@2", "no running worker has loaded helper@2"),
        ("cap", "a spending cap is reached"),
        ("something-new", "something-new"),
    ],
)
def test_every_reason_for_being_blocked_has_words(reason: str, told: str) -> None:
    assert timeline.in_words([reason]) == [told]


@pytest.mark.parametrize("reason", ["version", "unknown-handler"])
def test_a_reason_that_a_person_puts_right_says_to_redrive(reason: str) -> None:
    assert "redrive it" in timeline.in_words([reason])[0]


# --- Long stories, from the database ------------------------------------------------------------------------------


def stored(count: int, **job: Any) -> Job:
    """Write a dead letter that was claimed so many times, the worker dying each time."""
    made = Job.objects.create(
        handler="x", state=State.DEAD, lane="queue", home_lane="queue", finished_at=BEGAN, fence=count, **job
    )
    events = []
    for number in range(1, count + 1):
        events.append(JobEvent(job=made, kind="state", old="queued", new="running", reason="claimed", fence=number))
        events.append(JobEvent(job=made, kind="state", old="running", new="queued", reason="lease-lost", fence=number))
    JobEvent.objects.bulk_create(events)
    return made


@pytest.mark.django_db
def test_a_long_story_is_read_part_by_part_and_nothing_is_left_out() -> None:
    job = stored(CHANGES)
    numbers: list[int] = []
    part = History.read(job)
    while True:
        [generation] = attempts.attempts(part)
        numbers += [attempt.number for attempt in generation.attempts]
        if part.earlier is None:
            break
        part = History.read(job, before=part.earlier)
    assert numbers == list(range(CHANGES, 0, -1))


@pytest.mark.django_db
def test_a_part_of_a_story_knows_its_generation() -> None:
    job = stored(CHANGES // 2, generation=3)
    for number in (2, 3):
        JobEvent.objects.create(
            job=job,
            kind="state",
            old="dead",
            new="queued",
            reason="redriven",
            actor="olga",
            data={"generation": number},
        )
    newest = History.read(job)
    assert (newest.generation, newest.first_generation) == (3, 1)
    assert newest.earlier is not None
    older = History.read(job, before=newest.earlier)
    assert (older.generation, older.first_generation) == (1, 1)


@pytest.mark.django_db
def test_many_published_events_do_not_push_the_changes_of_state_out() -> None:
    job = stored(2)
    JobEvent.objects.bulk_create([JobEvent(job=job, kind="emit", reason="found") for _ in range(NOTES + 1)])
    part = History.read(job)
    assert part.notes_left_out
    assert part.earlier is None
    assert attempts.count(attempts.attempts(part)) == 2
