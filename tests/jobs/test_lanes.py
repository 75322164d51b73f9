from __future__ import annotations

import pytest
from django.conf import settings

from jobs import lanes
from jobs.lanes import UnknownLane


@pytest.fixture(autouse=True)
def _database() -> None:
    """No database here."""


def test_lanes_are_read_with_their_slots() -> None:
    assert lanes.parse(["queue:8", "batch"]) == {"queue": 8, "batch": lanes.DEFAULT_SLOTS["batch"]}
    assert lanes.parse([]) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quick:3", "there is no lane 'quick'"),
        ("chat", "there is no lane 'chat' for workers"),
        ("queue:0", "between 1 and 1000"),
        ("queue:1001", "between 1 and 1000"),
        ("queue:many", "between 1 and 1000"),
        ("queue:-1", "between 1 and 1000"),
        ("", "there is no lane ''"),
    ],
)
def test_what_is_no_lane_or_no_number_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(UnknownLane, match=words):
        lanes.parse([text])


def test_every_lane_that_workers_serve_has_a_queue() -> None:
    assert set(lanes.DEFAULT_SLOTS) | {lanes.CHAT} == set(settings.LANES)
    assert all(lanes.is_lane(name) for name in lanes.DEFAULT_SLOTS)
    assert not lanes.is_lane("quick")
