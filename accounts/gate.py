"""How many passwords a process looks at together.

One look takes argon2 a tenth of a second and 100 MB, and holds a connection to the database. Without a bound a few
dozen attempts at once, right or wrong, would leave neither for anybody else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Looks at a time.
AT_ONCE = 2
#: As many may wait for theirs, and so long. Seconds.
WAITING, WAIT_S = 8, 5.0

_looking = threading.BoundedSemaphore(AT_ONCE)
_places = threading.BoundedSemaphore(AT_ONCE + WAITING)


class Busy(Exception):
    """Too many people are signing in right now."""


@contextmanager
def passed() -> Iterator[None]:
    """Wait for one's turn to have a password looked at. Hold no connection to the database meanwhile.

    Raises:
        Busy: too many wait already, or it takes too long.
    """
    if not _places.acquire(blocking=False):
        raise Busy
    try:
        if not _looking.acquire(timeout=WAIT_S):
            raise Busy
        try:
            yield
        finally:
            _looking.release()
    finally:
        _places.release()
