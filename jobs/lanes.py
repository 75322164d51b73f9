"""The lanes: named RQ queues, each with a fleet of its own."""

from __future__ import annotations

from django.conf import settings

CHAT = "chat"
QUEUE = "queue"
SCHEDULED = "scheduled"
BATCH = "batch"
TOOLS = "tools"
DELIVERY = "delivery"
EVALS = "evals"
SUSPECT = "suspect"

#: What one worker process offers when nobody says otherwise. `chat` is served by web processes only.
DEFAULT_SLOTS = {QUEUE: 4, SCHEDULED: 2, BATCH: 2, TOOLS: 4, DELIVERY: 4, EVALS: 1, SUSPECT: 1}


class UnknownLane(ValueError):
    """There is no lane of that name."""


def parse(texts: list[str]) -> dict[str, int]:
    """Read `NAME:SLOTS` (or `NAME` for its default) into slots by lane.

    Raises:
        UnknownLane: a name that is no lane, or a number of slots that is not between 1 and 1000.
    """
    slots: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition(":")
        if name not in DEFAULT_SLOTS:
            known = ", ".join(DEFAULT_SLOTS)
            raise UnknownLane(f"{text!r}: there is no lane {name!r} for workers; there are {known}.")
        count = DEFAULT_SLOTS[name] if not number else int(number) if number.isdigit() else 0
        if not 1 <= count <= 1000:
            raise UnknownLane(f"{text!r}: the number of slots is between 1 and 1000.")
        slots[name] = count
    return slots


def is_lane(name: str) -> bool:
    """Tell whether jobs can be submitted to a lane of that name."""
    return name in settings.LANES
