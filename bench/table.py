"""One table of ratios, aligned, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of Astra next to one peer's, round by round.

    Args:
        unit: of the values, behind each.
        peer: empty where there is nothing to stand next to.
        more_is_better: the ratio says how many times better Astra is, so below 1 the peer is.
    """

    measure: str
    unit: str
    peer_name: str
    astra: Sequence[float]
    peer: Sequence[float]
    more_is_better: bool

    @property
    def ratios(self) -> list[float]:
        """Of each round, in which the two ran one after the other."""
        pairs = zip(self.astra, self.peer, strict=True)
        return [a / p if self.more_is_better else p / a for a, p in pairs]

    def cells(self) -> list[str]:
        """Return the row as it is printed: medians, and between which rounds the ratio lay."""
        own = f"{plain(statistics.median(self.astra))} {self.unit}"
        if not self.peer:
            return [self.measure, own, "", "", "", f"{plain(min(self.astra))}–{plain(max(self.astra))} {self.unit}"]
        ratios = self.ratios
        spread = f"{plain(min(ratios))}–{plain(max(ratios))}" if len(ratios) > 1 else "one round"
        other = f"{plain(statistics.median(self.peer))} {self.unit}"
        return [self.measure, own, self.peer_name, other, plain(statistics.median(ratios)), spread]


HEAD = ["measure", "Astra", "next to", "it has", "Astra is better ×", "least–most"]
_RIGHT = frozenset({1, 3, 4, 5})


def plain(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """Return the table."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (width - 1)}:" if column in _RIGHT else "-" * width for column, width in enumerate(widths)]
    return "\n".join([line(HEAD), line(rule), *(line(cells) for cells in lines[1:])])
