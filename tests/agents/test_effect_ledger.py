"""The ledger in PostgreSQL: who may begin an effect, who may tell how it ended, and what that settles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from agents.effect_ledger import RunLedger, settle
from agents.models import Effect
from agents.runtime.effects import wait_of
from agents.runtime.plain import plain
from agents.runtime.ports import Superseded, ToolContext
from agents.runtime.types import ToolCall, ToolResult
from approvals import told
from approvals.errors import AlreadyDecided
from approvals.models import Approval
from approvals.resolving import ResolveEffect
from audit.models import AuditEntry
from jobs import lease, script, sweeps
from jobs.claim import claim, finish
from jobs.handlers import Claim, Parked, WaitFor
from jobs.ids import uuid7
from jobs.models import Job
from jobs.pool import close_pool
from tests.jobs.drive import session, worker
from tests.support.approvals import reviewer, unknown_effect
from tests.support.configs import loaded
from tests.support.people import person
from tests.support.tasks import task

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded()

CALL = ToolCall(id="c1", tool="pay", arguments={"amount_usd": 5})
RESULT = plain(ToolResult(call_id="c1", tool="pay", content="receipt 7"))
FAILED = plain(ToolResult(call_id="c1", tool="pay", ok=False, error="no-such-account", content="None."))
KEY = "k" * 64


def do(what: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        try:
            return await what()
        finally:
            await close_pool()

    return asyncio.run(run())


class Owners:
    """A run that one worker has, and after it another."""

    def __init__(self) -> None:
        self.run = task(user=person("user"))
        self.worker = worker("queue")
        self.claim = self._claim(self.worker, "queue")

    def _claim(self, worker_id: Any, lane: str) -> Claim:
        found = script.run(claim(worker_id, lane))
        assert found is not None
        assert found.job_id == self.run.pk
        return found

    def lose(self) -> Claim:
        """Let the first worker's lease end, and return the claim of the next one."""
        script.run(lease.end(self.worker, "died"))
        self.worker = worker("suspect")
        return self._claim(self.worker, "suspect")

    def context(self, approval_id: str = "") -> ToolContext:
        return ToolContext(str(self.run.pk), None, "helper", "pay#1", KEY, approval_id)

    def begin(self, owner: Claim, *, idempotent: bool = False, approval_id: str = "") -> Any:
        return do(lambda: RunLedger(owner).begin(CALL, self.context(approval_id), idempotent=idempotent))

    def end(self, owner: Claim, result: Any = RESULT, *, known: bool = True) -> None:
        do(lambda: RunLedger(owner).end(KEY, result, known=known))

    def ask(self, owner: Claim) -> Approval:
        """Park the run for a person's word on the effect."""
        found = do(lambda: RunLedger(owner).look([KEY]))[KEY]
        data = {"effect": KEY, "tool": "pay", "arguments": CALL.arguments}
        assert script.run(finish(owner, Parked([WaitFor("person", wait_of(KEY, found), None, data)])))
        return Approval.objects.get(run=self.run, state="pending")

    @property
    def effect(self) -> Effect:
        return Effect.objects.get(key=KEY)

    @property
    def state(self) -> str:
        return Job.objects.get(pk=self.run.pk).state


@pytest.fixture
def owners() -> Owners:
    return Owners()


def test_a_stale_owner_may_not_begin(owners: Owners) -> None:
    stale = owners.claim
    owners.lose()
    with pytest.raises(Superseded):
        owners.begin(stale)
    assert not Effect.objects.exists()


def test_a_begin_whose_answer_was_lost_is_the_same_begin(owners: Owners) -> None:
    first, again = owners.begin(owners.claim), owners.begin(owners.claim)
    assert (first.state, again.state, again.attempt) == ("fresh", "fresh", 1)


def test_what_is_done_is_not_begun_again(owners: Owners) -> None:
    owners.begin(owners.claim)
    owners.end(owners.claim)
    found = owners.begin(owners.lose(), idempotent=True)
    assert (found.state, found.result["content"], owners.effect.attempt) == ("done", "receipt 7", 1)


