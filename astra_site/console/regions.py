"""Read the parts of a page each by itself: what fails or takes too long is missing, and the rest is shown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from audit.time_limit import at_most, took_too_long
from jobs.reconcile import is_outage

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: No statement of a region may take longer. Seconds.
STATEMENT_S = 1.0
#: Once a page has taken so long, what is left to read has only `HURRY_S` each. Seconds.
PAGE_S = 3.0
HURRY_S = 0.1


class Regions:
    """The regions of one page: ``unread`` names those that could not be read."""

    def __init__(self) -> None:
        self.unread: list[str] = []
        self.began = monotonic()

    def read(self, name: str, what: Callable[[], T]) -> T | None:
        """Return what ``what`` reads from the database; None, and the name among the unread, if it could not.

        Raises:
            OperationalError, InterfaceError: PostgreSQL is away, and with it the whole page.
        """
        allowed_s = STATEMENT_S if monotonic() - self.began < PAGE_S else HURRY_S
        try:
            with at_most(allowed_s):
                return what()
        except Exception as error:
            if is_outage(error):
                raise
            logger.warning(
                "could not read %s: %s",
                name,
                error,
                exc_info=not took_too_long(error),
                extra={"action": "region_unread", "region": name},
            )
            self.unread.append(name)
            return None
