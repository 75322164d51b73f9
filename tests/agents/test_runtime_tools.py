"""Tool calls: each a step, run as its tool allows, its failure something the model reads."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from agents.runtime.calling import outline
from agents.runtime.context import Options, RunContext
from agents.runtime.errors import ContextOverflow, ProgramError
from agents.runtime.ports import ToolPolicy
from agents.runtime.types import ToolResult
from tests.support.scripted import JsonJournal, Screen, ScriptedTools, call, go
from tests.support.virtual_time import run


async def slowly(call: Any, context: Any) -> Any:
    await asyncio.sleep(call.arguments.get("s", 1))
    return call.arguments


def calls(*tools: str, **arguments: Any) -> list[Any]:
    return [call(tool, id=f"c{n}", n=n, **arguments) for n, tool in enumerate(tools)]


def test_results_come_in_the_order_asked_whatever_finishes_first() -> None:
    box = ScriptedTools({"look": slowly})

    async def program(ctx: RunContext) -> Any:
        return await ctx.tools([call("look", id="a", s=3), call("look", id="b", s=1), call("look", id="c", s=2)])

    found = run(go(program, toolbox=box)).output
    assert [(r["call_id"], r["content"], r["ok"]) for r in found] == [
        ("a", {"s": 3}, True),
        ("b", {"s": 1}, True),
        ("c", {"s": 2}, True),
    ]


def test_batchable_calls_run_together_up_to_the_batch_size() -> None:
    async def program(ctx: RunContext) -> float:
        await ctx.tools(calls(*["look"] * 7))
        return asyncio.get_running_loop().time()

    for size, seconds in ((3, 3), (8, 1)):
        box = ScriptedTools({"look": slowly})
        assert run(go(program, toolbox=box, options=Options(max_batch_size=size))).output == seconds
        assert box.most == min(size, 7)


def test_a_call_that_is_not_batchable_runs_alone_after_those_before_it_and_before_those_after_it() -> None:
    spans: dict[int, tuple[float, float]] = {}

    async def timed(call: Any, context: Any) -> None:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(1)
        spans[call.arguments["n"]] = (began, asyncio.get_running_loop().time())

    box = ScriptedTools({"look": timed, "write": timed}, {"write": ToolPolicy(batchable=False)})

    async def program(ctx: RunContext) -> None:
        await ctx.tools(calls("look", "look", "write", "write", "look"))

    run(go(program, toolbox=box))
    assert spans == {0: (0, 1), 1: (0, 1), 2: (1, 2), 3: (2, 3), 4: (3, 4)}


def test_a_replay_of_a_batch_that_was_cut_off_runs_only_what_is_missing() -> None:
    async def program(ctx: RunContext) -> Any:
        return await ctx.tools(calls("look", "look", "look", "write"))

    journal = JsonJournal()
    whole = run(go(program, journal)).output
    for missing in (["look#2"], ["look#1", "write#1"], ["look#1", "look#2", "look#3", "write#1"]):
        box = ScriptedTools()
        partial = JsonJournal({key: step for key, step in journal.steps.items() if key not in missing})
        assert run(go(program, partial, toolbox=box)).output == whole
        assert [context.step_key for context in box.contexts] == missing


def test_an_unknown_tool_is_a_result_that_names_the_known_ones() -> None:
    async def program(ctx: RunContext) -> Any:
        return await ctx.tools([call("rm -rf/#!", id="x")])

    journal, box = JsonJournal(), ScriptedTools()
    (result,) = run(go(program, journal, toolbox=box)).output
    assert (result["ok"], result["error"], result["call_id"]) == (False, "unknown-tool", "x")
    assert "look, write" in result["content"]
    assert journal.keys == ["rm_-rf_#1"]
    assert not box.ran
    assert run(go(program, journal, toolbox=box)).output == [result]


def test_a_tool_of_the_agent_that_this_process_does_not_have_is_a_result_too() -> None:
    class Bare(ScriptedTools):
        def policy(self, name: str) -> ToolPolicy:
            raise KeyError(name)

    async def program(ctx: RunContext) -> Any:
        return await ctx.tools([call("look")])

    assert run(go(program, toolbox=Bare())).output[0]["error"] == "unknown-tool"


def test_a_result_of_the_tool_that_failed_is_kept_as_it_is() -> None:
    def late(call: Any, context: Any) -> ToolResult:
        return ToolResult(call_id="another", tool="other", ok=False, error="timeout", content="30 s went by")

    async def program(ctx: RunContext) -> Any:
        return await ctx.tools([call("look", id="a")])

    screen = Screen()
    (result,) = run(go(program, toolbox=ScriptedTools({"look": late}), transport=screen)).output
    assert result == {"call_id": "a", "tool": "look", "ok": False, "error": "timeout", "content": "30 s went by"}
    assert screen.steps[0].summary == "timeout: 30 s went by"


@pytest.mark.parametrize(("content", "error"), [({1, 2}, "not-json"), ("x" * 5000, "output-too-large")])
def test_a_result_that_cannot_be_kept_is_a_failure_for_the_model_and_not_of_the_run(content: Any, error: str) -> None:
    async def program(ctx: RunContext) -> Any:
        return await ctx.tools([call("look")])

    box = ScriptedTools({"look": lambda call, context: content})
    (result,) = run(go(program, toolbox=box, options=Options(max_output_bytes=4000))).output
    assert (result["ok"], result["error"]) == (False, error)


def test_the_idempotency_key_is_the_calls_own_over_replays_and_differs_from_every_other_call() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.tools([call("look", a=1, b=2), call("look", b=2, a=1), call("look", a=2)])

    async def keys(run_id: str) -> list[str]:
        box = ScriptedTools()
        await go(program, toolbox=box, run_id=run_id, user_id=7)
        assert {(c.run_id, c.user_id, c.agent) for c in box.contexts} == {(run_id, 7, "tester")}
        return [context.idempotency_key for context in box.contexts]

    first, again, other = run(keys("run-1")), run(keys("run-1")), run(keys("run-2"))
    assert first == again
    assert len({*first, *other}) == 6


def test_the_order_of_arguments_does_not_matter_on_replay() -> None:
    async def program(ctx: RunContext, **arguments: Any) -> Any:
        return await ctx.tools([call("look", **arguments)])

    journal, box = JsonJournal(), ScriptedTools()
    run(go(partial(program, a=1, b=2), journal, toolbox=box))
    run(go(partial(program, b=2, a=1), journal, toolbox=box))
    assert len(box.ran) == 1


def test_a_run_error_from_the_tools_ends_the_call_cancels_its_neighbours_and_replays_when_it_was_caught() -> None:
    def overflow(call: Any, context: Any) -> None:
        raise ContextOverflow("too long")

    box = ScriptedTools({"look": slowly, "write": overflow})

    async def program(ctx: RunContext) -> Any:
        try:
            await ctx.tools([call("look", s=9), call("write")])
        except ContextOverflow as error:
            await ctx.step("go on", asyncio.sleep, 0)
            return [error.detail, asyncio.get_running_loop().time()]

    journal = JsonJournal()
    assert run(go(program, journal, toolbox=box)).output == ["too long", 0]
    assert journal.keys == ["write#1!", "go on#1"]
    assert run(go(program, journal, toolbox=ScriptedTools())).output == ["too long", 0]


def test_a_toolbox_that_breaks_its_promise_is_a_program_error() -> None:
    def broken(call: Any, context: Any) -> None:
        raise RuntimeError("a bug")

    async def program(ctx: RunContext) -> None:
        await ctx.tools([call("look")])

    with pytest.raises(ProgramError, match="RuntimeError: a bug"):
        run(go(program, toolbox=ScriptedTools({"look": broken})))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Four lines.", "Four lines."),
        ("", "nothing"),
        ([1], "1 item"),
        ([1, 2], "2 items"),
        ({"pages": [1, 2], "frontier": [], "stopped": "done"}, "2 pages"),
        ({"stored": True}, "done"),
        (None, "done"),
    ],
)
def test_a_result_is_told_in_a_few_words(content: Any, said: str) -> None:
    assert outline(content) == said
