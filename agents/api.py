"""The HTTP API of tasks, agents and endpoints. Thin: parse, authorise, call one thing, answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Body, Header, Query, Router
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from accounts.api_auth import ApiAuth, Caller
from accounts.problems import NotFound, Problem
from agents import invoke, queries, registry
from agents.models import Endpoint, Run, Step
from agents.payload import bad_input
from agents.runtime.types import Budget
from jobs import stats
from jobs.actions import Cancel, InvalidState, Redrive
from jobs.models.job import Priority
from jobs.states import State

router = Router(tags=["tasks"])
declared = Router(tags=["agents"])

READ, WRITE, AGENTS = ApiAuth("tasks:read"), ApiAuth("tasks:write"), ApiAuth("agents:read")
PRIORITIES = {"normal": None, "high": Priority.P0}


class NotSupported(Problem):
    """The contract has this, but this release does not do it yet.

    It is refused rather than ignored, so that nobody relies on what does not happen. Leave it out.
    """

    slug, title, status = "not-supported", "This is not supported yet", 422


class InvalidTaskState(Problem):
    """The task is in a state in which this can't be done.

    The detail names the state. A task that has succeeded can be neither cancelled nor redriven.
    """

    slug, title, status = "invalid-state", "The task's state does not allow this", 409


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("text may not hold the character U+0000")
    return text


QueryText = Annotated[str, Field(max_length=200), AfterValidator(_storable)]


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
    repeat_effects: bool = Field(False, description="Not supported yet.")
    input: Any = Field(None, description="Another input: this makes a new task, linked to the old one.")


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


class Task(BaseModel):
    """A run that was submitted to the queue."""

    task_id: UUID
    endpoint: str
    agent: str
    agent_version: int
    mode: str
    status: State
    attempt: int
    progress: dict[str, Any] | None
    result: Any
    error: dict[str, Any] | None = Field(description="The last problem, an RFC 9457 object.")
    usage: Usage
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: Links


class TaskList(BaseModel):
    """A page of tasks, newest first."""

    items: list[Task]
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


@router.post("/tasks", auth=WRITE, response={202: Accepted}, summary="Submit a task")
def submit_task(
    request: HttpRequest,
    response: HttpResponse,
    payload: TaskRequest,
    idempotency_key: Annotated[
        str | None,
        Header(
            None,
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="The same key and body: one task.",
        ),
    ],
) -> Accepted:
    """Put a task in the queue. It is stored when this answers; follow its events or ask for it again."""
    caller = _caller(request)
    if payload.webhook_url is not None:
        raise NotSupported("webhook_url is not supported yet; follow the task's events or poll it.")
    if "input" not in payload.model_fields_set:
        raise bad_input(("input",), "the key input is missing")
    made = invoke.invoke(
        payload.endpoint,
        payload.input,
        user=caller.user,
        actor=caller.actor(request),
        budget=payload.budget,
        priority=PRIORITIES[payload.priority],
        partition_key=payload.partition_key,
        run_at=payload.run_at,
        idempotency_key=idempotency_key,
    )
    return _accepted(response, made.run_id, made.state)


@router.get("/tasks", auth=READ, response=TaskList, summary="List tasks")
def list_tasks(
    request: HttpRequest,
    status: Annotated[list[State | Literal[""]], Query([], description="May be given more than once.")],
    endpoint: Annotated[QueryText, Query("")],
    agent: Annotated[QueryText, Query("")],
    q: Annotated[QueryText, Query("", description="Words of the input, or the beginning of a task's id.")],
    cursor: Annotated[QueryText, Query("", description="`next_cursor` of the page before.")],
    limit: Annotated[int, Query(50, ge=1, le=200)],
) -> TaskList:
    """List your tasks, newest first; an operator sees everybody's."""
    wanted = queries.TaskFilter([state for state in status if state], endpoint, agent, q)
    runs = queries.matching(queries.visible_to(_caller(request).user), wanted)
    try:
        page = queries.page(runs, cursor=cursor, limit=limit)
    except queries.BadCursor as error:
        raise bad_input(("query", "cursor"), str(error)) from None
    return TaskList(items=[task_out(run) for run in page.items], next_cursor=page.next_cursor)


@router.get("/tasks/{uuid:task_id}", auth=READ, response=Task, summary="Get a task")
def get_task(request: HttpRequest, task_id: UUID) -> Task:
    """Return a task with its result, once it has one."""
    return task_out(_visible_run(request, task_id))


