"""People decide: what runs is exactly what they approved, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from agents.runtime.context import RunContext
from agents.runtime.effects import MemoryLedger
from agents.runtime.errors import RunError
from agents.runtime.parking import RunParked
from agents.runtime.plain import plain
from agents.runtime.plans import (
    ChangesRequested,
    Decided,
    Plan,
    PlanAltered,
    PlannedCall,
    Rejected,
    as_plan,
)
from agents.runtime.ports import Superseded, ToolContext, ToolPolicy, Waiting
from agents.runtime.types import ToolCall
from tests.support.scripted import JsonJournal, ScriptedTools, call, go
from tests.support.virtual_time import run

Program = Callable[[RunContext], Awaitable[Any]]


@dataclass
class Gate:
    """Asks about writes over an amount, and seals with a word."""

    over: float = 100
    seals: str = "sealed"

    def asks(self, call: ToolCall) -> Mapping[str, Any] | None:
        if call.tool == "write" and call.arguments.get("amount", 0) > self.over:
            return {"rule": "large", "words": f"write over {self.over:g}"}
        return None

    def planned(self, call: ToolCall) -> PlannedCall:
        return PlannedCall(id=call.id, tool=call.tool, arguments=call.arguments, touches=("the ledger",))

    def holds(self, decided: Decided) -> bool:
        return decided.seal == f"{self.seals}:{decided.approval_id}:{decided.decision}:{decided.plan_hash}"


def decision(wait: Waiting, decision: Any = "approve", *, plan: Plan | None = None, **more: Any) -> dict[str, Any]:
    """Decide on what was asked, as the site would."""
    asked = Plan.model_validate(wait.data["plan"])
    wanted = plan or asked
    made = Decided(
        approval_id="a1",
        run_id="r1",
        wait_key=wait.key,
        decision=decision,
        plan=wanted,
        plan_hash=wanted.hash,
        asked=tuple(one.id for one in asked.calls),
        by=("rita",),
        **more,
    )
    seal = f"sealed:a1:{decision}:{wanted.hash}"
    found: dict[str, Any] = plain(made.model_copy(update={"seal": seal}))
    return found


@dataclass
class Case:
    """A program that is run again and again on one journal."""

    program: Program
    gate: Gate = field(default_factory=Gate)
    journal: JsonJournal = field(default_factory=JsonJournal)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    policies: Mapping[str, ToolPolicy] = field(default_factory=dict)
    ran: list[tuple[dict[str, Any], bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        def tool(call: ToolCall, context: ToolContext) -> str:
            self.ran.append((call.arguments, bool(context.approval_id)))
            return "ok"

        self.toolbox = ScriptedTools({"look": tool, "write": tool}, self.policies)

    def go(self) -> Any:
        return run(
            go(self.program, self.journal, toolbox=self.toolbox, gatekeeper=self.gate, ledger=self.ledger)
        ).output

    def asked(self) -> Waiting:
        with pytest.raises(RunParked) as caught:
            self.go()
        (wait,) = caught.value.waits
        assert wait.kind == "person"
        return wait

    def decide(self, how: str = "approve", **more: Any) -> Any:
        wait = self.asked()
        self.journal.results |= {wait.key: decision(wait, how, **more)}
        return self.go()


async def writes(ctx: RunContext) -> Any:
    results = await ctx.tools([call("look", "c1"), call("write", "c2", amount=150), call("write", "c3", amount=20)])
    return [[result.ok, result.error, result.content] for result in results]


def test_calls_under_a_rule_wait_for_people_and_nothing_of_the_turn_runs_before() -> None:
    case = Case(writes)
    wait = case.asked()
    assert case.ran == []
    assert wait.data["plan"]["calls"] == [
        {
            "id": "2",
            "tool": "write",
            "arguments": {"amount": 150},
            "why": "",
            "touches": ["the ledger"],
            "undoable": None,
            "cost_usd": None,
        }
    ]
    assert wait.data["rules"] == [{"call": "2", "rule": "large", "words": "write over 100"}]


def test_approved_calls_run_once_beside_those_nobody_had_to_decide_on() -> None:
    case = Case(writes)
    assert [ok for ok, _, _ in case.decide()] == [True, True, True]
    assert case.ran == [({}, False), ({"amount": 150}, True), ({"amount": 20}, False)]
    case.go()
    assert len(case.ran) == 3


def test_a_rejected_call_is_a_result_for_the_model_to_read() -> None:
    case = Case(writes)
    results = case.decide("reject", comment="too much")
    assert results[1] == [False, "rejected", "This call was rejected by rita: too much"]
    assert ({"amount": 150}, True) not in case.ran
    assert len(case.ran) == 2
    assert case.go() == results


def test_requested_changes_are_a_result_for_the_model_to_read() -> None:
    results = Case(writes).decide("request_changes", comment="in two parts")
    assert results[1] == [False, "changes-requested", "Changes to this call were requested by rita: in two parts"]


def test_a_call_that_people_changed_runs_as_they_changed_it() -> None:
    changed = Plan(calls=(PlannedCall(id="2", tool="write", arguments={"amount": 90}),))
    case = Case(writes)
    case.decide("approve_with_changes", plan=changed)
    assert ({"amount": 90}, True) in case.ran
    assert ({"amount": 150}, True) not in case.ran
    case.go()
    assert len(case.ran) == 3


@pytest.mark.parametrize("calls", [(), (PlannedCall(id="2", tool="look"),)], ids=["removed", "another-tool"])
def test_a_call_that_people_took_out_does_not_run(calls: tuple[PlannedCall, ...]) -> None:
    case = Case(writes)
    results = case.decide("approve_with_changes", plan=Plan(calls=calls))
    assert results[1][1] == "removed"
    assert len(case.ran) == 2


def test_two_calls_of_one_id_are_decided_on_one_by_one() -> None:
    async def program(ctx: RunContext) -> Any:
        results = await ctx.tools([call("write", "same", amount=200), call("write", "same", amount=300)])
        return [result.error for result in results]

    case = Case(program)
    wait = case.asked()
    kept = Plan.model_validate(wait.data["plan"]).calls[1:]
    assert case.decide("approve_with_changes", plan=Plan(calls=kept)) == ["removed", None]
    assert case.ran == [({"amount": 300}, True)]


@pytest.mark.parametrize(
    "alter",
    [
        lambda result: result["plan"]["calls"][0]["arguments"].update(amount=999),
        lambda result: result.update(plan_hash="0" * 64),
        lambda result: result.update(decision="approve_with_changes"),
        lambda result: result.update(seal="forged"),
        lambda result: result.clear(),
    ],
    ids=["arguments", "hash", "decision", "seal", "nothing"],
)
def test_a_decision_that_was_altered_in_the_database_runs_nothing(alter: Callable[[dict[str, Any]], None]) -> None:
    case = Case(writes)
    wait = case.asked()
    result = decision(wait)
    alter(result)
    case.journal.results = {wait.key: result}
    with pytest.raises(PlanAltered):
        case.go()
    assert case.ran == []


def test_arguments_and_hash_altered_together_are_found_by_the_seal() -> None:
    case = Case(writes)
    wait = case.asked()
    result = decision(wait)
    result["plan"]["calls"][0]["arguments"]["amount"] = 999
    result["plan_hash"] = Plan.model_validate(result["plan"]).hash
    case.journal.results = {wait.key: result}
    with pytest.raises(PlanAltered):
        case.go()


def test_a_rule_that_came_while_the_run_waited_does_not_ask_about_what_has_run() -> None:
    async def program(ctx: RunContext) -> Any:
        await ctx.tools([call("write", "c1", amount=50)])
        await ctx.wait_event("go")
        return len(await ctx.tools([call("write", "c2", amount=50)]))

    case = Case(program)
    with pytest.raises(RunParked):
        case.go()
    case.gate.over = 10
    case.journal.results = {"go#1": None}
    wait = case.asked()
    assert [one["id"] for one in wait.data["plan"]["calls"]] == ["1"]
    assert len(case.ran) == 1
    case.journal.results[wait.key] = decision(wait)
    assert case.go() == 1
    assert len(case.ran) == 2


def test_a_rule_that_went_while_people_decided_leaves_their_decision_in_force() -> None:
    case = Case(writes)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait, "reject")}
    case.gate.over = 1_000
    assert case.go()[1][1] == "rejected"


# --- ctx.approve -----------------------------------------------------------------------------------------------------

PLAN = as_plan([PlannedCall(id="1", tool="write", arguments={"amount": 500}, why="The customer paid twice.")])


async def asks_first(ctx: RunContext) -> Any:
    plan = await ctx.approve(PLAN, reason="refund over 100 USD")
    return [result.ok for result in await ctx.tools(plan.calls)]


def test_a_programs_plan_is_asked_about_once_and_its_calls_need_no_second_decision() -> None:
    case = Case(asks_first)
    wait = case.asked()
    assert wait.data["reason"] == "refund over 100 USD"
    (told,) = wait.data["plan"]["calls"]
    assert (told["why"], told["touches"]) == ("The customer paid twice.", ["the ledger"]), (
        "the tool says what it touches"
    )
    assert wait.data["plan_hash"] == Plan.model_validate(wait.data["plan"]).hash
    assert wait.data["rules"] == [{"call": "1", "rule": "large", "words": "write over 100"}]
    assert case.decide() == [True]
    assert case.ran == [({"amount": 500}, True)]


def test_what_a_decision_lets_run_runs_once() -> None:
    async def twice(ctx: RunContext) -> Any:
        plan = await ctx.approve(PLAN)
        await ctx.tools(plan.calls)
        await ctx.tools(plan.calls)

    case = Case(twice)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait)}
    second = case.asked()
    assert second.key != wait.key
    assert case.ran == [({"amount": 500}, True)]


def test_a_plan_that_people_changed_is_what_comes_back() -> None:
    changed = Plan(calls=(PlannedCall(id="1", tool="write", arguments={"amount": 400}),))
    case = Case(asks_first)
    assert case.decide("approve_with_changes", plan=changed) == [True]
    assert case.ran == [({"amount": 400}, True)]


@pytest.mark.parametrize(
    ("how", "error"), [("reject", Rejected), ("request_changes", ChangesRequested)], ids=["reject", "changes"]
)
def test_a_program_is_told_what_people_said(how: str, error: type[RunError]) -> None:
    with pytest.raises(error, match="by rita: not so") as caught:
        Case(asks_first).decide(how, comment="not so")
    assert caught.value.extra["comment"] == "not so"
    assert caught.value.users_own


def test_a_program_that_revises_asks_again_with_the_new_plan() -> None:
    seen: list[str] = []

    async def revise(plan: Plan, comment: str) -> Plan:
        seen.append(comment)
        return as_plan([plan.calls[0].model_copy(update={"arguments": {"amount": 250}})])

    async def program(ctx: RunContext) -> Any:
        plan = await ctx.approve(PLAN, revise=revise)
        return [result.ok for result in await ctx.tools(plan.calls)]

    case = Case(program)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait, "request_changes", comment="half of it")}
    second = case.asked()
    assert second.data["plan"]["calls"][0]["arguments"] == {"amount": 250}
    assert (wait.key, second.key) == ("approve#1", "approve#2")
    assert set(seen) == {"half of it"}
    assert case.decide() == [True]
    assert case.ran == [({"amount": 250}, True)]


def test_a_plan_binds_all_that_people_read() -> None:
    first = PLAN.calls[0]
    for changes in (
        {"arguments": {"amount": 501}},
        {"tool": "look"},
        {"why": "Because."},
        {"touches": ("all",)},
        {"undoable": True},
        {"cost_usd": Decimal(1)},
    ):
        other = Plan.model_validate(plain(as_plan([first.model_copy(update=changes)])))
        assert other.hash != PLAN.hash, changes
    twice = as_plan([first, first.model_copy(update={"id": "2"})])
    assert as_plan(list(reversed(twice.calls))).hash != twice.hash


def test_two_branches_ask_at_the_same_time() -> None:
    async def one(ctx: RunContext, amount: int) -> Any:
        return (await ctx.tools([call("write", "c", amount=amount)]))[0].ok

    async def program(ctx: RunContext) -> Any:
        return await ctx.gather(one(ctx, 200), one(ctx, 300), one(ctx, 5))

    case = Case(program)
    with pytest.raises(RunParked) as caught:
        case.go()
    assert len(caught.value.waits) == 2
    assert case.ran == [({"amount": 5}, False)]
    case.journal.results = {wait.key: decision(wait) for wait in caught.value.waits}
    assert case.go() == [True, True, True]


# --- Replays ---------------------------------------------------------------------------------------------------------


def test_the_steps_summary_says_who_decided_what() -> None:
    changed = Plan(calls=(PlannedCall(id="2", tool="write", arguments={"amount": 90}),))
    case = Case(writes)
    case.decide("approve_with_changes", plan=changed, comment="half")
    (step,) = [record for record in case.journal.records if record.kind == "wait"]
    assert (step.name, step.summary) == ("approve calls 1", "Approved with changes by rita: half")
    assert step.output["plan"]["calls"][0]["arguments"] == {"amount": 90}


@pytest.mark.parametrize("cut_after", range(4))
def test_a_turn_that_is_cut_off_anywhere_runs_each_call_once_and_asks_nobody_again(cut_after: int) -> None:
    case = Case(writes, policies={"write": ToolPolicy(batchable=False, effect=True, idempotent=False)})
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait)}
    case.journal.cut_after = cut_after
    with pytest.raises(Superseded):
        case.go()
    case.journal.cut_after = None
    assert [ok for ok, _, _ in case.go()] == [True, True, True]
    assert [ran for ran in case.ran if ran[0]] == [({"amount": 150}, True), ({"amount": 20}, False)]


def test_a_refused_call_does_not_change_what_the_calls_after_it_are_called() -> None:
    async def program(ctx: RunContext) -> Any:
        results = await ctx.tools([call("write", "c1", amount=150), call("write", "c2", amount=20)])
        await ctx.wait_event("go")
        return [result.error for result in results]

    case = Case(program)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait, "reject")}
    with pytest.raises(RunParked):
        case.go()
    assert case.ran == [({"amount": 20}, False)]
    case.gate.over = 10  # by now it would be asked about: but it has run
    case.journal.results["go#1"] = None
    assert case.go() == ["rejected", None]
    assert len(case.ran) == 1


def test_a_rule_that_came_while_people_decided_is_asked_about_before_anything_runs() -> None:
    case = Case(writes)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait)}
    case.gate.over = 10
    second = case.asked()
    assert [one["id"] for one in second.data["plan"]["calls"]] == ["3"], "what was approved stays approved"
    assert case.ran == []
    case.journal.results[second.key] = decision(second, "reject")
    assert [error for _, error, _ in case.go()] == [None, None, "rejected"]
    assert case.ran == [({}, False), ({"amount": 150}, True)]


def test_a_program_that_swallows_that_its_plan_was_altered_goes_no_further() -> None:
    async def stubborn(ctx: RunContext) -> Any:
        with suppress(RunError):
            await ctx.approve(PLAN)
        return await ctx.tools([call("look", "c1")])

    case = Case(stubborn)
    wait = case.asked()
    result = decision(wait)
    result["plan"]["calls"][0]["arguments"]["amount"] = 999
    case.journal.results = {wait.key: result}
    with pytest.raises(PlanAltered):
        case.go()
    assert case.ran == []


def test_a_decision_that_is_altered_in_the_journal_runs_nothing_more() -> None:
    case = Case(asks_first)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait)}
    case.journal.cut_after = 1  # its process dies when the decision is recorded and the call is not
    with pytest.raises(Superseded):
        case.go()
    case.journal.cut_after = None
    recorded = case.journal.steps["approve#1"]
    case.journal.steps["approve#1"] = replace(recorded, output=recorded.output.replace("500", "999"))
    with pytest.raises(PlanAltered):
        case.go()
    assert [arguments for arguments, _ in case.ran] == [{"amount": 500}]


# --- Once for each time that it stands in the plan -------------------------------------------------------------------


def test_a_call_that_stands_twice_in_a_plan_runs_twice_and_a_third_time_is_asked_about() -> None:
    twice = as_plan([PlannedCall(id=n, tool="write", arguments={"amount": 500}) for n in ("1", "2")])

    async def program(ctx: RunContext) -> Any:
        plan = await ctx.approve(twice)
        return [result.ok for result in await ctx.tools([*plan.calls, plan.calls[0]])]

    case = Case(program)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait)}
    second = case.asked()
    assert [one["id"] for one in second.data["plan"]["calls"]] == ["3"]
    assert case.ran == []
    case.journal.results[second.key] = decision(second)
    assert case.go() == [True, True, True]
    assert len(case.ran) == 3


def test_a_program_that_changes_what_was_approved_is_asked_again() -> None:
    async def program(ctx: RunContext) -> Any:
        plan = await ctx.approve(PLAN)
        (one,) = plan.calls
        return await ctx.tools([one.model_copy(update={"arguments": {"amount": 501}})])

    case = Case(program)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait)}
    second = case.asked()
    assert second.data["plan"]["calls"][0]["arguments"] == {"amount": 501}
    assert case.ran == []


def test_the_branch_that_used_a_decision_up_has_used_it_in_every_replay() -> None:
    async def program(ctx: RunContext) -> Any:
        async def one(event: str) -> Any:
            await ctx.wait_event(event)
            return (await ctx.tools(PLAN.calls))[0].ok

        await ctx.approve(PLAN)
        return await ctx.gather(one("first"), one("second"))

    case = Case(program)
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait), "1.1/second#1": None}
    with pytest.raises(RunParked) as caught:
        case.go()
    assert [one.kind for one in caught.value.waits] == ["event"]
    assert len(case.ran) == 1, "the second branch came first"
    case.journal.results["1.0/first#1"] = None
    second = case.asked()
    assert second.key.startswith("1.0/")
    assert len(case.ran) == 1
    case.journal.results[second.key] = decision(second)
    assert case.go() == [True, True]
    assert len(case.ran) == 2


def test_a_decision_that_a_branch_had_begun_to_use_when_its_process_died_is_no_other_branchs() -> None:
    async def program(ctx: RunContext) -> Any:
        async def one(event: str) -> Any:
            await ctx.wait_event(event)
            return (await ctx.tools(PLAN.calls))[0].ok

        await ctx.approve(PLAN)
        return await ctx.gather(one("first"), one("second"))

    case = Case(program, policies={"write": ToolPolicy(effect=True)})
    wait = case.asked()
    case.journal.results = {wait.key: decision(wait), "1.1/second#1": None}
    case.journal.cut_after = 2  # the approval and the event are recorded, the call is not
    with pytest.raises(Superseded):
        case.go()
    case.journal.cut_after = None
    case.journal.results["1.0/first#1"] = None
    assert case.asked().key.startswith("1.0/")
    assert len(case.ran) == 1


# --- Plans in branches, plans of nothing -----------------------------------------------------------------------------


def test_branches_ask_about_their_plans_at_the_same_time() -> None:
    async def one(ctx: RunContext, amount: int) -> Any:
        plan = await ctx.approve([call("write", "c", amount=amount)])
        return [result.ok for result in await ctx.tools(plan.calls)]

    async def program(ctx: RunContext) -> Any:
        return await ctx.gather(one(ctx, 200), one(ctx, 300))

    case = Case(program)
    with pytest.raises(RunParked) as caught:
        case.go()
    assert [wait.key for wait in caught.value.waits] == ["1.0/approve#1", "1.1/approve#1"]
    case.journal.results = {wait.key: decision(wait) for wait in caught.value.waits}
    assert case.go() == [[True], [True]]
    assert case.ran == [({"amount": 200}, True), ({"amount": 300}, True)]


def test_a_decision_on_one_branchs_plan_is_none_on_anothers() -> None:
    async def one(ctx: RunContext) -> Any:
        return await ctx.tools((await ctx.approve(PLAN)).calls)

    async def program(ctx: RunContext) -> Any:
        await ctx.gather(one(ctx), one(ctx))

    case = Case(program)
    with pytest.raises(RunParked) as caught:
        case.go()
    first, second = caught.value.waits
    case.journal.results = {first.key: decision(first), second.key: decision(first)}
    with pytest.raises(PlanAltered):
        case.go()


def test_nobody_is_asked_about_nothing() -> None:
    async def program(ctx: RunContext) -> Any:
        return (await ctx.approve([])).calls

    assert Case(program).go() == []


def test_people_are_asked_about_a_plan_of_words() -> None:
    async def program(ctx: RunContext) -> Any:
        return (await ctx.approve(Plan(title="Go on?"))).title

    case = Case(program)
    assert case.decide() == "Go on?"


def test_what_is_done_already_is_not_asked_about_when_a_run_begins_anew() -> None:
    case = Case(writes, policies={"write": ToolPolicy(effect=True, idempotent=False)})
    case.decide()
    again = Case(writes, ledger=case.ledger, policies=case.policies)
    assert [ok for ok, _, _ in again.go()] == [True, True, True]
    assert again.ran == [({}, False)], "what it looked at it looks at again"


def test_what_is_to_be_done_again_is_asked_about_again() -> None:
    case = Case(writes, policies={"write": ToolPolicy(effect=True, idempotent=False)})
    case.decide()
    case.ledger.epoch = 2
    again = Case(writes, ledger=case.ledger, policies=case.policies)
    again.decide()
    assert [arguments for arguments, _ in again.ran] == [{}, {"amount": 150}, {"amount": 20}]
    assert len({context.idempotency_key for context in case.toolbox.contexts + again.toolbox.contexts}) == 6
