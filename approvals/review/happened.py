"""What agents did meanwhile: how many tasks ended and how, what that cost, and what was unlike them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.db import connection

from accounts import roles
from agents.modes import POLICIES
from approvals.review.window import Window
from audit.time_limit import in_time

#: As many of the newest runs that ended in a time are looked at.
RUNS_UP_TO = 20_000
#: What is usual for an agent is learnt from so many days before, and from so many of its runs.
USUAL_DAYS = 7
USUAL_RUNS = 500
#: Fewer runs tell nothing.
USUAL_AT_LEAST = 5
#: A run or a time is unusual from so many times the usual on; and never below these floors.
TIMES = 3
FLOOR_USD = Decimal("0.01")
FLOOR_S = 30.0
UNUSUAL_SHOWN = 10
#: Figures that take longer are given up, seconds: the page says so.
LIMIT_S = 1.5

#: Modes that somebody does not watch while they run.
UNATTENDED = [mode.value for mode, policy in POLICIES.items() if policy.concurrency.by != "connection"]


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """What one agent's runs came to."""

    agent: str
    succeeded: int
    dead: int
    other: int
    cost_usd: Decimal
    cost_known: bool
    #: What it spends in as long a time, the mean of the days before; None where too little is known.
    usual_usd: Decimal | None = None

    @property
    def runs(self) -> int:
        """Return how many of its runs ended."""
        return self.succeeded + self.dead + self.other

    @property
    def is_over(self) -> bool:
        """Tell whether it spent far more than it usually does."""
        return self.usual_usd is not None and self.cost_usd > max(self.usual_usd * TIMES, FLOOR_USD)


@dataclass(frozen=True, slots=True)
class Unusual:
    """A run that cost or took far more than runs of its agent usually do."""

    run_id: UUID
    agent: str
    input: Any
    cost_usd: Decimal
    took_s: float
    usual_usd: Decimal
    usual_s: float

    @property
    def is_dear(self) -> bool:
        """Tell whether it cost too much."""
        return self.cost_usd > max(self.usual_usd * TIMES, FLOOR_USD)

    @property
    def is_slow(self) -> bool:
        """Tell whether it took too long."""
        return self.took_s > max(self.usual_s * TIMES, FLOOR_S)


@dataclass(frozen=True, slots=True)
class Happened:
    """All that ended in a time."""

    agents: Sequence[AgentFigures] = ()
    unusual: Sequence[Unusual] = ()
    #: There were more runs than were looked at.
    more: bool = False
    #: The figures took too long and were given up.
    given_up: bool = False
    #: What is unusual could not be told in time.
    unusual_given_up: bool = field(default=False)

    @property
    def succeeded(self) -> int:
        """Return how many runs succeeded."""
        return sum(agent.succeeded for agent in self.agents)

    @property
    def dead(self) -> int:
        """Return how many runs ended as dead letters."""
        return sum(agent.dead for agent in self.agents)

    @property
    def cost_usd(self) -> Decimal:
        """Return what is known of what all of them cost."""
        return sum((agent.cost_usd for agent in self.agents), Decimal(0))

    @property
    def cost_known(self) -> bool:
        """Tell whether that is all."""
        return all(agent.cost_known for agent in self.agents)

    @property
    def over(self) -> list[AgentFigures]:
        """Return the agents that spent far more than they usually do."""
        return [agent for agent in self.agents if agent.is_over]


