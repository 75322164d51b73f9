from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles
from agents import queries
from agents.invoke import MAX_URGENT
from agents.models import Run, Step
from audit.models import AuditEntry
from jobs.models.job import Job
from tests.support import tasks
from tests.support.configs import BASE, load, loaded
from tests.support.people import bearer, person

pytestmark = pytest.mark.django_db

TASKS = "/api/v1/tasks"
CHAT = "  chat.v1: {agent: helper, mode: streaming-sync, escape: help.v1}\n"


class Caller:
    """A client of the API that sends a token."""

    def __init__(self, user: User, *scopes: str) -> None:
        self.user = user
        self.client = Client(headers=bearer(user, *scopes))

    def get(self, path: str, **query: Any) -> tuple[int, Any]:
        return self._answer(self.client.get(path, query))

    def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body)
        return self._answer(self.client.post(path, content, content_type="application/json", headers=headers))

    def submit(self, input: Any = "hello", endpoint: str = "help.v1", **more: Any) -> str:
        status, body = self.post(TASKS, {"endpoint": endpoint, "input": input, **more})
        assert status == 202, body
        return str(body["task_id"])

    @staticmethod
    def _answer(response: Any) -> tuple[int, Any]:
        return response.status_code, response.json()


_loaded = loaded()


@pytest.fixture
def alice(db: None) -> Caller:
    return Caller(person("alice"))


@pytest.fixture
def bob(db: None) -> Caller:
    return Caller(person("bob"))


@pytest.fixture
def boss(db: None) -> Caller:
    return Caller(person("boss", roles.OPERATOR))


def put(task_id: str, state: str, **columns: Any) -> None:
    """Put a task's job into a state, as a worker would have."""
    ends = {"finished_at": timezone.now()} if state in ("dead", "succeeded", "cancelled", "discarded") else {}
    Job.objects.filter(pk=task_id).update(state=state, **ends, **columns)


def test_a_submitted_task_is_answered_with_its_place_and_its_links(alice: Caller) -> None:
    response = alice.client.post(TASKS, {"endpoint": "help.v1", "input": "hello"}, content_type="application/json")
    body = response.json()
    task_id = body["task_id"]
    assert response.status_code == 202
    assert response["Location"] == f"{TASKS}/{task_id}"
    assert body == {
        "task_id": task_id,
        "status": "queued",
        "eta_seconds": None,
        "queue_position": 1,
        "links": {
            "self": f"{TASKS}/{task_id}",
            "events": f"{TASKS}/{task_id}/events",
            "steps": f"{TASKS}/{task_id}/steps",
            "cancel": f"{TASKS}/{task_id}/cancel",
        },
    }
    assert Run.objects.get(job_id=task_id).user == alice.user


def test_the_second_in_line_is_told_so(alice: Caller) -> None:
    alice.submit()
    _, body = alice.post(TASKS, {"endpoint": "help.v1", "input": "hello"})
    assert body["queue_position"] == 2


def test_all_that_a_caller_may_say_of_a_task_arrives(alice: Caller) -> None:
    task_id = alice.submit(
        partition_key="p",
        run_at="2100-01-01T00:00:00+02:00",
        priority="high",
        budget={"cost_cap_usd": 0.25, "max_turns": 2, "max_tokens": 100, "latency_budget_ms": 5000},
    )
    run = Run.objects.select_related("job").get(job_id=task_id)
    assert run.job.state == "scheduled"
    assert run.job.run_at is not None
    assert run.job.run_at.isoformat() == "2099-12-31T22:00:00+00:00"
    assert (run.job.priority, run.job.partition_key) == (0, f"{alice.user.pk}:p")
    assert run.budget == {"cost_cap_usd": "0.25", "max_turns": 2, "max_tokens": 100, "latency_budget_ms": 5000}


