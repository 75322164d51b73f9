"""What the pages of agents show, read in a fixed number of statements whatever the tables hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import connection
from django.db.models import F

from agents import registry
from agents.models import AgentVersion, Endpoint
from jobs.holds import EVERYTHING
from jobs.ids import since
from jobs.models import Hold, Worker
from jobs.queries import Bounded
from jobs.states import LIVE

#: Runs are counted over so long, and so many of each version at most.
FIGURES_OVER = timedelta(hours=24)
RUNS_UP_TO = 500
#: Unfinished tasks are looked through up to so many of each state, the oldest first.
UNFINISHED_UP_TO = 5_000
#: Versions on a page.
VERSIONS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Figures:
    """What the runs of an agent's versions came to lately."""

    runs: Bounded
    #: Of the runs that were counted, those that are dead letters now.
    failures: int


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent in the list."""

    name: str
    #: The version that its endpoints start, or the newest one where it has none.
    version: AgentVersion
    #: Further versions that some of its endpoints still start.
    others: Sequence[AgentVersion]
    endpoints: Sequence[Endpoint]
    figures: Figures
    #: What stops its new work, and that of its endpoints.
    holds: Sequence[Hold]
    #: Live worker processes that have loaded the version.
    loaded_by: int

    @property
    def in_use(self) -> bool:
        """Whether an endpoint that is still declared starts it."""
        return any(endpoint.active for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version of an agent."""

    version: AgentVersion
    endpoints: Sequence[Endpoint]
    loaded_by: int
    #: Unfinished tasks of it; ``more`` where not all could be looked at.
    unfinished: Bounded


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of one agent, the newest first."""

    rows: Sequence[VersionRow]
    #: The next page begins below this version; None at the end.
    next_below: int | None
    #: Unfinished tasks of the agent by state; of all its versions.
    unfinished: Mapping[str, Bounded]


def agent_rows() -> list[AgentRow]:
    """Return every agent there is or was, by name."""
    newest = AgentVersion.objects.order_by("name", "-version").distinct("name")
    endpoints = list(Endpoint.objects.select_related("agent").order_by("name"))
    by_agent: dict[str, list[Endpoint]] = {version.name: [] for version in newest}
    for endpoint in endpoints:
        by_agent[endpoint.agent.name].append(endpoint)
    figures = _figures(list(by_agent))
    held = _holds([f"agent:{name}" for name in by_agent] + [f"endpoint:{endpoint.name}" for endpoint in endpoints])
    loaded = loaded_by()
    return [
        _row(version, by_agent[version.name], figures.get(version.name, Figures(Bounded(0), 0)), held, loaded)
        for version in newest
    ]


def _row(
    newest: AgentVersion,
    endpoints: Sequence[Endpoint],
    figures: Figures,
    held: Mapping[str, Sequence[Hold]],
    loaded: Mapping[str, int],
) -> AgentRow:
    started = {endpoint.agent.version: endpoint.agent for endpoint in endpoints if endpoint.active}
    versions = [started[number] for number in sorted(started, reverse=True)] or [newest]
    keys = [f"agent:{newest.name}", *(f"endpoint:{endpoint.name}" for endpoint in endpoints)]
    return AgentRow(
        name=newest.name,
        version=versions[0],
        others=versions[1:],
        endpoints=endpoints,
        figures=figures,
        holds=[hold for key in keys for hold in held.get(key, ())],
        loaded_by=loaded.get(registry.capability(newest.name, versions[0].version), 0),
    )


def holds_on(name: str, endpoints: Sequence[Endpoint]) -> dict[str, list[Hold]]:
    """Return what stops new work of an agent, by key: its own, its endpoints', and what stops everything."""
    return _holds([EVERYTHING, f"agent:{name}", *(f"endpoint:{endpoint.name}" for endpoint in endpoints)])


def _holds(keys: Sequence[str]) -> dict[str, list[Hold]]:
    found: dict[str, list[Hold]] = {}
    for hold in Hold.objects.filter(key__in=keys).order_by("key", "reason"):
        found.setdefault(hold.key, []).append(hold)
    return found


def loaded_by() -> Counter[str]:
    """Return how many live processes have loaded what, by capability."""
    return Counter(
        capability for loaded in Worker.objects.alive().values_list("capabilities", flat=True) for capability in loaded
    )