def test_what_was_interrupted_begins_again_only_if_that_is_harmless(owners: Owners) -> None:
    owners.begin(owners.claim)
    heir = owners.lose()
    assert owners.begin(heir).state == "interrupted"
    assert owners.effect.attempt == 1
    assert owners.begin(heir, idempotent=True).state == "fresh"
    assert owners.effect.attempt == 2


def test_a_stale_owner_may_still_tell_how_it_ended(owners: Owners) -> None:
    owners.begin(owners.claim)
    heir = owners.lose()
    owners.end(owners.claim)
    assert owners.begin(heir).state == "done"


def test_the_truth_that_comes_late_settles_what_a_person_was_asked(owners: Owners) -> None:
    owners.begin(owners.claim)
    approval = owners.ask(owners.lose())
    assert owners.state == "waiting"
    owners.end(owners.claim)
    assert owners.state == "queued"
    assert (owners.effect.state, owners.effect.result) == ("done", RESULT)
    approval.refresh_from_db()
    assert (approval.state, approval.decision) == ("superseded", "")
    entry = AuditEntry.objects.get(action="approval.supersede", target_id=str(approval.pk))
    assert "told how it ended" in entry.note
    with pytest.raises(AlreadyDecided):
        ResolveEffect(reviewer(), "again", "I looked.").run(approval.pk)


def test_the_truth_that_comes_just_before_the_run_parks_leaves_nothing_to_ask(owners: Owners) -> None:
    owners.begin(owners.claim)
    heir = owners.lose()
    found = do(lambda: RunLedger(heir).look([KEY]))[KEY]
    owners.end(owners.claim)
    data = {"effect": KEY, "tool": "pay", "arguments": CALL.arguments}
    assert script.run(finish(heir, Parked([WaitFor("person", wait_of(KEY, found), None, data)])))
    assert owners.state == "queued"
    assert not Approval.objects.exists()


def test_a_run_that_parks_holds_the_effect_so_that_who_tells_finds_the_question(owners: Owners) -> None:
    owners.begin(owners.claim)
    heir = owners.lose()
    found = do(lambda: RunLedger(heir).look([KEY]))[KEY]
    data = {"effect": KEY, "tool": "pay", "arguments": CALL.arguments}
    parks = finish(heir, Parked([WaitFor("person", wait_of(KEY, found), None, data)]))
    with session() as parking:
        parking.do(parks)  # its transaction is open

        async def tell() -> None:
            telling = asyncio.create_task(RunLedger(owners.claim).end(KEY, RESULT, known=True))
            await asyncio.to_thread(_wait_until_somebody_is_blocked, parking.pid)
            parking.connection.commit()
            await telling

        do(tell)
    assert owners.state == "queued"
    assert Approval.objects.get(run=owners.run).state == "superseded"


def _wait_until_somebody_is_blocked(pid: int) -> None:
    import psycopg

    from jobs.pool import conninfo
    from tests.jobs.drive import until

    with psycopg.connect(conninfo(), autocommit=True) as watching:
        blocked = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        until(lambda: watching.execute(blocked, [pid]).fetchone())


def test_a_worker_that_told_and_died_before_the_question_was_settled_leaves_that_to_whoever_answers(
    owners: Owners,
) -> None:
    owners.begin(owners.claim)
    approval = owners.ask(owners.lose())
    Effect.objects.update(state="done", result=RESULT, finished_at=approval.created_at)
    with pytest.raises(AlreadyDecided, match="told how it ended"):
        ResolveEffect(reviewer(), "again", "I looked.").run(approval.pk)
    assert owners.effect.state == "done", "what is done is not done again, whatever is answered"
    assert owners.state == "queued"
    assert Approval.objects.get(pk=approval.pk).state == "superseded"