def test_a_task_is_shown_whole(alice: Caller) -> None:
    task_id = alice.submit()
    status, body = alice.get(f"{TASKS}/{task_id}")
    assert status == 200
    created = body.pop("created_at")
    assert created.endswith("Z")
    assert body == {
        "task_id": task_id,
        "endpoint": "help.v1",
        "agent": "helper",
        "agent_version": 1,
        "mode": "async-queue",
        "status": "queued",
        "attempt": 0,
        "progress": None,
        "waiting_for": [],
        "result": None,
        "error": None,
        "usage": {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0},
        "started_at": None,
        "finished_at": None,
        "links": body["links"],
    }


def test_a_result_a_cost_and_a_problem_are_shown_as_they_are(alice: Caller) -> None:
    done, dead = alice.submit(), alice.submit()
    put(done, "succeeded", error={"title": "of an earlier attempt"})
    put(dead, "dead", error={"type": "/problems/worker-died", "title": "x"}, attempt=3)
    Run.objects.filter(job_id=done).update(output={"text": "hi"}, cost_usd="0.00012", input_tokens=7)
    Run.objects.filter(job_id=dead).update(cost_known=False)
    shown = alice.get(f"{TASKS}/{done}")[1]
    assert (shown["result"], shown["error"]) == ({"text": "hi"}, None)
    assert shown["usage"] == {"input_tokens": 7, "output_tokens": 0, "cost_usd": 0.00012}
    shown = alice.get(f"{TASKS}/{dead}")[1]
    assert shown["error"]["type"] == "/problems/worker-died"
    assert (shown["attempt"], shown["usage"]["cost_usd"]) == (3, None)


def test_others_tasks_look_as_if_they_were_not_there(alice: Caller, bob: Caller, boss: Caller) -> None:
    task_id = alice.submit()
    for path in ("", "/steps"):
        assert bob.get(f"{TASKS}/{task_id}{path}")[0] == 404
        assert boss.get(f"{TASKS}/{task_id}{path}")[0] == 200
    for verb in ("cancel", "redrive"):
        assert bob.post(f"{TASKS}/{task_id}/{verb}")[0] == 404
    assert bob.get(TASKS)[1]["items"] == []
    assert [item["task_id"] for item in boss.get(TASKS)[1]["items"]] == [task_id]
    assert Job.objects.get(pk=task_id).state == "queued"
    missing = bob.get(f"{TASKS}/{uuid4()}")[1]
    hidden = bob.get(f"{TASKS}/{task_id}")[1]
    assert {**missing, "detail": ""} == {**hidden, "detail": ""}


def test_a_reviewer_sees_no_more_than_a_user(alice: Caller) -> None:
    task_id = alice.submit()
    assert Caller(person("rita", roles.REVIEWER)).get(f"{TASKS}/{task_id}")[0] == 404


def test_pages_hold_every_task_once_newest_first(alice: Caller) -> None:
    made = [alice.submit() for _ in range(7)]
    seen: list[str] = []
    cursor, pages = "", 0
    while True:
        _, body = alice.get(TASKS, limit=3, cursor=cursor)
        seen += [item["task_id"] for item in body["items"]]
        pages += 1
        if pages == 1:
            alice.submit()  # what comes meanwhile moves nothing
        if body["next_cursor"] is None:
            break
        cursor = body["next_cursor"]
    assert seen == made[::-1]
    assert pages == 3


@pytest.mark.parametrize("cursor", ["nonsense", "ä", "AAAA", "%", "bm90LWEtdXVpZA"])
def test_a_cursor_that_was_made_up_is_refused(alice: Caller, cursor: str) -> None:
    status, body = alice.get(TASKS, cursor=cursor)
    assert (status, body["errors"][0]["loc"]) == (422, ["query", "cursor"])


def test_a_list_costs_the_same_number_of_queries_however_long_it_is(alice: Caller) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            alice.get(TASKS)
        return len(captured)

    alice.submit()
    alice.get(TASKS)
    few = queries()
    for _ in range(10):
        alice.submit()
    assert queries() == few


