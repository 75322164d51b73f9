"""Branches: what runs side by side keeps its keys, its order and its end."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from agents.runtime.branches import Branch, Gate
from agents.runtime.context import RunContext
from agents.runtime.errors import Misuse, ModelUnavailable, ProgramError, StepFailed
from tests.support.scripted import JsonJournal, ScriptedPort, call, go
from tests.support.virtual_time import run


async def after(seconds: float, result: Any) -> Any:
    await asyncio.sleep(seconds)
    if result == "fail":
        raise ValueError("no")
    return result


def test_keys_depend_on_the_branch_and_not_on_which_finishes_first() -> None:
    async def branch(ctx: RunContext, seconds: float) -> Any:
        await ctx.step("wait", after, seconds, seconds)
        inner = await ctx.gather(ctx.step("in", after, seconds, "a"), ctx.step("in", after, 1, "b"))
        return [seconds, *inner, await ctx.step("wait", after, 0, None)]

    async def program(ctx: RunContext, order: tuple[float, ...]) -> Any:
        return await ctx.gather(*(branch(ctx, seconds) for seconds in order))

    outputs, keys = [], []
    for order in ((1.0, 2.0, 3.0), (3.0, 2.0, 1.0)):
        journal = JsonJournal()
        outputs.append(run(go(partial(program, order=order), journal)).output)
        keys.append(journal.keys)
    assert outputs[0] == [[1.0, "a", "b", None], [2.0, "a", "b", None], [3.0, "a", "b", None]]
    assert outputs[1] == outputs[0][::-1]
    assert keys[0] != keys[1]
    assert sorted(keys[0]) == sorted(keys[1])
    assert {"1.0/wait#1", "1.0/wait#2", "1.2/1.0/in#1", "1.2/1.1/in#1"} <= set(keys[0])


def test_a_second_gather_has_branches_of_its_own() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.gather(ctx.step("s", after, 0, 1))
        await ctx.gather()
        await ctx.gather(ctx.step("s", after, 0, 1))

    journal = JsonJournal()
    run(go(program, journal))
    assert journal.keys == ["1.0/s#1", "3.0/s#1"]


def test_branches_run_side_by_side_at_most_as_many_as_the_limit() -> None:
    async def program(ctx: RunContext, limit: int | None) -> float:
        began = asyncio.get_running_loop().time()
        await ctx.gather(*(ctx.step("s", after, 1, None) for _ in range(6)), limit=limit)
        return asyncio.get_running_loop().time() - began

    seconds = {limit: run(go(partial(program, limit=limit))).output for limit in (None, 2, 1)}
    assert seconds == {None: 1, 2: 3, 1: 6}


def test_the_first_failure_cancels_the_others_and_waits_for_them() -> None:
    unwound: list[str] = []

    async def slow(ctx: RunContext) -> None:
        try:
            await ctx.step("slow", after, 60, None)
        finally:
            await asyncio.sleep(1)
            unwound.append("slow")

    async def program(ctx: RunContext) -> None:
        try:
            await ctx.gather(slow(ctx), ctx.step("bad", after, 1, "fail"), slow(ctx))
        finally:
            unwound.append("program")

    journal = JsonJournal()
    with pytest.raises(StepFailed, match="no"):
        run(go(program, journal))
    assert unwound == ["slow", "slow", "program"]
    assert not journal.steps


def test_branches_that_never_began_are_closed_without_a_warning() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.gather(*(ctx.step("s", after, 1, "fail") for _ in range(5)), limit=1)

    with pytest.raises(StepFailed):
        run(go(program))


def test_a_caught_failure_of_a_gather_is_raised_on_replay_without_running_its_branches_again() -> None:
    ran: list[str] = []

    async def note(name: str, seconds: float, fail: bool = False) -> str:
        ran.append(name)
        await asyncio.sleep(seconds)
        if fail:
            raise ValueError(name)
        return name

    async def program(ctx: RunContext) -> Any:
        try:
            await ctx.gather(
                ctx.step("quick", note, "quick", 0),
                ctx.step("slow", note, "slow", 9),
                ctx.step("x", note, "x", 1, True),
            )
        except StepFailed as error:
            await ctx.step("go on", note, "go on", 0)
            await ctx.progress(1)
            await ctx.step("end", note, "end", 0)
            return error.detail
        return "never"

    journal = JsonJournal()
    first = run(go(program, journal)).output
    assert first == "ValueError: x"
    assert ran == ["quick", "slow", "x", "go on", "end"]
    assert "gather#1!" in journal.keys
    ran.clear()
    assert run(go(program, journal)).output == first
    assert ran == []
    # Nobody asks for the steps of its branches any more: past the last step that is asked for, the run is live again.
    del journal.steps["end#1"]
    journal.told.clear()
    run(go(program, journal))
    assert ran == ["end"]
    assert journal.told == [(1, None, "")]


def test_a_failure_caught_inside_a_branch_is_repeated_on_replay() -> None:
    port = ScriptedPort([lambda call: ModelUnavailable("down", retry_after_s=99)])

    async def branch(ctx: RunContext) -> str:
        try:
            return (await ctx.model("ask", "hi", max_tokens=50)).text
        except ModelUnavailable:
            return "went without"

    async def program(ctx: RunContext) -> Any:
        found = await ctx.gather(branch(ctx), branch(ctx))
        await ctx.step("end", after, 0, None)
        return found

    journal = JsonJournal()
    first = run(go(program, journal, port)).output
    assert first == ["went without", "went without"]
    assert run(go(program, journal)).output == first  # now the model would answer
    assert {"1.0/ask#1!", "1.1/ask#1!"} < set(journal.keys)


def test_an_exception_of_the_programs_own_in_a_branch_comes_as_the_same_program_error_now_and_on_replay() -> None:
    async def bad() -> None:
        raise KeyError("k")

    async def program(ctx: RunContext) -> Any:
        try:
            await ctx.gather(bad())
        except ProgramError as error:
            await ctx.step("end", after, 0, None)
            return [type(error).__name__, error.detail, error.extra["error"]]

    journal = JsonJournal()
    first = run(go(program, journal)).output
    assert first == ["ProgramError", "KeyError: 'k'", "KeyError"]
    assert run(go(program, journal)).output == first


@pytest.mark.parametrize("raised", [SystemExit(1), asyncio.CancelledError()])
def test_a_branch_cannot_end_the_process_or_vanish(raised: BaseException) -> None:
    async def bad() -> None:
        raise raised

    async def program(ctx: RunContext) -> None:
        await ctx.gather(bad(), ctx.step("s", after, 0, None))

    with pytest.raises(ProgramError):
        run(go(program))


def test_gather_takes_coroutines_only_and_closes_those_it_refuses() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.gather(ctx.step("a", after, 0, 1), asyncio.sleep(0, 1), 3)  # type: ignore[arg-type]

    with pytest.raises(Misuse, match="not a int"):
        run(go(program))


def test_a_call_that_a_branch_cut_off_counts_for_what_comes_after_the_gather() -> None:
    async def impatient(ctx: RunContext) -> str:
        try:
            async with asyncio.timeout(1):
                await ctx.step("slow", after, 60, None)
        except TimeoutError:
            pass
        return "gave up"

    async def program(ctx: RunContext) -> None:
        await ctx.gather(impatient(ctx))
        await ctx.step("next", after, 0, None)

    with pytest.raises(Misuse, match=r"cut ctx.step\('slow'\) off"):
        run(go(program))


def test_tools_in_branches_have_keys_that_do_not_depend_on_their_order() -> None:
    async def branch(ctx: RunContext, seconds: float) -> None:
        await ctx.step("wait", after, seconds, None)
        await ctx.tools([call("look", at=1), call("look", at=2)])

    keys = []
    for order in ((1, 2), (2, 1)):
        journal = JsonJournal()

        async def program(ctx: RunContext, order: tuple[int, ...] = order) -> None:
            await ctx.gather(*(branch(ctx, seconds) for seconds in order))

        run(go(program, journal))
        keys.append(sorted(key for key in journal.keys if "look" in key))
    assert keys[0] == keys[1] == ["1.0/look#1", "1.0/look#2", "1.1/look#1", "1.1/look#2"]


def test_a_key_stays_short_however_deep_the_gathers_nest() -> None:
    branch = Branch(Gate())
    seen = set()
    for _ in range(100):
        branch = branch.child(1234, 5678)
        seen.add(branch.path)
        assert len(branch.next_key("x" * 120)) < 300
    assert len(seen) == 100