#: Runs that ended in a time, newest first. By lane, for the index of ended jobs is by lane.
_ENDED = """
    SELECT j.id, j.state, j.started_at, j.finished_at FROM jobs_job j
    WHERE j.home_lane = ANY(%(lanes)s) AND j.finished_at >= %(since)s AND j.finished_at < %(until)s
      AND j.handler = 'agent-run' {whose}
    ORDER BY j.finished_at DESC LIMIT %(limit)s
"""
_FIGURES = """
WITH ended AS ({ended})
SELECT v.name, count(*) FILTER (WHERE ended.state = 'succeeded'), count(*) FILTER (WHERE ended.state = 'dead'),
       count(*), coalesce(sum(r.cost_usd), 0), bool_and(r.cost_known), min(ended.finished_at)
FROM ended JOIN agents_run r ON r.job_id = ended.id JOIN agents_agentversion v ON v.id = r.agent_id
GROUP BY v.name ORDER BY 5 DESC, 1
"""
_UNUSUAL = f"""
WITH ended AS ({{ended}}),
now_runs AS (
    SELECT ended.id, v.name, r.input, r.cost_usd,
           extract(epoch FROM ended.finished_at - ended.started_at)::float AS took
    FROM ended JOIN agents_run r ON r.job_id = ended.id JOIN agents_agentversion v ON v.id = r.agent_id
    WHERE ended.started_at IS NOT NULL
),
usual AS (
    SELECT names.name, percentile_cont(0.5) WITHIN GROUP (ORDER BY before.cost_usd) AS cost,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY before.took) AS took
    FROM (SELECT DISTINCT name FROM now_runs) names
    CROSS JOIN LATERAL (
        SELECT r.cost_usd, extract(epoch FROM j.finished_at - j.started_at)::float AS took
        FROM agents_agentversion v
        CROSS JOIN LATERAL (
            SELECT job_id, cost_usd FROM agents_run WHERE agent_id = v.id AND created_at < %(since)s
            ORDER BY agent_id, job_id DESC LIMIT {USUAL_RUNS}
        ) r JOIN jobs_job j ON j.id = r.job_id AND j.state = 'succeeded'
        WHERE v.name = names.name LIMIT {USUAL_RUNS}
    ) before
    GROUP BY names.name HAVING count(*) >= {USUAL_AT_LEAST}
)
SELECT n.id, n.name, n.input, n.cost_usd, n.took, u.cost, u.took FROM now_runs n JOIN usual u ON u.name = n.name
WHERE n.cost_usd > greatest(u.cost * {TIMES}, {FLOOR_USD}) OR n.took > greatest(u.took * {TIMES}, {FLOOR_S})
ORDER BY n.cost_usd / greatest(u.cost, 0.0001) DESC, n.took DESC LIMIT {UNUSUAL_SHOWN}
"""


def happened(user: User, time: Window) -> Happened:
    """Return what ended in a time: everybody's for an operator, else the person's own. Bounded in rows and time."""
    figures = in_time(LIMIT_S, lambda: _figures(user, time.since, time.until))
    if figures is None:
        return Happened(given_up=True)
    agents, more = figures
    usual = in_time(LIMIT_S, lambda: _usual(user, time)) or {}
    unusual = in_time(LIMIT_S, lambda: _unusual(user, time))
    return Happened(
        agents=[
            AgentFigures(name, ok, dead, ended - ok - dead, cost, known, usual.get(name))
            for name, ok, dead, ended, cost, known, _ in agents
        ],
        unusual=unusual or (),
        more=more,
        unusual_given_up=unusual is None,
    )


def _figures(user: User, since: datetime, until: datetime) -> tuple[list[tuple[Any, ...]], bool]:
    rows = _read(_FIGURES, user, since, until)
    return rows, sum(row[3] for row in rows) >= RUNS_UP_TO


def _usual(user: User, time: Window) -> dict[str, Decimal]:
    """Return what each agent spends in as long a time as this one, by the days before."""
    rows, cut = _figures(user, time.since - timedelta(days=USUAL_DAYS), time.since)
    found = {}
    for name, _ok, _dead, ended, cost, _known, first in rows:
        if ended < USUAL_AT_LEAST:
            continue
        # Where only the newest were looked at, they tell of the time since the first of them.
        span = time.since - first if cut else timedelta(days=USUAL_DAYS)
        found[name] = Decimal(cost) * Decimal(time.length / max(span, timedelta(hours=1)))
    return found


def _unusual(user: User, time: Window) -> list[Unusual]:
    return [
        Unusual(run_id, name, given, cost, took, Decimal(str(usual_cost)), usual_took)
        for run_id, name, given, cost, took, usual_cost, usual_took in _read(_UNUSUAL, user, time.since, time.until)
    ]


def _read(sql: str, user: User, since: datetime, until: datetime) -> list[tuple[Any, ...]]:
    whose = "" if roles.is_operator(user) else "AND j.user_id = %(user)s"
    lanes = sorted({policy.concurrency.lane for mode, policy in POLICIES.items() if mode.value in UNATTENDED})
    with connection.cursor() as cursor:
        cursor.execute(
            sql.replace("{ended}", _ENDED.format(whose=whose)),
            {"since": since, "until": until, "user": user.pk, "lanes": lanes, "limit": RUNS_UP_TO},
        )
        return list(cursor.fetchall())