def test_filters_narrow_the_list_down(alice: Caller) -> None:
    plain, counted, dead = alice.submit(), alice.submit({"things": 2}, "count.v1"), alice.submit()
    put(dead, "dead")

    def found(**query: Any) -> set[str]:
        status, body = alice.get(TASKS, **query)
        assert status == 200, body
        return {item["task_id"] for item in body["items"]}

    assert found(status="dead") == {dead}
    assert found(status=["dead", "queued"]) == {plain, counted, dead}
    assert found(status="") == {plain, counted, dead}
    assert found(endpoint="count.v1") == {counted}
    assert found(endpoint="count.v1", status="dead") == set()
    assert found(agent="helper") == {plain, counted, dead}
    assert found(agent="nobody") == set()


@pytest.mark.parametrize("query", [{"endpoint": "count.v1"}, {"agent": "helper"}])
def test_a_list_is_filtered_by_ids_for_which_there_are_indexes(alice: Caller, query: dict[str, str]) -> None:
    alice.submit()
    with CaptureQueriesContext(connection) as captured:
        alice.get(TASKS, **query)
    (listed,) = [each["sql"] for each in captured if each["sql"].startswith('SELECT "agents_run"')]
    where = listed.partition(" WHERE ")[2]
    assert "_id" in where
    assert '"name"' not in where, "the planner can't know how many tasks there are of a name"


def test_words_of_the_input_or_the_beginning_of_an_id_find_a_task(alice: Caller, bob: Caller) -> None:
    whales = alice.submit({"message": "How deep do Sperm Whales dive?"})
    stars = alice.submit("Why do stars twinkle?")
    bob.submit("sperm whales again")

    def found(q: str) -> list[str]:
        status, body = alice.get(TASKS, q=q)
        assert status == 200, body
        return [item["task_id"] for item in body["items"]]

    assert found("whales") == [whales]
    assert found("SPERM dee") == [whales]
    assert found("stars whales") == []
    assert found("twinkl") == [stars]
    assert found(stars) == [stars]
    assert stars in found(stars[:13])
    for strange in ("!!", "a & b | !c", "'", "\\", ":*", "(", "%"):
        found(strange)


def test_the_journal_is_listed_in_order_in_pages_by_epoch(alice: Caller) -> None:
    task_id = alice.submit()
    run, now = Run.objects.get(job_id=task_id), timezone.now()
    for epoch, count in ((1, 1), (2, 5)):
        for number in range(count):
            Step.objects.create(
                run=run, epoch=epoch, key=f"s#{number}", name="s", kind="step", input_hash="", fence=1,
                output={"n": number}, started_at=now, finished_at=now,
            )  # fmt: skip
    Run.objects.filter(job_id=task_id).update(journal_epoch=2)
    path = f"{TASKS}/{task_id}/steps"
    first = alice.get(path, limit=3)[1]
    rest = alice.get(path, limit=3, cursor=first["next_cursor"])[1]
    assert [item["output"]["n"] for item in first["items"] + rest["items"]] == [0, 1, 2, 3, 4]
    assert rest["next_cursor"] is None
    assert len(alice.get(path, epoch=1)[1]["items"]) == 1
    assert alice.get(path, cursor="AAAA")[0] == 422
    assert set(first["items"][0]) == {
        "key", "name", "kind", "epoch", "input", "output", "model", "usage", "started_at", "finished_at", "duration_ms",
    }  # fmt: skip


def test_a_task_is_cancelled_once(alice: Caller) -> None:
    task_id = alice.submit()
    status, body = alice.post(f"{TASKS}/{task_id}/cancel")
    assert (status, body["status"], body["queue_position"]) == (202, "cancelled", None)
    status, body = alice.post(f"{TASKS}/{task_id}/cancel")
    assert (status, body["type"], body["state"]) == (409, "/problems/invalid-state", "cancelled")
    entry = AuditEntry.objects.get(action="job.cancel")
    assert (entry.actor_name, entry.target_id) == ("alice", task_id)


