from __future__ import annotations

import pytest

from agents.chat.refusals import paused


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (["hold:all", "hold:lane:chat"], "Astra is paused for now. Try again later."),
        (["hold:agent:helper", "hold:lane:chat"], "The chat is paused for now. Try again later."),
        (["hold:agent:helper"], "This agent is paused for now. Try again later."),
        (["hold:endpoint:chat.v1"], "This agent is paused for now. Try again later."),
    ],
)
def test_who_sends_a_message_is_told_in_words_what_is_paused(reasons: list[str], words: str) -> None:
    assert paused(reasons).detail == words
