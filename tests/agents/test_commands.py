from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command

from accounts import roles, tokens
from accounts.models import ApiToken
from agents import registry
from agents.models import AgentVersion, Endpoint, Run
from audit.models import AuditEntry
from audit.trail import SYSTEM
from jobs.actions import Cancel
from jobs.models.job import Job, JobEvent
from tests.support.configs import BASE, load, write
from tests.support.people import person

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh(db: None) -> Iterator[None]:
    registry.forget()
    yield
    registry.forget()


@pytest.fixture
def operator(db: None) -> Any:
    load()
    return person("operator", roles.OPERATOR)


def run(name: str, *args: Any, **options: Any) -> tuple[str, str]:
    """Call a command; return what it wrote to stdout and to stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command(name, *args, stdout=out, stderr=err, no_color=True, **options)
    return out.getvalue(), err.getvalue()


def test_a_load_lists_what_it_changes(tmp_path: Path) -> None:
    out, _ = run("load_agents", write(BASE, tmp_path))
    assert "new agent helper@1\n" in out
    assert out.endswith("4 changed, 0 unchanged.\n")
    assert run("load_agents", write(BASE, tmp_path))[0] == "0 changed, 4 unchanged.\n"


def test_a_diff_loads_nothing(tmp_path: Path) -> None:
    out, _ = run("load_agents", write(BASE, tmp_path), "--diff")
    assert out.endswith("4 would change, 0 unchanged.\n")
    assert not AgentVersion.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_faulty_file_loads_nothing_and_says_all_that_is_wrong(tmp_path: Path) -> None:
    faulty = BASE.replace("instructions", "instrutcions").replace("agent: helper\n", "agent: halper\n")
    with pytest.raises(CommandError) as caught:
        run("load_agents", write(faulty, tmp_path))
    lines = str(caught.value).splitlines()
    assert "did you mean instructions?" in str(caught.value)
    assert lines[-1] == f"{len(lines) - 1} faults; nothing was loaded."
    assert not Endpoint.objects.exists()


PAYING = """
programs: [tests.support.programs]
agents:
  payer: {version: 1, instructions: Pay., model: demo, program: test-pays, tools: [test_pay, file_read]}
endpoints:
  pay.v1: {agent: payer, mode: async-queue, input: {type: object}}
approvals:
  - {when: {tool: test_pay, "amount_usd >": 100}, not_own: true, deadline_h: 4}
  - {name: huge, when: {tool: test_pay, "amount_usd >": 1000}, group: finance, quorum: 2, auto_action: return}
  - {when: {agent: payer, first_run_of_version: true}, users: olga}
