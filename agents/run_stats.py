"""Figures of ended runs over time, read from what `agents.run_count` counted: they never look at the runs again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import connection

from agents.models import RunStat

#: Rows at this minute are the sums of everything that was ever counted.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Upper bounds of the buckets, seconds. An idle lane takes a job within hundredths of a second, a first token comes
#: within tenths; 1.5 s, 6 s and 90 s are next to the modes' budgets, so that a share within the budget can be read off;
#: agents work for minutes, and what waits for a person for an hour or more is all one. Every row holds counts for
#: exactly these: whoever changes them migrates the rows.
BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 6.0, 15.0, 30.0, 60.0, 90.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long things took: how many took no longer than each of `BOUNDS_S`, and as the last how many there are."""

    buckets: Sequence[int]
    sum_s: float

    @property
    def count(self) -> int:
        """Return how many were measured."""
        return self.buckets[-1]

    def quantile(self, share: float) -> float | None:
        """Estimate the time that this share of them stayed within, seconds; None if nothing was measured.

        Straight between the bounds of its bucket, as Prometheus' `histogram_quantile` does; past the last bound, that.
        """
        rank, below, lower = share * self.count, 0, 0.0
        if not self.count:
            return None
        for bound, within in zip(BOUNDS_S, self.buckets, strict=False):
            if within >= rank and within > below:
                return lower + (bound - lower) * (rank - below) / (within - below)
            below, lower = within, bound
        return BOUNDS_S[-1]


def added(histograms: Iterable[Histogram]) -> Histogram:
    """Return what all of them measured together."""
    buckets, sum_s = [0] * (len(BOUNDS_S) + 1), 0.0
    for one in histograms:
        buckets = [a + b for a, b in zip(buckets, one.buckets, strict=True)]
        sum_s += one.sum_s
    return Histogram(buckets, sum_s)


@dataclass(frozen=True, slots=True)
class LaneWork:
    """What ended in a lane, minute by minute.

    Runs are counted within a minute or two of their end: a minute that is not counted yet is None. The first count of
    an installation begins a day back, and minutes are kept for two days.
    """

    lane: str
    #: When the first minute began.
    since: datetime
    runs: Sequence[int | None]
    #: Those that ended as dead letters.
    failures: Sequence[int | None]
    #: From when they could start to when they did.
    wait: Histogram

    @property
    def total(self) -> int:
        """Return how many ended."""
        return sum(filter(None, self.runs))

    @property
    def failed(self) -> int:
        """Return how many ended as dead letters."""
        return sum(filter(None, self.failures))

    @property
    def failure_rate(self) -> float | None:
        """Return the share that ended as dead letters, 0 to 1; None if none ended."""
        return self.failed / self.total if self.total else None

    @property
    def per_minute(self) -> float | None:
        """Return how many ended in a minute, on average over those counted; None if none is counted."""
        counted = sum(number is not None for number in self.runs)
        return self.total / counted if counted else None

    @property
    def wait_p50_s(self) -> float | None:
        """Return what half of them waited at most, seconds."""
        return self.wait.quantile(0.5)

    @property
    def wait_p95_s(self) -> float | None:
        """Return what 95 % of them waited at most, seconds."""
        return self.wait.quantile(0.95)


def ended_by_minute(lanes: Sequence[str], *, minutes: int = 60) -> dict[str, LaneWork]:
    """Return what ended in each lane in the last whole minutes, the last one last. Two statements."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT date_trunc('minute', now()), (SELECT counted_until FROM agents_runstatcursor)")
        now, until = cursor.fetchone()
    since = now - timedelta(minutes=minutes)
    places = range(minutes)
    at = [since + timedelta(minutes=place) for place in places]
    counted = [until is not None and minute < until for minute in at]
    rows = RunStat.objects.filter(lane__in=lanes, minute__gte=since, minute__lt=now).values_list(
        "lane", "minute", "outcome", "runs", "wait_buckets", "wait_sum_s"
    )
    runs = {lane: [0] * minutes for lane in lanes}
    failures = {lane: [0] * minutes for lane in lanes}
    waits: dict[str, list[Histogram]] = {lane: [] for lane in lanes}
    for lane, minute, outcome, number, buckets, sum_s in rows:
        place = round((minute - since).total_seconds() / 60)
        runs[lane][place] += number
        failures[lane][place] += number if outcome == "dead" else 0
        waits[lane].append(Histogram(buckets, sum_s))

    def known(series: Sequence[int]) -> list[int | None]:
        return [number if is_counted else None for number, is_counted in zip(series, counted, strict=True)]

    return {lane: LaneWork(lane, since, known(runs[lane]), known(failures[lane]), added(waits[lane])) for lane in lanes}


@dataclass(frozen=True, slots=True)
class RunTotal:
    """Everything that was ever counted of one lane, mode and outcome. It only grows."""

    lane: str
    #: Empty for jobs that are no runs.
    mode: str
    #: `succeeded`, `dead` or `cancelled`.
    outcome: str
    runs: int
    wait: Histogram
    run: Histogram
    first_token: Histogram
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal


def totals() -> list[RunTotal]:
    """Return the sums of everything that was ever counted, by lane, mode and outcome. One statement."""
    return [
        RunTotal(
            lane=row.lane,
            mode=row.mode,
            outcome=row.outcome,
            runs=row.runs,
            wait=Histogram(row.wait_buckets, row.wait_sum_s),
            run=Histogram(row.run_buckets, row.run_sum_s),
            first_token=Histogram(row.first_token_buckets, row.first_token_sum_s),
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cost_usd=row.cost_usd,
        )
        for row in RunStat.objects.filter(minute=EPOCH).order_by("lane", "mode", "outcome")
    ]
