"""A long conversation is summed up before it is answered."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agents.llm.demo import DemoModel
from agents.modes import POLICIES
from agents.programs.compaction import LEFT_OUT, REQUEST, SUMMED_UP
from agents.programs.loop import loop
from agents.runtime.errors import BadReply, ContextOverflow, ModelUnavailable
from agents.runtime.sizes import likely_tokens
from agents.runtime.types import Budget, Limits, ModelCall
from tests.support.scripted import AGENT, JsonJournal, Screen, ScriptedPort, go, reply
from tests.support.virtual_time import run

BARE = AGENT.model_copy(update={"tools": ()})
LIMITS = {"history_tokens": 500, "max_tokens": 4000}


def said(count: int, words: int = 50) -> list[dict[str, str]]:
    """Return messages of about ``words`` tokens, numbered."""
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "text": f"number {n} " + "word " * (words - 2)} for n in range(count)]


def asked(history: list[dict[str, str]], message: str = "And now?") -> dict[str, Any]:
    return {"message": message, "history": history}


def talk(port: Any, history: list[dict[str, str]], message: str = "And now?", **more: Any) -> Any:
    more = {"limits": LIMITS, "agent": BARE} | more
    return run(go(loop, port=port, input=asked(history, message), **more))


def heard(call: ModelCall) -> list[str]:
    return [message.text.split(" word")[0] for message in call.messages if message.role != "system"]


def test_a_short_history_goes_to_the_model_word_for_word() -> None:
    port = ScriptedPort([reply("Fine.")])
    talk(port, said(7))
    assert heard(port.calls[0]) == [*(f"number {n}" for n in range(7)), "And now?"]


def test_the_oldest_part_of_a_long_history_is_summed_up_and_the_newest_stays_word_for_word() -> None:
    port, journal, screen = ScriptedPort([reply(" They count. "), reply("Fine.")]), JsonJournal(), Screen()
    result = talk(port, said(20), journal=journal, transport=screen)
    assert result.output == {"text": "Fine."}, "a summary is no part of the answer"
    assert screen.text == "Fine."
    summary, answer = port.calls
    assert summary.max_tokens == 600
    assert summary.tools == ()
    assert summary.messages[1].text.startswith(f"{REQUEST}\n\nUser: number 0 word")
    assert "Assistant: number 15 " in summary.messages[1].text
    assert "number 16" not in summary.messages[1].text
    assert heard(answer) == [f"{SUMMED_UP}They count.", *(f"number {n}" for n in range(16, 20)), "And now?"]
    assert journal.steps["conversation.compacted#1"].output == '{"messages": 16, "text": "They count."}'
    assert result.totals.turns == 2


def test_what_the_summary_stands_for_can_be_sent_in_its_stead_the_next_time() -> None:
    journal = JsonJournal()
    talk(ScriptedPort([reply("They count."), reply("Fine.")]), said(20), journal=journal)
    port = ScriptedPort([reply("Fine again.")])
    shorter = [{"role": "user", "text": "They count."}, *said(20)[16:]]
    talk(port, shorter)
    assert len(port.calls) == 1, "it is short enough now"


def test_a_claim_that_takes_over_sums_up_nothing_again() -> None:
    journal = JsonJournal()
    talk(ScriptedPort([reply("They count."), reply("Fine.")]), said(20), journal=journal)
    del journal.steps["compose#1"]
    port = ScriptedPort([reply("Fine.")])
    talk(port, said(20), journal=journal)
    assert heard(port.calls[0])[0] == f"{SUMMED_UP}They count."


def test_at_least_the_last_messages_stay_however_long_they_are() -> None:
    port = ScriptedPort([reply("They count."), reply("Fine.")])
    talk(port, said(6, words=300))
    assert [one for one in heard(port.calls[1]) if one.startswith("number")] == [f"number {n}" for n in range(2, 6)]


def test_a_few_long_messages_and_a_long_question_are_left_alone() -> None:
    port = ScriptedPort([reply("Fine.")])
    talk(port, said(4, words=300), "word " * 900)
    assert len(port.calls) == 1


@pytest.mark.parametrize(
    "limits",
    [{"max_turns": 1}, {"max_tokens": 300}, {"cost_cap_usd": Decimal("0.01")}],
    ids=["one turn", "few tokens", "little money"],
)
def test_without_a_budget_for_a_summary_the_newest_messages_that_fit_are_answered(limits: dict[str, Any]) -> None:
    journal = JsonJournal()
    # So that a summary costs more than there is, and the answer does not.
    port = ScriptedPort([lambda _: reply("Fine.", cost="0")], lambda call: Decimal(int(REQUEST in str(call.messages))))
    assert talk(port, said(20), limits=LIMITS | limits, journal=journal).output == {"text": "Fine."}
    (answer,) = port.calls
    assert heard(answer) == [LEFT_OUT, *(f"number {n}" for n in range(13, 20)), "And now?"]
    assert "conversation.compacted#1" not in journal.steps
    again = talk(ScriptedPort([]), said(20), limits=LIMITS | limits, journal=journal)
    assert again.output == {"text": "Fine."}, "a replay takes the same way"


def test_a_summary_that_cannot_be_written_is_done_without_but_a_model_that_is_away_is_an_error() -> None:
    for error in (ContextOverflow("too long"), BadReply("what?")):
        port = ScriptedPort([error, error, error, reply("Fine.")][-2 if isinstance(error, ContextOverflow) else 0 :])
        assert talk(port, said(20)).output == {"text": "Fine."}
    with pytest.raises(ModelUnavailable):
        talk(ScriptedPort([ModelUnavailable("away")] * 3), said(20))


def test_a_single_message_that_is_too_long_for_the_model_stays_a_typed_error() -> None:
    with pytest.raises(ContextOverflow):
        talk(ScriptedPort([ContextOverflow("too long")]), [], "word " * 100_000)


def test_a_history_without_end_is_summed_up_from_its_beginning_and_its_newest_part() -> None:
    port = ScriptedPort([reply("They count."), reply("Fine.")])
    talk(port, [{"role": "user", "text": "I am Ann."}, *said(500)])
    text = port.calls[0].messages[1].text
    assert "User: I am Ann." in text
    assert "[…]" in text
    assert "number 495" in text
    assert likely_tokens(text) < 600


def test_a_long_message_is_summed_up_by_its_ends() -> None:
    port = ScriptedPort([reply("They count."), reply("Fine.")])
    long = {"role": "user", "text": "beginning " + "x" * 50_000 + " end"}
    talk(port, [long, *said(8)], limits={"history_tokens": 2000})
    text = port.calls[0].messages[1].text
    assert "beginning" in text
    assert " end" in text
    assert len(text) < 6_000


def test_the_demo_model_sums_up_what_the_user_said() -> None:
    history = [
        {"role": "user", "text": "My name is Ann and I live in Bergen."},
        {"role": "assistant", "text": "Hello Ann."},
        *said(20),
    ]
    journal = JsonJournal()
    output = talk(DemoModel(delay_s=0, first_token_s=0), history, "What did I say before?", journal=journal).output
    text = journal.steps["conversation.compacted#1"].output
    assert "My name is Ann and I live in Bergen." in text
    assert "demo" not in text.lower()
    assert "number 18" in output["text"]
    assert "My name is Ann" in output["text"]


def test_a_limit_of_its_own_is_kept_under_every_mode() -> None:
    for row in POLICIES.values():
        assert row.limits(Limits(history_tokens=77), Budget()).history_tokens == 77