"""


def test_explaining_says_for_each_tool_who_decides_and_loads_nothing(tmp_path: Path) -> None:
    out, _ = run("load_agents", write(PAYING, tmp_path), "--explain")
    assert out.splitlines() == [
        "pay.v1 (payer, async-queue)",
        "  test_pay     asks when amount_usd > 100: the group reviewer, never whoever asked, within 4 h, else rejected",
        "               asks when amount_usd > 1000: 2 of the group finance, within 24 h, else given back to the agent",
        "               asks when no run of the version has succeeded: olga, within 24 h, else rejected",
        "               else runs at once",
        "  file_read    runs at once",
        "  ctx.approve  asks: the group reviewer, within 24 h, else rejected, or as the rules of its calls say",
    ]
    assert not AgentVersion.objects.exists()


def test_explaining_a_call_says_what_becomes_of_it(tmp_path: Path) -> None:
    calls = ['test_pay {"file": "a", "amount_usd": 20}', 'test_pay {"file": "a", "amount_usd": 5000}']
    out, _ = run("load_agents", write(PAYING, tmp_path), "--explain", call=calls)
    first, second = out.split(calls[1])
    assert "  pay.v1: runs at once\n" in first
    assert "  pay.v1, until a run of the version has succeeded: waits for olga" in first
    assert (
        "  pay.v1: waits for the group reviewer, and 2 of the group finance, never whoever asked, within 4 h" in second
    )
    assert "    because of huge: test_pay with amount_usd > 1000\n" in second


def test_explaining_counts_people_whom_two_rules_name_once(tmp_path: Path) -> None:
    text = PAYING.replace("group: finance, quorum: 2", "group: [reviewer, finance], quorum: 2")
    out, _ = run("load_agents", write(text, tmp_path), "--explain", call=['test_pay {"file": "a", "amount_usd": 5000}'])
    assert "waits for 2 of the group reviewer or the group finance, among them 1 of the group reviewer, never" in out


@pytest.mark.parametrize("call", ["", "test_pay {", "test_pay [1]", "file_write {}", '{"tool": "test_pay"}'])
def test_explaining_what_is_no_call_is_refused(tmp_path: Path, call: str) -> None:
    with pytest.raises(CommandError, match=r"A call is a tool|has a tool"):
        run("load_agents", write(PAYING, tmp_path), "--explain", call=[call])


def test_a_token_stands_alone_on_stdout_and_works() -> None:
    person("alice")
    out, err = run("create_token", "alice", "--name", "laptop", "--scope", "tasks:read", "--expires", "30d")
    secret = out.strip()
    assert out == f"{secret}\n"
    token = tokens.authenticate(secret)
    assert (token.user.username, token.name, token.scopes) == ("alice", "laptop", ["tasks:read"])
    assert token.expires_at is not None
    assert secret not in err
    assert "alice" in err


def test_a_token_has_every_scope_and_no_end_unless_told() -> None:
    person("alice")
    run("create_token", "alice")
    token = ApiToken.objects.get()
    assert (token.scopes, token.expires_at) == (list(tokens.SCOPES), None)


@pytest.mark.parametrize(
    ("expires", "until"),
    [
        ("90m", "2030-01-01T13:30:00"),
        ("12h", "2030-01-02T00:00:00"),
        ("30d", "2030-01-31T12:00:00"),
        ("2030-01-31", "2030-02-01T00:00:00"),
        ("2030-01-31T08:00", "2030-01-31T08:00:00"),
        ("2030-01-31T08:00+02:00", "2030-01-31T06:00:00"),
    ],
)
def test_an_expiry_may_be_an_age_a_day_or_a_time(expires: str, until: str) -> None:
    person("alice")
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False):
        run("create_token", "alice", "--expires", expires)
    assert ApiToken.objects.get().expires_at == datetime.fromisoformat(until).replace(tzinfo=UTC)


@pytest.mark.parametrize("expires", ["soon", "-1d", "30", "2020-01-01", "2030-13-01", "0d", "99999999d", "9999-12-31"])
def test_an_expiry_that_is_none_is_refused(expires: str) -> None:
    person("alice")
    with pytest.raises(CommandError, match="--expires"):
        run("create_token", "alice", f"--expires={expires}")
    assert not ApiToken.objects.exists()


def test_scopes_may_be_given_one_by_one_or_together() -> None:
    person("alice")
    for args in (["--scope", "tasks:read", "--scope", "agents:read"], ["--scope", "tasks:read,agents:read"]):
        secret = run("create_token", "alice", *args)[0].strip()
        assert tokens.authenticate(secret).scopes == ["tasks:read", "agents:read"]
    with pytest.raises(CommandError, match="There is no scope 'tasks:delete'; there are tasks:read"):
        run("create_token", "alice", "--scope", "tasks:delete")


def test_a_token_needs_a_user_who_may_sign_in() -> None:
    with pytest.raises(CommandError, match="no user 'nobody'"):
        run("create_token", "nobody")
    alice = person("alice")
    alice.is_active = False
    alice.save()
    with pytest.raises(CommandError, match="not active"):
        run("create_token", "alice")


@pytest.mark.parametrize(
    ("given", "input"),
    [
        ("What is Astra?", "What is Astra?"),
        ('{"message": "hi"}', {"message": "hi"}),
        ('"quoted"', "quoted"),
        ("42", "42"),
        (" {\n}".replace("{\n}", '{"message": "x"}'), {"message": "x"}),
    ],
)
def test_an_input_is_json_or_text(operator: Any, given: str, input: Any) -> None:
    out, err = run("submit", "help.v1", given)
    submitted = Run.objects.get(job_id=out.strip())
    assert (submitted.input, submitted.user) == (input, operator)
    assert f"python manage.py task {out.strip()} --wait" in err
    assert AuditEntry.objects.get(action="task.submit").actor_name == "operator"


def test_an_input_may_come_from_stdin(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    out, _ = run("submit", "help.v1", "-")
    assert Run.objects.get(job_id=out.strip()).input == "from a pipe\n"


def test_a_task_may_be_anothers_and_has_a_key(operator: Any) -> None:
    person("alice")
    first = run("submit", "help.v1", "x", "--user", "alice", "--key", "k")[0]
    assert run("submit", "help.v1", "x", "--user", "alice", "--key", "k")[0] == first
    owner = Run.objects.select_related("user").get(job_id=first.strip()).user
    assert owner is not None
    assert owner.username == "alice"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["halp.v1", "x"], r"did you mean help\.v1\?"),
        (["help.v1", "{oops"], "begins like JSON and is none"),
        (["help.v1", '{"message": 3}'], r"input\.message: 3 is not of type"),
        (["help.v1", "x", "--user", "nobody"], "no active user 'nobody'"),
    ],
)
def test_a_submission_that_can_not_be_says_why(operator: Any, args: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run("submit", *args)
    assert not Job.objects.exists()


def finish(monkeypatch: pytest.MonkeyPatch, state: str, output: Any = None) -> None:
    """Let every task end the moment somebody waits for it, as a worker would end it."""

    def step(seconds: float) -> None:
        for job in Job.objects.exclude(state=state):
            ends = datetime.now(UTC) + timedelta(seconds=1)
            Job.objects.filter(pk=job.pk).update(state=state, finished_at=ends)
            Run.objects.filter(job_id=job.pk).update(output=output)
            JobEvent.objects.create(job=job, kind="step", reason="finished", data={"name": "think", "summary": "hm"})
            JobEvent.objects.create(job=job, kind="progress", data={"done": 2, "total": 3, "note": "pages"})
            JobEvent.objects.create(job=job, kind="state", old="running", new=state, reason="finished")

    monkeypatch.setattr("astra_site.following.sleep", step)


def test_waiting_tells_what_happens_and_prints_the_answer_alone(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(monkeypatch, "succeeded", {"text": "The answer."})
    out, err = run("submit", "help.v1", "x", "--wait")
    assert out == "The answer.\n"
    for told in ("Submitted", "step think: hm", "2 of 3 pages", "Succeeded"):
        assert told in err


def test_waiting_for_a_task_that_fails_ends_with_an_error(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(monkeypatch, "dead")
    with pytest.raises(CommandError, match="ended dead") as caught:
        run("submit", "help.v1", "x", "--wait")
    assert caught.value.returncode == 2


def test_a_task_is_shown_by_its_id_or_the_beginning_of_it(operator: Any) -> None:
    task_id = run("submit", "help.v1", "x")[0].strip()
    for text in (task_id, task_id[:18], task_id.upper()):
        out, _ = run("task", text)
        assert f"task      {task_id}" in out
        assert "status    queued" in out
    assert json.loads(run("task", task_id, "--json")[0])["task_id"] == task_id


def test_a_result_is_printed_as_text_or_json(operator: Any) -> None:
    task_id = run("submit", "help.v1", "x")[0].strip()
    Job.objects.filter(pk=task_id).update(state="succeeded", finished_at=datetime.now(UTC))
    for output, shown in (({"text": "Yes."}, "Yes."), ({"n": 1}, '{\n  "n": 1\n}'), ("plain", "plain")):
        Run.objects.filter(job_id=task_id).update(output=output)
        assert run("task", task_id)[0].endswith(f"{shown}\n")


def test_a_task_that_is_not_there_or_not_the_only_one_is_refused(operator: Any) -> None:
    for text in ("x", "0" * 8, "01"):
        with pytest.raises(CommandError, match="There is no task"):
            run("task", text)
    ids = [run("submit", "help.v1", "x")[0].strip() for _ in range(2)]
    common = ids[0][:8] if ids[0][:8] == ids[1][:8] else None
    if common:
        with pytest.raises(CommandError, match="More than one task"):
            run("task", common)


def test_a_cancelled_task_says_who_cancelled_it_to_those_who_wait(operator: Any) -> None:
    task_id = run("submit", "help.v1", "x")[0].strip()
    Cancel(SYSTEM).run(Job.objects.get(pk=task_id).pk)
    out, err = run("task", task_id, "--wait")
    assert "status    cancelled" in out
    assert "Cancelled by astra" in err
