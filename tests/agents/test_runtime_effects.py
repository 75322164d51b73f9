"""Effects: what changes the world outside happens once, or a person says what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents.runtime.context import RunContext
from agents.runtime.effects import Effect, MemoryLedger
from agents.runtime.parking import RunParked
from agents.runtime.plain import plain
from agents.runtime.ports import Superseded, ToolContext, ToolPolicy, Waiting
from agents.runtime.types import ToolCall, ToolResult
from agents.tools.registry import Refused, Tool
from agents.tools.toolbox import LocalToolBox
from tests.support.scripted import JsonJournal, ScriptedTools, call, go
from tests.support.virtual_time import run

PAY = ToolPolicy(effect=True, idempotent=False)
PUT = ToolPolicy(effect=True, idempotent=True)


class Case:
    """A program that pays once, run again and again on one journal and one ledger."""

    def __init__(self, policy: ToolPolicy = PAY) -> None:
        self.journal, self.ledger = JsonJournal(), MemoryLedger()
        self.paid: list[str] = []
        self.dies = False
        self.answer: Any = {"receipt": 7}
        self.toolbox = ScriptedTools({"write": self._pay}, {"write": policy})

    def _pay(self, call: ToolCall, context: ToolContext) -> Any:
        self.paid.append(context.idempotency_key)
        if self.dies:
            raise asyncio.CancelledError  # the process is gone before the result is anywhere
        return self.answer

    async def program(self, ctx: RunContext) -> Any:
        (result,) = await ctx.tools([call("write", "c1", amount=5)])
        return [result.ok, result.error, result.content]

    def go(self) -> Any:
        return run(go(self.program, self.journal, toolbox=self.toolbox, ledger=self.ledger)).output

    def crash(self) -> None:
        self.dies = True
        with pytest.raises(BaseException):  # noqa: B017, PT011  # however a dying process ends
            self.go()
        self.dies = False

    def asked(self) -> Waiting:
        with pytest.raises(RunParked) as caught:
            self.go()
        (wait,) = caught.value.waits
        return wait

    def settle(self, effect: Effect) -> None:
        (key,) = self.ledger.effects
        self.ledger.effects[key] = effect


def test_a_call_with_effects_is_written_down_before_and_after() -> None:
    case = Case()
    assert case.go() == [True, None, {"receipt": 7}]
    (effect,) = case.ledger.effects.values()
    assert (effect.state, effect.attempt) == ("done", 1)
    assert case.go() == [True, None, {"receipt": 7}]
    assert len(case.paid) == 1


def test_one_that_was_done_but_not_recorded_is_not_done_again() -> None:
    case = Case()
    case.journal.cut_after = 0  # its process dies between the effect and the step
    with pytest.raises(Superseded):
        case.go()
    assert case.journal.keys == []
    case.journal.cut_after = None
    assert case.go() == [True, None, {"receipt": 7}]
    assert len(case.paid) == 1


def test_after_a_crash_an_idempotent_call_is_repeated_under_its_key() -> None:
    case = Case(PUT)
    case.crash()
    assert case.go() == [True, None, {"receipt": 7}]
    assert len(case.paid) == 2
    assert len(set(case.paid)) == 1


def test_after_a_crash_any_other_waits_for_a_person() -> None:
    case = Case()
    case.crash()
    wait = case.asked()
    assert (wait.kind, wait.data["tool"], wait.data["arguments"]) == ("person", "write", {"amount": 5})
    assert wait.key == f"effect:{wait.data['effect']}:1"
    assert case.asked() == wait, "nobody has said anything yet"
    assert len(case.paid) == 1


def test_a_person_says_that_it_happened() -> None:
    case = Case()
    case.crash()
    case.asked()
    result = ToolResult(call_id="c1", tool="write", content="It did: receipt 9.")
    case.settle(Effect("done", plain(result), 1))
    assert case.go() == [True, None, "It did: receipt 9."]
    assert len(case.paid) == 1


def test_a_person_says_do_it_again_and_another_crash_asks_again() -> None:
    case = Case()
    case.crash()
    first = case.asked()
    case.settle(Effect("fresh", None, 1))
    case.crash()
    second = case.asked()
    assert second.key != first.key
    case.settle(Effect("fresh", None, 2))
    assert case.go() == [True, None, {"receipt": 7}]
    assert len(case.paid) == 3


def test_a_person_gives_it_up_and_the_model_reads_so() -> None:
    case = Case()
    case.crash()
    case.asked()
    case.settle(Effect("given-up", None, 1))
    ok, error, content = case.go()
    assert (ok, error) == (False, "given-up")
    assert "not to be repeated" in content
    assert len(case.paid) == 1


@pytest.mark.parametrize("error", ["timeout", "failed"])
def test_a_call_that_ran_out_of_time_or_broke_may_have_happened(error: str) -> None:
    case = Case()
    case.answer = ToolResult(call_id="c1", tool="write", ok=False, error=error, content="who knows")
    wait = case.asked()
    assert wait.key.endswith(":1")
    assert [record.key for record in case.journal.failures] == ["write#1"]
    assert case.journal.keys == []


def test_all_that_nobody_knows_of_in_a_turn_is_asked_at_once_and_those_beside_it_go_on() -> None:
    ledger, journal = MemoryLedger(), JsonJournal()
    late = {1, 3}

    def pay(call: ToolCall, context: ToolContext) -> Any:
        amount = call.arguments["amount"]
        if amount in late:
            return ToolResult(call_id=call.id, tool="write", ok=False, error="timeout", content="too late")
        return amount

    toolbox = ScriptedTools({"write": pay}, {"write": PAY})

    async def program(ctx: RunContext) -> Any:
        return [result.content for result in await ctx.tools([call("write", amount=n) for n in (1, 2, 3)])]

    with pytest.raises(RunParked) as caught:
        run(go(program, journal, toolbox=toolbox, ledger=ledger))
    assert [wait.data["arguments"]["amount"] for wait in caught.value.waits] == [1, 3]
    assert journal.keys == ["write#2"]
    for key, effect in ledger.effects.items():
        if effect.state == "interrupted":
            ledger.effects[key] = Effect("fresh", None, effect.attempt)
    late.clear()
    assert run(go(program, journal, toolbox=toolbox, ledger=ledger)).output == [1, 2, 3]
    assert [call.arguments["amount"] for call in toolbox.ran] == [1, 2, 3, 1, 3]


def test_nothing_that_comes_after_an_unknown_call_runs_before_somebody_has_said_what_became_of_it() -> None:
    alone = ToolPolicy(effect=True, idempotent=False, batchable=False)
    answer = ToolResult(call_id="c1", tool="write", ok=False, error="timeout", content="too late")
    toolbox = ScriptedTools({"write": lambda call, context: answer}, {"write": alone})

    async def program(ctx: RunContext) -> Any:
        await ctx.tools([call("write", "c1", amount=1), call("write", "c2", amount=2)])

    with pytest.raises(RunParked):
        run(go(program, toolbox=toolbox))
    assert [call.arguments["amount"] for call in toolbox.ran] == [1]


def test_a_failure_that_the_tool_told_of_is_known() -> None:
    case = Case()
    case.answer = ToolResult(call_id="c1", tool="write", ok=False, error="no-such-account", content="None.")
    assert case.go() == [False, "no-such-account", "None."]
    (effect,) = case.ledger.effects.values()
    assert (effect.state, effect.result["ok"]) == ("done", False)
    assert case.go() == [False, "no-such-account", "None."]
    assert len(case.paid) == 1


def test_an_effect_whose_answer_cannot_be_kept_was_done_all_the_same() -> None:
    case = Case()
    case.answer = "x" * 5_000_000
    ok, error, content = case.go()
    assert (ok, error) == (True, None)
    assert "It was done" in content
    (effect,) = case.ledger.effects.values()
    assert effect.result["ok"] is True


def test_what_a_call_came_to_is_told_even_when_the_run_is_cut_off_meanwhile() -> None:
    class Slow(MemoryLedger):
        async def end(self, key: str, result: Any, *, known: bool) -> None:
            ending.set()
            await asyncio.sleep(0.5)
            await super().end(key, result, known=known)

    case, ending = Case(), asyncio.Event()
    case.ledger = Slow()

    async def cut_off() -> None:
        running = asyncio.create_task(go(case.program, case.journal, toolbox=case.toolbox, ledger=case.ledger))
        await ending.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(cut_off())
    (effect,) = case.ledger.effects.values()
    assert effect.state == "done"


@pytest.mark.parametrize("error", ["timeout", "failed"])
def test_an_idempotent_call_that_ran_out_of_time_or_broke_is_a_result_as_ever(error: str) -> None:
    case = Case(PUT)
    case.answer = ToolResult(call_id="c1", tool="write", ok=False, error=error, content="who knows")
    assert case.go() == [False, error, "who knows"]


def _hangs_up() -> None:
    raise ConnectionResetError


def _loses_patience() -> None:
    raise TimeoutError("of its own")


def _answers_what_is_no_json() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _refuses() -> None:
    raise Refused("no-such-account", "None.")


def _real_tools(what: Callable[[], Any], *, name: str = "write", **more: Any) -> tuple[LocalToolBox, list[int]]:
    """Return a box with a tool that pays, and then ends so; and what it paid."""
    paid: list[int] = []

    def write(amount: int) -> Any:
        """Pay."""
        paid.append(amount)
        return what()

    return LocalToolBox({name: Tool(write, name, PAY, **more)}), paid


async def _writes(ctx: RunContext) -> Any:
    (result,) = await ctx.tools([call("write", "c1", **ctx.input)])
    return [result.ok, result.error]


@pytest.mark.parametrize("ends", [_hangs_up, _loses_patience, _answers_what_is_no_json])
def test_a_tool_that_pays_and_then_breaks_is_asked_about_and_not_called_again(ends: Callable[[], Any]) -> None:
    (toolbox, paid), ledger, journal = _real_tools(ends), MemoryLedger(), JsonJournal()
    for _ in range(2):
        with pytest.raises(RunParked) as caught:
            asyncio.run(go(_writes, journal, toolbox=toolbox, ledger=ledger, input={"amount": 5}))
        assert [wait.data["tool"] for wait in caught.value.waits] == ["write"]
    assert paid == [5]


@pytest.mark.parametrize(
    ("given", "more", "error"),
    [
        ({"amount": 5}, {}, "no-such-account"),
        ({"amount": "much"}, {}, "bad-arguments"),
        ({"amount": 5}, {"approval": "always"}, "approval-required"),
        ({"amount": 5}, {"name": "other"}, "unknown-tool"),
    ],
)
def test_what_is_said_of_a_call_that_did_nothing_is_known(
    given: dict[str, Any], more: dict[str, Any], error: str
) -> None:
    toolbox, _ = _real_tools(_refuses, **more)
    ledger = MemoryLedger()
    assert asyncio.run(go(_writes, toolbox=toolbox, ledger=ledger, input=given)).output == [False, error]
    assert {effect.state for effect in ledger.effects.values()} <= {"done"}


def test_a_tool_without_effects_is_in_no_ledger() -> None:
    case = Case(ToolPolicy())
    case.go()
    assert case.ledger.effects == {}
