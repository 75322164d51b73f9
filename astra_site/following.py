"""Follow a task in a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any
from uuid import UUID

from agents import queries
from agents.models import Run
from jobs import timeline
from jobs.models import JobEvent
from jobs.states import ENDED, State

POLL_S = 0.25
Say = Callable[[str], object]


def find(task_id: UUID) -> Run:
    """Return a task with all that `describe` needs.

    Raises:
        Run.DoesNotExist: there is none.
    """
    return Run.objects.select_related("job", "endpoint", "agent").get(job_id=task_id)


def follow(task_id: UUID, say: Say) -> Run:
    """Tell what happens to a task until it has ended; return it as it is then."""
    told = 0
    while True:
        run = find(task_id)  # before the events: once it has ended, those that follow are all there are
        for event in JobEvent.objects.filter(job_id=task_id, id__gt=told).select_related("worker").order_by("id"):
            told = event.pk
            if line := _line(event):
                say(f"{event.at:%H:%M:%S} {line}")
        if run.job.state in ENDED:
            return run
        sleep(POLL_S)


def has_succeeded(run: Run) -> bool:
    """Tell whether the task has a result."""
    return run.job.state == State.SUCCEEDED


def describe(run: Run) -> Iterator[str]:
    """Yield what there is to know of a task, line by line."""
    job, used = run.job, queries.usage(run)
    yield f"task      {job.pk}"
    yield f"endpoint  {run.endpoint.name} ({run.agent})"
    yield f"status    {job.state}" + (f", attempt {job.attempt}" if job.attempt else "")
    for reason in timeline.in_words(job.blocked_on):
        yield f"          because: {reason}"
    if job.progress and job.state not in ENDED:
        yield f"progress  {_progress(job.progress)}"
    for label, moment in (("created", job.created_at), ("started", job.started_at), ("finished", job.finished_at)):
        if moment:
            yield f"{label:9} {moment:%Y-%m-%d %H:%M:%S %Z}"
    cost = "cost not known" if used["cost_usd"] is None else f"{used['cost_usd']:.4f} USD"
    yield f"used      {used['input_tokens']} tokens in, {used['output_tokens']} out, {cost}"
    steps = run.steps.filter(epoch=run.journal_epoch).order_by("id")
    for step in steps:
        took = (step.finished_at - step.started_at).total_seconds()
        yield f"  step    {step.kind:8} {step.name}  {took:.2f} s"
    problem = queries.error(run)
    if problem:
        yield f"problem   {problem.get('title', '')}: {problem.get('detail', '')}"


def print_result(run: Run, say: Say) -> None:
    """Print the result of a task that has one: its text as it is, anything else as JSON."""
    if not has_succeeded(run):
        return
    output = run.output
    if isinstance(output, dict) and isinstance(output.get("text"), str):
        say(output["text"])
    else:
        say(output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, indent=2))


def _line(event: JobEvent) -> str:
    if event.kind == JobEvent.Kind.PROGRESS:
        return _progress(event.data or {})
    if event.kind == JobEvent.Kind.STEP and event.reason != "failed":
        data = event.data or {}
        return f"step {data.get('name', '')}" + (f": {data['summary']}" if data.get("summary") else "")
    return "; ".join(f"{it.words}" + (f" ({it.detail})" if it.detail else "") for it in timeline.tell([event]))


def _progress(progress: dict[str, Any]) -> str:
    total = f" of {progress['total']}" if progress.get("total") else ""
    return f"{progress.get('done', '')}{total} {progress.get('note', '')}".strip()
