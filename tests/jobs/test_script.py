"""One script, three drivers: what it does and gives back is the same on each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from django.db import DataError, IntegrityError, ProgrammingError, connection, transaction

from jobs import holds, lease, reconcile, script, stats, waits, wakeups
from jobs.claim import claim, claim_some, finish, report_progress
from jobs.handlers import Blocked, Claim, Failed, HandedBack, Parked, Succeeded, WaitFor
from jobs.models import Job
from jobs.pool import close_pool, conninfo, get_pool
from jobs.script import Script, Tell, Wake
from jobs.submit import Idempotency, Submission, submit_script
from tests.jobs.drive import PROBLEM, ask, person, story

Run = Callable[[Script[Any]], Any]


def _on_own_connection(what: Script[Any]) -> Any:
    with psycopg.connect(conninfo(), autocommit=True) as own:
        return script.run_on(own, what)


def _on_a_pool(what: Script[Any]) -> Any:
    async def run() -> Any:
        try:
            return await script.arun(await get_pool(), what)
        finally:
            await close_pool()

    return asyncio.run(run())


DRIVERS: dict[str, Run] = {"Django": script.run, "own connection": _on_own_connection, "pool": _on_a_pool}


@pytest.fixture(params=list(DRIVERS))
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    yield DRIVERS[request.param]
    connection.close()


def _asked(**more: Any) -> Submission:
    values = {"payload": {"n": 1}, "lane": "queue", "user_id": person().pk, "requires": "agent:a@1", **more}
    return Submission("test.noop", **values)


def _taken(run: Run, worker_id: UUID, lane: str = "queue") -> Claim:
    claimed = run(claim(worker_id, lane))
    assert isinstance(claimed, Claim)
    return claimed


def test_a_whole_life_goes_the_same_way_on_each_driver(run: Run) -> None:
    """Every script there is, one after another: each driver sends parameters in its own way."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    mine = run(lease.register({"queue": 4, "suspect": 1}, ["agent:a@1"], "1.0"))
    run(lease.update_capabilities(mine, ["agent:a@1", "agent:b@1"]))
    made = run(
        submit_script(_asked(partition_key="p", hold_keys=["all"], max_depth=5, idempotency=Idempotency("s", "k", "b")))
    )
    again = run(submit_script(_asked(idempotency=Idempotency("s", "k", "b"))))
    assert (again.job_id, again.created) == (made.job_id, False)
    later = run(submit_script(_asked(run_at=soon, partition_key="p")))
    assert run(stats._position(made.job_id)) == 1
    run(stats._eta(made.job_id, None))
    claimed = _taken(run, mine)
    assert (claimed.job_id, claimed.payload, claimed.created_at.tzinfo is not None) == (made.job_id, {"n": 1}, True)
    run(report_progress(claimed, {"done": 1}))
    assert run(lease.renew(mine)) == []
    assert run(lease.held(mine, older_than_s=60.0)) == []
    run(finish(claimed, Failed(PROBLEM, retry_after_s=0.5)))
    ask("UPDATE jobs_job SET run_at = now() - interval '1 second' WHERE state = 'scheduled'")
    for job_id in run(reconcile.due_jobs()):
        run(reconcile.make_due(job_id))
    claimed = _taken(run, mine)
    run(finish(claimed, Parked([WaitFor("person", "approve", soon), WaitFor("event", "paid")])))
    run(waits.resolve(made.job_id, "paid", {"by": "ada"}))
    ask("UPDATE jobs_wait SET until = now() - interval '1 second' WHERE resolved_at IS NULL")
    assert run(waits.due()) == [(made.job_id, "approve")]
    assert run(waits.expire(made.job_id, "approve"))
    run(holds.place("all", "paused", by="ada"))
    assert run(holds.held()) == [made.job_id]
    assert run(holds.block(made.job_id))
    run(holds.lift("all", "paused"))
    assert run(holds.unblockable()) == [made.job_id]
    assert run(holds.unblock(made.job_id))
    assert run(holds.unservable()) == []
    claimed = _taken(run, mine)
    run(lease.hand_back(claimed.job_id, claimed.fence))
    run(finish(_taken(run, mine), HandedBack()))
    run(finish(_taken(run, mine), Succeeded()))
    assert [job.job_id for job in run(claim_some(mine, "queue", 3))] == [later.job_id]
    assert run(lease.end(mine, "died")) == 1
    assert run(lease.expired()) == []
    other = run(lease.register({"suspect": 1}, ["agent:a@1"], "1.0", pid=1))
    run(finish(_taken(run, other, "suspect"), Blocked("version", PROBLEM)))
    assert story(made.job_id) == [
        ("", "queued", "submitted"),
        ("queued", "running", "claimed"),
        ("running", "scheduled", "retry"),
        ("scheduled", "queued", "due"),
        ("queued", "running", "claimed"),
        ("running", "waiting", "parked"),
        ("waiting", "queued", "resolved"),
        ("queued", "blocked", "held"),
        ("blocked", "queued", "unblocked"),
        ("queued", "running", "claimed"),
        ("running", "queued", "orphaned"),
        ("queued", "running", "claimed"),
        ("running", "queued", "handed-back"),
        ("queued", "running", "claimed"),
        ("running", "succeeded", "finished"),
    ]
    assert " ".join(reason for *_, reason in story(later.job_id)) == (
        "submitted due unblocked claimed worker-died claimed version"
    )


