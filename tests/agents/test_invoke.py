from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError

from agents import registry
from agents.invoke import (
    IdempotencyConflict,
    Invoked,
    ModeNotAllowed,
    QueueFull,
    RequestTooLarge,
    TooSlowForMode,
    UnknownEndpoint,
    edit_and_redrive,
    invoke,
)
from agents.models import Endpoint, Run
from agents.runtime.errors import BadInput
from agents.runtime.types import Budget
from audit.models import AuditEntry
from audit.trail import Actor
from jobs.actions import Cancel, InvalidState
from jobs.models.job import Job, Priority
from jobs.states import State
from tests.support.configs import BASE, load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db


_loaded = loaded()


@pytest.fixture
def alice(db: None) -> User:
    return person("alice")


def start(user: User, endpoint: str = "help.v1", input: Any = "hello", **kwargs: Any) -> Invoked:
    return invoke(endpoint, input, user=user, actor=Actor(user), **kwargs)


def test_a_run_is_written_with_its_job(alice: User) -> None:
    made = start(alice, budget=Budget(cost_cap_usd=Decimal("0.1"), max_turns=2))
    run = Run.objects.select_related("job").get(pk=made.run_id)
    assert (made.created, made.state, run.job.state) == (True, State.QUEUED, State.QUEUED)
    assert (run.user, run.job.user, run.input, run.mode) == (alice, alice, "hello", "async-queue")
    assert run.budget == {"cost_cap_usd": "0.1", "max_turns": 2}
    assert (run.job.lane, run.job.priority, run.job.max_attempts) == ("queue", 1, 3)
    assert run.job.requires == "agent:helper@1"
    assert run.job.hold_keys == ["all", "lane:queue", "agent:helper", "endpoint:help.v1"]
    assert run.job.time_limit_s is not None
    assert run.job.time_limit_s > 600
    assert run.agent.version == 1


def test_two_runs_do_not_draw_the_same(alice: User) -> None:
    seeds = {Run.objects.get(pk=start(alice).run_id).seed for _ in range(5)}
    assert len(seeds) == 5


def test_a_submission_is_on_record_with_who_and_where_from(alice: User) -> None:
    boss = Actor(person("boss"), "10.0.0.1", "req-1")
    made = invoke("help.v1", "hello", user=alice, actor=boss)
    entry = AuditEntry.objects.get(action="task.submit")
    assert (entry.actor_name, entry.target_id, entry.address) == ("boss", str(made.run_id), "10.0.0.1")
    assert entry.after == {"endpoint": "help.v1", "user": "alice"}


def test_an_unknown_endpoint_names_the_nearest(alice: User) -> None:
    with pytest.raises(UnknownEndpoint, match=r"did you mean help\.v1\?"):
        start(alice, "halp.v1")


def test_an_endpoint_that_is_no_longer_declared_takes_no_new_work(alice: User) -> None:
    load(BASE[: BASE.index("  count.v1")])
    with pytest.raises(UnknownEndpoint):
        start(alice, "count.v1", {})


def test_an_endpoint_of_another_mode_is_refused_and_another_of_its_agent_named(alice: User) -> None:
    Endpoint.objects.filter(name="count.v1").update(mode="streaming-sync")
    registry.forget()
    with pytest.raises(ModeNotAllowed, match=r"count\.v1 is of mode streaming-sync\. Use .* instead\."):
        start(alice, "count.v1", {})
    assert start(alice, "count.v1", {}, entrance="chat").created


