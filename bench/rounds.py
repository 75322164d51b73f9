"""Interleave: A B C, A B C, …, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from bench.table import Row

#: Of each contender, by name, what was measured in each round.
Results = dict[str, list[dict[str, float]]]


class Named(Protocol):
    """Whoever is measured."""

    name: str


N = TypeVar("N", bound=Named)


def interleave(contenders: Sequence[N], rounds: int, once: Callable[[N], dict[str, float]]) -> Results:
    """Measure every contender once a round. ``once`` returns values by the name of the measure."""
    results: Results = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            results[contender.name].append(once(contender))
    return results


def rows(
    results: Results, measure: str, key: str, unit: str, *, more_is_better: bool, astra: str = "Astra"
) -> list[Row]:
    """Return a row for each peer."""
    own = [found[key] for found in results[astra]]
    peers = {name: [found[key] for found in results[name]] for name in results if name != astra}
    return [Row(measure, unit, name, own, values, more_is_better=more_is_better) for name, values in peers.items()]


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Return the median and the 95th percentile, in milliseconds."""
    found = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": found[49] * 1000, "p95": found[94] * 1000}
