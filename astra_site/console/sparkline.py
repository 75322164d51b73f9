"""Draw the recent past of a figure as a small line, and say in words what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs.queries import Bounded

WIDTH, HEIGHT = 120, 24
#: The line keeps this far from the edges, so that its ends are whole.
EDGE = 2
#: The top of the drawing stands for no less: one lone task is not to look like a flood.
LOWEST_TOP = 4

Values = Sequence[Bounded | None]


def in_words(values: Values, what: str, *, when: str = "the last hour") -> str:
    """Say what the line shows: ``Queued in the last hour: 0 to 240, now 12``. None is a time without a sample."""
    known = [value for value in values if value is not None]
    if not known:
        return f"{what} in {when}: nothing was sampled"
    low, high = min(known, key=_size), max(known, key=_size)
    last = f"now {values[-1]}" if values[-1] is not None else f"at last {known[-1]}"
    told = f"always {low}" if low == high else f"{low} to {high}, {last}"
    gaps = f"; part of it was not sampled ({len(values) - len(known)} of {len(values)})" if None in values else ""
    return f"{what} in {when}: {told}{gaps}"


def draw(values: Values, what: str, *, when: str = "the last hour") -> SafeString:
    """Draw the values from the oldest on, evenly spaced, from zero up. Where nothing was sampled the line is broken.

    It takes the colour of the text around it. The figures must be reachable beside it, as text.
    """
    words = in_words(values, what, when=when)
    top = max([LOWEST_TOP, *(value.number for value in values if value is not None)])
    step = (WIDTH - 2 * EDGE) / max(1, len(values) - 1)

    def point(place: int, value: Bounded) -> tuple[float, float]:
        return EDGE + place * step, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * value.number / top

    lines = [[point(place, value) for place, value in stretch] for stretch in _stretches(values)]
    is_calm = all(value is None or not value.number for value in values)
    return format_html(
        '<svg class="spark{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<title>{}</title><path class="spark-base" vector-effect="non-scaling-stroke" d="M0 {}H{}"/>'
        '<path class="spark-area" d="{}"/>'
        '<path class="spark-line" vector-effect="non-scaling-stroke" d="{}"/></svg>',
        " calm" if is_calm else "",
        WIDTH,
        HEIGHT,
        words,
        words,
        HEIGHT - EDGE,
        WIDTH,
        "".join(f"M{line[0][0]:.1f} {HEIGHT - EDGE}{_to(line)}V{HEIGHT - EDGE}Z" for line in lines),
        "".join(f"M{line[0][0]:.1f} {line[0][1]:.1f}{_to(line[1:]) or 'h0'}" for line in lines),
    )


def _size(value: Bounded) -> tuple[int, bool]:
    return value.number, value.more


def _to(line: Sequence[tuple[float, float]]) -> str:
    return "".join(f"L{x:.1f} {y:.1f}" for x, y in line)


def _stretches(values: Values) -> list[list[tuple[int, Bounded]]]:
    """Return the stretches that were sampled without a gap, each value with its place."""
    found: list[list[tuple[int, Bounded]]] = []
    before: Bounded | None = None
    for place, value in enumerate(values):
        if value is not None:
            if before is None:
                found.append([])
            found[-1].append((place, value))
        before = value
    return found
