"""Writing the answer: what streams, what is held back, what is taken back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agents.programs.loop import loop
from agents.runtime.answering import Streaming
from agents.runtime.asking import Attempts
from agents.runtime.context import Options, RunContext
from agents.runtime.errors import BadReply, Misuse, ModelRefused, ModelUnavailable, WallClockExceeded
from agents.runtime.ports import Delta, Superseded
from agents.runtime.run import execute
from agents.runtime.types import Message, Models, Usage
from tests.support.scripted import (
    AGENT,
    JsonJournal,
    Screen,
    ScriptedPort,
    ScriptedTools,
    Stream,
    call,
    context,
    go,
    reply,
)
from tests.support.virtual_time import run

BARE = AGENT.model_copy(update={"tools": ()})
MESSAGES = [Message(role="user", text="hi")]


async def compose(ctx: RunContext) -> Any:
    reply = await ctx.compose(MESSAGES)
    return [reply.text, reply.preamble, [call.tool for call in reply.calls]]


def stream(*pieces: Any, end: Any = None) -> ScriptedPort:
    return ScriptedPort([Stream(pieces, end)])


def test_a_text_is_the_answer_as_it_stands_and_is_sent_once() -> None:
    async def program(ctx: RunContext) -> Any:
        return await ctx.compose("The report.")

    journal, screen = JsonJournal(), Screen()
    assert run(go(program, journal, transport=screen)).output == {"text": "The report."}
    assert run(go(program, journal, transport=screen)).output == {"text": "The report."}
    assert screen.shown == ["The report."]
    result = run(go(program, journal, ScriptedPort([])))
    assert (result.totals.turns, result.totals.steps) == (0, 1)


def test_an_agent_without_tools_streams_straight_through() -> None:
    screen = Screen()
    port = stream((1, "He"), (0.1, "llo"), end=reply("Hello"))
    assert run(go(compose, port=port, agent=BARE, transport=screen)).output == ["Hello", False, []]
    assert screen.shown == ["He", "llo"]
    assert screen.times == pytest.approx([1, 1.1])


def test_the_head_is_held_back_for_600_ms_from_its_first_character_where_tools_are_offered() -> None:
    screen = Screen()
    port = stream((1, "He"), (0.3, "llo"), (0.5, " you"), (0.1, "!"), end=reply("Hello you!"))
    run(go(compose, port=port, transport=screen))
    assert screen.shown == ["Hello", " you", "!"]
    assert screen.times == pytest.approx([1.6, 1.8, 1.9])


def test_the_head_is_held_back_for_200_characters_at_most() -> None:
    screen = Screen()
    port = stream((0, "x" * 199), (0.1, "y"), (0.1, "z"), end=reply("x" * 199 + "yz"))
    run(go(compose, port=port, transport=screen))
    assert screen.shown == ["x" * 199 + "y", "z"]


def test_a_short_answer_goes_out_when_its_stream_ends() -> None:
    screen = Screen()
    run(go(compose, port=stream((0, "No."), end=reply("No.")), transport=screen))
    assert (screen.shown, screen.times) == (["No."], [0])


def test_text_before_a_tool_call_is_a_preamble_that_nobody_sees_but_the_timeline() -> None:
    screen = Screen()
    end = reply("Let me look." + "." * 300, call())
    port = stream((0, "Let me look."), (0.5, call()), (5, "." * 300), end=end)
    assert run(go(compose, port=port, transport=screen)).output == [end.text, True, ["look"]]
    assert screen.shown == []
    assert screen.steps[0].summary.startswith("Let me look....")


def test_a_tool_call_after_the_head_is_returned_for_a_turn_that_follows_and_the_text_stays_the_answer() -> None:
    screen = Screen()
    port = stream((0, "Here it is."), (1, call()), (1, " And more."), end=reply("Here it is. And more.", call()))
    assert run(go(compose, port=port, transport=screen)).output == ["Here it is. And more.", False, ["look"]]
    assert screen.shown == ["Here it is.", " And more."]


def test_a_port_that_does_not_stream_gives_the_same() -> None:
    for answer, shown in ((reply("whole"), ["whole"]), (reply("Let me look.", call()), [])):
        screen = Screen()
        found = run(go(compose, port=ScriptedPort([answer]), transport=screen)).output
        assert found == [answer.text, bool(answer.calls), [c.tool for c in answer.calls]]
        assert screen.shown == shown


def test_the_parts_of_an_answer_stand_apart_also_after_a_crash() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.compose("One.")
        await ctx.compose("")
        await ctx.compose(MESSAGES, tools=False)
        await ctx.compose("Three.")

    journal, screen = JsonJournal(), Screen()
    run(go(program, journal, stream((0, "T"), (0, "wo."), end=reply("Two.")), transport=screen))
    assert screen.text == "One.\n\nTwo.\n\nThree."
    del journal.steps["compose#4"]
    screen = Screen()
    run(go(program, journal, transport=screen))
    assert screen.shown == ["\n\nThree."]
    assert screen.text == "One.\n\nTwo.\n\nThree."


def test_a_transport_is_told_of_each_part_when_it_is_recorded_and_again_by_whoever_takes_over() -> None:
    async def program(ctx: RunContext) -> None:
        reply = await ctx.compose(MESSAGES)
        await ctx.tools(reply.calls)
        await ctx.compose(MESSAGES)

    journal, screen = JsonJournal(), Screen()
    port = ScriptedPort([reply("I look.", call()), Stream([(0, "It"), (1, " is.")], reply("It is."))])
    run(go(program, journal, port, transport=screen))
    told = [one for one in screen.told if one[0] != "begin"]
    assert told == [
        ("step", "compose#1"),
        ("step", "look#1"),
        ("delta", "It"),
        ("delta", " is."),
        ("step", "compose#2"),
        ("part", "It is."),
    ]
    assert screen.begun == ["compose#1", "look#1", "compose#2"]
    screen = Screen()
    run(go(program, journal, ScriptedPort([]), transport=screen))
    assert screen.told == [("part", "It is.")]


def test_a_run_does_not_fail_because_its_transport_does(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(*_: Any) -> None:
        raise ConnectionError("nobody is there")

    broken: Any = SimpleNamespace(begin=fails, step=fails, delta=fails, part=fails, withdraw=fails)
    port = ScriptedPort([Stream([(0, "The")], ModelUnavailable("reset")), reply("The answer.")])
    found = run(go(compose, port=port, agent=BARE, transport=broken))
    assert found.output == ["The answer.", False, []]
    assert len(caplog.records) == 1


def test_a_stream_that_breaks_off_is_withdrawn_and_written_anew() -> None:
    screen = Screen()
    port = ScriptedPort(
        [
            Stream([(1, "The ans")], ModelUnavailable("reset")),
            Stream([(1, "Again ")], None),
            Stream([(1, "The answer.")], reply("The answer.")),
        ]
    )
    assert run(go(compose, port=port, agent=BARE, transport=screen)).output == ["The answer.", False, []]
    assert screen.text == "The answer."
    assert len(screen.withdrawn) == 2


def test_what_broke_off_before_anything_was_sent_needs_no_withdrawal() -> None:
    screen = Screen()
    port = ScriptedPort([Stream([(0, "The")], ModelUnavailable("reset")), reply("The answer.")])
    run(go(compose, port=port, transport=screen))
    assert screen.text == "The answer."
    assert not screen.withdrawn


@pytest.mark.parametrize(
    ("end", "error"), [(reply("bad", finish="content_filter"), ModelRefused), (reply("bad", finish="error"), BadReply)]
)
def test_an_answer_that_turns_out_unsound_is_withdrawn(end: Any, error: Any) -> None:
    screen = Screen()
    port = ScriptedPort([Stream([(0, "bad")], end)])
    options = Options(attempts=Attempts(most=1))
    with pytest.raises(error):
        run(go(compose, port=port, agent=BARE, transport=screen, options=options))
    assert (screen.shown, screen.text) == (["bad"], "")
    assert len(screen.withdrawn) == 1


def test_a_call_that_was_not_offered_is_no_reply() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.compose(MESSAGES, tools=False)

    with pytest.raises(BadReply):
        run(go(program, port=ScriptedPort([lambda _: reply("x", call())])))


def test_an_answer_is_written_alone() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.gather(ctx.compose(MESSAGES), ctx.tools([call()]))

    with pytest.raises(Misuse, match="an answer is written alone"):
        run(go(program))


def test_no_tool_runs_while_an_answer_streams() -> None:
    ran: list[Any] = []

    class Meddling(Screen):
        async def delta(self, text: str) -> None:
            ran.append(await ctx_of[0].tools([call()]))

    ctx_of: list[RunContext] = []

    async def program(ctx: RunContext) -> None:
        ctx_of.append(ctx)
        await ctx.compose("text")

    with pytest.raises(Misuse, match=r"ctx.tools was called while ctx.compose was still running"):
        run(go(program, transport=Meddling()))
    assert not ran


def test_stopping_in_mid_stream_closes_the_request_and_keeps_what_was_shown() -> None:
    screen, port = Screen(), stream((0, "The ans"), (3600, "wer"), end=reply("The answer"))

    async def work() -> float:
        with pytest.raises(WallClockExceeded):
            await go(compose, port=port, agent=BARE, transport=screen, limits={"wall_clock_s": 5})
        return asyncio.get_running_loop().time()

    assert run(work()) == 5
    assert port.open_streams == 0
    assert screen.text == "The ans"
    assert not screen.withdrawn


def test_one_task_opens_reads_and_closes_a_stream() -> None:
    tasks: list[Any] = []

    class Port(ScriptedPort):
        async def stream(self, call: Any) -> Any:
            try:
                for piece in ("a", "b"):
                    tasks.append(asyncio.current_task())
                    yield Delta(piece)
                    await asyncio.sleep(1)
                yield reply("ab")
            finally:
                tasks.append(asyncio.current_task())

    run(go(compose, port=Port([])))
    assert len(tasks) == 3
    assert len(set(map(id, tasks))) == 1


def test_a_recorded_answer_is_not_streamed_again() -> None:
    journal = JsonJournal()
    first = run(go(compose, journal, stream((0, "Hello"), end=reply("Hello")))).output
    screen = Screen()
    assert run(go(compose, journal, ScriptedPort([]), transport=screen)).output == first
    assert not screen.shown


HASTY = Options(
    attempts=Attempts(most=2, base_s=0.2, max_s=2.0, in_all=True), streaming=Streaming(first_token_s=15, stall_s=20)
)


def test_a_model_that_does_not_begin_is_given_up_on_and_asked_once_more() -> None:
    screen = Screen()
    port = ScriptedPort([Stream([(3600, "never")], None), Stream([(14, "He"), (19, "llo")], reply("Hello"))])
    assert run(go(compose, port=port, agent=BARE, transport=screen, options=HASTY)).output == ["Hello", False, []]
    assert screen.times == pytest.approx([29.15, 48.15], abs=0.06)
    assert port.open_streams == 0


def test_what_a_model_that_fell_silent_had_said_is_withdrawn_before_it_is_asked_once_more() -> None:
    screen = Screen()
    port = ScriptedPort(
        [Stream([(1, "The ans"), (20.1, "wer")], None), Stream([(1, "The answer.")], reply("The answer."))]
    )
    run(go(compose, port=port, agent=BARE, transport=screen, options=HASTY))
    assert [what for what, _ in screen.told] == ["begin", "delta", "withdraw", "failed", "delta", "step", "part"]
    assert screen.text == "The answer."
    assert screen.times[1] == pytest.approx(22.15, abs=0.06)


def test_a_model_that_thinks_is_not_silent() -> None:
    pieces = [*[(19.0, "")] * 5, (19.0, "Yes"), *[(19.0, "")] * 5]
    port = ScriptedPort([Stream([(14, ""), *pieces], reply("Yes"))])
    assert run(go(compose, port=port, agent=BARE, options=HASTY)).output == ["Yes", False, []]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [([(3600, "x")], "did not begin to answer within 15 s"), ([(1, "x"), (3600, "y")], "fell silent .* for 20 s")],
)
def test_a_model_that_stays_silent_is_unavailable_and_the_error_says_what_to_do(pieces: Any, words: str) -> None:
    screen = Screen()
    port = ScriptedPort([Stream(pieces, None), Stream(pieces, None)])
    with pytest.raises(ModelUnavailable, match=words + ".* Try again"):
        run(go(compose, port=port, agent=BARE, transport=screen, options=HASTY))
    assert screen.text == ""
    assert len(port.calls) == 2
    assert port.open_streams == 0


def test_a_short_wait_that_the_provider_asks_for_is_kept_and_a_long_one_is_final() -> None:
    for wait, calls in ((1.5, 2), (2.5, 1)):
        port = ScriptedPort([ModelUnavailable("slow down", retry_after_s=wait), reply("yes")])
        try:
            run(go(compose, port=port, agent=BARE, options=HASTY))
        except ModelUnavailable:
            assert calls == 1
        assert len(port.calls) == calls


def test_the_second_of_two_attempts_is_the_fallbacks_when_a_model_is_unavailable() -> None:
    chain = BARE.model_copy(update={"models": Models(default="demo:a", fallback=("demo:b", "demo:c"))})
    screen = Screen()
    port = ScriptedPort([ModelUnavailable("down"), ModelUnavailable("down too"), reply("never")])
    with pytest.raises(ModelUnavailable, match="down too"):
        run(go(compose, port=port, agent=chain, transport=screen, options=HASTY))
    assert [asked.model for asked in port.calls] == ["demo:a", "demo:b"]
    assert [record.is_final for record in screen.steps] == [False, True]


def test_a_model_that_answers_badly_is_itself_asked_once_more() -> None:
    chain = BARE.model_copy(update={"models": Models(default="demo:a", fallback=("demo:b",))})
    port = ScriptedPort([BadReply("what?"), reply("yes")])
    run(go(compose, port=port, agent=chain, options=HASTY))
    assert [asked.model for asked in port.calls] == ["demo:a", "demo:a"]


@pytest.mark.parametrize("tools", [(), AGENT.tools])
def test_what_a_stopped_stream_has_used_is_estimated_charged_and_written_down(tools: Any) -> None:
    journal, screen = JsonJournal(), Screen()
    port = ScriptedPort(
        [
            Stream([(1, "One two "), (1, "three")], ModelUnavailable("reset")),
            Stream([(1, "One two"), (3600, "x")], None),
        ],
        estimates=lambda _, text: Usage(input_tokens=7, output_tokens=len(text.split())),
    )
    agent = AGENT.model_copy(update={"tools": tools})

    async def work() -> RunContext:
        ctx = context(journal, port, transport=screen, agent=agent)
        task = asyncio.create_task(execute(compose, ctx))
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ctx

    totals = run(work()).totals
    assert (totals.input_tokens, totals.output_tokens, totals.turns) == (7, 2, 0)
    (told,) = [record for record in journal.failures if record.is_final]
    assert told.usage == Usage(input_tokens=7, output_tokens=2)
    assert [record.is_final for record in screen.steps] == [False], "a run that is stopped tells of no failure"
    assert screen.text == "One two"


def test_a_journal_that_hangs_or_fails_does_not_change_how_a_stopped_run_ends() -> None:
    class Hanging(JsonJournal):
        async def record(self, record: Any) -> None:
            await asyncio.sleep(3600)

    class Failing(JsonJournal):
        async def record(self, record: Any) -> None:
            raise Superseded("gone")

    async def work(journal: Any) -> float:
        port = stream((1, "One"), (3600, "x"))
        port.estimates = lambda _, text: Usage(output_tokens=1)
        task = asyncio.create_task(go(compose, journal, port, agent=BARE))
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.get_running_loop().time()

    assert run(work(Hanging())) <= 12.1
    assert run(work(Failing())) == 10


def test_a_late_tool_call_runs_when_the_stream_is_over_and_its_turn_goes_on_with_the_answer() -> None:
    screen = Screen()
    streams: list[int] = []
    port = ScriptedPort(
        [
            Stream([(0, "It is so. "), (1, call()), (5, "Wait.")], reply("It is so. Wait.", call())),
            Stream([(1, "Really.")], reply("Really.")),
        ]
    )
    box = ScriptedTools({"look": lambda *_: streams.append(port.open_streams)})
    found = run(go(loop, port=port, toolbox=box, transport=screen, input="Is it?")).output
    assert found == {"text": "It is so. Wait.\n\nReally."}
    assert streams == [0]
    assert [(what, text) for what, text in screen.told if what not in ("begin", "step")] == [
        ("delta", "It is so. "),
        ("delta", "Wait."),
        ("part", "It is so. Wait."),
        ("delta", "\n\nReally."),
        ("part", "Really."),
    ]
    order = [(what, text) for what, text in screen.told if what in ("begin", "part")]
    assert order[1:3] == [("part", "It is so. Wait."), ("begin", "look#1")]


def test_nothing_of_the_answer_is_shown_before_the_last_tool_of_the_plan_is_done() -> None:
    screen = Screen()
    port = ScriptedPort(
        [
            Stream(
                [(0, "I look."), (0.3, call(id="a")), (0, call("write", id="b"))],
                reply("I look.", call(id="a"), call("write", id="b")),
            ),
            Stream([(1, "Done.")], reply("Done.")),
        ]
    )
    run(go(loop, port=port, transport=screen, input="Go."))
    assert [told for told in screen.told if told[0] in ("begin", "delta", "step")] == [
        ("begin", "compose#1"),
        ("step", "compose#1"),
        ("begin", "look#1"),
        ("begin", "write#1"),
        ("step", "look#1"),
        ("step", "write#1"),
        ("begin", "compose#2"),
        ("delta", "Done."),
        ("step", "compose#2"),
    ]


def test_what_is_held_back_goes_out_before_what_comes_after_it_however_slow_the_transport() -> None:
    class Slow(Screen):
        async def delta(self, text: str) -> None:
            await asyncio.sleep(0 if self.shown or text != "a" else 0.5)
            await super().delta(text)

    screen = Slow()
    port = stream((0, "a"), (0.7, "b"), (0.1, "c"), (0, "d"), end=reply("abcd"))
    run(go(compose, port=port, transport=screen))
    assert "".join(screen.shown) == "abcd"
