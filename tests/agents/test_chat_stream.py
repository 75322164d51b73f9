"""A reply while it is written: whoever follows its frames by the contract's rules holds its text, always."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.chat import stream
from agents.chat.stream import CLAIM_SEQS, FRAME_S, HEARTBEAT_S, MAX_STEPS, RunStream, Ticker
from agents.runtime.ports import JOINT, StepKind, StepRecord
from jobs.handlers import Claim
from tests.jobs.drive import Clock
from tests.support import virtual_time

RUN, MESSAGE, CONVERSATION, WORKER = (UUID(int=n) for n in range(1, 5))
BEGAN = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
EARLIER: dict[str, Any] = {
    "key": "a",
    "name": "look up",
    "kind": "tool",
    "status": "finished",
    "summary": "Madrid",
    "ms": 12,
}

T = TypeVar("T")


def claim(fence: int) -> Claim:
    payload = {"conversation": str(CONVERSATION), "message": str(MESSAGE)}
    return Claim(
        RUN, fence, "agent-run", payload, None, "chat", "chat", 0, 3, 0, 1, None, None, WORKER, BEGAN
    )  # fmt: skip


def now(work: Coroutine[Any, Any, T]) -> T:
    """Run what never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits, and the run with it")


class Due(Ticker):
    """Ticks when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: set[RunStream] = set()

    def add(self, stream: RunStream) -> None:
        self.streams.add(stream)

    def tick(self) -> None:
        due, self.streams = self.streams, set()
        for one in due:
            one.flush()


class Told:
    """A stream, and every frame that it sent."""

    def __init__(self, fence: int = 1, steps: list[dict[str, Any]] | None = None) -> None:
        self.clock = Clock()
        self.due = Due()
        self.frames: list[dict[str, Any]] = []
        self.stream = RunStream(
            claim(fence),
            conversation_id=CONVERSATION,
            message_id=MESSAGE,
            say=lambda text: self.frames.append(json.loads(text)),
            ticker=self.due,
            steps=steps,
            clock=self.clock,
        )

    def delta(self, text: str) -> None:
        now(self.stream.delta(text))

    def part(self, text: str) -> None:
        now(self.stream.part(text))

    def withdraw(self) -> None:
        now(self.stream.withdraw("The model failed."))

    def begin(self, key: str, kind: StepKind = "tool") -> None:
        now(self.stream.begin(key, f"step {key}", kind))

    def step(self, key: str, kind: StepKind = "tool", *, ok: bool = True, is_final: bool = True) -> None:
        now(self.stream.step(record(key, kind, ok=ok, is_final=is_final)))

    def take(self) -> list[tuple[str, int, Any]]:
        """Return the frames since the last look as (type, number, text or step's key)."""
        taken, self.frames = self.frames, []
        return [(it["type"].removeprefix("run."), it["seq"], it.get("text", it.get("key"))) for it in taken]


def record(key: str, kind: StepKind = "tool", *, ok: bool = True, is_final: bool = True, name: str = "") -> StepRecord:
    return StepRecord(
        key,
        name or f"step {key}",
        kind,
        "hash",
        None,
        None,
        BEGAN,
        BEGAN + timedelta(seconds=1.5),
        ok=ok,
        summary=f"{key} is over",
        is_final=is_final,
    )


# --- deltas ------------------------------------------------------------------------------------------------------


def test_the_first_delta_goes_out_at_once() -> None:
    it = Told()
    it.delta("In")
    assert it.take() == [("delta", 1, "In")]


def test_what_follows_at_once_is_gathered_into_one_frame() -> None:
    it = Told()
    for word in ("In", " the", " sea", "."):
        it.delta(word)
    assert it.take() == [("delta", 1, "In")]
    assert it.due.streams == {it.stream}
    it.due.tick()
    assert it.take() == [("delta", 2, " the sea.")]
    it.due.tick()
    it.stream.flush()
    assert it.take() == []


def test_after_a_silence_a_delta_goes_out_at_once_again_and_takes_along_what_waited() -> None:
    it = Told()
    it.delta("In")
    it.delta(" the")
    it.clock.now += 1
    it.delta(" sea")
    assert it.take() == [("delta", 1, "In"), ("delta", 2, " the sea")]


@pytest.mark.parametrize("gap_s", [0.001, 0.004, 0.029])
def test_the_frames_of_a_fast_model_are_as_far_apart_as_they_should_be(gap_s: float) -> None:
    it = Told()
    sent: list[float] = []
    it.stream._say = lambda text: sent.append(it.clock.now)
    for _ in range(1_000):
        it.delta("x")
        it.clock.now += gap_s
    assert min(b - a for a, b in pairwise(sent)) >= FRAME_S - 1e-9
    assert len(sent) >= 1_000 * gap_s / (FRAME_S + gap_s)


def test_a_step_sends_the_text_before_it_first() -> None:
    it = Told()
    it.delta("In")
    it.delta(" the")
    it.begin("a")
    it.delta(" sea")
    it.step("a")
    assert it.take() == [
        ("delta", 1, "In"),
        ("delta", 2, " the"),
        ("step", 3, "a"),
        ("delta", 4, " sea"),
        ("step", 5, "a"),
    ]


def test_the_time_to_the_first_token_is_taken_once_and_only_by_the_first_claim() -> None:
    first, second = Told(), Told(fence=2)
    for it in (first, second):
        it.clock.now += 0.7
        it.delta("In")
        it.clock.now += 1
        it.delta(" the")
    assert first.stream.first_token_ms == 700
    assert second.stream.first_token_ms is None


def test_what_no_database_and_no_socket_takes_is_not_in_the_text() -> None:
    it = Told()
    it.delta("a\0b\ud83d")
    it.part("a\0b\ud83d")
    it.begin("k")
    assert it.stream.text == "a\ufffdb\ufffd"
    assert it.take() == [("delta", 1, "a\ufffdb\ufffd"), ("step", 2, "k")], "the part is what its deltas said"


def test_every_frame_names_its_run_and_is_one_line_of_json() -> None:
    lines: list[str] = []
    it = Told()
    it.stream._say = lines.append
    it.stream.accept("c-1", "Where\ndoes it end?")
    it.delta("Line\u2028one\nline two ✓")
    it.step("a")
    it.stream.announce()
    assert len(lines) == 4
    assert all("\n" not in line for line in lines)
    assert {json.loads(line)["run_id"] for line in lines} == {str(RUN)}


def test_the_beginning_says_which_message_it_answers_and_where_the_reply_will_be() -> None:
    it = Told()
    it.stream.accept("c-1", "Where does it end?")
    assert it.frames == [
        {
            "run_id": str(RUN),
            "type": "run.accepted",
            "seq": 1,
            "client_id": "c-1",
            "text": "Where does it end?",
            "message_id": str(MESSAGE),
        }
    ]


# --- steps -------------------------------------------------------------------------------------------------------


def test_the_same_step_is_told_again_as_it_goes_on() -> None:
    it = Told()
    it.begin("a")
    it.step("a", ok=False, is_final=False)
    it.step("a", ok=False)
    it.step("b")
    told = [(frame["key"], frame["status"], frame["summary"], frame.get("ms")) for frame in it.frames]
    assert told == [
        ("a", "started", "", None),
        ("a", "started", "a is over", 1500),
        ("a", "failed", "a is over", 1500),
        ("b", "finished", "b is over", 1500),
    ]
    shown = json.loads(it.stream.snapshot())["steps"]
    assert [(step["key"], step["status"]) for step in shown] == [("a", "failed"), ("b", "finished")]


def test_steps_that_only_the_journal_needs_are_not_told() -> None:
    it = Told()
    for kind in ("value", "emit"):
        it.begin("a", kind)
        it.step("a", kind)
    now(it.stream.step(record("p", name="patched")))
    assert it.frames == []
    assert json.loads(it.stream.snapshot())["steps"] == []


def test_a_reply_of_many_steps_shows_the_newest() -> None:
    it = Told()
    for number in range(MAX_STEPS + 50):
        it.begin(str(number))
        it.step(str(number))
    shown = json.loads(it.stream.snapshot())["steps"]
    assert [step["key"] for step in shown] == [str(n) for n in range(50, MAX_STEPS + 50)]
    assert all(step["status"] == "finished" for step in shown)


def test_a_claim_that_begins_with_as_many_steps_as_are_shown_stays_at_that() -> None:
    it = Told(fence=2, steps=[{**EARLIER, "key": str(n)} for n in range(MAX_STEPS)])
    it.begin("new")
    assert len(it.frames[0]["steps"]) == MAX_STEPS
    assert it.frames[0]["steps"][-1]["key"] == "new"


# --- taken back --------------------------------------------------------------------------------------------------


def test_what_is_taken_back_never_comes_again() -> None:
    it = Told()
    it.delta("One.")
    it.part("One.")
    it.delta(f"{JOINT}Wro")
    it.delta("ng")
    it.withdraw()
    it.due.tick()
    it.delta(f"{JOINT}Two.")
    it.due.tick()
    it.part("Two.")
    assert it.take() == [
        ("delta", 1, "One."),
        ("withdrawn", 2, "One."),
        ("delta", 3, f"{JOINT}Two."),
        ("block", 4, None),
    ]
    assert it.stream.text == f"One.{JOINT}Two."
    assert "Wrong" not in it.stream.snapshot()


def test_a_reply_that_is_taken_back_says_why() -> None:
    it = Told()
    it.delta("Wrong")
    it.withdraw()
    assert it.frames[-1]["reason"] == "The model failed."
    assert it.frames[-1]["text"] == ""


def test_a_part_that_says_something_else_than_its_deltas_is_what_counts() -> None:
    it = Told()
    it.delta("One")
    it.delta(" .")
    it.part("One.")
    assert not it.stream.is_showing, "its text is not what clients hold"
    it.due.tick()
    it.delta(f"{JOINT}Two")
    it.due.tick()
    assert it.take() == [("delta", 1, "One"), ("snapshot", 2, f"One.{JOINT}Two")]


# --- taken over --------------------------------------------------------------------------------------------------


def test_a_later_claim_says_nothing_until_it_has_something_new() -> None:
    it = Told(fence=2, steps=[EARLIER])
    it.part("One.")
    it.part("Two.")
    it.stream.flush()
    it.due.tick()
    it.clock.now += HEARTBEAT_S - 0.01
    it.stream.beat()
    assert it.frames == []
    assert not it.stream.is_showing

    it.delta(f"{JOINT}Three")
    (frame,) = it.frames
    assert (frame["type"], frame["seq"], frame["steps"]) == ("run.snapshot", CLAIM_SEQS + 1, [EARLIER])
    assert frame["text"] == f"One.{JOINT}Two.{JOINT}Three"
    assert frame["message_id"] == str(MESSAGE)
    it.clock.now += 1
    it.delta(" and four")
    assert it.take()[1:] == [("delta", CLAIM_SEQS + 2, " and four")]


def test_a_later_claim_whose_news_is_a_step_shows_it_after_what_was_before() -> None:
    it = Told(fence=3, steps=[EARLIER])
    it.part("One.")
    it.begin("b")
    assert it.take() == [("snapshot", 2 * CLAIM_SEQS + 1, "One."), ("step", 2 * CLAIM_SEQS + 2, "b")]


def test_a_later_claim_that_takes_something_back_shows_what_remains() -> None:
    it = Told(fence=2)
    it.part("One.")
    it.withdraw()
    assert it.take() == [("snapshot", CLAIM_SEQS + 1, "One."), ("withdrawn", CLAIM_SEQS + 2, "One.")]


def test_a_later_claim_that_thinks_for_long_shows_what_there_is() -> None:
    it = Told(fence=2, steps=[EARLIER])
    it.part("One.")
    it.clock.now += HEARTBEAT_S
    it.stream.beat()
    it.clock.now += HEARTBEAT_S
    it.stream.beat()
    assert it.take() == [("snapshot", CLAIM_SEQS + 1, "One."), ("heartbeat", CLAIM_SEQS + 1, None)]


def test_a_snapshot_for_all_takes_along_what_waited() -> None:
    """A loop that stood still may beat before it ticks: the text that waited must not come twice."""
    it = Told()
    it.delta("In")
    it.delta(" the sea.")
    it.stream.announce()
    it.due.tick()
    assert it.take() == [("delta", 1, "In"), ("snapshot", 2, "In the sea.")]


# --- signs of life -----------------------------------------------------------------------------------------------


def test_a_heartbeat_repeats_the_last_number_and_says_how_long_it_takes() -> None:
    it = Told()
    it.stream.accept("c", "Hello?")
    for _ in range(4):
        it.clock.now += HEARTBEAT_S / 2
        it.stream.beat()
    beats = it.frames[1:]
    assert [(beat["type"], beat["seq"], beat["elapsed_ms"]) for beat in beats] == [
        ("run.heartbeat", 1, 2000),
        ("run.heartbeat", 1, 4000),
    ]


def test_whoever_hears_text_needs_no_heartbeat() -> None:
    it = Told()
    for _ in range(10):
        it.clock.now += HEARTBEAT_S - 0.1
        it.delta("x")
        it.stream.beat()
    assert {frame["type"] for frame in it.frames} == {"run.delta"}


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fence", [1, 2])
def test_a_stream_that_is_closed_has_said_all_and_says_nothing_more(fence: int) -> None:
    it = Told(fence)
    it.delta("In")
    it.delta(" the sea.")
    last = it.stream.close()
    assert it.frames[-1]["seq"] == last - 1
    assert "".join(frame["text"] for frame in it.frames) == "In the sea."
    it.frames.clear()
    it.delta("more")
    it.clock.now += HEARTBEAT_S
    it.delta("more")
    it.part("another")
    it.begin("a")
    it.step("a")
    it.withdraw()
    it.due.tick()
    it.clock.now += HEARTBEAT_S
    it.stream.beat()
    it.stream.announce()
    assert it.frames == []
    assert not it.stream.is_showing
    assert it.stream.close() == last, "a transaction that is tried again ends it with the same number"


def test_a_later_claim_that_had_nothing_new_ends_after_every_frame_of_the_earlier() -> None:
    it = Told(fence=2)
    it.part("One.")
    assert it.stream.close() == CLAIM_SEQS + 1
    assert it.frames == []


def test_a_stream_is_known_until_another_claim_takes_its_place() -> None:
    first, second = Told().stream, Told(fence=2).stream
    assert stream.running(RUN) is None
    try:
        stream.keep(first)
        assert stream.running(RUN) is first
        stream.keep(second)
        stream.drop(first)
        assert stream.running(RUN) is second, "the first one ended after the second had begun"
    finally:
        stream.drop(second)
    assert stream.running(RUN) is None


# --- whatever happens --------------------------------------------------------------------------------------------


class Client:
    """A page that does with frames what the contract says, and fails when it cannot."""

    def __init__(self, seq: int | None = None, text: str = "") -> None:
        self.seq, self.text = seq, text
        self.steps: dict[str, dict[str, Any]] = {}

    def take(self, frame: dict[str, Any]) -> None:
        kind, seq = frame["type"], frame["seq"]
        if kind == "run.snapshot":
            assert self.seq is None or seq > self.seq
            self.seq, self.text = seq, frame["text"]
            self.steps = {step["key"]: step for step in frame["steps"]}
            return
        assert self.seq is not None, "something is missing before it"
        if kind == "run.heartbeat":
            assert seq == self.seq
            return
        assert seq == self.seq + 1, "a frame is missing or comes twice"
        self.seq = seq
        if kind == "run.delta":
            assert frame["text"]
            self.text += frame["text"]
        elif kind == "run.withdrawn":
            self.text = frame["text"]
        elif kind == "run.step":
            self.steps[frame["key"]] = frame


class Replies(RuleBasedStateMachine):
    """One claim of a reply, told as the runtime tells it, and clients that came at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = False
        self.it = Told()
        self.clients: list[Client] = []
        self.parts: list[str] = []
        self.written = ""
        self.steps: dict[str, str] = {}
        self.gone: list[str] = []
        self.number = 0

    @property
    def text(self) -> str:
        """What the runtime says the text is."""
        return JOINT.join(self.parts) + self.written

    def hear(self) -> None:
        for frame in self.it.frames:
            for word in self.gone:
                assert word not in frame.get("text", ""), "it was taken back"
            for client in self.clients:
                client.take(frame)
        self.it.frames.clear()

    @precondition(lambda self: not self.begun)
    @rule(fence=st.integers(1, 3), earlier=st.integers(0, 3))
    def begins(self, fence: int, earlier: int) -> None:
        self.begun = True
        if fence == 1:
            self.it = Told()
            self.clients = [Client(0)]
            return
        steps = [{**EARLIER, "key": f"e{n}"} for n in range(earlier)]
        self.steps = {step["key"]: "finished" for step in steps}
        self.it = Told(fence, steps)
        # What an earlier claim had told, some of which is not in the journal.
        self.clients = [Client((fence - 2) * CLAIM_SEQS + 57, "What was said before")]

    @precondition(lambda self: self.begun)
    @rule(characters=st.integers(1, 3))
    def says(self, characters: int) -> None:
        joint = JOINT if self.parts and not self.written else ""
        self.number += 1
        word = joint + f"<{self.number}>" * characters
        self.written += word
        self.it.delta(word)

    @precondition(lambda self: self.begun and self.written)
    @rule()
    def settles(self) -> None:
        text = self.written.removeprefix(JOINT) if self.parts else self.written
        self.parts.append(text)
        self.written = ""
        self.it.part(text)

    @precondition(lambda self: self.begun and not self.written)
    @rule()
    def reads_a_part_of_an_earlier_claim(self) -> None:
        self.number += 1
        self.parts.append(f"<{self.number}>")
        self.it.part(f"<{self.number}>")

    @precondition(lambda self: self.begun)
    @rule()
    def takes_back(self) -> None:
        if self.written:
            self.gone.append(self.written.removeprefix(JOINT))
        self.written = ""
        self.it.withdraw()

    @precondition(lambda self: self.begun)
    @rule(key=st.sampled_from("abc"), status=st.sampled_from(["started", "finished", "failed"]))
    def works(self, key: str, status: str) -> None:
        self.steps[key] = status
        if status == "started":
            self.it.begin(key)
        else:
            self.it.step(key, ok=status == "finished")

    @precondition(lambda self: self.begun)
    @rule(seconds=st.sampled_from([0.001, 0.04, 2.5]))
    def waits(self, seconds: float) -> None:
        self.it.clock.now += seconds

    @precondition(lambda self: self.begun)
    @rule()
    def ticks(self) -> None:
        self.it.due.tick()

    @precondition(lambda self: self.begun)
    @rule()
    def beats(self) -> None:
        self.it.stream.beat()

    @precondition(lambda self: self.begun)
    @rule()
    def announces(self) -> None:
        self.it.stream.announce()

    @precondition(lambda self: self.begun and self.it.stream.is_showing)
    @rule()
    def somebody_comes(self) -> None:
        frame = json.loads(self.it.stream.snapshot())
        self.hear()  # what its flush told the others
        assert all(client.seq == frame["seq"] for client in self.clients), "it has the others' number"
        newcomer = Client()
        newcomer.take(frame)
        self.clients.append(newcomer)

    @invariant()
    def the_text_is_what_the_runtime_says(self) -> None:
        self.hear()
        assert self.it.stream.text == self.text

    @invariant()
    def clients_hold_the_text_but_for_what_waits(self) -> None:
        self.hear()
        if self.begun and self.it.stream.is_showing:
            waiting = "".join(self.it.stream._pending)
            assert waiting == "" or self.it.stream in self.it.due.streams, "nobody would send it"
            for client in self.clients:
                assert client.text + waiting == self.text

    def teardown(self) -> None:
        if not self.begun:
            return
        self.it.clock.now += HEARTBEAT_S
        self.it.stream.beat()
        self.it.due.tick()
        last = self.it.stream.close()
        self.hear()
        for client in self.clients:
            assert client.text == self.text
            assert {key: step["status"] for key, step in client.steps.items()} == self.steps
            assert client.seq == last - 1


TestReplies = Replies.TestCase
TestReplies.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- the ticker --------------------------------------------------------------------------------------------------


def test_one_timer_serves_all_streams() -> None:
    async def work() -> None:
        ticker = Ticker()
        loop = asyncio.get_running_loop()
        flushed: list[float] = []
        for _ in range(100):
            ticker.add(Noted(lambda: flushed.append(loop.time())))
        assert len(loop._scheduled) == 1  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        assert flushed == [pytest.approx(FRAME_S)] * 100
        assert ticker._timer is None, "it rests when nobody needs it"

    virtual_time.run(work())


def test_a_stream_that_cannot_be_flushed_keeps_no_other() -> None:
    async def work() -> None:
        ticker = Ticker()
        flushed: list[int] = []

        def fail() -> None:
            raise RuntimeError("a socket broke")

        for number in range(10):
            ticker.add(Noted(fail if number % 2 else partial(flushed.append, number)))
        await asyncio.sleep(1)
        assert sorted(flushed) == [0, 2, 4, 6, 8]

    virtual_time.run(work())


def test_a_stream_that_has_more_to_say_is_flushed_at_the_next_tick() -> None:
    async def work() -> None:
        ticker = Ticker()
        loop = asyncio.get_running_loop()
        flushed: list[float] = []

        def more() -> None:
            flushed.append(round(loop.time(), 3))
            if len(flushed) < 3:
                ticker.add(again)

        again = Noted(more)
        ticker.add(again)
        await asyncio.sleep(1)
        assert flushed == [pytest.approx(n * FRAME_S) for n in (1, 2, 3)]

    virtual_time.run(work())


def test_a_ticker_under_load_leaves_half_of_the_time_to_others() -> None:
    async def work() -> None:
        ticker = Ticker()
        loop = asyncio.get_running_loop()
        began: list[float] = []

        def slow() -> None:
            began.append(loop.time())
            loop._jumping.now += 0.2  # type: ignore[attr-defined]
            if len(began) < 5:
                ticker.add(again)

        again = Noted(slow)
        ticker.add(again)
        await asyncio.sleep(5)
        assert len(began) == 5
        assert min(b - a for a, b in pairwise(began)) >= 0.4 - 1e-9

    virtual_time.run(work())


class Noted(RunStream):
    """A stream whose flush does what the test says."""

    def __init__(self, flush: Any) -> None:
        super().__init__(
            claim(1), conversation_id=CONVERSATION, message_id=MESSAGE, say=lambda _: None, ticker=Ticker()
        )
        self._do = flush

    def flush(self) -> None:
        self._do()
