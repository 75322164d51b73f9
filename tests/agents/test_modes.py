"""Mode is policy: one table, and one program that cannot tell."""

from __future__ import annotations

import ast
import dataclasses
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from agents.modes import POLICIES, Mode, ModePolicy, policy
from agents.programs.loop import loop
from agents.runtime.context import RunContext
from agents.runtime.types import Budget, Limits
from tests.support.scripted import JsonJournal, Screen, ScriptedPort, Stream, call, go, reply
from tests.support.virtual_time import run

ROOT = Path(__file__).resolve().parents[2]
APPS = ("accounts", "audit", "jobs", "agents", "approvals", "astra_site")
#: The table itself, the choices of database columns, and the checks of astra.yml.
MAY_NAME_MODES = ("agents/modes.py", "agents/models.py", "agents/config/")


def test_each_mode_has_one_row_and_every_knob_of_it_is_set_to_a_known_value() -> None:
    assert list(POLICIES) == list(Mode)
    for row in POLICIES.values():
        _check_literals(row)
        assert 0 <= row.eval_sampling <= 1
        assert 0 < row.provider.share <= 1
        assert row.on_failure.attempts >= 1


def _check_literals(row: Any) -> None:
    for name, hint in get_type_hints(type(row)).items():
        value = getattr(row, name)
        if dataclasses.is_dataclass(value):
            _check_literals(value)
        elif "Literal" in str(hint):
            assert value in get_args(hint)


def test_the_table_says_what_the_design_says() -> None:
    rows = [POLICIES[mode] for mode in (Mode.STREAMING, Mode.QUEUE, Mode.BATCH, Mode.SCHEDULED)]
    assert [(row.cost_ceiling.usd, row.cost_ceiling.per) for row in rows] == [
        (Decimal("0.05"), "run"),
        (Decimal("0.50"), "run"),
        (Decimal(500), "batch"),
        (Decimal(2), "run"),
    ]
    assert [(row.provider.priority, row.provider.share) for row in rows] == [(0, 1.0), (1, 0.9), (3, 0.5), (2, 0.8)]
    assert [row.eval_sampling for row in rows] == [0.01, 0.05, 1.0, 1.0]
    assert [(row.latency.kind, row.latency.p95_ms) for row in rows] == [
        ("hard", 6_000),
        ("soft", 90_000),
        ("none", None),
        ("soft", None),
    ]
    assert rows[0].latency.first_token_p95_ms == 1_400
    assert [row.concurrency.lane for row in rows] == ["chat", "queue", "batch", "scheduled"]


def test_a_row_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy("async-queue").eval_sampling = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError):
        POLICIES[Mode.QUEUE] = policy("batch-window")  # type: ignore[index]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="sync-queue"):
        policy("sync-queue")


@pytest.mark.parametrize(
    ("mode", "agent", "budget", "expected"),
    [
        ("async-queue", {}, {}, (8, 4000, "0.50", False, None)),
        ("async-queue", {}, {"cost_cap_usd": "0.10", "max_turns": 3}, (3, 4000, "0.10", True, None)),
        ("async-queue", {}, {"cost_cap_usd": "9", "max_tokens": 99_999}, (8, 4000, "0.50", True, None)),
        ("async-queue", {"cost_cap_usd": "0.20"}, {"latency_budget_ms": 700}, (8, 4000, "0.20", False, 700)),
        ("streaming-sync", {}, {}, (8, 4000, "0.05", False, 6000)),
        ("streaming-sync", {}, {"latency_budget_ms": 9000}, (8, 4000, "0.05", False, 6000)),
        ("batch-window", {}, {}, (8, 4000, None, False, None)),
        ("batch-window", {}, {"cost_cap_usd": 0}, (8, 4000, "0", True, None)),
    ],
)
def test_the_lowest_of_agent_mode_and_caller_is_the_limit(mode: str, agent: Any, budget: Any, expected: Any) -> None:
    found = policy(mode).limits(Limits.model_validate(agent), Budget.model_validate(budget))
    cap = None if expected[2] is None else Decimal(expected[2])
    assert (found.max_turns, found.max_tokens, found.cost_cap_usd) == (*expected[:2], cap)
    assert (found.cost_cap_explicit, found.latency_budget_ms) == expected[3:]
    assert found.wall_clock_s == 600


