"""What the four ways to invoke an agent mean: one table. No other module compares modes.

A mode is a row of policy knobs. Whoever needs to act differently asks for the knob, never for the mode; a program never
sees either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, TypeVar

from agents.runtime.answering import Streaming
from agents.runtime.asking import Attempts
from agents.runtime.context import Options
from agents.runtime.types import Budget, Limits

T = TypeVar("T", int, Decimal)


class Mode(StrEnum):
    """How a run is invoked. An endpoint declares it, once and for ever."""

    STREAMING = "streaming-sync"
    QUEUE = "async-queue"
    BATCH = "batch-window"
    SCHEDULED = "scheduled-trigger"

    @property
    def label(self) -> str:
        """Return the mode's name for a page."""
        return {"streaming-sync": "Streaming", "async-queue": "Queue", "batch-window": "Batch"}.get(self, "Scheduled")


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many runs go on at once: one a connection, as many as a worker pool has slots, shards, or one shot.

    ``lane`` is where the runs queue up, ``entrance`` the one way in that makes them.
    """

    by: Literal["connection", "pool", "shards", "one-shot"]
    lane: str
    entrance: Literal["chat", "tasks", "batches", "schedules"]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a run may take. A hard budget steers the run; a soft one is only measured; none leaves throughput."""

    kind: Literal["hard", "soft", "none"]
    p95_ms: int | None = None
    first_token_p95_ms: int | None = None


@dataclass(frozen=True, slots=True)
class OnFailure:
    """How often what failed is tried in all, and what happens then.

    ``counted`` in the job: the whole run is tried again, from its last step, some time later. In the call: only the
    model call that failed, at once, for somebody waits; a failure of the run is final.
    """

    attempts: int
    counted: Literal["job", "call"]
    then: Literal["escape", "dead-letter", "retry-shard", "next-fire"]


@dataclass(frozen=True, slots=True)
class CostCeiling:
    """What may be spent unless the agent or the caller says less."""

    usd: Decimal
    per: Literal["run", "batch"]


@dataclass(frozen=True, slots=True)
class Provider:
    """The priority at the provider (0 goes first) and the share of the provider's quota that it may use."""

    priority: Literal[0, 1, 2, 3]
    share: float


@dataclass(frozen=True, slots=True)
class ModePolicy:
    """A row of the table."""

    mode: Mode
    concurrency: Concurrency
    latency: Latency
    transport: Literal["websocket", "result-store", "parquet", "durable-target"]
    on_failure: OnFailure
    cost_ceiling: CostCeiling
    #: The share of finished runs that is judged, 0 to 1.
    eval_sampling: float
    #: The mean score that judged runs are expected to reach, 0 to 1; None where nobody has measured one yet.
    baseline: float | None
    #: What makes two invocations the same one.
    idempotency: tuple[str, ...]
    provider: Provider
    #: What a run that must wait for a person or a tool does.
    pause: Literal["approval-or-restart", "full-wait", "shard-restart", "fire-again"]

    def limits(self, agent: Limits, budget: Budget) -> Limits:
        """Return what a run may use: of the agent's limits, the ceiling and the caller's budget the lowest each."""
        ceiling = self.cost_ceiling.usd if self.cost_ceiling.per == "run" else None
        hard = self.latency.p95_ms if self.latency.kind == "hard" else None
        return Limits(
            max_turns=min(agent.max_turns, budget.max_turns or agent.max_turns),
            max_tokens=min(agent.max_tokens, budget.max_tokens or agent.max_tokens),
            wall_clock_s=agent.wall_clock_s,
            cost_cap_usd=_lowest(agent.cost_cap_usd, ceiling, budget.cost_cap_usd),
            cost_cap_explicit=agent.cost_cap_explicit or budget.cost_cap_usd is not None,
            latency_budget_ms=_lowest(agent.latency_budget_ms, hard, budget.latency_budget_ms),
            history_tokens=agent.history_tokens,
        )

    @property
    def retries_job(self) -> bool:
        """Tell whether a run that failed may be tried again as a whole."""
        return self.on_failure.counted == "job"

    def attempts(self) -> Attempts:
        """Return how often a model is asked."""
        if self.retries_job:
            return Attempts()
        return Attempts(most=self.on_failure.attempts, base_s=0.2, max_s=2.0, in_all=True)

    def streaming(self) -> Streaming:
        """Return how long a model may be silent while an answer streams.

        Where somebody waits: ten times the usual time to a first token, for a model may think first; and less patience
        in mid-answer than a person has.
        """
        if self.latency.kind != "hard":
            return Streaming()
        return Streaming(first_token_s=15.0, stall_s=20.0)

    def options(self, max_batch_size: int | None = None) -> Options:
        """Return the options of a run's context. Where somebody waits a request that is not streamed is a short one."""
        found = Options(attempts=self.attempts(), streaming=self.streaming())
        if self.latency.kind == "hard":
            found = replace(found, request_timeout_s=30.0)
        return found if max_batch_size is None else replace(found, max_batch_size=max_batch_size)


def _lowest(*values: T | None) -> T | None:
    return min((value for value in values if value is not None), default=None)


POLICIES: Mapping[Mode, ModePolicy] = MappingProxyType(
    {
        policy.mode: policy
        for policy in (
            ModePolicy(
                mode=Mode.STREAMING,
                concurrency=Concurrency(by="connection", lane="chat", entrance="chat"),
                latency=Latency("hard", p95_ms=6_000, first_token_p95_ms=1_400),
                transport="websocket",
                on_failure=OnFailure(attempts=2, counted="call", then="escape"),
                cost_ceiling=CostCeiling(Decimal("0.05"), per="run"),
                eval_sampling=0.01,
                baseline=0.81,
                idempotency=("session", "client_id"),
                provider=Provider(priority=0, share=1.0),
                pause="approval-or-restart",
            ),
            ModePolicy(
                mode=Mode.QUEUE,
                concurrency=Concurrency(by="pool", lane="queue", entrance="tasks"),
                latency=Latency("soft", p95_ms=90_000),
                transport="result-store",
                on_failure=OnFailure(attempts=3, counted="job", then="dead-letter"),
                cost_ceiling=CostCeiling(Decimal("0.50"), per="run"),
                eval_sampling=0.05,
                baseline=0.78,
                idempotency=("user", "endpoint", "key"),
                provider=Provider(priority=1, share=0.9),
                pause="full-wait",
            ),
            ModePolicy(
                mode=Mode.BATCH,
                concurrency=Concurrency(by="shards", lane="batch", entrance="batches"),
                latency=Latency("none"),
                transport="parquet",
                on_failure=OnFailure(attempts=3, counted="job", then="retry-shard"),
                cost_ceiling=CostCeiling(Decimal(500), per="batch"),
                eval_sampling=1.0,
                baseline=0.86,
                idempotency=("row",),
                provider=Provider(priority=3, share=0.5),
                pause="shard-restart",
            ),
            ModePolicy(
                mode=Mode.SCHEDULED,
                concurrency=Concurrency(by="one-shot", lane="scheduled", entrance="schedules"),
                latency=Latency("soft"),
                transport="durable-target",
                on_failure=OnFailure(attempts=1, counted="job", then="next-fire"),
                cost_ceiling=CostCeiling(Decimal(2), per="run"),
                eval_sampling=1.0,
                baseline=None,
                idempotency=("schedule", "user", "fire_time"),
                provider=Provider(priority=2, share=0.8),
                pause="fire-again",
            ),
        )
    }
)


def policy(mode: str) -> ModePolicy:
    """Return the row of the mode of that name, as an endpoint or a run stores it."""
    return POLICIES[Mode(mode)]
