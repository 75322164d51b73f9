"""Parking: a run leaves its worker when nothing in it can go on, and only then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents.runtime.context import RunContext
from agents.runtime.errors import Misuse, ProgramError, RunError, StepFailed, VersionMismatch
from agents.runtime.parking import RunParked, wait_key
from tests.support.scripted import JsonJournal, go
from tests.support.virtual_time import run

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
Program = Callable[[RunContext], Awaitable[Any]]


async def after(seconds: float, result: Any) -> Any:
    await asyncio.sleep(seconds)
    if result == "fail":
        raise ValueError("no")
    return result


def parked(program: Program, journal: JsonJournal) -> list[str]:
    """Run until it parks; return the keys of its waits."""
    with pytest.raises(RunParked) as caught:
        run(go(program, journal, clock=lambda: NOON))
    return [wait.key for wait in caught.value.waits]


def test_a_run_that_only_waits_parks_and_goes_on_from_there() -> None:
    ran: list[str] = []

    async def program(ctx: RunContext) -> Any:
        await ctx.step("before", ran.append, "before")
        await ctx.sleep(3600)
        await ctx.step("after", ran.append, "after")
        return "done"

    journal = JsonJournal()
    with pytest.raises(RunParked) as caught:
        run(go(program, journal, clock=lambda: NOON))
    (wait,) = caught.value.waits
    assert (wait.key, wait.kind, wait.until) == ("sleep#1", "time", NOON + timedelta(hours=1))
    assert parked(program, journal) == ["sleep#1"], "nobody has resolved it yet"

    journal.results = {"sleep#1": None}
    assert run(go(program, journal)).output == "done"
    assert ran == ["before", "after"]
    assert [record.kind for record in journal.records] == ["step", "wait", "step"]


def test_an_events_data_is_recorded_and_returned_on_every_replay() -> None:
    async def program(ctx: RunContext) -> Any:
        data = await ctx.wait_event("paid", timeout_s=60)
        data["seen"] = True
        return data

    journal = JsonJournal()
    assert parked(program, journal) == ["paid#1"]
    journal.results = {"paid#1": {"amount": 12}}
    assert run(go(program, journal)).output == {"amount": 12, "seen": True}
    journal.results = {}
    assert run(go(program, journal)).output == {"amount": 12, "seen": True}


def test_lines_side_by_side_are_waited_for_together_once_nothing_else_goes_on() -> None:
    ran: list[str] = []

    async def branch(ctx: RunContext, name: str) -> Any:
        got = await ctx.wait_event(name)
        await ctx.step("note", ran.append, name)
        return got

    async def program(ctx: RunContext) -> Any:
        return await ctx.gather(branch(ctx, "a"), ctx.step("work", after, 5, "worked"), branch(ctx, "b"))

    journal = JsonJournal()
    assert parked(program, journal) == ["1.0/a#1", "1.2/b#1"]
    assert journal.keys == ["1.1/work#1"], "what could go on did, before the run parked"
    journal.results = {"1.2/b#1": "B"}
    assert parked(program, journal) == ["1.0/a#1"]
    assert ran == ["b"]
    journal.results |= {"1.0/a#1": "A"}
    assert run(go(program, journal)).output == ["A", "worked", "B"]
    assert ran == ["b", "a"]


def test_with_a_limit_so_many_are_asked_at_a_time() -> None:
    async def program(ctx: RunContext) -> Any:
        return await ctx.gather(*(ctx.wait_event("ok") for _ in range(3)), limit=2)

    journal = JsonJournal()
    assert parked(program, journal) == ["1.0/ok#1", "1.1/ok#1"]
    journal.results = {"1.0/ok#1": 0}
    assert parked(program, journal) == ["1.1/ok#1", "1.2/ok#1"]
    journal.results |= {"1.1/ok#1": 1, "1.2/ok#1": 2}
    assert run(go(program, journal)).output == [0, 1, 2]


def test_a_wait_in_a_gather_in_a_gather_is_found() -> None:
    async def inner(ctx: RunContext) -> Any:
        await ctx.gather()
        found = await ctx.gather(ctx.wait_event("deep"), ctx.step("quick", after, 0, "q"))
        return [*found, await ctx.step("last", after, 1, "l")]

    async def program(ctx: RunContext) -> Any:
        return await ctx.gather(inner(ctx), ctx.step("slow", after, 9, "s"), limit=1)

    journal = JsonJournal()
    (key,) = parked(program, journal)
    assert (key, journal.keys) == ("1.0/2.0/deep#1", ["1.0/2.1/quick#1"])
    journal.results = {key: "d"}
    assert run(go(program, journal)).output == [["d", "q", "l"], "s"]


def test_a_failure_beside_a_wait_is_not_waited_for() -> None:
    async def program(ctx: RunContext) -> Any:
        await ctx.gather(ctx.wait_event("never"), ctx.step("bad", after, 1, "fail"))

    with pytest.raises(StepFailed):
        run(go(program, JsonJournal()))


def test_a_program_that_goes_on_after_such_a_failure_asks_nobody_for_what_it_cut_off() -> None:
    async def program(ctx: RunContext) -> Any:
        with contextlib.suppress(RunError):
            await ctx.gather(ctx.wait_event("never"), ctx.step("bad", after, 1, "fail"))
        await ctx.step("on", after, 1, None)
        return await ctx.wait_event("then")

    journal = JsonJournal()
    assert parked(program, journal) == ["then#1"]
    assert parked(program, journal) == ["then#1"], "a replay raises the recorded failure and asks no more"
    journal.results = {"then#1": "now"}
    assert run(go(program, journal)).output == "now"


def test_a_caught_failure_before_a_wait_is_history_when_the_run_comes_back() -> None:
    healthy = False

    async def flaky() -> str:
        if not healthy:
            raise ValueError("down")
        return "up"

    async def program(ctx: RunContext) -> Any:
        try:
            found = await ctx.step("look", flaky)
        except RunError:
            found = "gave up"
        return [found, await ctx.wait_event("go")]

    journal = JsonJournal()
    assert parked(program, journal) == ["go#1"]
    healthy = True
    journal.results = {"go#1": 1}
    assert run(go(program, journal)).output == ["gave up", 1]


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
def test_a_program_cannot_stay_when_the_run_parks(swallowed: type[BaseException]) -> None:
    ran: list[str] = []

    async def program(ctx: RunContext) -> Any:
        try:
            await ctx.sleep(60)
        except swallowed:
            pass
        finally:
            with pytest.raises(BaseException):  # noqa: B017, PT011  # whatever it is, nothing runs
                await ctx.step("late", ran.append, "late")

    assert parked(program, JsonJournal()) == ["sleep#1"]
    assert ran == []


def test_a_line_that_does_something_of_its_own_is_waited_for() -> None:
    async def own(ctx: RunContext) -> Any:
        await asyncio.sleep(30)
        return await ctx.step("own", after, 0, "did")

    async def program(ctx: RunContext) -> Any:
        return await ctx.gather(ctx.wait_event("go"), own(ctx))

    journal = JsonJournal()
    assert parked(program, journal) == ["1.0/go#1"]
    assert journal.keys == ["1.1/own#1"]


def test_another_wait_at_the_same_place_is_another_program() -> None:
    async def program(ctx: RunContext, seconds: float = 5) -> Any:
        await ctx.sleep(seconds)

    journal = JsonJournal()
    journal.results = {"sleep#1": None}
    run(go(program, journal))
    with pytest.raises(VersionMismatch):
        run(go(lambda ctx: program(ctx, 6), journal))


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "soon", None])
def test_a_time_that_is_none_is_refused(seconds: Any) -> None:
    async def program(ctx: RunContext) -> Any:
        await ctx.sleep(seconds)

    with pytest.raises(Misuse, match="takes seconds"):
        run(go(program, JsonJournal()))


def test_long_keys_fit_into_a_row_and_stay_apart() -> None:
    first, second = "x" * 250 + "#1", "x" * 250 + "#2"
    assert wait_key("approve#1") == "approve#1"
    assert len(wait_key(first)) <= 200
    assert wait_key(first) != wait_key(second)


def test_a_program_that_cancels_itself_while_another_line_waits_has_failed_in_the_end() -> None:
    async def cancels(ctx: RunContext) -> None:
        raise asyncio.CancelledError

    async def program(ctx: RunContext) -> Any:
        await ctx.gather(cancels(ctx), ctx.wait_event("go"))

    journal = JsonJournal()
    assert parked(program, journal) == ["1.1/go#1"]
    journal.results = {"1.1/go#1": None}
    with pytest.raises(ProgramError):
        run(go(program, journal))
