"""`verify: buffered`: an answer is held back until it is judged; then it leaves at once, or something else does."""

from __future__ import annotations

from typing import Any

import pytest

from agents.runtime.context import RunContext
from agents.runtime.errors import Misuse, StepFailed
from agents.runtime.types import Message
from agents.runtime.verifying import WITHHELD, Verdict, passed
from tests.support.scripted import AGENT, JsonJournal, Screen, ScriptedPort, Stream, call, go, reply
from tests.support.virtual_time import run

CAREFUL = AGENT.model_copy(update={"verify": "buffered"})
MESSAGES = [Message(role="user", text="hi")]


def program(check: Any) -> Any:
    async def answer(ctx: RunContext) -> Any:
        said = await ctx.compose(MESSAGES, check=check)
        return [said.text, said.preamble, [one.tool for one in said.calls]]

    return answer


def port(text: str = "All is well, and has been for long.", *calls: Any) -> ScriptedPort:
    return ScriptedPort([Stream([(1, text[:3]), (2, text[3:])], reply(text, *calls))])


def test_no_token_leaves_before_the_whole_text_is_judged_and_then_all_of_it_at_once() -> None:
    screen, seen = Screen(), []

    def check(text: str) -> Verdict:
        seen.append((text, list(screen.shown)))
        return passed()

    result = run(go(program(check), port=port(), agent=CAREFUL, transport=screen))
    assert seen == [("All is well, and has been for long.", [])]
    assert screen.shown == ["All is well, and has been for long."]
    assert result.output == ["All is well, and has been for long.", False, []]


def test_what_does_not_stand_never_leaves_and_is_kept_for_operators() -> None:
    screen, journal = Screen(), JsonJournal()
    verdict = Verdict(ok=False, reason="It is not so.", instead="Nobody knows.")
    result = run(go(program(lambda _: verdict), journal, port(), agent=CAREFUL, transport=screen))
    assert screen.shown == ["Nobody knows."]
    assert result.output[0] == "Nobody knows."
    told = {record.key: record.summary for record in screen.steps}
    assert told["draft#1"] == "All is well, and has been for long."
    assert told["verify answer#1"] == "Another text took its place: It is not so."
    (verdict_step,) = [record for record in screen.steps if record.name == "verify answer"]
    assert verdict_step.input == {"characters": 35}, "who sees this step need not see what was held back"
    again = Screen()
    run(go(program(lambda _: passed()), journal, ScriptedPort([]), agent=CAREFUL, transport=again))
    assert again.text == "Nobody knows.", "a replay says what was said, whatever the check says now"


def test_without_a_text_of_its_own_a_verdict_withholds_the_answer() -> None:
    screen = Screen()
    run(go(program(lambda _: Verdict(ok=False)), port=port(), agent=CAREFUL, transport=screen))
    assert screen.shown == [WITHHELD]


def test_a_check_may_be_async() -> None:
    async def check(text: str) -> Verdict:
        return Verdict(ok=False, instead=text.upper())

    assert run(go(program(check), port=port("Yes."), agent=CAREFUL)).output[0] == "YES."


def test_what_comes_with_calls_is_a_preamble_that_nobody_sees() -> None:
    screen = Screen()
    checked: list[str] = []
    check = checked.append
    result = run(go(program(check), port=port("Let me look. " * 30, call()), agent=CAREFUL, transport=screen))
    assert result.output[1:] == [True, ["look"]]
    assert (screen.shown, checked) == ([], [])


def test_what_cannot_be_judged_does_not_leave() -> None:
    def check(text: str) -> Verdict:
        raise ValueError("no idea")

    screen = Screen()
    with pytest.raises(StepFailed, match="no idea"):
        run(go(program(check), port=port(), agent=CAREFUL, transport=screen))
    assert screen.shown == []


def test_an_answer_that_needs_a_check_is_not_asked_for_without_one() -> None:
    asked = port()
    with pytest.raises(Misuse, match=r"give ctx\.compose a check"):
        run(go(program(None), port=asked, agent=CAREFUL))
    assert asked.calls == []


def test_a_check_is_no_matter_where_the_agent_does_not_say_so() -> None:
    screen = Screen()
    refuse = program(lambda _: Verdict(ok=False))
    bare = AGENT.model_copy(update={"tools": ()})
    run(go(refuse, port=port(), agent=bare, transport=screen))
    assert len(screen.shown) == 2


def test_what_a_judged_answer_cost_counts_once() -> None:
    result = run(go(program(lambda _: passed()), port=port(), agent=CAREFUL))
    assert (result.totals.turns, result.totals.steps) == (1, 3)
    assert result.totals.output_tokens == 10
