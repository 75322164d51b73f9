"""The statements that a page asks."""

from __future__ import annotations

from django.test.utils import CaptureQueriesContext


def number_of(asked: CaptureQueriesContext) -> int:
    """Return how many ask something: not those that only bound how long another may take."""
    return sum("SAVEPOINT" not in query["sql"] and "set_config" not in query["sql"] for query in asked)
