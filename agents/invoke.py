"""Start a run: validate what is asked, pick the mode's policy, write the run and hand it to its lane.

There is no call that waits for the answer of a queued run: poll, or follow its events.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.utils import timezone
from psycopg.types.json import Jsonb

from accounts import roles
from accounts.problems import Problem
from agents import registry
from agents.config.faults import nearest
from agents.input_check import check_input
from agents.models import Run
from agents.modes import policy
from agents.payload import bad_input
from agents.registry import EndpointInfo, Registry
from agents.runtime.types import Budget
from audit import trail
from audit.trail import Actor
from jobs.actions import InvalidState
from jobs.holds import EVERYTHING
from jobs.models.job import Job, Priority
from jobs.script import Script
from jobs.states import REDRIVABLE, State
from jobs.submit import Idempotency, IdempotencyMismatch, LaneFull, Submission, submit

HANDLER = "agent-run"
#: Tasks before everybody else's turn that a user who is no operator may have waiting.
MAX_URGENT = 5
_WAITING = (State.SCHEDULED, State.BLOCKED, State.QUEUED)
#: The run ends itself at its wall clock, with what it was doing; only one that does not is stopped from outside.
UNWIND_S = 10
#: PostgreSQL keeps moments that Python cannot read back: one such row would break every list that it stands in.
MAX_AHEAD = timedelta(days=36_525)


class UnknownEndpoint(Problem):
    """There is no endpoint of that name.

    `GET /api/v1/endpoints` lists those there are. An endpoint that is no longer declared takes no new work.
    """

    slug, title, status = "unknown-endpoint", "There is no such endpoint", 422


class ModeNotAllowed(Problem):
    """The endpoint exists, but its mode is not the one that this call serves.

    Tasks are submitted to endpoints of mode `async-queue`, conversations go on with those of mode `streaming-sync`. The
    detail names one of the same agent where there is one.
    """

    slug, title, status = "mode-not-allowed", "The endpoint is of another mode", 409


class RequestTooLarge(Problem):
    """The request asks for more than the endpoint takes at once.

    Ask for less, or use the endpoint that the detail names.
    """

    slug, title, status = "request-too-large", "The request asks for too much", 422


class TooSlowForMode(Problem):
    """The agent is declared to need longer than the endpoint's mode allows.

    Use the endpoint that the detail names: it works in the background.
    """

    slug, title, status = "too-slow-for-mode", "The agent is too slow for this endpoint", 422


class IdempotencyConflict(Problem):
    """The idempotency key was used for another request to the same endpoint.

    Send the same body again to get the same task, or choose a new key for a new task.
    """

    slug, title, status = "idempotency-mismatch", "The idempotency key was used for another request", 422


class QueueFull(Problem):
    """As many tasks are waiting as the lane may hold.

    Try again after the seconds that `Retry-After` says. Nothing was stored.
    """

    slug, title, status = "queue-full", "The queue is full", 429


class EditedInConversation(Problem):
    """The run answered a message of a chat, so it takes no other input.

    Write the message again in its conversation. A run that failed can be redriven as it is.
    """

    slug, title, status = "edited-in-conversation", "A message is edited in its conversation", 409


class TooManyUrgent(Problem):
    """As many of your tasks of high priority are waiting as one user may have.

    High priority goes before everybody else's tasks, so only a few of it may wait at once. Submit this one with normal
    priority, or wait for the others. Operators may have any number.
    """

    slug, title, status = "too-many-urgent", "Too many tasks of high priority are waiting", 429


@dataclass(frozen=True, slots=True)
class Invoked:
    """A run that was started, or that the idempotency key had started before (``created`` False)."""

    run_id: UUID
    state: State
    created: bool


def invoke(
    endpoint: str,
    input: Any,
    *,
    user: AbstractBaseUser,
    actor: Actor,
    entrance: str = "tasks",
    budget: Budget | None = None,
    priority: Priority | None = None,
    partition_key: str | None = None,
    run_at: datetime | None = None,
    idempotency_key: str | None = None,
    redriven_from: UUID | None = None,
    payload: Mapping[str, str] | None = None,
) -> Invoked:
    """Start a run of ``endpoint`` for ``user``, or find the one that the idempotency key started.

    Args:
        input: JSON, as the endpoint's input schema says.
        actor: who asks; mostly ``user``, but an operator may ask for another.
        entrance: the way in that is used (`agents.modes.Concurrency.entrance`); the endpoint's mode must have it.
        priority: None means as the mode says.
        partition_key: runs of this user with the same key go one after another.
        run_at: not before this time; one that is past means now. At most `MAX_AHEAD`.
        payload: what the job carries for whoever hears of its end.

    Raises:
        UnknownEndpoint, ModeNotAllowed, BadInput, RequestTooLarge, TooSlowForMode, IdempotencyConflict, QueueFull.
    """
    known = registry.current()
    found = find(known, endpoint, entrance=entrance)
    check(known, found, input)
    if run_at and run_at - timezone.now() > MAX_AHEAD:
        raise bad_input(("run_at",), "it may be at most a hundred years ahead")
    if priority is not None and priority < policy(found.mode).provider.priority:
        _check_urgent(user, priority)
    budget = budget or Budget()
    asked = {
        "input": input,
        "budget": budget.model_dump(mode="json", exclude_none=True),
        "priority": priority,
        "partition_key": partition_key,
        "run_at": run_at and run_at.isoformat(),
    }
    wanted = submission(
        found,
        user.pk,
        payload=dict(payload or {}),
        priority=priority,
        partition_key=_partition(user.pk, partition_key),
        run_at=run_at if run_at and run_at > timezone.now() else None,
        idempotency=_idempotency(user.pk, found.name, idempotency_key, asked),
        max_depth=known.max_depth(policy(found.mode).concurrency.lane),
        with_job=lambda job_id: insert_run(job_id, found, input, user.pk, asked["budget"], redriven_from),
    )
    try:
        with transaction.atomic():
            submitted = submit(wanted)
            if submitted.created:
                after = {"endpoint": found.name, "user": user.get_username()}
                trail.record(actor, "task.submit", "job", submitted.job_id, after=after)
    except IdempotencyMismatch as error:
        raise IdempotencyConflict(_sentence(error)) from None
    except LaneFull as error:
        raise QueueFull(_sentence(error), headers={"Retry-After": str(error.retry_after_s)}) from None
    return Invoked(submitted.job_id, submitted.state, submitted.created)


def find(known: Registry, name: str, *, entrance: str) -> EndpointInfo:
    """Return the endpoint of that name, which must have that way in.

    Raises:
        UnknownEndpoint, ModeNotAllowed.
    """
    found = known.endpoints.get(name)
    if found is None or not found.active:
        active = [known_name for known_name, info in known.endpoints.items() if info.active]
        raise UnknownEndpoint(f"There is no endpoint {name[:80]!r}; {nearest(name[:80], active)}")
    if policy(found.mode).concurrency.entrance != entrance:
        can = _others(known, found, lambda other: policy(other.mode).concurrency.entrance == entrance)
        raise ModeNotAllowed(f"{found.name} is of mode {found.mode}.{can}", endpoint=found.name, mode=found.mode)
    return found


def check(known: Registry, endpoint: EndpointInfo, input: Any) -> None:
    """Check an input against the endpoint's schema, and that its mode can do that in time and size.

    Raises:
        BadInput, TooSlowForMode, RequestTooLarge.
    """
    check_input(endpoint, input)
    _check_fit(known, endpoint, input)


def hold_keys(endpoint: EndpointInfo) -> tuple[str, ...]:
    """Return the keys of the holds that stop a run of an endpoint."""
    lane = policy(endpoint.mode).concurrency.lane
    return EVERYTHING, f"lane:{lane}", f"agent:{endpoint.agent}", f"endpoint:{endpoint.name}"


def submission(endpoint: EndpointInfo, user_id: int, *, priority: int | None = None, **more: Any) -> Submission:
    """Return the submission of a run, as its mode's policy says. ``more`` are fields of `Submission`."""
    rules = policy(endpoint.mode)
    lane = rules.concurrency.lane
    fields: dict[str, Any] = {
        "handler": HANDLER,
        "payload": {},
        "lane": lane,
        "user_id": user_id,
        "priority": rules.provider.priority if priority is None else priority,
        "requires": registry.capability(endpoint.agent, endpoint.agent_version),
        "hold_keys": hold_keys(endpoint),
        "max_attempts": rules.on_failure.attempts,
        "time_limit_s": math.ceil(endpoint.wall_clock_s) + UNWIND_S,
    }
    return Submission(**(fields | more))


