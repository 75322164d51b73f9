"""What the HTTP API takes and answers: the shapes, and how rows become them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from ninja.params.functions import Header
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from agents import queries
from agents.mode_figures import ModeFigures
from agents.models import Run, Step
from agents.runtime.types import Budget
from agents.waiting import Waiting
from jobs.states import State


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("text may not hold the character U+0000")
    return text


QueryText = Annotated[str, Field(max_length=200), AfterValidator(_storable)]


def idempotency_header(promise: str) -> Any:
    """Return the description of the header `Idempotency-Key`, with what a repeated key promises."""
    return Header(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description=promise,
    )


class Strict(BaseModel):
    """A request's body: a key that nobody knows is a mistake."""

    model_config = ConfigDict(extra="forbid")


class TaskRequest(Strict):
    """What to do."""

    endpoint: str = Field(max_length=200, examples=["research.v1"])
    input: Any = Field(description="As the endpoint's input schema says.")
    partition_key: str | None = Field(
        None, min_length=1, max_length=1000, description="Tasks of yours with the same key run one after another."
    )
    run_at: AwareDatetime | None = Field(None, description="Not before this time; it has an offset or Z.")
    priority: Literal["normal", "high"] = "normal"
    budget: Budget = Field(default_factory=Budget, description="What the run may use, at most.")
    webhook_url: str | None = Field(None, description="Not supported yet.")


class RedriveRequest(Strict):
    """How to run it again."""

    from_: Literal["checkpoint", "start"] = Field("checkpoint", alias="from")
    repeat_effects: bool = Field(
        False,
        description="Only for operators, and only from the start: do again what the task did outside. Else it is not"
        " done twice: its results are taken from the record.",
    )
    input: Any = Field(
        None,
        description="Another input: this makes a new task, linked to the old one. It does everything itself.",
    )

    @model_validator(mode="after")
    def _repeats_from_the_start(self) -> RedriveRequest:
        if self.repeat_effects and self.from_ != "start" and "input" not in self.model_fields_set:
            raise ValueError('effects are repeated only with "from": "start"')
        return self


class Links(BaseModel):
    """Where to go from here."""

    self: str
    events: str
    steps: str
    cancel: str


class Accepted(BaseModel):
    """The task was taken, or was taken before under the same idempotency key."""

    task_id: UUID
    status: State
    eta_seconds: float | None = Field(description="Estimated seconds until it ends; null where nothing is known.")
    queue_position: int | None = Field(description="1 is next; null unless it is queued.")
    links: Links


