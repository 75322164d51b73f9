"""Frames that are made once for many, and of whatever clients send."""

from __future__ import annotations

import asyncio
import json

import pytest

from agents import markdown
from agents.chat import frames
from agents.chat.refusals import BadFrame


def test_a_long_answer_that_many_ask_for_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []
    render = markdown.render

    def counted(text: str) -> object:
        rendered.append(text)
        return render(text)

    monkeypatch.setattr(markdown, "render", counted)
    text = "# An answer\n\n" + "with many words " * 500

    async def ask() -> list[str]:
        return await asyncio.gather(*(frames.html(text) for _ in range(10)))

    assert set(asyncio.run(ask())) == {str(render(text))}
    assert rendered == [text]


def test_a_refusal_can_be_sent_whatever_the_client_calls_its_message() -> None:
    frame = frames.error(BadFrame("No."), "\ud800 mine")

    assert json.loads(frame.encode())["client_id"] == "? mine"