def edit_and_redrive(run: Run, input: Any, *, actor: Actor, idempotency_key: str | None = None) -> Invoked:
    """Start a new run of an ended one's endpoint with another input, for the same user, linked to the old.

    With an idempotency key: or find the one that the key started.

    Raises:
        InvalidState: only dead letters and cancelled runs can be redriven.
        EditedInConversation: it answered a message of a chat.
        What `invoke` raises.
    """
    entrance = policy(run.mode).concurrency.entrance
    if entrance == "chat":
        raise EditedInConversation("Write the message again in its conversation. The run can be redriven as it is.")
    if run.job.state not in REDRIVABLE:
        raise InvalidState(run.job_id, run.job.state, "redriven")
    if run.user is None:
        raise UnknownEndpoint("The user it ran for is gone, so it can't run for them again.")
    with transaction.atomic():
        made = invoke(
            run.endpoint.name,
            input,
            user=run.user,
            actor=actor,
            entrance=entrance,
            budget=Budget.model_validate(run.budget),
            idempotency_key=idempotency_key,
            redriven_from=run.job_id,
        )
        if made.created:
            trail.record(actor, "task.redrive_edited", "job", run.job_id, after={"task_id": str(made.run_id)})
    return made


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _check_urgent(user: AbstractBaseUser, priority: Priority) -> None:
    if roles.is_operator(user):
        return
    waiting = Job.objects.filter(user_id=user.pk, state__in=_WAITING, priority__lte=priority).order_by()
    if waiting[:MAX_URGENT].count() >= MAX_URGENT:
        raise TooManyUrgent(f"{MAX_URGENT} of your tasks of high priority are waiting.", headers={"Retry-After": "5"})


