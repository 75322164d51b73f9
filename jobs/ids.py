"""Time-ordered ids."""

from __future__ import annotations

import secrets
import threading
import time
import uuid

# The 74 random bits of a version 7 UUID lie in two parts around the variant.
_LOW_BITS = 62
_RANDOM = 1 << 74

_lock = threading.Lock()
_last = (0, 0)


def uuid7() -> uuid.UUID:
    """Return a version 7 UUID (RFC 9562): 48 bits of Unix milliseconds, then 74 random bits.

    Ids made later sort later, so that a B-tree grows at one end and "newest first" needs no other column. Those of one
    process do so strictly, within a millisecond and with a clock that is set back too: they count on from the last by a
    random step (the RFC's method 2). PostgreSQL has `uuidv7()` only from 18 on and Astra runs from 14.
    """
    global _last
    fresh = (time.time_ns() // 1_000_000, secrets.randbelow(_RANDOM))
    with _lock:
        _last = fresh if fresh[0] > _last[0] else _after(*_last)
        return _uuid(*_last)


def later_than(other: uuid.UUID) -> uuid.UUID:
    """Return a version 7 UUID that sorts after another, which a machine with a faster clock may have made."""
    milliseconds, high, low = other.int >> 80, other.int >> 64 & 0xFFF, other.int & (1 << _LOW_BITS) - 1
    return max(uuid7(), _uuid(*_after(milliseconds, high << _LOW_BITS | low)))


def since(ago_s: float) -> uuid.UUID:
    """Return the least version 7 UUID of the moment so many seconds ago: those made after it sort after it."""
    return _uuid(time.time_ns() // 1_000_000 - round(ago_s * 1000), 0)


def _after(milliseconds: int, random: int) -> tuple[int, int]:
    random += 1 + secrets.randbits(32)
    return (milliseconds, random) if random < _RANDOM else (milliseconds + 1, random - _RANDOM)


def _uuid(milliseconds: int, random: int) -> uuid.UUID:
    high, low = random >> _LOW_BITS, random & (1 << _LOW_BITS) - 1
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
