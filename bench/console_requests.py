"""The requests of `bench.console_pages`: every page of the console, and Django admin, as people ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bench.console_seed import ABSENT, COMMON, FAILED_OFTEN, FAILED_RARELY, FEW_TASKS, FREQUENT, MOST_TASKS, OLD, RARE


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and how it is asked for."""

    name: str
    path: str
    query: dict[str, Any] = field(default_factory=dict)
    status: int = 200


def pages() -> list[Page]:
    """Return all of them, as the rows that there are now allow."""
    return [*_console(), *_tasks(), *_audit(), *_admin(), *_machines()]


def _console() -> Iterator[Page]:
    from django.urls import reverse

    from jobs.models import BulkOperation

    yield Page("Overview", reverse("overview"))
    yield Page("Queues", reverse("queues"))
    yield Page("Agents", reverse("agents"))
    yield Page("One agent", reverse("agent", args=["helper"]))
    yield Page("Dead letters", reverse("dead-letters"))
    yield Page("Dead letters, the largest first", reverse("dead-letters"), {"sort": "count"})
    yield Page("Dead letters, with a word", reverse("dead-letters"), {"q": FAILED_OFTEN})
    large, small = _fingerprints()
    yield Page("A large group", reverse("dead-letter-group"), {"error": large})
    yield Page("A small group", reverse("dead-letter-group"), {"error": small})
    yield Page("Operations", reverse("operations"))
    yield Page("One operation", reverse("operation", args=[BulkOperation.objects.order_by("-id")[0].pk]))
    # What is asked before it is begun: all that match, counted.
    yield Page("Redrive all that match?", reverse("operation-new"), {"verb": "redrive", "all": "1", "state": "dead"})


