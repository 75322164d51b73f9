"""Steps: their keys, their replay, what they may take and return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from agents.runtime.context import Options, RunContext
from agents.runtime.errors import (
    BadInput,
    JournalUnavailable,
    Misuse,
    ModelUnavailable,
    NotJson,
    OutputTooLarge,
    ProgramError,
    StepFailed,
    VersionMismatch,
)
from agents.runtime.ports import MemoryJournal, StepRecord
from tests.support.scripted import JsonJournal, Screen, ScriptedPort, ScriptedTools, call, go, reply
from tests.support.virtual_time import run


def counting(result: Any = 1) -> tuple[list[Any], Callable[..., Any]]:
    ran: list[Any] = []

    def count(*args: Any) -> Any:
        ran.append(args)
        return result

    return ran, count


def test_a_recorded_step_returns_what_it_recorded_and_does_not_run_again() -> None:
    ran, count = counting({"a": (1, 2)})

    async def program(ctx: RunContext) -> Any:
        return [await ctx.step("count", count, 1), await ctx.step("count", count, 2)]

    journal = JsonJournal()
    first = run(go(program, journal))
    again = run(go(program, journal))
    assert first.output == again.output == [{"a": [1, 2]}, {"a": [1, 2]}]
    assert ran == [(1,), (2,)]
    assert journal.keys == ["count#1", "count#2"]


def test_a_step_is_written_down_before_the_program_gets_its_result() -> None:
    journal, seen = JsonJournal(), []

    async def program(ctx: RunContext) -> None:
        await ctx.step("one", lambda: 1)
        seen.extend(journal.keys)

    run(go(program, journal))
    assert seen == ["one#1"]


def test_a_program_gets_the_same_types_and_order_first_and_on_replay() -> None:
    seen = []

    @dataclass
    class Fact:
        z: int
        a: tuple[int, ...]

    async def program(ctx: RunContext) -> None:
        seen.append(repr(await ctx.step("fact", lambda: [Fact(1, (2,)), datetime(2026, 1, 1, tzinfo=UTC), -0.0, 1e22])))

    journal = JsonJournal()
    run(go(program, journal))
    run(go(program, journal))
    assert seen[0] == seen[1] == "[{'a': [2], 'z': 1}, '2026-01-01T00:00:00+00:00', 0.0, 10000000000000000000000]"


def test_what_a_program_does_to_a_result_does_not_reach_the_journal() -> None:
    async def program(ctx: RunContext) -> Any:
        found = await ctx.step("list", lambda: [1])
        found.append(2)
        return found

    journal = MemoryJournal()
    assert run(go(program, journal)).output == [1, 2]
    assert run(go(program, journal)).output == [1, 2]
    assert journal.steps["list#1"].output == [1]


def test_another_input_on_replay_is_a_version_mismatch_that_names_the_step_and_no_catch_hides_it() -> None:
    ran, count = counting()

    def program(argument: int, swallow: bool) -> Callable[[RunContext], Any]:
        async def program(ctx: RunContext) -> Any:
            try:
                return await ctx.step("count", count, argument)
            except Exception:
                if not swallow:
                    raise
                return "went on"

        return program

    journal = JsonJournal()
    run(go(program(1, False), journal))
    for swallow in (False, True):
        with pytest.raises(VersionMismatch, match="count#1") as caught:
            run(go(program(2, swallow), journal))
    assert caught.value.extra["step"] == "count#1"
    assert len(ran) == 1


def test_a_step_of_another_kind_under_the_same_key_is_a_version_mismatch() -> None:
    async def before(ctx: RunContext) -> None:
        await ctx.step("news", lambda: None)

    async def after(ctx: RunContext) -> None:
        await ctx.emit("news", [])

    journal = JsonJournal()
    run(go(before, journal))
    with pytest.raises(VersionMismatch):
        run(go(after, journal))


def test_time_chance_and_ids_are_the_same_on_replay_and_differ_between_places_and_runs() -> None:
    times = iter(datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 30))

    async def program(ctx: RunContext) -> Any:
        now, number, name = await ctx.now(), await ctx.random(), await ctx.uuid()
        assert isinstance(now, datetime)
        assert now.tzinfo is not None
        assert 0 <= number < 1
        assert isinstance(name, UUID)
        assert name.version == 4
        return [now, number, await ctx.random(), name, await ctx.uuid()]

    journal = JsonJournal()
    first = run(go(program, journal, seed=7, clock=lambda: next(times))).output
    again = run(go(program, journal, seed=7, clock=lambda: next(times))).output
    other = run(go(program, run_id="run-2", seed=7)).output
    assert first == again
    assert len({str(value) for value in [*first, *other]}) == 10
    assert journal.keys == ["now#1"]


def test_a_synchronous_function_runs_in_a_thread_and_an_asynchronous_one_on_the_loop() -> None:
    async def on_loop() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def program(ctx: RunContext) -> Any:
        return [
            await ctx.step("sync", lambda: threading.current_thread() is threading.main_thread()),
            await ctx.step("async", on_loop),
            await ctx.step("late", lambda: on_loop()),
        ]

    assert run(go(program)).output == [False, True, True]


@pytest.mark.parametrize(
    "value", [{1, 2}, b"x", object(), {"a": [{1: "b"}]}, float("nan"), pytest.param(10**9999, id="huge")]
)
def test_what_json_cannot_hold_is_refused_with_the_name_of_the_step(value: Any) -> None:
    async def returns(ctx: RunContext) -> None:
        await ctx.step("odd", lambda: value)

    async def takes(ctx: RunContext) -> None:
        await ctx.step("odd", print, value)

    async def ends_with(ctx: RunContext) -> Any:
        return value

    for program, words in (
        (returns, "output of step 'odd'"),
        (takes, "Argument 1 of step 'odd'"),
        (ends_with, "output"),
    ):
        with pytest.raises(NotJson, match=words):
            run(go(program))


def test_a_value_deep_inside_is_pointed_at() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.step("odd", lambda: {"rows": [1, {"x": {3}}]})

    with pytest.raises(NotJson, match=r"a set at \['rows'\]\[1\]\['x'\]"):
        run(go(program))


def test_a_circle_is_refused_as_nested_too_deeply() -> None:
    circle: list[Any] = []
    circle.append(circle)

    async def program(ctx: RunContext) -> None:
        await ctx.step("odd", lambda: circle)

    with pytest.raises(NotJson, match="nested too deeply"):
        run(go(program))


def test_an_output_over_the_limit_is_refused_with_the_name_of_the_step() -> None:
    async def program(ctx: RunContext) -> Any:
        return await ctx.step("big", lambda: "é" * 100)

    assert run(go(program, options=Options(max_output_bytes=202))).output == "é" * 100
    with pytest.raises(OutputTooLarge, match="step 'big' has 202 bytes; 201"):
        run(go(program, options=Options(max_output_bytes=201)))


def test_a_failing_function_is_a_step_failure_with_a_fingerprint_that_survives_moving_lines() -> None:
    def fails() -> None:
        raise KeyError("lost")

    async def program(ctx: RunContext) -> None:
        await ctx.step("fails", fails)

    journal = JsonJournal()
    with pytest.raises(StepFailed, match="KeyError: 'lost'") as caught:
        run(go(program, journal))
    extra = caught.value.extra
    assert extra["step"] == "fails"
    assert extra["error"] == "KeyError"
    assert "fails:" in extra["at"]
    assert len(extra["fingerprint"]) == 16
    assert isinstance(caught.value.__cause__, KeyError)
    assert [(f.key, f.ok, f.problem and f.problem["type"]) for f in journal.failures] == [
        ("fails#1", False, "/problems/step-failed")
    ]
    assert not journal.steps


@pytest.mark.parametrize("raised", [StopIteration("x"), SystemExit(3)])
def test_exceptions_that_upset_event_loops_are_step_failures_too(raised: BaseException) -> None:
    def fails() -> None:
        raise raised

    async def program(ctx: RunContext) -> None:
        await ctx.step("fails", fails)

    with pytest.raises(StepFailed, match=type(raised).__name__):
        run(go(program))


def test_a_run_error_that_a_function_raises_comes_as_it_is() -> None:
    def fails() -> None:
        raise BadInput("no such account")

    async def program(ctx: RunContext) -> None:
        await ctx.step("fails", fails)

    with pytest.raises(BadInput, match="no such account"):
        run(go(program))


def test_a_failure_that_the_program_caught_is_repeated_on_replay_although_it_would_succeed_now() -> None:
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("down")
        return "up"

    async def program(ctx: RunContext) -> Any:
        try:
            way = await ctx.step("flaky", flaky)
        except StepFailed as error:
            way = f"{error.slug} {error.extra['error']} {error.detail}"
        await ctx.step("after", lambda way: way, way)
        return way

    journal = JsonJournal()
    first = run(go(program, journal)).output
    assert first == "step-failed ValueError ValueError: down"
    assert run(go(program, journal)).output == first
    assert attempts == [1]
    assert journal.keys == ["flaky#1!", "after#1"]


def test_a_failure_that_ended_the_attempt_is_tried_again_by_the_next() -> None:
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("down")
        return "up"

    async def program(ctx: RunContext) -> Any:
        return await ctx.step("flaky", flaky)

    journal = JsonJournal()
    with pytest.raises(StepFailed):
        run(go(program, journal))
    assert run(go(program, journal)).output == "up"


@pytest.mark.parametrize("what", ["step", "tools", "gather", "model"])
def test_a_caught_failure_is_recorded_before_anything_else_begins(what: str) -> None:
    order: list[str] = []

    class Journal(JsonJournal):
        async def record(self, record: StepRecord) -> None:
            await super().record(record)
            order.append(record.key if record.ok else f"event {record.key}")

    async def runs() -> None:
        order.append("next runs")

    async def answer(call: Any) -> Any:
        await runs()
        return reply("ok")

    def fails() -> None:
        raise ValueError

    async def program(ctx: RunContext) -> None:
        with pytest.raises(StepFailed):
            await ctx.step("fails", fails)
        if what == "step":
            await ctx.step("next", runs)
        elif what == "tools":
            await ctx.tools([call("look")])
        elif what == "model":
            await ctx.model("next", "hi")
        else:
            await ctx.gather(ctx.step("next", runs))

    run(go(program, Journal(), ScriptedPort([answer]), ScriptedTools({"look": lambda call, context: runs()})))
    assert order[:3] == ["event fails#1", "fails#1!", "next runs"]
    assert len(order) == 4


def test_a_caught_model_failure_keeps_its_type_on_replay() -> None:
    async def program(ctx: RunContext) -> Any:
        try:
            return (await ctx.model("ask", "hi")).text
        except ModelUnavailable as error:
            await ctx.step("sorry", lambda: None)
            return [error.retriable, error.detail, error.extra["retry_after_s"]]

    journal = JsonJournal()
    down = ScriptedPort([lambda call: ModelUnavailable("503", retry_after_s=99)])
    first = run(go(program, journal, down)).output
    assert first == [True, "503", 99]
    assert run(go(program, journal)).output == first


def test_an_event_is_published_once() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.emit("research.completed", {"pages": 3})

    journal, screen = JsonJournal(), Screen()
    run(go(program, journal, transport=screen))
    run(go(program, journal, transport=screen))
    assert [(s.kind, s.name, s.output) for s in screen.steps] == [("emit", "research.completed", {"pages": 3})]


def test_progress_is_no_step_and_a_replay_does_not_tell_it_again() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.progress(0, 3, "begin")
        await ctx.step("one", lambda: None)
        await ctx.progress(1, 3)
        await ctx.step("two", lambda: None)
        await ctx.progress(2, 3)

    journal = JsonJournal()
    run(go(program, journal))
    assert journal.told == [(0, 3, "begin"), (1, 3, ""), (2, 3, "")]
    journal.told.clear()
    del journal.steps["two#1"]
    run(go(program, journal))
    assert journal.told == [(1, 3, ""), (2, 3, "")]


def test_a_patch_takes_new_runs_the_new_way_and_runs_in_flight_the_old_one() -> None:
    async def old(ctx: RunContext) -> Any:
        await ctx.step("first", lambda: None)
        return await ctx.step("old", lambda: "old")

    async def new(ctx: RunContext) -> Any:
        await ctx.step("first", lambda: None)
        if ctx.patched("better"):
            found = await ctx.step("new", lambda: "new")
        else:
            found = await ctx.step("old", lambda: "old")
        return [found, ctx.patched("better")]

    before = JsonJournal()
    run(go(old, before))
    assert run(go(new, before)).output == ["old", False]
    fresh = JsonJournal()
    assert run(go(new, fresh)).output == ["new", True]
    assert run(go(new, fresh)).output == ["new", True]
    assert fresh.keys == ["first#1", "/patched/better", "new#1"]
    # One that stopped right before the change takes the new way, and keeps to it.
    stopped = JsonJournal({"first#1": before.steps["first#1"]})
    assert run(go(new, stopped)).output == ["new", True]


def test_a_patch_is_recorded_once_and_before_any_step_of_any_branch_that_relies_on_it() -> None:
    async def branch(ctx: RunContext) -> None:
        assert ctx.patched("better")
        await ctx.step("new", asyncio.sleep, 0)

    async def program(ctx: RunContext) -> None:
        await ctx.gather(branch(ctx), branch(ctx))

    journal = JsonJournal()
    run(go(program, journal))
    assert journal.keys == ["/patched/better", "1.0/new#1", "1.1/new#1"]


@pytest.mark.parametrize("name", ["", "a/b", "a#1", "a!", " a", "x" * 121, "a\nb", 3])
def test_a_name_that_would_spoil_keys_is_refused(name: Any) -> None:
    async def step(ctx: RunContext) -> None:
        await ctx.step(name, lambda: None)

    async def patch(ctx: RunContext) -> None:
        ctx.patched(name)

    for program in (step, patch):
        with pytest.raises(Misuse, match="is no name for a step"):
            run(go(program))


def test_a_call_on_ctx_inside_a_step_is_refused() -> None:
    async def program(ctx: RunContext) -> None:
        async def inner() -> None:
            await ctx.now()

        await ctx.step("outer", inner)

    with pytest.raises(Misuse, match=r"ctx.now was called while ctx.step\('outer'\) was still running"):
        run(go(program))


@pytest.mark.parametrize(
    "spawn",
    [
        lambda ctx: asyncio.create_task(ctx.step("a", lambda: 1)),
        lambda ctx: asyncio.gather(ctx.step("a", lambda: 1), ctx.step("b", lambda: 2)),
        lambda ctx: asyncio.wait_for(asyncio.ensure_future(ctx.step("a", lambda: 1)), 5),
    ],
)
def test_a_call_from_a_task_of_the_programs_own_is_refused_even_if_it_swallows_the_error(spawn: Any) -> None:
    async def program(ctx: RunContext) -> Any:
        try:
            return await spawn(ctx)
        except Exception:
            return "went on"

    journal = JsonJournal()
    with pytest.raises(Misuse, match=r"ctx\.gather") as caught:
        run(go(program, journal))
    assert isinstance(caught.value, ProgramError)
    assert not caught.value.retriable
    assert not journal.steps


def test_a_step_that_the_program_cut_off_ends_the_run_at_its_next_call() -> None:
    async def program(ctx: RunContext) -> None:
        try:
            async with asyncio.timeout(1):
                await ctx.step("slow", asyncio.sleep, 60)
        except TimeoutError:
            await ctx.step("other way", lambda: None)

    with pytest.raises(Misuse, match=r"cut ctx.step\('slow'\) off and went on with ctx.step\('other way'\)"):
        run(go(program))


def test_a_journal_that_fails_ends_the_run_however_hard_the_program_tries_to_go_on() -> None:
    class Broken(JsonJournal):
        async def record(self, record: StepRecord) -> None:
            raise ConnectionError("no route")

    ran, count = counting()

    async def program(ctx: RunContext) -> str:
        for _ in range(3):
            try:
                await ctx.step("count", count)
            except Exception:
                continue
        return "done"

    with pytest.raises(JournalUnavailable, match="ConnectionError: no route") as caught:
        run(go(program, Broken()))
    assert caught.value.retriable
    assert len(ran) == 1


def test_a_journal_that_fails_is_not_asked_again() -> None:
    class Broken(JsonJournal):
        asked = 0

        async def record(self, record: StepRecord) -> None:
            self.asked += 1
            raise ConnectionError("no route")

    async def program(ctx: RunContext) -> None:
        await ctx.model("ask", "hi")

    journal = Broken()
    with pytest.raises(JournalUnavailable):
        run(go(program, journal, ScriptedPort([ModelUnavailable("503"), reply("never")])))
    assert journal.asked == 1


def test_a_journal_that_cannot_be_read_ends_the_run_before_it_begins() -> None:
    class Broken(JsonJournal):
        async def load(self) -> Any:
            raise ConnectionError("no route")

    ran, count = counting()

    async def program(ctx: RunContext) -> None:
        await ctx.step("count", count)

    with pytest.raises(JournalUnavailable):
        run(go(program, Broken()))
    assert not ran


def test_the_timeline_shows_a_long_input_in_part() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.step("long", len, "x" * 10_000)

    journal = JsonJournal()
    run(go(program, journal))
    assert journal.records[0].input["characters"] == 10_004
    assert len(journal.records[0].input["preview"]) == 4_000


def test_the_totals_count_steps_of_earlier_claims_too() -> None:
    async def program(ctx: RunContext) -> None:
        await ctx.model("ask", "hi")
        await ctx.step("one", lambda: None)

    journal = JsonJournal()
    first = run(go(program, journal)).totals
    del journal.steps["one#1"]
    assert run(go(program, journal, ScriptedPort([reply("never asked")]))).totals == first
    assert (first.steps, first.turns, first.output_tokens) == (2, 1, 10)
