"""Programs of all shapes, killed at every record boundary and resumed: nothing finished runs again, all ends alike."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agents.runtime.context import RunContext
from agents.runtime.errors import RunError
from agents.runtime.ports import Recorded, StepRecord, Superseded
from agents.runtime.types import ModelCall, Reply
from tests.support.scripted import JsonJournal, ScriptedPort, ScriptedTools, call, go, reply
from tests.support.virtual_time import run

# A node is (kind, parts). "fails" raises inside a step, "try" catches what its sequence raises.
LEAVES = st.sampled_from([("step", ()), ("model", ()), ("now", ()), ("chance", ()), ("fails", ()), ("tools", (2,))])


def _inner(nodes: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    sequence = st.lists(nodes, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("gather"), st.lists(sequence, min_size=1, max_size=3).map(tuple)),
        st.tuples(st.just("try"), st.tuples(sequence)),
    )


PROGRAMS = st.lists(st.recursive(LEAVES, _inner, max_leaves=10), min_size=1, max_size=4).map(tuple)


def mix(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


class World:
    """What is outside of a run and outlives its crashes: it sees that nothing finished happens again."""

    def __init__(self, flaky: bool) -> None:
        self.flaky = flaky
        self.finished: set[str] = set()
        self.happened = 0

    async def happen(self, name: str, random: Random) -> None:
        assert name not in self.finished, f"{name} has finished and runs again"
        self.happened += 1
        await asyncio.sleep(random.choice([0, 0, 1, 2, 5]))


class Journal(JsonJournal):
    def __init__(self, world: World, steps: Mapping[str, Recorded], cut_after: int | None) -> None:
        super().__init__(steps, cut_after)
        self.world = world

    async def record(self, record: StepRecord) -> None:
        await super().record(record)
        if record.ok:
            name = record.input["arguments"]["name"] if record.kind == "tool" else record.name
            if name not in ("now", "gather"):
                self.world.finished.add(name)


class Life:
    """One claim of the run: its own timing, the same world."""

    def __init__(self, world: World, shape: Sequence[Any], seed: int) -> None:
        self.world = world
        self.shape = shape
        self.random = Random(seed)

    async def act(self, name: str, value: str, fails: bool) -> str:
        await self.world.happen(name, self.random)
        if fails and (not self.world.flaky or self.random.random() < 0.5):
            raise ValueError(name)
        return mix(name, value)

    async def answer(self, call: ModelCall) -> Reply:
        name, value = call.messages[-1].text.split()
        await self.world.happen(name, self.random)
        return reply(mix(name, value))

    async def look(self, call: Any, context: Any) -> str:
        await self.world.happen(call.arguments["name"], self.random)
        return mix(call.arguments)

    async def node(self, ctx: RunContext, name: str, node: Any, value: str) -> str:
        kind, parts = node
        if kind in ("step", "fails"):
            return str(await ctx.step(name, self.act, name, value, kind == "fails"))
        if kind == "model":
            return (await ctx.model(name, f"{name} {value}", max_tokens=20)).text
        if kind == "now":
            return mix(await ctx.now())
        if kind == "chance":
            return mix(await ctx.random(), await ctx.uuid())
        if kind == "tools":
            results = await ctx.tools([call(name=f"{name}-{i}", value=value) for i in range(parts[0])])
            return mix(*(result.content for result in results))
        if kind == "gather":
            found = await ctx.gather(*(self.line(ctx, f"{name}.{i}", line, value) for i, line in enumerate(parts)))
            return mix(*found)
        assert kind == "try"
        try:
            return await self.line(ctx, name, parts[0], value)
        except RunError:
            return mix("caught", value)

    async def line(self, ctx: RunContext, name: str, nodes: Sequence[Any], value: str) -> str:
        for i, node in enumerate(nodes):
            value = await self.node(ctx, f"{name}-{i}", node, value)
        return value

    async def program(self, ctx: RunContext) -> str:
        return await self.line(ctx, "n", self.shape, "start")

    def live(self, journal: Journal) -> Any:
        """Return the output, or None when the run failed."""
        try:
            return run(
                go(
                    self.program,
                    journal,
                    ScriptedPort([self.answer]),
                    ScriptedTools({"look": self.look}),
                    limits={"max_turns": 1000, "max_tokens": 100_000, "wall_clock_s": 10_000},
                    clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
                )
            ).output
        except RunError:
            return None


def crash_until_it_ends(world: World, shape: Sequence[Any], cuts: Sequence[int], seed: int) -> tuple[Any, Journal]:
    """Kill the run after so many records of each claim (the last of ``cuts`` for ever) until it ends by itself."""
    steps: Mapping[str, Recorded] = {}
    for life in range(1000):
        journal = Journal(world, steps, cuts[min(life, len(cuts) - 1)])
        try:
            return Life(world, shape, seed + life).live(journal), journal
        except Superseded:
            steps = journal.steps
    raise AssertionError("it makes no progress")


SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(PROGRAMS, st.integers(0, 2**32))
def test_killed_at_every_record_boundary_a_program_ends_as_if_nothing_had_happened(shape: Any, seed: int) -> None:
    whole = World(flaky=False)
    expected = Life(whole, shape, seed).live(Journal(whole, {}, None))
    event("fails" if expected is None else "succeeds")
    found, journal = crash_until_it_ends(World(flaky=False), shape, [1], seed)
    assert found == expected
    if found is not None:
        again = World(flaky=False)
        assert Life(again, shape, seed - 1).live(Journal(again, journal.steps, 0)) == expected
        assert again.happened == 0


@SETTINGS
@given(PROGRAMS, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**32))
def test_what_failed_and_was_caught_stays_so_however_often_the_program_is_killed(
    shape: Any, cuts: list[int], seed: int
) -> None:
    found, journal = crash_until_it_ends(World(flaky=True), shape, cuts, seed)
    if found is not None:
        again = World(flaky=True)
        assert Life(again, shape, seed - 1).live(Journal(again, journal.steps, None)) == found