def test_only_a_run_that_nobody_waits_for_is_tried_again_as_a_whole() -> None:
    assert [row.retries_job for row in POLICIES.values()] == [False, True, True, True]


def test_where_somebody_waits_a_model_is_asked_once_more_at_once_and_given_up_on_soon() -> None:
    hard, soft = policy("streaming-sync").options(max_batch_size=3), policy("async-queue").options()
    assert (hard.attempts.most, hard.attempts.in_all) == (2, True)
    assert hard.attempts.base_s <= 0.2
    assert hard.attempts.max_s <= 2
    assert hard.streaming.first_token_s < soft.streaming.first_token_s
    assert hard.request_timeout_s < soft.request_timeout_s
    assert hard.streaming.stall_s < soft.streaming.stall_s
    assert (hard.max_batch_size, soft.max_batch_size) == (3, 8)
    assert soft.attempts.most == 3


async def busy(ctx: RunContext) -> Any:
    """Use everything a program may use."""
    plan = await ctx.model("plan", "What first?", tools=True)
    facts = await ctx.tools(plan.calls)
    notes = await ctx.gather(*(ctx.model("note", str(fact.content), max_tokens=100) for fact in facts), limit=2)
    length = await ctx.step("measure", len, [note.text for note in notes])
    await ctx.emit("tester.noted", length)
    chance = [await ctx.random(), str(await ctx.uuid())]
    answer = await ctx.compose([note.as_message() for note in notes], tools=False)
    return {"answer": answer.text, "facts": facts, "length": length, "chance": chance, "model": answer.model}


def script() -> ScriptedPort:
    def answer(asked: Any) -> Any:
        if asked.messages[-1].text == "What first?":
            return reply("First I look.", call("look", id="a"), call("write", id="b"))
        return Stream([(0.1, "It is "), (0.4, "so.")], reply(f"It is so. {len(asked.messages)}"))

    return ScriptedPort([answer])


@pytest.mark.parametrize("program", [busy, loop])
def test_one_program_runs_the_same_under_the_policies_of_all_modes(program: Any) -> None:
    def under(row: ModePolicy) -> Any:
        journal = JsonJournal()
        # Only streaming has somebody who watches.
        transport = Screen() if row.transport == "websocket" else None
        result = run(
            go(
                program,
                journal,
                script(),
                limits=row.limits(Limits(), Budget()),
                transport=transport,
                input="What first?",
                seed=1,
            )
        )
        return result, sorted((key, step.input_hash, step.output) for key, step in journal.steps.items())

    results = [under(row) for row in POLICIES.values()]
    assert results[0][0].output
    for other in results[1:]:
        assert other == results[0]


def _modules() -> list[Path]:
    return [path for app in APPS for path in (ROOT / app).rglob("*.py") if "migrations" not in path.parts]


def _names_a_mode(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return node.value in set(Mode)
    return isinstance(node, ast.Attribute) and node.attr in Mode.__members__ and _is_mode(node.value)


def _is_mode(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "Mode") or (
        isinstance(node, ast.Attribute) and node.attr == "Mode"
    )


def test_no_other_module_names_a_mode() -> None:
    modules = _modules()
    assert any(_names_a_mode(node) for node in ast.walk(ast.parse((ROOT / "agents/modes.py").read_text())))
    found = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for path in modules
        if not str(path.relative_to(ROOT)).startswith(MAY_NAME_MODES)
        for node in ast.walk(ast.parse(path.read_text()))
        if _names_a_mode(node)
    ]
    assert found == [], "ask agents.modes.policy(…) for a knob instead"


def test_the_runtime_and_the_programs_do_not_know_that_modes_exist() -> None:
    for folder in ("agents/runtime", "agents/programs"):
        for path in (ROOT / folder).rglob("*.py"):
            imported = {
                alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            }
            assert not [name for name in imported if name.startswith(("agents.modes", "agents.models"))], path
