"""``/metrics``: the house in the words of Prometheus, read from the tables when somebody asks.

Nothing is counted in a process: any web process answers the same, and a restart loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.registry import Collector

from accounts.api_auth import ApiAuth
from accounts.problems import Forbidden, MethodNotAllowed, Problem, Unavailable
from agents.modes import POLICIES
from agents.run_stats import BOUNDS_S, Histogram, RunTotal, added, totals
from approvals.models import Approval
from astra_site import outage, problems
from jobs.process import hooks
from jobs.queries import BLOCKED_UP_TO, lane_loads

logger = logging.getLogger(__name__)

SCOPE = "metrics:read"
OUTCOMES = ("succeeded", "dead", "cancelled")
_AUTH = ApiAuth(SCOPE)
_BOUNDS = (*map(str, BOUNDS_S), "+Inf")


@csrf_exempt
@login_not_required
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scraper, with a token or an operator's session; refuse in the API's words, never with a login page."""
    try:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} is not known here; there is GET.", headers={"Allow": "GET, HEAD"})
        if not _AUTH(request).is_operator:
            raise Forbidden("The metrics tell of everybody's work: they are for operators and their tokens.")
        return _answer(request)
    except Problem as problem:
        return problems.answer(problem)
    except outage.OUTAGE as error:
        logger.warning("the database does not answer: %s", error, extra={"action": "unavailable", "path": request.path})
        retry = {"Retry-After": str(outage.RETRY_AFTER_S)}
        response = problems.answer(Unavailable("The database does not answer.", headers=retry))
        # Whoever asks every few seconds knows already; Django would log each such answer as an error.
        response._has_been_logged = True  # type: ignore[attr-defined]
        return response


def _answer(request: HttpRequest) -> HttpResponse:
    encode, content_type = choose_encoder(_liked(request))
    return HttpResponse(encode(REGISTRY), content_type=content_type)


def _liked(request: HttpRequest) -> str:
    """Return the format that the scraper likes best: OpenMetrics 1.0, or Prometheus' own text unless it says so."""
    for accepted in request.accepted_types:
        match accepted.main_type, accepted.sub_type:
            case "application", "openmetrics-text":
                return OPENMETRICS
            case (("text" | "*"), ("plain" | "*")):
                break
    return CONTENT_TYPE_PLAIN_0_0_4


class Figures(Collector):
    """Everything there is to tell, in four statements."""

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples."""
        yield InfoMetricFamily("astra_build", "The release that answers.", value={"version": hooks.version})
        yield from _lanes()
        yield from _house()
        yield from _approvals()
        yield from _runs(totals())


#: Ours alone: the library's own registry has the figures of one process, which is any of several.
REGISTRY = CollectorRegistry()
REGISTRY.register(Figures())


def _lanes() -> Iterator[Metric]:
    loads = lane_loads(settings.LANES)
    yield _gauges(
        "astra_queue_depth",
        "Jobs in state queued. Counted up to 10,000: there may be more than that.",
        ((load.name, load.queued.number) for load in loads),
    )
    yield _gauges(
        "astra_queue_oldest_seconds",
        "How long the job that has been queued longest has been so; 0 if none is queued.",
        ((load.name, load.oldest_s or 0) for load in loads),
    )
    yield _gauges(
        "astra_queue_held",
        f"Jobs that would be queued but for a hold, like a pause. Found among {BLOCKED_UP_TO:,} blocked jobs at most,"
        " and counted up to 10,000: there may be more than that.",
        ((load.name, load.held.number) for load in loads),
    )
    yield _gauges("astra_slots_busy", "Jobs that run.", ((load.name, load.running) for load in loads))
    yield _gauges("astra_slots", "Jobs that could run at once.", ((load.name, load.slots) for load in loads))


def _gauges(name: str, words: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=["lane"])
    for lane, value in values:
        family.add_metric([lane], value)
    return family


# Dead letters and overdue jobs by the indexes `job_by_state` and `job_due`, a bounded number of each; the other tables
# are small: a row for each process that ever ran, for each hold, for each operation.
_HOUSE = """
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM jobs_job WHERE state = 'dead' LIMIT 10000) d),
    (SELECT count(*) FROM (
        SELECT 1 FROM jobs_job WHERE state = 'scheduled' AND run_at < now() - interval '30 seconds' LIMIT 10000
    ) s),
    (SELECT count(*) FROM jobs_hold),
    (SELECT count(*) FROM jobs_bulkoperation WHERE state IN ('pending', 'running')),
    (SELECT counted_until FROM agents_runstatcursor),
    (SELECT max(minute) FROM jobs_lanesample),
    w.live, w.lost, w.died