@pytest.mark.parametrize("body", [None, {}, {"from": "checkpoint"}, {"from": "start"}])
def test_a_cancelled_task_is_redriven(alice: Caller, body: dict[str, Any] | None) -> None:
    task_id = alice.submit()
    alice.post(f"{TASKS}/{task_id}/cancel")
    status, answer = alice.post(f"{TASKS}/{task_id}/redrive", body)
    assert (status, answer["status"], answer["task_id"]) == (202, "queued", task_id)
    assert alice.post(f"{TASKS}/{task_id}/redrive", body)[0] == 409


def test_an_edited_input_makes_a_new_task(alice: Caller, boss: Caller) -> None:
    task_id = alice.submit()
    path = f"{TASKS}/{task_id}/redrive"
    assert alice.post(path, {"input": "again"})[0] == 409
    alice.post(f"{TASKS}/{task_id}/cancel")
    status, answer = boss.post(path, {"input": "again"})
    assert (status, answer["task_id"] != task_id) == (202, True)
    assert Run.objects.get(job_id=answer["task_id"]).redriven_from_id == UUID(task_id)
    assert alice.get(f"{TASKS}/{answer['task_id']}")[0] == 200, "it is still alice's"
    assert alice.post(path, {"input": None})[0] == 422, "null is an input too, and a bad one"


def test_a_key_makes_a_repeated_request_the_same_task(alice: Caller, bob: Caller) -> None:
    body = {"endpoint": "help.v1", "input": {"message": "a"}}
    first = alice.post(TASKS, body, **{"Idempotency-Key": "k-1"})
    again = alice.post(TASKS, {"input": {"message": "a"}, "endpoint": "help.v1"}, **{"Idempotency-Key": "k-1"})
    assert (first[0], again[0], again[1]["task_id"]) == (202, 202, first[1]["task_id"])
    status, other = alice.post(TASKS, {**body, "input": "b"}, **{"Idempotency-Key": "k-1"})
    assert (status, other["type"]) == (422, "/problems/idempotency-mismatch")
    assert bob.post(TASKS, body, **{"Idempotency-Key": "k-1"})[1]["task_id"] != first[1]["task_id"]


@pytest.mark.parametrize("key", ["", "with blank", "x" * 256, "ключ"])
def test_a_key_that_is_none_is_refused(alice: Caller, key: str) -> None:
    status, body = alice.post(TASKS, {"endpoint": "help.v1", "input": "x"}, **{"Idempotency-Key": key})
    assert (status, body["type"]) == (422, "/problems/bad-input")


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"endpoint": "help.v1"}, ["input"]),
        ({"input": "x"}, ["endpoint"]),
        ({"endpoint": 3, "input": "x"}, ["endpoint"]),
        ({"endpoint": "help.v1", "input": "x", "prioritty": "high"}, ["prioritty"]),
        ({"endpoint": "help.v1", "input": "x", "priority": "urgent"}, ["priority"]),
        ({"endpoint": "help.v1", "input": "x", "run_at": "2100-01-01T00:00:00"}, ["run_at"]),
        ({"endpoint": "help.v1", "input": "x", "run_at": "soon"}, ["run_at"]),
        # In UTC this is the year 10000, which PostgreSQL keeps and Python cannot read back.
        ({"endpoint": "help.v1", "input": "x", "run_at": "9999-12-31T23:59:59-14:00"}, ["run_at"]),
        ({"endpoint": "help.v1", "input": "x", "partition_key": ""}, ["partition_key"]),
        ({"endpoint": "help.v1", "input": "x", "budget": {"max_turns": 0}}, ["budget", "max_turns"]),
        ({"endpoint": "help.v1", "input": "x", "budget": {"cost_cap_usd": -1}}, ["budget", "cost_cap_usd"]),
        ({"endpoint": "help.v1", "input": "x", "budget": {"cap": 1}}, ["budget", "cap"]),
        ({"endpoint": "help.v1", "input": {"message": 3}}, ["input", "message"]),
        ({"endpoint": "help.v1", "input": "x", "partition_key": "a\0"}, ["partition_key"]),
        ([], []),
        ("x", []),
    ],
)
def test_a_request_that_makes_no_sense_says_where(alice: Caller, body: Any, loc: list[str]) -> None:
    status, answer = alice.post(TASKS, body)
    assert (status, answer["type"], answer["errors"][0]["loc"]) == (422, "/problems/bad-input", loc)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"endpoint": "halp.v1", "input": "x"}, 422, "unknown-endpoint"),
        ({"endpoint": "count.v1", "input": {"things": 99}}, 422, "request-too-large"),
        ({"endpoint": "help.v1", "input": "x", "webhook_url": "https://example.com"}, 422, "not-supported"),
    ],
)
def test_a_task_that_can_not_be_is_refused_with_its_own_problem(
    alice: Caller, body: dict[str, Any], status: int, slug: str
) -> None:
    answer = alice.post(TASKS, body)
    assert (answer[0], answer[1]["type"]) == (status, f"/problems/{slug}")