def test_rows_are_dictionaries_and_json_is_read(run: Run) -> None:
    def read() -> Script[list[dict[str, Any]]]:
        return (yield """SELECT '{"a": [1, null]}'::jsonb AS json, %s::uuid AS id, '{x,y}'::text[] AS words""", [some])

    some = uuid4()
    assert run(read()) == [{"json": {"a": [1, None]}, "id": some, "words": ["x", "y"]}]


def test_wake_ups_leave_after_the_commit(run: Run) -> None:
    depths = []

    def wake() -> Script[str]:
        yield Wake("queue")
        yield Wake("batch")
        yield Wake("queue")
        yield "SELECT 1", []
        depths.append(wakeups.depth("queue"))
        return "done"

    assert run(wake()) == "done"
    assert depths == [0]
    assert (wakeups.depth("queue"), wakeups.depth("batch")) == (2, 1)


def test_messages_leave_after_the_commit_in_their_order(run: Run, valkey: redis.Redis) -> None:
    with valkey.pubsub(ignore_subscribe_messages=True) as ear:  # type: ignore[no-untyped-call]
        ear.subscribe("test:a", "test:b")
        while ear.get_message(timeout=0.2) is not None:
            pass

        def tell() -> Script[str]:
            assert (yield Tell("test:a", {"n": 1, "word": "é"})) == []
            yield Tell("test:b", ["n", 2])
            yield "SELECT 1", []
            assert ear.get_message(timeout=0.05) is None
            yield Tell("test:a", None)
            return "done"

        assert run(tell()) == "done"
        heard = [ear.get_message(timeout=5) for _ in range(3)]
    told = [(it["channel"].decode(), json.loads(it["data"])) for it in heard if it is not None]
    assert told == [("test:a", {"n": 1, "word": "é"}), ("test:b", ["n", 2]), ("test:a", None)]


def test_a_script_that_raises_tells_nobody(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(wakeups, "tell", told.extend)

    def tell() -> Script[None]:
        yield Tell("test:a", 1)
        yield "SELECT 1", []
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        run(tell())
    assert told == []


def test_a_message_in_a_transaction_that_is_rolled_back_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(wakeups, "tell", told.extend)

    def tell() -> Script[None]:
        yield Tell("test:a", 1)

    def roll_back() -> None:
        with transaction.atomic():
            script.run(tell())
            assert told == []
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        roll_back()
    assert told == []
    with transaction.atomic():
        script.run(tell())
        assert told == []
    assert told == [("test:a", 1)]


def test_without_redis_a_script_that_tells_is_written_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> redis.Redis:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(wakeups, "client", away)
    asked = _asked()

    def tell() -> Script[str]:
        yield from submit_script(asked)
        yield Tell("test:a", 1)
        return "done"

    assert run(tell()) == "done"
    assert Job.objects.count() == 1


def test_a_script_that_raises_changes_nothing_and_wakes_nobody(run: Run) -> None:
    asked = _asked()

    def write() -> Script[None]:
        yield from submit_script(asked)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        run(write())
    assert not Job.objects.exists()
    assert wakeups.depth("queue") == 0


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT no_such_column", ProgrammingError),
        ("SELECT 1 / 0", DataError),
        (
            "INSERT INTO jobs_hold (key, reason, note, placed_by) VALUES ('k', 'r', '', ''), ('k', 'r', '', '')",
            IntegrityError,
        ),
    ],
)
def test_errors_of_the_database_are_djangos_on_djangos_connection(statement: str, error: type[Exception]) -> None:
    def wrong() -> Script[None]:
        yield statement, []

    with pytest.raises(error):
        script.run(wrong())


def test_a_script_inside_a_transaction_is_a_part_of_it() -> None:
    with transaction.atomic():
        made = script.run(submit_script(_asked()))
        assert Job.objects.filter(pk=made.job_id).exists()
        transaction.set_rollback(True)
    assert not Job.objects.exists()
    assert wakeups.depth("queue") == 0


def test_a_part_that_fails_inside_a_transaction_leaves_the_rest() -> None:
    def wrong() -> Script[None]:
        yield "SELECT no_such_column", []

    with transaction.atomic():
        made = script.run(submit_script(_asked()))
        with pytest.raises(ProgrammingError):
            script.run(wrong())
    assert Job.objects.get().pk == made.job_id


def test_a_session_that_stands_still_in_a_transaction_is_ended() -> None:
    """A process stopped in the middle of one must not keep its locks for ever."""

    def setting() -> Script[str]:
        rows = yield "SELECT current_setting('idle_in_transaction_session_timeout') AS value", []
        return str(rows[0]["value"])

    assert _on_a_pool(setting()) == _on_own_connection(setting()) == "5s"


def test_a_pool_belongs_to_its_loop() -> None:
    async def both() -> None:
        first = await get_pool()
        assert await get_pool() is first
        await close_pool()
        await close_pool()
        assert await get_pool() is not first
        await close_pool()

    asyncio.run(both())