# Of each version its newest runs, by the index `run_by_agent`: the id tells when a run was submitted.
_FIGURES = f"""
SELECT v.name, sum(least(c.runs, {RUNS_UP_TO})), bool_or(c.runs > {RUNS_UP_TO}), sum(c.dead)
FROM agents_agentversion v
CROSS JOIN LATERAL (
    SELECT count(*) AS runs, count(*) FILTER (WHERE j.state = 'dead') AS dead
    FROM (
        SELECT job_id FROM agents_run WHERE agent_id = v.id AND job_id >= %s
        ORDER BY job_id DESC LIMIT {RUNS_UP_TO + 1}
    ) r JOIN jobs_job j ON j.id = r.job_id
) c
WHERE v.name = ANY(%s) GROUP BY v.name
"""


def figures_of(name: str) -> Figures:
    """Return what the runs of one agent came to lately."""
    return _figures([name]).get(name, Figures(Bounded(0), 0))


def _figures(names: Sequence[str]) -> dict[str, Figures]:
    with connection.cursor() as cursor:
        cursor.execute(_FIGURES, [since(FIGURES_OVER.total_seconds()), list(names)])
        return {name: Figures(Bounded(int(runs), more), int(dead)) for name, runs, more, dead in cursor.fetchall()}


# The oldest unfinished jobs of each state, by the index `job_by_state`, and which version of an agent each needs.
_UNFINISHED = f"""
SELECT s.state, j.requires, count(*)
FROM unnest(%s::text[]) AS s(state)
CROSS JOIN LATERAL (
    SELECT requires FROM jobs_job WHERE state = s.state ORDER BY id LIMIT {UNFINISHED_UP_TO + 1}
) j
GROUP BY s.state, j.requires
"""


def versions_of(name: str, *, below: int | None = None) -> Versions:
    """Return a page of an agent's versions: below a version, or the newest."""
    found = AgentVersion.objects.filter(name=name).defer("definition").order_by("-version")
    if below is not None:
        found = found.filter(version__lt=below)
    versions = list(found[: VERSIONS_SHOWN + 1])
    shown = versions[:VERSIONS_SHOWN]
    endpoints: dict[int, list[Endpoint]] = {}
    for endpoint in Endpoint.objects.filter(agent__in=[version.pk for version in shown], active=True).order_by("name"):
        endpoints.setdefault(endpoint.agent_id, []).append(endpoint)
    loaded = loaded_by()
    by_version, by_state, more = _unfinished(name)
    rows = []
    for version in shown:
        capability = registry.capability(name, version.version)
        unfinished = Bounded(by_version[capability], more)
        rows.append(VersionRow(version, endpoints.get(version.pk, []), loaded[capability], unfinished))
    return Versions(rows, shown[-1].version if len(versions) > len(shown) else None, by_state)


def _unfinished(name: str) -> tuple[Counter[str], dict[str, Bounded], bool]:
    """Count the unfinished tasks of an agent by version and by state, and tell whether some were not looked at."""
    begins = f"agent:{name}@"
    by_version: Counter[str] = Counter()
    by_state: Counter[str] = Counter()
    looked: Counter[str] = Counter()
    with connection.cursor() as cursor:
        cursor.execute(_UNFINISHED, [sorted(LIVE)])
        for state, requires, count in cursor.fetchall():
            looked[state] += count
            if requires is not None and requires.startswith(begins):
                by_version[requires] += count
                by_state[state] += count
    full = {state for state, count in looked.items() if count > UNFINISHED_UP_TO}
    states = {
        str(state): Bounded(by_state[state], state in full)
        for state in sorted(LIVE)
        if by_state[state] or state in full
    }
    return by_version, states, bool(full)


def endpoints_of(name: str) -> list[Endpoint]:
    """Return the endpoints of an agent, those that are still declared first."""
    return list(Endpoint.objects.filter(agent__name=name).select_related("agent").order_by(F("active").desc(), "name"))


def version_of(name: str, number: int) -> AgentVersion | None:
    """Return one version of an agent, whole."""
    return AgentVersion.objects.filter(name=name, version=number).first()