def test_effects_are_repeated_only_from_the_start_and_by_operators(alice: Caller, boss: Caller) -> None:
    task_id = alice.submit()
    alice.post(f"{TASKS}/{task_id}/cancel")
    status, body = boss.post(f"{TASKS}/{task_id}/redrive", {"repeat_effects": True})
    assert (status, body["type"]) == (422, "/problems/bad-input")
    assert "only with" in str(body)
    again = {"from": "start", "repeat_effects": True}
    status, body = alice.post(f"{TASKS}/{task_id}/redrive", again)
    assert (status, body["type"]) == (403, "/problems/forbidden"), "her own task, and still not hers to repeat"
    assert alice.get(f"{TASKS}/{task_id}")[1]["status"] == "cancelled"
    assert boss.post(f"{TASKS}/{task_id}/redrive", again)[0] == 202
    entry = AuditEntry.objects.get(action="job.redrive", target_id=task_id)
    assert entry.after is not None
    assert entry.after["repeat_effects"] is True


def test_a_full_queue_answers_429_with_retry_after(alice: Caller) -> None:
    load(BASE + "lanes: {queue: {max_depth: 1}}\n")
    alice.submit()
    response = alice.client.post(TASKS, {"endpoint": "help.v1", "input": "x"}, content_type="application/json")
    assert response.status_code == 429
    assert int(response["Retry-After"]) >= 1
    assert response.json()["type"] == "/problems/queue-full"


def test_endpoints_are_listed_with_their_schemas(alice: Caller) -> None:
    load(BASE[: BASE.index("  count-more.v1")])
    status, body = alice.get("/api/v1/endpoints")
    assert status == 200
    assert [item["name"] for item in body["items"]] == ["count.v1", "help.v1"]
    assert body["items"][0] == {
        "name": "count.v1",
        "agent": "helper",
        "agent_version": 1,
        "mode": "async-queue",
        "description": "",
        "input": body["items"][0]["input"],
        "output": None,
        "request_size": {"max": 20, "of": "things"},
        "escape": None,
    }
    assert body["items"][0]["input"]["properties"]["things"] == {"type": "integer"}


def test_agents_are_listed_without_their_instructions(alice: Caller) -> None:
    status, body = alice.get("/api/v1/agents")
    assert status == 200
    assert body == {
        "items": [
            {
                "name": "helper",
                "version": 1,
                "program": "loop",
                "model": {"default": "demo", "downshift": None, "fallback": []},
                "tools": [],
                "limits": {"max_turns": 8, "max_tokens": 4000, "wall_clock_s": 600.0, "expected_latency_ms": None},
                "endpoints": ["count-more.v1", "count.v1", "help.v1"],
            }
        ]
    }