def test_a_worker_that_told_and_died_before_the_question_was_settled_leaves_that_to_the_sweep(owners: Owners) -> None:
    owners.begin(owners.claim)
    approval = owners.ask(owners.lose())
    for state in ("started", "unknown"):
        Effect.objects.update(state=state)
        assert told.sweep() == 0, "nobody has told"
    assert owners.state == "waiting"
    Effect.objects.update(state="done", result=RESULT, finished_at=approval.created_at)
    assert told.sweep() == 1
    assert owners.state == "queued"
    approval.refresh_from_db()
    assert (approval.state, approval.decision) == ("superseded", "")
    assert told.sweep() == 0


def test_a_question_that_cannot_be_settled_holds_up_no_other(
    owners: Owners, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owners.begin(owners.claim)
    approval = owners.ask(owners.lose())
    Effect.objects.update(state="done", result=RESULT, finished_at=approval.created_at)
    broken = unknown_effect()
    Effect.objects.filter(approvals=broken).update(state="given-up")

    def settling(run_id: UUID, wait_key: str) -> Any:
        if run_id == broken.run_id:
            raise ValueError("out of order")
        return settle(run_id, wait_key)

    monkeypatch.setattr(told, "settle", settling)
    assert told.sweep() == 1
    assert owners.state == "queued"
    assert "could not be settled" in caplog.text
    assert Approval.objects.get(pk=broken.pk).state == "pending"


def test_the_sweep_is_one_that_schedulers_run() -> None:
    assert told.sweep in [one.run for one in sweeps.registered()]


def test_what_a_person_gave_up_stays_so_when_the_truth_comes(owners: Owners) -> None:
    owners.begin(owners.claim)
    approval = owners.ask(owners.lose())
    ResolveEffect(reviewer(), "give_up", "Not worth it.").run(approval.pk)
    owners.end(owners.claim)
    assert owners.effect.state == "given-up"


def test_what_a_person_wants_done_again_is_not_if_the_truth_comes_before_it_begins(owners: Owners) -> None:
    owners.begin(owners.claim)
    approval = owners.ask(owners.lose())
    ResolveEffect(reviewer(), "again", "The bank knows of nothing.").run(approval.pk)
    owners.end(owners.claim)
    heir = script.run(claim(worker("queue"), "queue"))
    assert heir is not None
    assert owners.begin(heir).state == "done"


def test_the_truth_of_an_earlier_attempt_is_not_taken_for_that_of_a_later_one(owners: Owners) -> None:
    owners.begin(owners.claim)
    heir = owners.lose()
    owners.begin(heir, idempotent=True)
    owners.end(owners.claim, FAILED)
    assert owners.effect.state == "started"
    owners.end(heir)
    assert owners.effect.result == RESULT


def test_the_trail_says_what_a_decision_let_run_and_what_came_of_it(owners: Owners) -> None:
    approval_id = uuid7()
    owners.begin(owners.claim, approval_id=str(approval_id))
    owners.begin(owners.claim, approval_id=str(approval_id))
    owners.end(owners.claim, FAILED)
    entries = AuditEntry.objects.filter(target_type="approval", target_id=str(approval_id)).order_by("id")
    about = {"tool": "pay", "effect": owners.effect.pk, "run": str(owners.run.pk)}
    assert [(entry.action, entry.after) for entry in entries] == [
        ("effect.begin", {**about, "attempt": 1}),
        ("effect.end", {**about, "ok": False}),
    ]


def test_a_call_that_nobody_decided_on_is_in_the_ledger_and_not_in_the_trail(owners: Owners) -> None:
    owners.begin(owners.claim)
    owners.end(owners.claim)
    assert not AuditEntry.objects.filter(action__startswith="effect.").exists()


def test_settling_twice_is_settling_once(owners: Owners) -> None:
    owners.begin(owners.claim)
    approval = owners.ask(owners.lose())
    owners.end(owners.claim)
    script.run(settle(owners.run.pk, approval.wait_key))
    assert AuditEntry.objects.filter(action="approval.supersede").count() == 1
    assert Job.objects.get(pk=owners.run.pk).events.filter(reason="resolved").count() == 1
