"""Whatever a model does while it streams: what is shown, recorded and returned is one text, and no tool runs."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.programs.loop import loop
from agents.runtime.answering import Streaming
from agents.runtime.asking import Attempts
from agents.runtime.context import Options
from agents.runtime.errors import BadReply, ModelUnavailable, RunError
from agents.runtime.ports import JOINT, Superseded
from agents.runtime.types import Reply, ToolCall
from tests.support.scripted import JsonJournal, Screen, ScriptedPort, ScriptedTools, Stream, call, go, reply
from tests.support.virtual_time import run

OPTIONS = Options(
    attempts=Attempts(most=2, base_s=0.2, max_s=2, in_all=True), streaming=Streaming(first_token_s=15, stall_s=20)
)
DELAYS = st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.7, 16.0, 21.0])
PIECES = st.lists(st.tuples(DELAYS, st.sampled_from(["", "a ", "bb ", "c" * 150, "CALL"])), max_size=6)
ENDS = st.sampled_from(["reply", "reply", "reply", "cut", "unavailable", "bad"])


def stream(pieces: list[tuple[float, str]], end: str) -> Stream:
    """Return a stream whose reply is what its pieces are."""
    made = [(delay, call(id=str(at)) if text == "CALL" else text) for at, (delay, text) in enumerate(pieces)]
    text = "".join(piece for _, piece in made if isinstance(piece, str))
    calls = [piece for _, piece in made if isinstance(piece, ToolCall)]
    ends: dict[str, Reply | Exception | None] = {
        "reply": reply(text, *calls),
        "cut": None,
        "unavailable": ModelUnavailable("reset"),
        "bad": BadReply("what?"),
    }
    return Stream(made, ends[end])


class Watching(Screen):
    """Notes what a person should never have before them. (What a transport raises does not reach the run.)"""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    async def delta(self, text: str) -> None:
        await super().delta(text)
        if not text or not self.text.startswith(JOINT.join(self.parts)):
            self.wrong.append(f"delta {text!r} after {self.parts}")

    async def part(self, text: str) -> None:
        before = self.text
        await super().part(text)
        # Streamed it was there already, replayed it was not.
        if before not in (self.text, JOINT.join(self.parts[:-1])):
            self.wrong.append(f"part {text!r} after {before!r}")

    async def withdraw(self, reason: str) -> None:
        if self.text == JOINT.join(self.parts):
            self.wrong.append("nothing to withdraw")
        await super().withdraw(reason)


def talk(streams: list[Stream], journal: JsonJournal) -> tuple[Any, Watching, list[int]]:
    port = ScriptedPort([*streams, lambda _: reply("The end.")])
    open_streams: list[int] = []
    box = ScriptedTools({"look": lambda *_: open_streams.append(port.open_streams)})
    screen = Watching()
    try:
        output = run(go(loop, journal, port, box, transport=screen, options=OPTIONS, limits={"max_turns": 20})).output
    except RunError as error:
        return error, screen, open_streams
    except Superseded:
        return None, screen, open_streams
    return output["text"], screen, open_streams


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(st.builds(stream, PIECES, ENDS), max_size=4), st.integers(0, 4))
def test_one_text_is_shown_recorded_and_returned_also_when_another_process_takes_over(
    streams: list[Stream], cut_after: int
) -> None:
    journal = JsonJournal(cut_after=cut_after)
    taken_over = talk(streams, journal)
    journal.cut_after = None
    for found, screen, open_streams in (taken_over, talk(streams, JsonJournal()), talk([], journal)):
        assert not any(open_streams), "a tool ran while an answer streamed"
        assert not screen.wrong
        if isinstance(found, str):
            assert screen.text == JOINT.join(screen.parts) == found
        elif found is not None:
            assert screen.text == JOINT.join(screen.parts)