@router.get("/tasks/{uuid:task_id}/steps", auth=READ, response=StepList, summary="List a task's steps")
def list_steps(
    request: HttpRequest,
    task_id: UUID,
    epoch: Annotated[int | None, Query(None, ge=1, le=2_147_483_647, description="An older one; else the current.")],
    cursor: Annotated[QueryText, Query("")],
    limit: Annotated[int, Query(50, ge=1, le=200)],
) -> StepList:
    """Return the journal: every step that was finished, in order."""
    run = _visible_run(request, task_id)
    try:
        page = queries.steps(run, epoch=epoch, cursor=cursor, limit=limit)
    except queries.BadCursor as error:
        raise bad_input(("query", "cursor"), str(error)) from None
    return StepList(items=[_step(step) for step in page.items], next_cursor=page.next_cursor)


@router.post("/tasks/{uuid:task_id}/cancel", auth=WRITE, response={202: Accepted}, summary="Cancel a task")
def cancel_task(request: HttpRequest, response: HttpResponse, task_id: UUID) -> Accepted:
    """Stop a task for good. A running one ends when its current call has been cut off."""
    run = _visible_run(request, task_id)
    try:
        state = Cancel(_caller(request).actor(request)).run(run.job_id)
    except InvalidState as error:
        raise InvalidTaskState(str(error), state=error.state) from None
    return _accepted(response, run.job_id, state)


@router.post("/tasks/{uuid:task_id}/redrive", auth=WRITE, response={202: Accepted}, summary="Run a task again")
def redrive_task(
    request: HttpRequest,
    response: HttpResponse,
    task_id: UUID,
    payload: Annotated[RedriveRequest, Body(RedriveRequest())],
) -> Accepted:
    """Send a dead letter or a cancelled task back: from its last step, from the start, or with another input."""
    run = _visible_run(request, task_id)
    actor = _caller(request).actor(request)
    if payload.repeat_effects:
        raise NotSupported("repeat_effects is not supported yet; no tool of this release has effects to repeat.")
    try:
        if "input" in payload.model_fields_set:
            made = invoke.edit_and_redrive(run, payload.input, actor=actor)
            return _accepted(response, made.run_id, made.state)
        state = Redrive(actor, payload.from_).run(run.job_id)
    except InvalidState as error:
        raise InvalidTaskState(str(error), state=error.state) from None
    return _accepted(response, run.job_id, state)


@declared.get("/endpoints", auth=AGENTS, response=EndpointList, summary="List endpoints")
def list_endpoints(request: HttpRequest) -> EndpointList:
    """List the endpoints that take work, with their schemas."""
    known = registry.current().endpoints.values()
    return EndpointList(
        items=[
            EndpointOut(name=it.name, agent=it.agent, agent_version=it.agent_version, mode=it.mode, **it.definition)
            for it in known
            if it.active
        ]
    )


@declared.get("/agents", auth=AGENTS, response=AgentList, summary="List agents")
def list_agents(request: HttpRequest) -> AgentList:
    """List the agents that an endpoint is bound to. Their instructions are not told."""
    bound: dict[int, AgentOut] = {}
    for endpoint in Endpoint.objects.filter(active=True).select_related("agent"):
        it = endpoint.agent
        shown = {key: it.definition[key] for key in ("model", "tools", "limits")}
        entry = bound.setdefault(
            it.pk, AgentOut(name=it.name, version=it.version, program=it.program, endpoints=[], **shown)
        )
        entry.endpoints.append(endpoint.name)
    return AgentList(items=sorted(bound.values(), key=lambda entry: (entry.name, entry.version)))


def _caller(request: HttpRequest) -> Caller:
    caller = request.auth  # type: ignore[attr-defined]  # ninja puts there what `auth` returned
    assert isinstance(caller, Caller)
    return caller


def _visible_run(request: HttpRequest, task_id: UUID) -> Run:
    run = queries.visible_to(_caller(request).user).filter(job_id=task_id).first()
    if run is None:
        raise NotFound(f"There is no task {task_id}, or it is not yours.")
    return run


def _links(task_id: UUID) -> Links:
    base = f"/api/v1/tasks/{task_id}"
    return Links(self=base, events=f"{base}/events", steps=f"{base}/steps", cancel=f"{base}/cancel")


def _accepted(response: HttpResponse, task_id: UUID, state: State) -> Accepted:
    links = _links(task_id)
    response["Location"] = links.self
    position = stats.queue_position(task_id) if state is State.QUEUED else None
    eta = stats.eta_seconds(task_id, position) if position is not None else None
    return Accepted(task_id=task_id, status=state, eta_seconds=eta, queue_position=position, links=links)


def task_out(run: Run) -> Task:
    """Return a task as the API answers it."""
    job = run.job
    return Task(
        task_id=job.pk,
        endpoint=run.endpoint.name,
        agent=run.agent.name,
        agent_version=run.agent.version,
        mode=run.mode,
        status=State(job.state),
        attempt=job.attempt,
        progress=job.progress,
        result=run.output,
        error=queries.error(run),
        usage=Usage(**queries.usage(run)),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=_links(job.pk),
    )


def _step(step: Step) -> JournalStep:
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
