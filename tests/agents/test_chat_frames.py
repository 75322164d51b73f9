"""Frames that are not a stream's own: whatever is in them, they can be sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agents.chat import frames
from agents.chat.refusals import BadFrame


@pytest.mark.parametrize(
    ("client_id", "told"),
    [("mine", "mine"), ("\ud800", "?"), ("half \udfff", "half ?"), ("x" * 300, "x" * 80), (7, None), (None, None)],
)
def test_a_refusal_names_the_message_in_text_that_a_socket_takes(client_id: Any, told: str | None) -> None:
    text = frames.error(BadFrame("No."), client_id)
    assert json.loads(text.encode()).get("client_id") == told
