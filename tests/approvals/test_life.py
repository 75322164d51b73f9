"""Whatever people, the clock and the run do to a request, in whatever order: nothing is approved that was not agreed to
by as many as must, an end is an end, and the run goes on once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agents.runtime.plans import Decided, Plan
from approvals.claiming import LEASE, Claim, Delegate, Release
from approvals.deadlines import Deadlines
from approvals.deciding import Decide
from approvals.errors import AlreadyDecided, Claimed, MayNot, PlanChanged, Undecidable
from approvals.locking import why_not
from approvals.models import Approval
from approvals.quorum import IN_FAVOUR
from audit.models import AuditEntry
from audit.trail import SYSTEM, Actor
from jobs.actions import Cancel, InvalidState
from jobs.models import Job, JobEvent, Wait
from tests.support.approvals import approval, config, fresh, still
from tests.support.configs import loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config(more='  - {when: {tool: test_pay, "amount_usd >": 1000}, group: board, quorum: 2}\n'))

PEOPLE = {"rita": ["reviewer"], "rolf": ["reviewer"], "bea": ["reviewer", "board"], "ulla": ["user"]}
REFUSALS = (AlreadyDecided, Claimed, MayNot, PlanChanged, Undecidable)
_TIMES = ("created_at", "deadline", "sort_at", "escalate_at", "claimed_until")
people = st.sampled_from(sorted(PEOPLE))
#: What ends it: else most lives were short.
SELDOM = st.sampled_from([False, False, False, False, True])


class Undo(Exception):
    """Leave no rows."""


class Life(RuleBasedStateMachine):
    """One request, from when it was asked to its end and beyond."""

    @initialize(
        quorum=st.sampled_from([1, 2, 2, 3]),
        auto=st.sampled_from(["reject", "escalate", "return"]),
        early=st.booleans(),
        own=st.booleans(),
    )
    def ask(self, quorum: int, auto: str, early: bool, own: bool) -> None:
        self.undo = self._undone()
        self.undo.__enter__()
        for name, roles in PEOPLE.items():
            person(name, *roles)
        calls = ({"tool": "test_pay", "arguments": {"file": "f", "amount_usd": 150}},) * 2
        self.of = approval(
            *calls,
            endpoint="pay.v1",
            quorum=quorum,
            auto_action=auto,
            escalate_to="board",
            requested_by=person("rita" if own else "user"),
            not_own=own,
        )
        if early:
            Approval.objects.update(escalate_at=F("deadline") - timedelta(hours=12))
        self.end: tuple[Any, ...] | None = None
        #: Plan hashes that each person said yes to, as the test saw it.
        self.agreed: dict[str, str] = {}

    @contextmanager
    def _undone(self) -> Iterator[None]:
        try:
            with transaction.atomic():
                yield
                raise Undo
        except Undo:
            pass

    def teardown(self) -> None:
        if hasattr(self, "undo"):
            self.undo.__exit__(None, None, None)

    def _actor(self, name: str) -> Actor:
        return Actor(user=User.objects.get(username=name))

    def _decide(self, name: str, decision: Any, **more: Any) -> None:
        now = fresh(self.of)
        try:
            with transaction.atomic():
                Decide(self._actor(name), decision, more.pop("plan_hash", now.plan_hash), **more).run(now.pk)
        except REFUSALS:
            return
        assert now.state == "pending", "what has ended was decided on"
        assert not why_not(now, User.objects.get(username=name)) or decision == "approve_with_changes"
        after = fresh(self.of)
        if decision in IN_FAVOUR:
            self.agreed[name] = after.plan_hash
        if after.state == "approved":
            assert not any(why_not(after, User.objects.get(username=voter)) for voter in after.decided_by)

    @rule(names=st.permutations(sorted(PEOPLE)), count=st.integers(1, 3))
    def agree_in_turn(self, names: list[str], count: int) -> None:
        Approval.objects.update(claimed_by=None, claimed_until=None)
        for name in names[:count]:
            self._decide(name, "approve")

    @rule(active=st.booleans())
    @precondition(lambda self: self.agreed)
    def close_or_open_the_account_of_who_agreed_first(self, active: bool) -> None:
        User.objects.filter(username=next(iter(self.agreed))).update(is_active=active)

    @rule(name=people, comment=st.sampled_from(["", "fine"]))
    def approve(self, name: str, comment: str) -> None:
        self._decide(name, "approve", comment=comment)

    @rule(name=people, amounts=st.lists(st.sampled_from([120, 150, 5000, "x"]), min_size=1, max_size=2))
    def change(self, name: str, amounts: list[Any]) -> None:
        calls = [{"id": str(n), "arguments": {"file": "f", "amount_usd": a}} for n, a in enumerate(amounts, 1)]
        self._decide(name, "approve_with_changes", calls=calls)

    @rule(name=people, decision=st.sampled_from(["reject", "request_changes"]), at_last=SELDOM)
    def refuse(self, name: str, decision: str, at_last: bool) -> None:
        if at_last:
            self._decide(name, decision, comment="no")

    @rule(name=people)
    def decide_on_an_old_plan(self, name: str) -> None:
        before = fresh(self.of)
        self._decide(name, "approve", plan_hash="0" * 64)
        assert fresh(self.of).votes.count() == before.votes.count()

    @rule(name=people, to=people, what=st.sampled_from(["claim", "take over", "release", "delegate"]))
    def handle(self, name: str, to: str, what: str) -> None:
        actor = self._actor(name)
        deed: Any = {
            "claim": Claim(actor),
            "take over": Claim(actor, take_over=True),
            "release": Release(actor),
            "delegate": Delegate(actor, to),
        }[what]
        try:
            with transaction.atomic():
                deed.run(self.of.pk)
        except REFUSALS:
            pass

    @rule(name=people, active=st.booleans())
    def open_or_close_an_account(self, name: str, active: bool) -> None:
        User.objects.filter(username=name).update(is_active=active)

    @rule(hours=st.sampled_from([1, 1, 1, 1, 11, 24]))
    def let_time_pass(self, hours: int) -> None:
        span = timedelta(hours=hours)
        Approval.objects.update(**{name: F(name) - span for name in _TIMES})

    @rule()
    def let_the_claim_run_out(self) -> None:
        Approval.objects.update(claimed_until=F("claimed_until") - LEASE)

    @rule()
    def sweep(self) -> None:
        Deadlines(still).sweep()

    @rule(at_last=SELDOM)
    @precondition(lambda self: self.end is None)
    def cancel(self, at_last: bool) -> None:
        if not at_last:
            return
        try:
            with transaction.atomic():
                Cancel(SYSTEM).run(self.of.run_id)
        except InvalidState:
            pass

    @invariant()
    def nothing_is_approved_but_by_as_many_as_must(self) -> None:
        if not hasattr(self, "of"):
            return
        now = fresh(self.of)
        if now.state != "approved":
            return
        said_yes = {name for name, agreed in self.agreed.items() if agreed == now.plan_hash}
        assert set(now.decided_by) <= said_yes
        assert len(set(now.decided_by)) == len(now.decided_by) >= now.quorum
        over = any(call["arguments"]["amount_usd"] > 1000 for call in now.plan["calls"])
        assert now.quorum >= (2 if over else 1)
        assert now.decision == ("approve" if now.plan == now.asked_plan else "approve_with_changes")

    @invariant()
    def an_end_is_an_end(self) -> None:
        if not hasattr(self, "of"):
            return
        now = fresh(self.of)
        end = (now.state, now.decision, now.decided_by, now.decided_at, now.plan_hash, now.comment)
        if self.end is not None:
            assert end == self.end
        elif now.state != "pending":
            self.end = end

    @invariant()
    def the_run_goes_on_once_and_only_when_it_is_decided(self) -> None:
        if not hasattr(self, "of"):
            return
        now, job = fresh(self.of), Job.objects.get(pk=self.of.run_id)
        wait = Wait.objects.get(job_id=job.pk)
        decided = bool(now.decision)
        assert (wait.resolved_at is not None) == decided
        assert JobEvent.objects.filter(job_id=job.pk, old="waiting", new="queued").count() == decided
        assert AuditEntry.objects.filter(action="approval.decide").count() == decided
        if now.state == "pending":
            assert job.state == "waiting"
        if decided:
            said = Decided.model_validate(wait.result)
            assert said.decision == now.decision
            if now.state == "approved":
                assert said.plan.hash == said.plan_hash == now.plan_hash
        if now.state == "expired":
            assert now.decision in ("reject", "request_changes")

    @invariant()
    def a_plan_and_its_hash_belong_together_and_everybody_votes_once(self) -> None:
        if not hasattr(self, "of"):
            return
        now = fresh(self.of)
        assert Plan.model_validate(now.plan).hash == now.plan_hash
        voters = sorted(now.votes.filter(void=False).values_list("user_name", flat=True))
        assert all(len(list(same)) == 1 for _, same in itertools.groupby(voters))
        if now.state != "pending":
            assert now.claimed_by_id is None


def test_a_request_keeps_its_rules_whatever_happens_to_it() -> None:
    few = settings(max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Life, settings=few)
