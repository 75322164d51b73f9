"""Running a program to its end, whatever that is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agents.runtime.context import Options, RunContext
from agents.runtime.errors import (
    BudgetExceeded,
    Misuse,
    NotJson,
    OutputTooLarge,
    ProgramError,
    RunError,
    WallClockExceeded,
    revive,
)
from agents.runtime.ports import StepRecord, Superseded
from agents.runtime.run import execute
from agents.runtime.types import Reply
from tests.support.scripted import JsonJournal, context, go
from tests.support.virtual_time import run


def test_what_a_program_returns_comes_back_as_plain_json() -> None:
    async def program(ctx: RunContext) -> Any:
        return ctx.input, Reply(text="x").as_message().role

    assert run(go(program, input={"q": 1})).output == [{"q": 1}, "assistant"]


def test_a_reply_becomes_its_text_or_its_data_and_says_when_it_was_cut_off() -> None:
    assert Reply(text="x").as_output() == {"text": "x"}
    assert Reply(text="x", finish="length").as_output() == {"text": "x", "truncated": True}
    assert Reply(data={"a": 1}).as_output() == {"a": 1}

    async def program(ctx: RunContext) -> Any:
        return Reply(text="x")

    assert run(go(program)).output == {"text": "x"}


def test_an_exception_becomes_a_program_error_that_names_our_innermost_frame() -> None:
    def innermost() -> None:
        json.loads("{")

    async def program(ctx: RunContext) -> None:
        innermost()

    errors = []
    for _ in range(2):
        with pytest.raises(ProgramError) as caught:
            run(go(program))
        errors.append(caught.value)
    assert errors[0].detail.startswith("JSONDecodeError: ")
    assert "test_runtime_run:" in errors[0].extra["at"]
    assert "innermost:" in errors[0].extra["at"]
    assert errors[0].extra["fingerprint"] == errors[1].extra["fingerprint"]
    assert isinstance(errors[0].__cause__, json.JSONDecodeError)


def test_a_fault_that_surfaces_inside_the_runtime_is_the_programs_line_all_the_same() -> None:
    async def asks_for_half_a_token(ctx: RunContext) -> None:
        await ctx.model("ask", "hi", max_tokens="half")  # type: ignore[arg-type]

    with pytest.raises(ProgramError) as caught:
        run(go(asks_for_half_a_token))
    assert "asks_for_half_a_token:" in caught.value.extra["at"]


def test_different_faults_have_different_fingerprints() -> None:
    async def key(ctx: RunContext) -> None:
        raise KeyError("x")

    async def value(ctx: RunContext) -> None:
        raise ValueError("x")

    prints = set()
    for program in (key, value):
        with pytest.raises(ProgramError) as caught:
            run(go(program))
        prints.add(caught.value.extra["fingerprint"])
    assert len(prints) == 2


def test_misuses_in_different_places_have_different_fingerprints() -> None:
    async def odd() -> object:
        return object()

    async def one(ctx: RunContext) -> None:
        await ctx.step("odd", odd)

    async def other(ctx: RunContext) -> None:
        await ctx.step("odd", odd)

    found = []
    for program in (one, one, other):
        with pytest.raises(NotJson) as caught:
            run(go(program))
        found.append(caught.value.extra["fingerprint"])
    assert found[0] == found[1] != found[2]
    assert ".other:" in caught.value.extra["at"]


def test_of_errors_raised_together_the_first_names_the_fault() -> None:
    async def fails() -> None:
        raise KeyError("lost")

    async def program(ctx: RunContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    with pytest.raises(ProgramError, match="KeyError: 'lost'") as caught:
        run(go(program))
    assert ".fails:" in caught.value.extra["at"]
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError(), BaseException("odd")])
def test_a_program_cannot_end_the_process_or_seem_cancelled(raised: BaseException) -> None:
    async def program(ctx: RunContext) -> None:
        raise raised

    with pytest.raises(ProgramError):
        run(go(program))


def test_an_output_over_the_limit_is_refused() -> None:
    async def program(ctx: RunContext) -> Any:
        return "x" * 100

    with pytest.raises(OutputTooLarge, match="output has 102 bytes"):
        run(go(program, options=Options(max_output_bytes=101)))


def test_the_wall_clock_stops_the_program_and_refuses_its_further_calls() -> None:
    refused: list[str] = []

    async def program(ctx: RunContext) -> None:
        await ctx.step("one", asyncio.sleep, 1)
        try:
            await ctx.step("two", asyncio.sleep, 100)
        finally:
            try:
                await ctx.step("clean up", asyncio.sleep, 0)
            except BaseException as error:
                refused.append(type(error).__name__)
                raise

    journal = JsonJournal()

    async def work() -> float:
        with pytest.raises(WallClockExceeded, match="longer than 10 s"):
            await execute(program, context(journal, limits={"wall_clock_s": 10}))
        return asyncio.get_running_loop().time()

    assert run(work()) == 10
    assert refused == ["CancelledError"]
    assert journal.keys == ["one#1"]


def test_a_program_that_swallows_its_cancellation_is_left_behind_after_a_while(caplog: Any) -> None:
    async def program(ctx: RunContext) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if asyncio.get_running_loop().time() > 100:
                    raise

    async def work() -> float:
        with pytest.raises(WallClockExceeded):
            await execute(program, context(limits={"wall_clock_s": 10}, options=Options(unwind_s=5)))
        ended = asyncio.get_running_loop().time()
        await asyncio.sleep(100)
        return ended

    assert run(work()) == 15
    assert "does not stop" in caplog.text


def test_cancelling_stops_the_program_at_once_and_refuses_its_further_calls() -> None:
    seen: list[str] = []

    async def program(ctx: RunContext) -> None:
        try:
            await asyncio.sleep(3600)  # not even inside a call
        finally:
            for refused in (ctx.now(), ctx.gather(), ctx.progress(1)):
                try:
                    await refused
                except asyncio.CancelledError:
                    seen.append("refused")

    async def work() -> None:
        task = asyncio.create_task(execute(program, context()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert seen == ["refused"] * 3


def test_cancelling_reaches_branches_and_leaves_no_task_behind() -> None:
    unwound: list[int] = []

    async def branch(ctx: RunContext, n: int) -> None:
        try:
            await ctx.gather(ctx.step("deep", asyncio.sleep, 3600))
        finally:
            unwound.append(n)

    async def program(ctx: RunContext) -> None:
        await ctx.gather(*(branch(ctx, n) for n in range(3)))

    async def work() -> int:
        task = asyncio.create_task(execute(program, context()))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        return len(asyncio.all_tasks())

    assert run(work()) == 1
    assert sorted(unwound) == [0, 1, 2]


def test_a_step_that_has_finished_is_still_written_down_when_the_run_is_cancelled_meanwhile() -> None:
    class Slow(JsonJournal):
        async def record(self, record: StepRecord) -> None:
            await asyncio.sleep(1)
            await super().record(record)

    journal = Slow()

    async def program(ctx: RunContext) -> None:
        await ctx.step("paid", asyncio.sleep, 0)

    async def work() -> None:
        task = asyncio.create_task(execute(program, context(journal)))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert journal.keys == ["paid#1"]


def test_a_write_that_hangs_does_not_hold_a_cancelled_run_for_long() -> None:
    class Hanging(JsonJournal):
        async def record(self, record: StepRecord) -> None:
            await asyncio.sleep(3600)

    async def program(ctx: RunContext) -> None:
        await ctx.step("paid", asyncio.sleep, 0)

    async def work() -> float:
        task = asyncio.create_task(execute(program, context(Hanging())))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1
        return asyncio.get_running_loop().time()

    assert run(work()) == 3


def test_a_run_that_another_owner_has_taken_unwinds_and_writes_nothing_more() -> None:
    journal = JsonJournal(cut_after=1)
    ran: list[int] = []

    async def stubborn(ctx: RunContext) -> str:
        for n in range(3):
            try:
                await ctx.step("count", count, n)
            except BaseException:
                continue
        return "done"

    async def count(n: int) -> None:
        ran.append(n)

    with pytest.raises(Superseded):
        run(go(stubborn, journal))
    assert journal.keys == ["count#1"]
    assert ran == [0, 1]


def test_that_another_owner_has_the_run_is_not_hidden_by_a_program_that_hangs_on_it() -> None:
    async def program(ctx: RunContext) -> None:
        try:
            await ctx.step("one", asyncio.sleep, 1)
        except Superseded:
            await asyncio.sleep(3600)

    with pytest.raises(Superseded):
        run(go(program, JsonJournal(cut_after=0), limits={"wall_clock_s": 10}))


def test_superseded_in_one_branch_stops_all() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.gather(ctx.step("a", asyncio.sleep, 1), ctx.step("b", asyncio.sleep, 3600))

    with pytest.raises(Superseded):
        run(go(program, JsonJournal(cut_after=0)))


def test_a_context_is_good_for_one_run() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.now()

    async def work() -> None:
        ctx = context()
        await execute(program, ctx)
        with pytest.raises(Misuse, match="The run is over"):
            await execute(program, ctx)
        with pytest.raises(Misuse, match="The run is over"):
            await ctx.now()

    run(work())


def test_a_call_outside_of_the_run_is_refused() -> None:
    async def work() -> None:
        with pytest.raises(Misuse, match="outside of its run"):
            await context().now()

    run(work())


def test_every_error_round_trips_through_its_problem() -> None:
    def kinds(kind: type[RunError]) -> list[type[RunError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in kinds(child))]

    found = [kind for kind in kinds(RunError) if kind.__module__ == "agents.runtime.errors"]
    assert len({kind.slug for kind in found}) == len(found)
    for kind in found:
        again = revive(kind("why", step="a#1").as_problem())
        assert type(again) is kind
        assert (again.detail, again.extra, again.retriable) == ("why", {"step": "a#1"}, kind.retriable)
        assert kind.retriable is False or not issubclass(kind, BudgetExceeded)


def test_an_error_of_a_class_that_is_gone_keeps_what_it_said() -> None:
    again = revive({"type": "/problems/gone", "title": "Gone", "detail": "d", "retriable": True, "x": 1})
    assert again.as_problem() == {
        "type": "/problems/gone",
        "title": "Gone",
        "detail": "d",
        "retriable": True,
        "x": 1,
    }