@pytest.mark.parametrize(
    ("endpoint", "input", "loc", "message"),
    [
        ("help.v1", 3, ["input"], "it must be of type string or object"),
        ("help.v1", "", ["input"], "non-empty"),
        ("help.v1", {"mesage": "x"}, ["input"], "'message' is a required property"),
        ("help.v1", {"message": 3}, ["input", "message"], "3 is not of type 'string'"),
        ("count.v1", {"things": "many"}, ["input", "things"], "'many' is not of type 'integer'"),
        ("count.v1", {"names": ["a", 1]}, ["input", "names", 1], "1 is not of type 'string'"),
        ("help.v1", "a\0b", ["input"], "U+0000"),
        ("help.v1", {"message": "a\0b"}, ["input", "message"], "U+0000"),
        ("help.v1", {"mess\0age": "ab"}, ["input"], "U+0000"),
        ("help.v1", "\ud83d", ["input"], "surrogate"),
        ("count.v1", {"things": float("inf")}, ["input", "things"], "too large"),
        ("count.v1", {"things": float("nan")}, ["input", "things"], "too large"),
    ],
)
def test_an_input_that_does_not_fit_says_where_and_why(
    alice: User, endpoint: str, input: Any, loc: list[str | int], message: str
) -> None:
    with pytest.raises(BadInput) as caught:
        start(alice, endpoint, input)
    errors = caught.value.extra["errors"]
    assert errors[0]["loc"] == loc
    assert message in errors[0]["msg"]
    assert not Job.objects.exists()


def test_every_error_of_an_input_is_told(alice: User) -> None:
    with pytest.raises(BadInput) as caught:
        start(alice, "count.v1", {"things": "x", "names": "y", "more": 1})
    assert len(caught.value.extra["errors"]) == 3


def test_an_input_nested_without_end_is_refused(alice: User) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(BadInput, match="64 deep"):
        start(alice, "count-more.v1", {"x": deep})


def test_what_passes_the_check_can_be_stored_as_it_is(alice: User) -> None:
    strange = {"ключ": "värde 🎈", "": [], "n": 10**300, "f": 1.5e-7, "x": -0.0, "u": "\u2028\x01\x7f"}
    made = start(alice, "count-more.v1", strange)
    assert Run.objects.get(pk=made.run_id).input == strange


def test_a_request_that_asks_for_too_much_names_the_endpoint_that_can(alice: User) -> None:
    with pytest.raises(RequestTooLarge, match=r"takes 20 at once and this asks for 21\. Use count-more\.v1 instead\."):
        start(alice, "count.v1", {"things": 21})
    with pytest.raises(RequestTooLarge, match=r"No other endpoint of this agent can\."):
        start(alice, "count-more.v1", {"things": 501})
    assert start(alice, "count.v1", {"things": 20}).created


def test_without_a_named_field_the_largest_number_or_list_counts(alice: User) -> None:
    load(BASE.replace("request_size: {max: 20, of: things}", "request_size: {max: 2}"))
    with pytest.raises(RequestTooLarge):
        start(alice, "count.v1", {"names": ["a", "b", "c"]})
    with pytest.raises(RequestTooLarge):
        start(alice, "count.v1", {"things": 3})
    assert start(alice, "count.v1", {"things": 2, "names": ["a", "b"]}).created


def test_an_agent_too_slow_for_a_hard_budget_is_refused_and_the_way_out_named(alice: User) -> None:
    load(
        BASE.replace("version: 1", "version: 2").replace(
            "model: demo", "model: demo\n    limits: {expected_latency_ms: 30000}"
        )
    )
    Endpoint.objects.filter(name="count.v1").update(mode="streaming-sync")
    registry.forget()
    with pytest.raises(TooSlowForMode, match=r"30000 ms .* 6000 ms\. Use count-more\.v1 instead\."):
        start(alice, "count.v1", {}, entrance="chat")
    assert start(alice).created


def test_a_key_and_the_same_request_make_one_run(alice: User) -> None:
    first, second = start(alice, idempotency_key="k"), start(alice, idempotency_key="k")
    assert first.run_id == second.run_id
    assert (first.created, second.created) == (True, False)
    assert Run.objects.count() == 1
    assert AuditEntry.objects.filter(action="task.submit").count() == 1