def _tasks() -> Iterator[Page]:
    from django.urls import reverse

    from agents.models import Run
    from agents.queries import encode
    from jobs.models import Job
    from jobs.states import State

    def tasks(name: str, **query: str) -> Page:
        return Page(f"Tasks{name}", reverse("tasks"), query)

    large, small = _fingerprints()
    middle = Job.objects.order_by("id").values_list("pk", "created_at")[Job.objects.count() // 2]
    yield tasks("")
    for state in State:
        yield tasks(f", {state.label.lower()}", state=state.value)
    yield tasks(", a page in the middle", cursor=encode(middle[0]))
    yield tasks(", of a busy endpoint", endpoint="answer.v1")
    yield tasks(", of a rare endpoint", endpoint="dig.v1")
    yield tasks(", of an old endpoint", endpoint="retired.v1")
    yield tasks(", of an old endpoint, running", endpoint="retired.v1", state="running")
    yield tasks(", of an agent", agent="clerk")
    yield tasks(", of who has most", user=MOST_TASKS)
    yield tasks(", of who has few", user=FEW_TASKS)
    yield tasks(", of who has most, dead", user=MOST_TASKS, state="dead")
    yield tasks(", of nobody", user="who is that")
    yield tasks(", failed alike, a large group", error=large)
    yield tasks(", failed alike, a small group", error=small)
    yield tasks(", failed with a frequent word", error=FAILED_OFTEN)
    yield tasks(", failed with a rare word", error=FAILED_RARELY)
    yield tasks(", failed with a word that none has", error=ABSENT)
    for words, text in (("a frequent", FREQUENT), ("a common", COMMON), ("an old", OLD), ("a rare", RARE)):
        yield tasks(f", with {words} word", q=text)
    yield tasks(", with a word that none has", q=ABSENT)
    yield tasks(", with a common and a rare word", q=f"{COMMON} {RARE}")
    yield tasks(", with the beginning of many words", q="a")
    yield tasks(", by the beginning of an id", q=str(middle[0])[:13])
    yield tasks(", of a lane", lane="chat")
    yield tasks(", of a rare lane", lane="suspect")
    yield tasks(", of a mode", mode="streaming-sync")
    yield tasks(", of the last hour", since="1h")
    yield tasks(", of the last week", since="7d")
    yield tasks(", of a day long ago", **_day(middle[1] - timedelta(days=10)))
    yield tasks(", ended in the last hour", ended="1h")
    yield tasks(", ended on a day long ago", **_day(middle[1] - timedelta(days=10), "ended", "ended_until"))
    yield tasks(", dead, that ended in the last day", state="dead", ended="24h")
    yield tasks(", of a rare endpoint, with a common word", endpoint="dig.v1", q=COMMON)
    yield tasks(", of who has few, with an old word", user=FEW_TASKS, q=OLD)
    yield tasks(", dead, of an old endpoint, with a word", state="dead", endpoint="retired.v1", error=FAILED_OFTEN)
    yield tasks(
        ", of who has most, with a rare word, of a week", user=MOST_TASKS, q=RARE, endpoint="answer.v1", since="7d"
    )
    newest = Run.objects.filter(job__state="succeeded").order_by("-job_id")[0]
    dead = Job.objects.filter(state="dead").order_by("-id")[0]
    yield Page("A task", reverse("task", args=[newest.pk]))
    yield Page("A dead letter", reverse("task", args=[dead.pk]))
    yield Page("A step", reverse("task-step", args=[newest.pk, newest.steps.first().pk]))  # type: ignore[union-attr]


def _audit() -> Iterator[Page]:
    from django.urls import reverse

    from audit.models import AuditEntry

    def audit(name: str, **query: str) -> Page:
        return Page(f"Audit{name}", reverse("audit"), query)

    middle = AuditEntry.objects.get(pk=AuditEntry.objects.order_by("-pk")[0].pk // 2)
    yield audit("")
    yield audit(", a page in the middle", before=str(middle.pk))
    yield audit(", of who does most", actor=MOST_TASKS)
    yield audit(", of who does little", actor=FEW_TASKS)
    yield audit(", of nobody", actor="who is that")
    yield audit(", of a frequent action", action="task.submit")
    yield audit(", of a rare action", action="hold.place")
    yield audit(", of a kind of thing", type="hold")
    yield audit(", of one thing", target=middle.target_id)
    yield audit(", of one request", request=middle.request_id)
    yield audit(", of a day long ago", **_day(middle.at))
    yield audit(", of who does little, and a frequent action", actor=FEW_TASKS, action="task.submit")
    yield audit(", of who does most, a rare action, on a day", actor=MOST_TASKS, action="hold.place", **_day(middle.at))


def _admin() -> Iterator[Page]:
    from django.contrib import admin
    from django.contrib.auth.models import User
    from django.urls import reverse

    from jobs.models import Job

    yield Page("Admin", reverse("admin:index"))
    ours = ("jobs", "agents", "audit", "accounts", "auth")
    names = {model: f"admin:{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry}
    for model, name in names.items():
        if model._meta.app_label in ours:
            yield Page(f"Admin, {model._meta.verbose_name_plural}", reverse(f"{name}_changelist"))
    job = Job.objects.order_by("id").values_list("pk", flat=True)[Job.objects.count() // 2]
    dead = Job.objects.filter(state="dead").order_by("-id")[0]
    deep = {"p": str(min(100, Job.objects.count() // 50))}
    for words, query in (
        (", a deep page", deep),
        (", queued", {"state__exact": "queued"}),
        (", running", {"state__exact": "running"}),
        (", dead", {"state__exact": "dead"}),
        (", of a lane", {"lane": "chat"}),
        (", of a rare lane", {"lane": "suspect"}),
        (", of a handler", {"handler": "agent-run"}),
        (", of the last day", {"since": "24h"}),
        (", of a rare lane, dead", {"lane": "suspect", "state__exact": "dead"}),
        (", of who has most", {"q": MOST_TASKS}),
        (", of who has few", {"q": FEW_TASKS}),
        (", by the beginning of an id", {"q": str(job)[:13]}),
        (", by a partition key", {"q": "thread-500"}),
        (", by what is nothing", {"q": ABSENT}),
    ):
        yield Page(f"Admin, jobs{words}", reverse("admin:jobs_job_changelist"), query)
    for words, query in (
        (", a deep page", deep),
        (", of a mode", {"mode": "streaming-sync"}),
        (", of a mode that none is of", {"mode": "batch-window"}),
        (", running", {"state": "running"}),
        (", dead", {"state": "dead"}),
        (", with a common word", {"q": COMMON}),
        (", with an old word", {"q": OLD}),
        (", with a frequent word", {"q": FREQUENT}),
        (", with a rare word", {"q": RARE}),
        (", with a word that none has", {"q": ABSENT}),
        (", by the beginning of an id", {"q": str(job)[:13]}),
    ):
        yield Page(f"Admin, runs{words}", reverse("admin:agents_run_changelist"), query)
    for model_name in ("agents_step", "jobs_jobevent"):
        yield Page(f"Admin, {model_name}, of a task", reverse(f"admin:{model_name}_changelist"), {"q": str(dead.pk)})
    yield Page("Admin, steps, of a kind", reverse("admin:agents_step_changelist"), {"kind": "value"})
    yield Page("Admin, events, of a kind", reverse("admin:jobs_jobevent_changelist"), {"kind": "emit"})
    for words, text in (
        ("who does most", MOST_TASKS),
        ("who does little", FEW_TASKS),
        ("an action", "hold.place"),
        ("a task", str(job)),
        ("nothing", ABSENT),
    ):
        yield Page(f"Admin, the trail of {words}", reverse("admin:audit_auditentry_changelist"), {"q": text})
    yield Page("Admin, a job", reverse("admin:jobs_job_change", args=[dead.pk]))
    yield Page("Admin, a run", reverse("admin:agents_run_change", args=[dead.pk]))
    most = User.objects.get(username=MOST_TASKS)
    yield Page("Admin, who has most", reverse("admin:auth_user_change", args=[most.pk]))
    yield Page("Admin, delete who has most?", reverse("admin:auth_user_delete", args=[most.pk]))


def _machines() -> Iterator[Page]:
    yield Page("/metrics", "/metrics")
    yield Page("/api/v1/tasks", "/api/v1/tasks")
    yield Page("/api/v1/tasks, dead", "/api/v1/tasks", {"status": "dead"})
    yield Page("/api/v1/tasks, with a rare word", "/api/v1/tasks", {"q": RARE})


def _fingerprints() -> tuple[str, str]:
    """Return those of a large and of a small group of failures."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT error ->> 'fingerprint' FROM jobs_job WHERE state = 'dead' GROUP BY 1 ORDER BY count(*) DESC, 1"
        )
        found = [row[0] for row in cursor.fetchall()]
    return found[0], found[-1]


def _day(at: datetime, since: str = "since", until: str = "until") -> dict[str, str]:
    return {since: at.isoformat(), until: (at + timedelta(days=1)).isoformat()}
