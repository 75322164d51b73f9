"""The HTTP API of tasks, agents and endpoints. Thin: parse, authorise, call one thing, answer."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Body, Query, Router

from accounts.api_auth import ApiAuth, caller_of
from accounts.problems import Forbidden, NotFound, Problem
from agents import invoke, mode_figures, queries, registry
from agents.api_shapes import (
    Accepted,
    AgentList,
    AgentOut,
    EndpointList,
    EndpointOut,
    ModeMetricsList,
    QueryText,
    RedriveRequest,
    StepList,
    Task,
    TaskList,
    TaskRequest,
    idempotency_header,
    links_of,
    mode_out,
    step_out,
    task_in_list,
    task_out,
)
from agents.models import Endpoint, Run
from agents.payload import bad_input
from agents.waiting import waits_for
from jobs import stats
from jobs.actions import Cancel, InvalidState, Redrive
from jobs.models.job import Priority
from jobs.states import State

router = Router(tags=["tasks"])
declared = Router(tags=["agents"])

READ, WRITE, AGENTS = ApiAuth("tasks:read"), ApiAuth("tasks:write"), ApiAuth("agents:read")
METRICS = ApiAuth("metrics:read")
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


@router.post("/tasks", auth=WRITE, response={202: Accepted}, summary="Submit a task")
def submit_task(
    request: HttpRequest,
    response: HttpResponse,
    payload: TaskRequest,
    idempotency_key: Annotated[str | None, idempotency_header("The same key and body: one task.")],
) -> Accepted:
    """Put a task in the queue. It is stored when this answers; follow its events or ask for it again."""
    caller = caller_of(request)
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
    """List your tasks, newest first; an operator sees everybody's. A chat's runs only with its ``endpoint``."""
    wanted = queries.TaskFilter([state for state in status if state], endpoint, agent, q)
    runs = queries.matching(queries.visible_to(caller_of(request).user), wanted)
    if not endpoint:
        runs = queries.submitted(runs)
    page = queries.page(runs.defer("output"), cursor=cursor, limit=limit)
    return TaskList(items=[task_in_list(run) for run in page.items], next_cursor=page.next_cursor)


@router.get("/tasks/{uuid:task_id}", auth=READ, response=Task, summary="Get a task")
def get_task(request: HttpRequest, task_id: UUID) -> Task:
    """Return a task with its result, once it has one, or with what it waits for."""
    run = _visible_run(request, task_id)
    waits = waits_for([task_id], caller_of(request).user) if run.job.state == State.WAITING else {}
    return task_out(run, waits.get(task_id, ()))


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
    page = queries.steps(run, epoch=epoch, cursor=cursor, limit=limit)
    return StepList(items=[step_out(step) for step in page.items], next_cursor=page.next_cursor)


@router.post("/tasks/{uuid:task_id}/cancel", auth=WRITE, response={202: Accepted}, summary="Cancel a task")
def cancel_task(request: HttpRequest, response: HttpResponse, task_id: UUID) -> Accepted:
    """Stop a task for good. A running one ends when its current call has been cut off."""
    run = _visible_run(request, task_id)
    try:
        state = Cancel(caller_of(request).actor(request)).run(run.job_id)
    except InvalidState as error:
        raise _wrong_state(error) from None
    return _accepted(response, run.job_id, state)


@router.post("/tasks/{uuid:task_id}/redrive", auth=WRITE, response={202: Accepted}, summary="Run a task again")
def redrive_task(
    request: HttpRequest,
    response: HttpResponse,
    task_id: UUID,
    payload: Annotated[RedriveRequest, Body(RedriveRequest())],
) -> Accepted:
    """Send a dead letter or a cancelled task back: from its last step, from the start, or with another input.

    What it has done outside is not done again, unless an operator says so.
    """
    run = _visible_run(request, task_id)
    actor = caller_of(request).actor(request)
    try:
        if "input" in payload.model_fields_set:
            made = invoke.edit_and_redrive(run, payload.input, actor=actor)
            return _accepted(response, made.run_id, made.state)
        state = Redrive(actor, payload.from_, repeat_effects=payload.repeat_effects).run(run.job_id)
    except InvalidState as error:
        raise _wrong_state(error) from None
    return _accepted(response, run.job_id, state)


def _wrong_state(error: InvalidState) -> InvalidTaskState:
    return InvalidTaskState(f"A {error.state} task can't be {error.verb}.", state=error.state)


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


@declared.get("/metrics/modes", auth=METRICS, response=ModeMetricsList, summary="Get the figures of every mode")
def get_mode_metrics(request: HttpRequest) -> ModeMetricsList:
    """Return what the runs of each mode came to in the last day. For operators: the figures are of everybody's runs."""
    if not caller_of(request).is_operator:
        raise Forbidden("The figures are of everybody's runs: they are for operators and their tokens.")
    return ModeMetricsList(
        window_hours=mode_figures.WINDOW_H, items=[mode_out(figures) for figures in mode_figures.mode_figures()]
    )


def _visible_run(request: HttpRequest, task_id: UUID) -> Run:
    run = queries.visible_to(caller_of(request).user).filter(job_id=task_id).first()
    if run is None:
        raise NotFound(f"There is no task {task_id}, or it is not yours.")
    return run


def _accepted(response: HttpResponse, task_id: UUID, state: State) -> Accepted:
    links = links_of(task_id)
    response["Location"] = links.self
    position = stats.queue_position(task_id) if state is State.QUEUED else None
    eta = stats.eta_seconds(task_id, position) if position is not None else None
    return Accepted(task_id=task_id, status=state, eta_seconds=eta, queue_position=position, links=links)