def _check_fit(known: Registry, endpoint: EndpointInfo, input: Any) -> None:
    """Refuse at once what the endpoint's mode could not do in time or in size, and say which endpoint can."""

    entrances = (policy(endpoint.mode).concurrency.entrance, "tasks")

    def can(other: EndpointInfo) -> bool:
        if policy(other.mode).concurrency.entrance not in entrances:
            return False
        return not _is_too_slow(other) and not _is_too_large(other, input) and other.input_validator.is_valid(input)

    if _is_too_slow(endpoint):
        raise TooSlowForMode(
            f"{endpoint.agent} takes about {endpoint.expected_latency_ms} ms and {endpoint.name} must answer in"
            f" {policy(endpoint.mode).latency.p95_ms} ms.{_others(known, endpoint, can)}"
        )
    if _is_too_large(endpoint, input):
        size = endpoint.request_size(input)
        raise RequestTooLarge(
            f"{endpoint.name} takes {endpoint.max_size} at once and this asks for {size:g}."
            f"{_others(known, endpoint, can)}",
            size=size,
            max=endpoint.max_size,
        )


def _is_too_slow(endpoint: EndpointInfo) -> bool:
    latency, expected = policy(endpoint.mode).latency, endpoint.expected_latency_ms
    return latency.kind == "hard" and expected is not None and expected > (latency.p95_ms or 0)


def _is_too_large(endpoint: EndpointInfo, input: Any) -> bool:
    return endpoint.max_size is not None and endpoint.request_size(input) > endpoint.max_size


def _others(known: Registry, endpoint: EndpointInfo, can: Callable[[EndpointInfo], bool]) -> str:
    """Name the endpoint of the same agent that can."""
    names = [
        other.name
        for other in known.endpoints.values()
        if other.active and other.agent == endpoint.agent and other.name != endpoint.name and can(other)
    ]
    return f" Use {names[0]} instead." if names else " No other endpoint of this agent can."


def _partition(user_id: int, key: str | None) -> str | None:
    """Scope a caller's key by the user: nobody can stand in another's line. Long keys are hashed to fit."""
    if key is None:
        return None
    text = f"{user_id}:{key}"
    return text if len(text) <= 200 else f"{user_id}:{hashlib.sha256(key.encode()).hexdigest()}"


def _idempotency(user_id: int, endpoint: str, key: str | None, asked: dict[str, Any]) -> Idempotency | None:
    if key is None:
        return None
    body = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return Idempotency(f"{user_id}:{endpoint}", key, hashlib.sha256(body.encode()).hexdigest())


def insert_run(
    job_id: UUID,
    endpoint: EndpointInfo,
    input: Any,
    user_id: int,
    budget: dict[str, Any],
    redriven_from: UUID | None = None,
) -> Script[None]:
    """Write the run of a job."""
    yield (
        "INSERT INTO agents_run (job_id, endpoint_id, agent_id, mode, user_id, input, budget, seed, journal_epoch,"
        " redriven_from_id, steps_done, turns, input_tokens, output_tokens, cost_usd, cost_known)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 1, %s, 0, 0, 0, 0, 0, true)",
        [
            job_id,
            endpoint.id,
            endpoint.agent_version_id,
            endpoint.mode,
            user_id,
            Jsonb(input),
            Jsonb(budget),
            secrets.randbits(63),
            redriven_from,
        ],
    )
