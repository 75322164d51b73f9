"""Model steps: which model, how often, within which limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from agents.runtime.asking import Attempts
from agents.runtime.context import Options, RunContext
from agents.runtime.errors import (
    BadReply,
    ContextOverflow,
    CostCapExceeded,
    MaxTokensExceeded,
    MaxTurnsExceeded,
    Misuse,
    ModelRefused,
    ModelUnavailable,
    PriceUnknown,
    RunError,
    VersionMismatch,
)
from agents.runtime.run import execute
from agents.runtime.types import Message, ModelCall, Models, Usage
from tests.support.scripted import AGENT, JsonJournal, ScriptedPort, ScriptedTools, Stream, call, context, go, reply
from tests.support.virtual_time import run

CHAIN = AGENT.model_copy(
    update={"models": Models(default="demo:strong", downshift="demo:fast", fallback=("demo:other", "demo:last"))}
)


async def ask(ctx: RunContext) -> Any:
    return (await ctx.model("ask", "hi")).text


def asking(times: int, **more: Any) -> Callable[[RunContext], Any]:
    async def program(ctx: RunContext) -> Any:
        return [(await ctx.model("ask", "hi", **more)).text for _ in range(times)]

    return program


def models(port: ScriptedPort) -> list[str]:
    return [call.model for call in port.calls]


def down(**extra: Any) -> ModelUnavailable:
    return ModelUnavailable("503", **extra)


# --- the request -----------------------------------------------------------------------------------------------------


def test_a_request_begins_with_the_instructions_unless_the_messages_do_so_themselves() -> None:
    port = ScriptedPort([lambda call: reply("ok")])

    async def program(ctx: RunContext) -> None:
        await ctx.model("a", "hi")
        await ctx.model("b", [Message(role="system", text="Be loud."), Message(role="user", text="hi")])
        await ctx.model("c", Message(role="user", text="hi"), output={"type": "object"}, max_tokens=7)

    run(go(program, port=port))
    assert [[(m.role, m.text) for m in call.messages] for call in port.calls] == [
        [("system", "Be brief."), ("user", "hi")],
        [("system", "Be loud."), ("user", "hi")],
        [("system", "Be brief."), ("user", "hi")],
    ]
    assert port.calls[2].output == {"type": "object"}
    assert [call.max_tokens for call in port.calls] == [4000, 3990, 7]


def test_tools_are_offered_when_asked_for_and_kept_without_a_choice_when_the_history_has_calls() -> None:
    port = ScriptedPort([lambda call: reply("ok")])
    history = [Message(role="user", text="hi"), Message(role="assistant", calls=(call(),))]

    async def program(ctx: RunContext) -> None:
        await ctx.model("a", "hi")
        await ctx.model("a", "hi", tools=True, tool_choice="required")
        await ctx.model("a", "hi", tools=["write"])
        await ctx.model("a", history)

    run(go(program, port=port))
    assert [([spec.name for spec in call.tools], call.tool_choice) for call in port.calls] == [
        ([], "auto"),
        (["look", "write"], "required"),
        (["write"], "auto"),
        (["look", "write"], "none"),
    ]


@pytest.mark.parametrize(("messages", "more"), [("hi", {"tools": ["other"]}), ([{"role": "user"}], {})])
def test_tools_the_agent_does_not_have_and_things_that_are_no_messages_are_refused(messages: Any, more: Any) -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.model("a", messages, **more)

    with pytest.raises(Misuse):
        run(go(program))


def test_the_description_of_a_tool_may_change_under_a_run_but_not_what_is_offered() -> None:
    class Reworded(ScriptedTools):
        def specs(self, names: Any) -> Any:
            return tuple(spec.model_copy(update={"description": "better"}) for spec in super().specs(names))

    def program(tools: Any) -> Callable[[RunContext], Any]:
        async def program(ctx: RunContext) -> Any:
            return (await ctx.model("a", "hi", tools=tools)).text

        return program

    journal = JsonJournal()
    first = run(go(program(True), journal)).output
    assert run(go(program(True), journal, ScriptedPort([]), Reworded())).output == first
    with pytest.raises(VersionMismatch):
        run(go(program(["look"]), journal, ScriptedPort([])))


# --- retries and fallbacks -------------------------------------------------------------------------------------------


def test_a_transient_error_is_tried_again_with_growing_waits_and_told_as_an_event() -> None:
    journal, port = JsonJournal(), ScriptedPort([down(), BadReply("not JSON"), reply("at last")])

    async def program(ctx: RunContext) -> Any:
        began = asyncio.get_running_loop().time()
        return [(await ctx.model("ask", "hi")).text, asyncio.get_running_loop().time() - began]

    text, seconds = run(go(program, journal, port)).output
    assert text == "at last"
    assert 0.25 + 0.5 <= seconds <= 0.5 + 1.0
    assert [record.summary[:16] for record in journal.failures] == ["attempt 1 failed", "attempt 2 failed"]
    assert journal.keys == ["ask#1"]


def test_attempts_are_bounded() -> None:
    port = ScriptedPort([lambda call: down()])
    with pytest.raises(ModelUnavailable):
        run(go(ask, port=port, options=Options(attempts=Attempts(most=4))))
    assert len(port.calls) == 4


def test_the_providers_own_wish_for_patience_is_kept_when_it_is_short_and_left_to_the_run_when_it_is_long() -> None:
    async def program(ctx: RunContext) -> float:
        await ctx.model("ask", "hi")
        return asyncio.get_running_loop().time()

    assert run(go(program, port=ScriptedPort([down(retry_after_s=7), reply("ok")]))).output == 7
    port = ScriptedPort([down(retry_after_s=3600), reply("ok")])
    with pytest.raises(ModelUnavailable) as caught:
        run(go(program, port=port))
    assert caught.value.extra["retry_after_s"] == 3600
    assert len(port.calls) == 1


def test_no_wait_goes_past_the_wall_clock() -> None:
    port = ScriptedPort([down(retry_after_s=9), reply("too late")])
    with pytest.raises(ModelUnavailable):
        run(go(ask, port=port, limits={"wall_clock_s": 8}))
    assert len(port.calls) == 1


def test_a_request_has_no_more_time_than_the_run_has_left() -> None:
    async def program(ctx: RunContext) -> None:
        await asyncio.sleep(30)
        await ctx.model("ask", "hi")

    port = ScriptedPort([reply("ok")])
    run(go(program, port=port, limits={"wall_clock_s": 40}))
    assert port.calls[0].timeout_s == 10


def test_fallback_models_are_tried_in_order_once_the_first_is_out_of_attempts() -> None:
    def answer(call: ModelCall) -> Any:
        return reply("ok") if call.model == "demo:last" else down()

    port = ScriptedPort([answer])
    assert run(go(ask, port=port, agent=CHAIN)).output == "ok"
    assert models(port) == ["demo:strong"] * 3 + ["demo:other"] * 3 + ["demo:last"]


def test_when_all_fallbacks_fail_the_last_failure_is_the_runs() -> None:
    port = ScriptedPort([lambda call: ModelUnavailable(call.model)])
    with pytest.raises(ModelUnavailable, match="demo:last"):
        run(go(ask, port=port, agent=CHAIN, options=Options(attempts=Attempts(most=1))))


def test_a_model_that_answers_badly_is_asked_again_but_no_other_instead() -> None:
    port = ScriptedPort([lambda call: reply("")])
    with pytest.raises(BadReply):
        run(go(ask, port=port, agent=CHAIN))
    assert models(port) == ["demo:strong"] * 3


def test_a_fallback_that_was_asked_already_is_not_asked_again() -> None:
    same = CHAIN.model_copy(update={"models": Models(default="demo:a", fallback=("demo:a", "demo:b"))})
    port = ScriptedPort([lambda call: down()])
    with pytest.raises(ModelUnavailable):
        run(go(ask, port=port, agent=same, options=Options(attempts=Attempts(most=1))))
    assert models(port) == ["demo:a", "demo:b"]


@pytest.mark.parametrize("error", [ModelRefused("bad key"), ContextOverflow("too long")])
def test_an_error_that_will_not_pass_is_not_tried_again(error: RunError) -> None:
    port = ScriptedPort([error])
    with pytest.raises(type(error)):
        run(go(ask, port=port, agent=CHAIN))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(""), BadReply),
        (reply("text", finish="error"), BadReply),
        (reply("", call()), BadReply),
        (reply("half", finish="content_filter"), ModelRefused),
        (reply("", finish="length"), MaxTokensExceeded),
        (reply("I will", call(), finish="length"), MaxTokensExceeded),
    ],
)
def test_a_reply_that_cannot_be_used_is_a_typed_error_and_is_paid_for(answer: Any, error: type[RunError]) -> None:
    port, journal = ScriptedPort([lambda call: answer]), JsonJournal()

    async def work() -> tuple[int, int]:
        ctx = context(journal, port=port)
        with pytest.raises(error):
            await execute(ask, ctx)
        return ctx.totals.output_tokens, len(port.calls)

    tokens, asked = run(work())
    assert asked == (3 if error is BadReply else 1)
    assert tokens == 10 * asked
    (told,) = [record for record in journal.failures if record.is_final]
    assert told.usage is not None
    assert told.usage.output_tokens == tokens, "the journal hears of every attempt that was paid for"


@pytest.mark.parametrize("last", [ModelRefused("bad key"), reply("", finish="length"), reply("", finish="error")])
def test_a_step_that_fails_in_another_way_at_last_tells_what_its_first_attempts_cost(last: Any) -> None:
    failed = BadReply("not JSON")
    failed.usage = Usage(input_tokens=5, output_tokens=100, cost_usd=Decimal("0.5"))
    journal = JsonJournal()
    with pytest.raises(RunError):
        run(go(ask, journal, ScriptedPort([failed, last, last])))
    (told,) = [record for record in journal.failures if record.is_final]
    assert told.usage is not None
    assert told.usage.output_tokens >= 100


def test_data_cut_off_is_an_error_and_text_cut_off_says_so() -> None:
    async def data(ctx: RunContext) -> None:
        await ctx.model("ask", "hi", output={"type": "object"})

    async def text(ctx: RunContext) -> Any:
        reply = await ctx.model("ask", "hi")
        return [reply.text, reply.finish]

    cut = reply("half a sen", finish="length")
    with pytest.raises(MaxTokensExceeded, match="cut off at 4,000 tokens"):
        run(go(data, port=ScriptedPort([cut])))
    assert run(go(text, port=ScriptedPort([cut]))).output == ["half a sen", "length"]


def test_what_failed_attempts_cost_is_part_of_the_steps_usage() -> None:
    failed = BadReply("not JSON")
    failed.usage = Usage(input_tokens=5, output_tokens=100, cost_usd=Decimal("0.5"))
    journal = JsonJournal()
    first = run(go(ask, journal, ScriptedPort([failed, reply("ok")]))).totals
    again = run(go(ask, journal, ScriptedPort([]))).totals
    assert first == again
    assert (first.output_tokens, first.cost_usd, first.turns) == (110, Decimal("0.51"), 1)


# --- limits ----------------------------------------------------------------------------------------------------------


def test_one_turn_too_many_is_refused_before_it_is_asked_also_after_a_crash() -> None:
    journal, port = JsonJournal(), ScriptedPort([lambda call: reply("ok")])
    for _ in range(2):
        with pytest.raises(MaxTurnsExceeded, match="after 2"):
            run(go(asking(3), journal, port, limits={"max_turns": 2}))
    assert len(port.calls) == 2


def test_turns_side_by_side_count_while_they_are_under_way() -> None:
    async def answer(call: ModelCall) -> Any:
        await asyncio.sleep(1)
        return reply("ok")

    async def program(ctx: RunContext) -> None:
        await ctx.gather(*(ctx.model("ask", "hi", max_tokens=10) for _ in range(3)))

    port = ScriptedPort([answer])
    with pytest.raises(MaxTurnsExceeded):
        run(go(program, port=port, limits={"max_turns": 2}))
    assert len(port.calls) == 2


def test_each_request_may_use_what_the_replies_before_it_left_also_after_a_crash() -> None:
    journal, port = JsonJournal(), ScriptedPort([lambda call: reply("ok", output=40)])
    for _ in range(2):
        with pytest.raises(MaxTokensExceeded, match="used up the 100 tokens"):
            run(go(asking(4), journal, port, limits={"max_tokens": 100}))
    assert [call.max_tokens for call in port.calls] == [100, 60, 20]


def test_a_call_that_could_cost_more_than_is_left_is_refused_before_it_is_made() -> None:
    port = ScriptedPort([lambda call: reply("ok", cost="0.04")], bound=lambda call: Decimal("0.05"))
    journal = JsonJournal()
    for _ in range(2):
        with pytest.raises(CostCapExceeded, match=r"0.08 USD are spent"):
            run(go(asking(3), journal, port, limits={"cost_cap_usd": "0.10"}))
    assert len(port.calls) == 2


def by_token(call: ModelCall) -> Decimal:
    """A price: one cent for the input, and a cent for each 100 tokens of the reply; the fast model costs a tenth."""
    price = Decimal("0.01") + Decimal(call.max_tokens) * Decimal("0.0001")
    return price / 10 if call.model == "demo:fast" else price


def test_a_reply_is_shortened_to_what_the_money_pays_for() -> None:
    port = ScriptedPort([reply("ok")], bound=by_token)
    run(go(ask, port=port, limits={"cost_cap_usd": "0.20", "max_tokens": 4000}))
    assert port.calls[0].max_tokens == 1900
    assert by_token(port.calls[0]) <= Decimal("0.20")


def test_the_cheaper_model_is_asked_when_the_money_does_not_pay_for_a_usable_reply_of_the_other() -> None:
    port = ScriptedPort([reply("ok")], bound=by_token)
    run(go(ask, port=port, agent=CHAIN, limits={"cost_cap_usd": "0.06", "max_tokens": 4000}))
    assert [(call.model, call.max_tokens) for call in port.calls] == [("demo:fast", 4000)]


def test_the_cheaper_model_is_asked_when_little_is_left_of_the_cost_cap() -> None:
    port = ScriptedPort([lambda call: reply("ok", cost="0.80")], bound=lambda call: Decimal("0.01"))
    run(go(asking(2), port=port, agent=CHAIN, limits={"cost_cap_usd": 1}))
    assert models(port) == ["demo:strong", "demo:fast"]


def test_the_cheaper_model_is_asked_when_half_the_latency_budget_is_gone_and_the_choice_is_kept_on_replay() -> None:
    async def program(ctx: RunContext) -> Any:
        first = await ctx.model("ask", "hi")
        await asyncio.sleep(3)
        second = await ctx.model("ask", "hi")
        return [first.model, second.model]

    journal, port = JsonJournal(), ScriptedPort([lambda call: reply("ok")])
    limits = {"latency_budget_ms": 6000}
    found = run(go(program, journal, port, agent=CHAIN, limits=limits, elapsed_s=1)).output
    assert found == ["demo:strong", "demo:fast"]
    assert run(go(program, journal, agent=CHAIN, limits=limits, elapsed_s=100)).output == found


def test_a_model_without_a_price_is_refused_only_under_a_cap_that_the_caller_set() -> None:
    limits = {"cost_cap_usd": "0.50"}
    free = run(go(ask, port=ScriptedPort([reply("ok", cost=None)], bound=lambda call: None), limits=limits))
    assert free.totals.cost_known is False
    with pytest.raises(PriceUnknown, match="demo:strong is not known"):
        run(go(ask, port=ScriptedPort([], bound=lambda call: None), limits=limits | {"cost_cap_explicit": True}))


def test_under_the_callers_cap_a_model_with_a_price_is_preferred_to_one_without() -> None:
    port = ScriptedPort([reply("ok")], bound=lambda call: None if call.model == "demo:strong" else Decimal("0.01"))
    run(go(ask, port=port, agent=CHAIN, limits={"cost_cap_usd": "0.50", "cost_cap_explicit": True}))
    assert models(port) == ["demo:fast"]


def test_a_fallback_over_the_budget_is_passed_over() -> None:
    def answer(call: ModelCall) -> Any:
        return reply("ok") if call.model == "demo:last" else down()

    def bound(call: ModelCall) -> Decimal:
        return Decimal(9 if call.model == "demo:other" else 0)

    port = ScriptedPort([answer], bound=bound)
    options = Options(attempts=Attempts(most=1))
    run(go(ask, port=port, agent=CHAIN, limits={"cost_cap_usd": 1}, options=options))
    assert models(port) == ["demo:strong", "demo:last"]


def test_calls_side_by_side_never_exceed_the_limits_together() -> None:
    at_once = most = 0

    async def answer(call: ModelCall) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(1)
        at_once -= 1
        return reply("ok", output=call.max_tokens, cost=str(by_token(call)))

    def program(max_tokens: int | None) -> Callable[[RunContext], Any]:
        async def program(ctx: RunContext) -> Any:
            return await ctx.gather(*(ctx.model("ask", "hi", max_tokens=max_tokens) for _ in range(4)))

        return program

    # Bounded replies run side by side; together they could use 400 tokens and 0.08 USD.
    limits = {"max_tokens": 400, "cost_cap_usd": "0.08"}
    result = run(go(program(100), port=ScriptedPort([answer], bound=by_token), limits=limits))
    assert most == 4
    assert (result.totals.output_tokens, result.totals.cost_usd) == (400, Decimal("0.08"))
    # With less money the fourth waits, and is refused when the others did cost what they could.
    most = 0
    with pytest.raises(CostCapExceeded):
        run(go(program(100), port=ScriptedPort([answer], bound=by_token), limits=limits | {"cost_cap_usd": "0.07"}))
    assert most == 3
    # Unbounded ones take all there is, so they come one after the other.
    most = 0
    with pytest.raises(MaxTokensExceeded):
        run(go(program(None), port=ScriptedPort([answer], bound=by_token), limits={"max_tokens": 400}))
    assert most == 1


def test_money_set_aside_for_a_call_that_failed_or_was_cancelled_comes_back() -> None:
    async def never(call: ModelCall) -> Any:
        await asyncio.sleep(3600)

    port = ScriptedPort([down(), never, reply("ok")], bound=lambda call: Decimal(1))

    async def program(ctx: RunContext) -> Any:
        with suppress(RunError):
            await ctx.gather(ctx.model("a", "hi"), ctx.step("b", asyncio.sleep, 5), boom())
        return (await ctx.model("c", "hi")).text

    async def boom() -> None:
        await asyncio.sleep(2)
        raise ValueError

    assert run(go(program, port=port, limits={"cost_cap_usd": 1})).output == "ok"


def test_what_a_branch_spent_before_a_crash_counts_before_another_branch_asks_again() -> None:
    async def program(ctx: RunContext) -> Any:
        async def second() -> None:
            await ctx.model("two", "hi", max_tokens=60)

        return await ctx.gather(ctx.model("one", "hi", max_tokens=60), second())

    journal = JsonJournal()
    run(go(program, journal, ScriptedPort([lambda call: reply("ok", output=60)]), limits={"max_tokens": 120}))
    del journal.steps["1.0/one#1"]
    port = ScriptedPort([reply("ok")])
    run(go(program, journal, port, limits={"max_tokens": 100}))
    assert port.calls[0].max_tokens == 40


def test_a_stream_stands_for_its_reply_where_nothing_streams() -> None:
    port = ScriptedPort([Stream([(0, "o"), (0, "k")], reply("ok"))])
    assert run(go(ask, port=port)).output == "ok"


def test_what_earlier_claims_lost_counts_against_the_limits_of_this_one() -> None:
    port = ScriptedPort([reply("one")])
    lost = Usage(output_tokens=AGENT.limits.max_tokens)
    with pytest.raises(MaxTokensExceeded):
        run(go(ask, port=port, lost=lost))
    assert port.calls == []
