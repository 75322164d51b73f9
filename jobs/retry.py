"""How failures are tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: No provider is let put a job off for longer than this. Seconds.
MAX_RETRY_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter.

    The delay before attempt n+1 is uniform in [half, whole] of ``base_s * factor**(n-1)``, at most ``max_s``: half is
    kept so that a retry never comes at once, and the rest spreads a herd (the "equal jitter" of AWS's "Exponential
    Backoff And Jitter", 2015).
    """

    max_attempts: int = 3
    base_s: float = 2.0
    factor: float = 4.0
    max_s: float = 900.0

    def delay_s(self, attempt: int, *, retry_after_s: float | None = None, rng: random.Random | None = None) -> float:
        """Return the seconds to wait after ``attempt`` (1 for the first) failed.

        The provider's own wish is a floor, up to a day.
        """
        try:
            whole = min(self.max_s, self.base_s * self.factor ** (attempt - 1))
        except OverflowError:
            whole = self.max_s
        delay = whole * (rng or random).uniform(0.5, 1.0)
        return max(delay, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
