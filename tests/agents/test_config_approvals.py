"""`approvals` in astra.yml: what a rule may say, and what is refused with its line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from agents.approval_rules import Condition, Rule, Rules, Situation
from agents.config import ConfigError, load_config, loading
from tests.support.configs import write

BASE = """
programs: [tests.support.programs]
agents:
  payer: {version: 1, instructions: Pay., model: demo, program: test-pays, tools: [test_pay, file_read]}
endpoints:
  pay.v1: {agent: payer, mode: async-queue, input: {type: object}}
approvals:
"""
HERE = Situation("payer", "pay.v1", "async-queue")


def rules(text: str) -> Rules:
    config = load_config(write(BASE + text))
    return Rules(tuple(rule.rule(place) for place, rule in enumerate(config.approvals)))


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(BASE + text))
    return [str(fault).split(": ", 1)[1] for fault in caught.value.faults]


def test_a_rule_says_who_decides_by_when_and_what_happens_then() -> None:
    (rule,) = rules(
        '  - {name: large, when: {tool: test_pay, "amount_usd >": 100}, group: [reviewer, finance], users: [rita],'
        " quorum: 2, not_own: true, deadline_h: 48, remind_h: 2, autoAction: escalate, escalate_to: board,"
        " escalate_after_h: 24, per: step, links: true, webhook: true, reason: Money leaves the house}\n"
    ).rules
    assert rule == Rule(
        name="large",
        tools=("test_pay",),
        conditions=(Condition("amount_usd", ">", 100),),
        reason="Money leaves the house",
        groups=("reviewer", "finance"),
        users=("rita",),
        quorum=2,
        not_own=True,
        deadline=timedelta(days=2),
        remind=timedelta(hours=2),
        auto_action="escalate",
        escalate_to="board",
        escalate_after=timedelta(days=1),
        per_step=True,
        links=True,
        webhook=True,
    )
    assert Rule.from_json(rule.as_json()) == rule


def test_a_rule_that_says_nothing_of_it_asks_the_reviewers_for_a_day_and_then_rejects() -> None:
    (rule,) = rules("  - {when: {tool: test_pay}}\n").rules
    assert (rule.name, rule.groups, rule.users, rule.quorum) == ("rule 1", ("reviewer",), (), 1)
    assert (rule.deadline, rule.auto_action) == (timedelta(days=1), "reject")


def test_named_users_alone_decide_where_no_group_is_named() -> None:
    (rule,) = rules("  - {when: {tool: test_pay}, users: rita}\n").rules
    assert (rule.groups, rule.users) == ((), ("rita",))


@pytest.mark.parametrize(
    ("condition", "arguments", "asks"),
    [
        ('"amount_usd >": 100', {"amount_usd": 100.01}, True),
        ('"amount_usd >": 100', {"amount_usd": 100}, False),
        ('"amount_usd >": 100', {"amount_usd": "1,000"}, True),
        # What cannot be compared is for a person to see.
        ('"amount_usd >": 100', {"amount_usd": "a lot"}, True),
        ('"amount_usd >": 100', {"amount_usd": float("nan")}, True),
        ('"amount_usd >": 100', {}, True),
        ('"amount_usd >": 100, "amount_usd <=": 500', {"amount_usd": 501}, False),
        ('"file not under": reports', {"file": "reports/may.md"}, False),
        ('"file not under": reports', {"file": "reports/../secret"}, True),
        ('"file not under": reports', {"file": "reports\\\\..\\\\secret"}, True),
        ('"file not under": [reports, drafts]', {"file": "drafts/a.md"}, False),
        ('"file matches": "[.]env$"', {"file": "a/.env"}, True),
        ('"file in": [a, b]', {"file": "c"}, False),
        ('"amount_usd ==": 5', {"amount_usd": "5.0"}, True),
        ('"amount_usd !=": 5', {"amount_usd": 5}, False),
    ],
)
def test_a_condition_compares_an_argument(condition: str, arguments: dict[str, object], asks: bool) -> None:
    found = rules(f"  - {{when: {{tool: test_pay, {condition}}}}}\n").for_call("test_pay", arguments, HERE)
    assert bool(found) is asks


def test_any_file_write_outside_a_folder_and_the_first_run_of_a_version() -> None:
    found = rules(
        '  - {when: {tool: "file_*", "path not under": reports}}\n'
        "  - {when: {agent: payer, first_run_of_version: true}, reason: a new version}\n"
    )
    assert found.for_call("file_write", {"path": "/etc/passwd"}, HERE)
    assert not found.for_call("file_write", {"path": "reports/a.md"}, HERE)
    first = Situation("payer", "pay.v1", "async-queue", first_run_of_version=True)
    assert [rule.reason for rule in found.for_call("test_pay", {}, first)] == ["a new version"]
    assert not found.for_call("web_crawl", {}, first, has_effects=False), "what changes nothing needs nobody"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{when: {tool: test_play}}", "approvals[0].when.tool: there is no tool 'test_play'; did you mean test_pay?"),
        ("{when: {tool: test_pay, 'amount >': 1}}", "test_pay takes no argument 'amount'; did you mean amount_usd?"),
        ("{when: {tool: test_pay, 'amount_usd >': lots}}", "this is compared with a number"),
        ("{when: {tool: test_pay, 'amount_usd =>': 1}}", "neither a name nor a comparison like 'amount_usd >'"),
        ("{when: {tool: test_pay, 'file matches': '['}}", "this is no regular expression"),
        ("{when: {}}", "say when: a tool, an agent, an endpoint, a mode, or a comparison of an argument"),
        ("{when: {agent: nobody}}", "there is no agent 'nobody'"),
        ("{when: {mode: queue}}", "there is no mode 'queue'"),
        ("{when: {first_run_of_version: 1}}", "this is true or false"),
        ("{when: {tool: test_pay}, auto_action: approve}", "input should be 'reject', 'escalate' or 'return'"),
        ("{when: {tool: test_pay}, auto_action: escalate}", "escalate needs escalate_to"),
        ("{when: {tool: test_pay}, escalate_to: board, escalate_after_h: 30}", "must come before deadline_h"),
        ("{when: {tool: test_pay}, remind_h: 24}", "must be less than deadline_h"),
        ("{when: {tool: test_pay}, users: [rita], quorum: 2}", "quorum is 2, and only 1 may decide"),
        ("{when: {tool: test_pay}, qorum: 2}", "unknown key; did you mean quorum?"),
        ("{when: {tool: test_pay}, deadline_h: 0}", "greater than 0"),
    ],
)
def test_what_can_not_be_meant_is_refused(rule: str, expected: str) -> None:
    (fault,) = faults(f"  - {rule}\n")
    assert expected in fault


def test_two_rules_of_one_name_are_refused() -> None:
    (fault,) = faults("  - {name: a, when: {tool: test_pay}}\n  - {name: a, when: {agent: payer}}\n")
    assert "rule 1 is called 'a' already" in fault


def test_a_mode_whose_runs_can_not_wait_refuses_tools_that_people_decide_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ENTRANCES", frozenset({"tasks", "chat", "batches"}))
    batch = BASE.replace("async-queue", "batch-window") + "  - {when: {tool: test_pay, 'amount_usd >': 100}}\n"
    with pytest.raises(ConfigError, match="cannot wait for people, and payer has test_pay"):
        load_config(write(batch))
    elsewhere = load_config(write(batch.replace("tool: test_pay", "tool: test_pay, mode: async-queue")))
    assert len(elsewhere.approvals) == 1


def test_the_file_can_have_every_call_of_a_tool_decided_on(tmp_path: Path) -> None:
    config = load_config(write(BASE.replace("approvals:\n", "tools: {catalog: [{id: test_pay, approval: always}]}\n")))
    assert config.tools.catalog[0].approval == "always"