FROM (
    SELECT count(*) FILTER (WHERE ended_at IS NULL AND lease_until > now()) AS live,
           count(*) FILTER (WHERE "end" = 'lost') AS lost, count(*) FILTER (WHERE "end" = 'died') AS died
    FROM jobs_worker
) w
"""


def _house() -> Iterator[Metric]:
    with connection.cursor() as cursor:
        cursor.execute(_HOUSE)
        dead, overdue, holds, operations, counted, sampled, live, lost, died = cursor.fetchone()
    yield GaugeMetricFamily("astra_workers", "Processes that hold a lease; web processes are among them.", live)
    leases = CounterMetricFamily(
        "astra_leases_lost",
        "Processes whose jobs were taken from them: their lease ran out (lost), or they were seen to die (died).",
        labels=["end"],
    )
    leases.add_metric(["lost"], lost)
    leases.add_metric(["died"], died)
    yield leases
    yield GaugeMetricFamily("astra_dead_letters", "Dead letters. Counted up to 10,000: there may be more.", dead)
    yield GaugeMetricFamily(
        "astra_jobs_overdue",
        "Jobs whose time came over 30 s ago and that nobody queued. Counted up to 10,000.",
        overdue,
    )
    yield GaugeMetricFamily("astra_holds", "Reasons in place why jobs may not start, like a pause.", holds)
    yield GaugeMetricFamily("astra_bulk_operations_open", "Operations on many jobs that have not ended.", operations)
    yield _moment("astra_lanes_sampled_timestamp_seconds", "When a scheduler last sampled the lanes.", sampled)
    yield _moment("astra_runs_counted_until_timestamp_seconds", "Runs that ended before it are counted.", counted)


# By the index `approval_by_state`, the oldest first: a bounded number, with the oldest of all among them.
_PENDING = """
SELECT kind, count(*), extract(epoch FROM now() - min(created_at))::float,
       count(*) FILTER (WHERE deadline < now() - interval '30 seconds')
FROM (
    SELECT kind, created_at, deadline FROM approvals_approval WHERE state = 'pending' ORDER BY id LIMIT 10000
) pending GROUP BY kind
"""


def _approvals() -> Iterator[Metric]:
    with connection.cursor() as cursor:
        cursor.execute(_PENDING)
        found = {kind: figures for kind, *figures in cursor.fetchall()}
    numbers = GaugeMetricFamily(
        "astra_approvals_pending",
        "Requests that wait for people. The 10,000 oldest are counted: there may be more.",
        labels=["kind"],
    )
    oldest = GaugeMetricFamily(
        "astra_approvals_oldest_seconds",
        "How long the request that has waited longest for people has done so; 0 if none waits.",
        labels=["kind"],
    )
    overdue = 0
    for kind in Approval.Kind.values:
        number, age_s, late = found.get(kind, (0, 0, 0))
        numbers.add_metric([kind], number)
        oldest.add_metric([kind], age_s)
        overdue += late
    yield numbers
    yield oldest
    words = "Requests that still wait for people 30 s after their deadline. Found among the 10,000 oldest."
    yield GaugeMetricFamily("astra_approvals_overdue", words, overdue)


def _moment(name: str, words: str, moment: datetime | None) -> Metric:
    """Return a time; 0, long ago, for never."""
    return GaugeMetricFamily(name, words, moment.timestamp() if moment else 0)


def _runs(sums: Sequence[RunTotal]) -> Iterator[Metric]:
    labels = ["lane", "mode", "outcome"]
    runs = CounterMetricFamily("astra_runs", "Runs that ended.", labels=labels)
    wait = HistogramMetricFamily(
        "astra_run_wait_seconds", "From when a run could start to when it was first claimed.", labels=labels
    )
    took = HistogramMetricFamily("astra_run_duration_seconds", "From a run's first claim to its end.", labels=labels)
    # A counter that appears with its first failure has no increase for that one.
    numbers = {
        (policy.concurrency.lane, mode.value, outcome): 0 for mode, policy in POLICIES.items() for outcome in OUTCOMES
    }
    numbers |= {(one.lane, one.mode, one.outcome): one.runs for one in sums}
    for key, number in sorted(numbers.items()):
        runs.add_metric(key, number)
    for one in sums:
        key = (one.lane, one.mode, one.outcome)
        _add(wait, key, one.wait)
        _add(took, key, one.run)
    yield runs
    yield wait
    yield took
    first = HistogramMetricFamily(
        "astra_first_token_seconds", "From a message to the first text of its answer.", labels=["mode"]
    )
    tokens = CounterMetricFamily("astra_tokens", "Tokens that ended runs have used.", labels=["mode", "kind"])
    cost = CounterMetricFamily(
        "astra_cost_usd", "What ended runs have cost, as far as prices are known.", labels=["mode"]
    )
    for mode in (mode.value for mode in POLICIES):
        of_mode = [one for one in sums if one.mode == mode]
        tokens.add_metric([mode, "input"], sum(one.input_tokens for one in of_mode))
        tokens.add_metric([mode, "output"], sum(one.output_tokens for one in of_mode))
        cost.add_metric([mode], float(sum(one.cost_usd for one in of_mode)))
        if any(one.first_token.count for one in of_mode):
            _add(first, [mode], added(one.first_token for one in of_mode))
    yield first
    yield tokens
    yield cost


def _add(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    family.add_metric(labels, list(zip(_BOUNDS, histogram.buckets, strict=True)), histogram.sum_s)