@pytest.mark.parametrize("other", [{"input": "bye"}, {"partition_key": "p"}, {"budget": Budget(max_turns=1)}])
def test_a_key_with_another_request_is_refused(alice: User, other: dict[str, Any]) -> None:
    start(alice, idempotency_key="Order-K")
    with pytest.raises(IdempotencyConflict) as caught:
        start(alice, idempotency_key="Order-K", **other)
    assert caught.value.detail == "The idempotency key 'Order-K' was used for another request."


def test_a_key_belongs_to_its_user_and_endpoint(alice: User) -> None:
    ids = {
        start(alice, idempotency_key="k").run_id,
        start(person("bob"), idempotency_key="k").run_id,
        start(alice, "count.v1", {}, idempotency_key="k").run_id,
    }
    assert len(ids) == 3


def test_a_partition_is_one_users_own(alice: User) -> None:
    first, second = start(alice, partition_key="p"), start(alice, partition_key="p")
    other = start(person("bob"), partition_key="p")
    assert (first.state, second.state, other.state) == (State.QUEUED, State.BLOCKED, State.QUEUED)


def test_a_long_partition_key_is_kept_apart_from_others_like_it(alice: User) -> None:
    first = start(alice, partition_key="x" * 1000)
    second, third = start(alice, partition_key="x" * 999 + "y"), start(alice, partition_key="x" * 1000)
    assert (first.state, second.state, third.state) == (State.QUEUED, State.QUEUED, State.BLOCKED)
    key = Job.objects.get(pk=first.run_id).partition_key
    assert key == f"{alice.pk}:{hashlib.sha256(b'x' * 1000).hexdigest()}"


def test_priority_and_time_are_the_callers(alice: User) -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    made = start(alice, priority=Priority.P0, run_at=later)
    job = Job.objects.get(pk=made.run_id)
    assert (job.priority, job.run_at, job.state) == (0, later, State.SCHEDULED)


def test_a_time_that_is_past_means_now(alice: User) -> None:
    made = start(alice, run_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert (made.state, Job.objects.get(pk=made.run_id).run_at) == (State.QUEUED, None)


def test_a_full_lane_refuses_and_says_when_to_come_back(alice: User) -> None:
    load(BASE + "lanes: {queue: {max_depth: 2}}\n")
    first = start(alice, idempotency_key="k")
    start(alice)
    with pytest.raises(QueueFull) as caught:
        start(alice)
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert start(alice, idempotency_key="k").run_id == first.run_id, "a repeated request is no new work"


def test_if_the_run_can_not_be_written_there_is_no_job_either(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.invoke.secrets.randbits", lambda bits: 2**80)  # more than the column holds
    with pytest.raises(DatabaseError):
        start(alice)
    assert not Job.objects.exists()
    assert not AuditEntry.objects.filter(action="task.submit").exists()


def ended(run_id: UUID, user: User) -> Run:
    Cancel(Actor(user)).run(run_id)
    return Run.objects.select_related("job", "endpoint", "user").get(pk=run_id)


def test_another_input_makes_a_new_run_linked_to_the_old(alice: User) -> None:
    old = ended(start(alice, budget=Budget(max_turns=2), priority=Priority.P0).run_id, alice)
    boss = person("boss")
    made = edit_and_redrive(old, "hello again", actor=Actor(boss))
    run = Run.objects.get(pk=made.run_id)
    assert (run.input, run.user, run.redriven_from, run.budget) == ("hello again", alice, old, {"max_turns": 2})
    assert AuditEntry.objects.get(action="task.redrive_edited").actor_name == "boss"


def test_a_run_that_goes_on_can_not_be_redriven_with_another_input(alice: User) -> None:
    run = Run.objects.select_related("job").get(pk=start(alice).run_id)
    with pytest.raises(InvalidState):
        edit_and_redrive(run, "again", actor=Actor(alice))


def test_a_bad_new_input_leaves_nothing_behind(alice: User) -> None:
    old = ended(start(alice).run_id, alice)
    with pytest.raises(BadInput):
        edit_and_redrive(old, 3, actor=Actor(alice))
    assert Run.objects.count() == 1