class Usage(BaseModel):
    """What a run has used."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None = Field(description="Null once a model without a known price was used.")


class TaskInList(BaseModel):
    """A run that was submitted to the queue, without its result."""

    task_id: UUID
    endpoint: str
    agent: str
    agent_version: int
    mode: str
    status: State
    attempt: int = Field(description="Which one is under way, or was the last; 0 before the first.")
    progress: dict[str, Any] | None
    error: dict[str, Any] | None = Field(description="The last problem, an RFC 9457 object.")
    usage: Usage
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: Links


class WaitingFor(BaseModel):
    """One thing that a task in state `waiting` waits for."""

    kind: Literal["person", "tool", "event", "child", "time"]
    since: datetime
    until: datetime | None = Field(description="Its time, or its deadline.")
    approval_id: UUID | None = Field(description="What people are asked.")
    link: str | None = Field(description="Of the approval, where you may see it.")


class Task(TaskInList):
    """A run that was submitted to the queue."""

    waiting_for: list[WaitingFor] = Field(description="Empty unless it is `waiting`.")
    result: Any = Field(description="What the endpoint's output schema says; null until it has succeeded.")


class TaskList(BaseModel):
    """A page of tasks, newest first, without their results: each may have megabytes, and is at its `links.self`."""

    items: list[TaskInList]
    next_cursor: str | None


class JournalStep(BaseModel):
    """A step that was finished: recorded once, never run again."""

    key: str
    name: str
    kind: str
    epoch: int = Field(description="Raised by each redrive from the start.")
    input: Any
    output: Any
    model: str
    usage: Usage
    started_at: datetime
    finished_at: datetime
    duration_ms: int


class StepList(BaseModel):
    """A page of the journal, first step first."""

    items: list[JournalStep]
    next_cursor: str | None


class EndpointOut(BaseModel):
    """A public name under which an agent is invoked."""

    name: str
    agent: str
    agent_version: int
    mode: str
    description: str
    input: Any = Field(description="JSON schema, draft 2020-12.")
    output: Any
    request_size: dict[str, Any] | None
    escape: str | None = Field(None, description="Takes over, as a task, a chat's message whose answer failed.")


class EndpointList(BaseModel):
    """All endpoints that take work."""

    items: list[EndpointOut]


class AgentOut(BaseModel):
    """An agent version that an endpoint is bound to."""

    name: str
    version: int
    program: str
    model: dict[str, Any]
    tools: list[str]
    limits: dict[str, Any]
    endpoints: list[str]


class AgentList(BaseModel):
    """All agents that take work."""

    items: list[AgentOut]


class Spread(BaseModel):
    """How long it took, seconds; null where nothing was measured."""

    p50_seconds: float | None
    p95_seconds: float | None
    budget_seconds: float | None = Field(description="What 95 % should stay within; null where the mode has no budget.")


class ModeMetrics(BaseModel):
    """What the runs of a mode came to."""

    mode: str
    runs: int = Field(description="Runs of the window; if `more`, the newest of them.")
    more: bool = Field(description="There were more runs than were looked at: all figures are those of the newest.")
    failures: int = Field(description="Of these, dead letters.")
    latency: Spread = Field(description="From submission to success. Redriven runs are left out.")
    first_token: Spread = Field(description="From a message to the first text of its answer.")
    cost_usd: float | None = Field(description="Null once a model without a known price was used.")
    score: float | None = Field(description="Mean of the judged runs, 0 to 1; null if none was judged.")
    judged: int
    baseline: float | None = Field(description="The expected score; null where there is none.")
    drift: float | None = Field(description="`score` less `baseline`; null where one of them is missing.")


class ModeMetricsList(BaseModel):
    """The figures of every mode."""

    window_hours: int = Field(description="Runs submitted, and scores given, in so many hours before now.")
    items: list[ModeMetrics]


def links_of(task_id: UUID) -> Links:
    """Return where to go from a task."""
    base = f"/api/v1/tasks/{task_id}"
    return Links(self=base, events=f"{base}/events", steps=f"{base}/steps", cancel=f"{base}/cancel")


def task_out(run: Run, waits: Iterable[Waiting]) -> Task:
    """Return a task as the API answers it."""
    return Task(**_listed(run), waiting_for=[_waiting_for(wait) for wait in waits], result=run.output)


def _waiting_for(wait: Waiting) -> WaitingFor:
    return WaitingFor(
        kind=wait.kind,  # type: ignore[arg-type]  # one of them: the column's choices
        since=wait.since,
        until=wait.until,
        approval_id=wait.approval_id,
        link=f"/api/v1/approvals/{wait.approval_id}" if wait.url else None,
    )


def task_in_list(run: Run) -> TaskInList:
    """Return a task as the API lists it."""
    return TaskInList(**_listed(run))


def _listed(run: Run) -> dict[str, Any]:
    job = run.job
    return {
        "task_id": job.pk,
        "endpoint": run.endpoint.name,
        "agent": run.agent.name,
        "agent_version": run.agent.version,
        "mode": run.mode,
        "status": State(job.state),
        "attempt": queries.attempt(job),
        "progress": job.progress,
        "error": queries.error(run),
        "usage": Usage(**queries.usage(run)),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "links": links_of(job.pk),
    }


def mode_out(figures: ModeFigures) -> ModeMetrics:
    """Return a mode's figures as the API answers them."""
    return ModeMetrics(
        mode=figures.policy.mode.value,
        runs=figures.runs,
        more=figures.more,
        failures=figures.failures,
        latency=Spread(
            p50_seconds=figures.p50_s,
            p95_seconds=figures.p95_s,
            budget_seconds=figures.budget_s,
        ),
        first_token=Spread(
            p50_seconds=figures.first_token_p50_s,
            p95_seconds=figures.first_token_p95_s,
            budget_seconds=figures.first_token_budget_s,
        ),
        cost_usd=float(figures.cost_usd) if figures.cost_known else None,
        score=figures.score,
        judged=figures.judged,
        baseline=figures.policy.baseline,
        drift=figures.drift,
    )


def step_out(step: Step) -> JournalStep:
    """Return a step of the journal as the API answers it."""
    return JournalStep(
        key=step.key,
        name=step.name,
        kind=step.kind,
        epoch=step.epoch,
        input=step.input,
        output=step.output,
        model=step.model,
        usage=Usage(
            input_tokens=step.input_tokens,
            output_tokens=step.output_tokens,
            cost_usd=None if step.model and step.cost_usd is None else float(step.cost_usd or 0),
        ),
        started_at=step.started_at,
        finished_at=step.finished_at,
        duration_ms=round((step.finished_at - step.started_at).total_seconds() * 1000),
    )