@pytest.mark.parametrize(
    ("state", "failed", "started", "attempt"),
    [
        ("queued", 0, False, 0),
        ("running", 0, True, 1),
        ("succeeded", 0, True, 1),
        ("scheduled", 1, True, 1),
        ("running", 1, True, 2),
        ("dead", 3, True, 3),
    ],
)
def test_an_attempt_is_counted_once_it_has_begun(state: str, failed: int, started: bool, attempt: int) -> None:
    job = Job(state=state, attempt=failed, started_at=timezone.now() if started else None)
    assert queries.attempt(job) == attempt


def test_a_list_of_tasks_leaves_their_results_out(alice: Caller) -> None:
    done = alice.submit()
    put(done, "succeeded")
    Run.objects.filter(job_id=done).update(output={"text": "long"})
    (item,) = alice.get(TASKS)[1]["items"]
    whole = alice.get(item["links"]["self"])[1]
    assert whole.pop("result") == {"text": "long"}
    assert whole.pop("waiting_for") == []
    assert item == whole


def test_only_a_few_urgent_tasks_of_a_user_may_wait_and_any_number_of_an_operator(alice: Caller, boss: Caller) -> None:
    urgent = {"endpoint": "help.v1", "input": "hi", "priority": "high"}
    assert [alice.post(TASKS, urgent)[0] for _ in range(MAX_URGENT)] == [202] * MAX_URGENT
    status, problem = alice.post(TASKS, urgent)
    assert (status, problem["type"]) == (429, "/problems/too-many-urgent")
    assert alice.post(TASKS, urgent | {"priority": "normal"})[0] == 202
    assert [boss.post(TASKS, urgent)[0] for _ in range(MAX_URGENT + 1)] == [202] * (MAX_URGENT + 1)
    Job.objects.filter(user=alice.user, priority=0).update(state="cancelled", finished_at=timezone.now())
    assert alice.post(TASKS, urgent)[0] == 202


def test_the_runs_of_a_chat_are_no_tasks_but_are_found_by_its_endpoint(
    alice: Caller, bob: Caller, boss: Caller
) -> None:
    load(BASE + CHAT)
    submitted = alice.submit()
    reply = str(tasks.task("succeeded", user=alice.user, endpoint="chat.v1", output={"text": "Hello."}).pk)
    for caller in (alice, boss):
        assert [item["task_id"] for item in caller.get(TASKS)[1]["items"]] == [submitted]
        assert [item["task_id"] for item in caller.get(TASKS, agent="helper")[1]["items"]] == [submitted]
        assert [item["task_id"] for item in caller.get(TASKS, endpoint="chat.v1")[1]["items"]] == [reply]
        assert caller.get(f"{TASKS}/{reply}")[1]["result"] == {"text": "Hello."}
    assert bob.get(TASKS, endpoint="chat.v1")[1]["items"] == []
    assert bob.get(f"{TASKS}/{reply}")[0] == 404


def test_a_chat_takes_no_task_and_names_the_endpoint_that_does(alice: Caller) -> None:
    load(BASE + CHAT)
    status, problem = alice.post(TASKS, {"endpoint": "chat.v1", "input": "hi"})
    assert (status, problem["type"]) == (409, "/problems/mode-not-allowed")
    assert problem["detail"].startswith("chat.v1 is of mode streaming-sync. Use ")
    assert "chat" not in problem["detail"].partition("Use ")[2]


def test_a_reply_of_a_chat_is_redriven_as_it_is_and_never_with_another_input(alice: Caller) -> None:
    load(BASE + CHAT)
    reply = tasks.task("dead", user=alice.user, endpoint="chat.v1", lane="chat", home_lane="chat").pk
    status, problem = alice.post(f"{TASKS}/{reply}/redrive", {"input": "Something else."})
    assert (status, problem["type"]) == (409, "/problems/edited-in-conversation")
    assert Run.objects.count() == 1
    assert alice.post(f"{TASKS}/{reply}/redrive", {"from": "start"})[0] == 202
