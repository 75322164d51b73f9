from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.retry import MAX_RETRY_AFTER_S, RetryPolicy


@pytest.fixture(autouse=True)
def _database() -> None:
    """No database here."""


policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 50),
    base_s=st.floats(0.001, 1e4),
    factor=st.floats(1, 1e9),
    max_s=st.floats(0.001, 1e6),
)


@given(policies, st.integers(1, 10**9), st.randoms(use_true_random=False))
def test_a_delay_is_between_half_and_the_whole_of_the_back_off(
    policy: RetryPolicy, attempt: int, rng: random.Random
) -> None:
    try:
        grown = policy.base_s * policy.factor ** (attempt - 1)
    except OverflowError:
        grown = float("inf")
    whole = min(policy.max_s, grown)
    delay = policy.delay_s(attempt, rng=rng)
    assert whole / 2 <= delay <= whole


@given(policies, st.integers(1, 100), st.floats(0, MAX_RETRY_AFTER_S))
def test_the_providers_wish_is_a_floor(policy: RetryPolicy, attempt: int, wish: float) -> None:
    delay = policy.delay_s(attempt, retry_after_s=wish)
    assert delay >= wish
    assert delay <= max(wish, policy.max_s)


@given(policies, st.integers(1, 100), st.floats(allow_nan=True, allow_infinity=True))
def test_no_wish_is_too_wild(policy: RetryPolicy, attempt: int, wish: float) -> None:
    """The header comes from outside: PostgreSQL must be able to add the seconds, and somebody to live to see them."""
    delay = policy.delay_s(attempt, retry_after_s=wish)
    assert 0 < delay <= max(MAX_RETRY_AFTER_S, policy.max_s)


def test_delays_grow_and_stay_below_the_most() -> None:
    policy = RetryPolicy(base_s=2, factor=4, max_s=100)
    wholes = [policy.delay_s(attempt, rng=_Most()) for attempt in range(1, 7)]
    assert wholes == [2, 8, 32, 100, 100, 100]


def test_delays_of_a_herd_are_spread() -> None:
    policy = RetryPolicy(base_s=100, max_s=100)
    delays = [policy.delay_s(1, rng=random.Random(seed)) for seed in range(200)]
    assert min(delays) < 60 < 90 < max(delays)


class _Most(random.Random):
    """Always draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b
