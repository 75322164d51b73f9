"""The HTTP API of approvals: who sees what, every decision, every refusal, and what the trail says of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles
from agents.models import Effect
from approvals.models import Approval, Viewing, Vote
from audit import chain
from audit.models import AuditEntry
from jobs.handlers import Parked, Succeeded
from tests.support.approvals import approval, asked, carry_on, config, fresh, paid, unknown_effect
from tests.support.configs import load, loaded
from tests.support.people import bearer, person

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/api/v1/approvals"
NOBODY = "00000000-0000-7000-8000-000000000000"

#: With an endpoint for requests that are written straight to the tables.
CONFIG = config().replace("endpoints:\n", "endpoints:\n  help.v1: {agent: payer, mode: async-queue}\n")

_config = loaded(CONFIG)


class Caller:
    """Somebody who calls the API with a token."""

    def __init__(self, user: User, *scopes: str) -> None:
        self.user = user
        self.client = Client(headers=bearer(user, *scopes))

    def get(self, path: object = "", **query: Any) -> tuple[int, Any]:
        return self._answer(self.client.get(f"{URL}/{path}" if path else URL, query))

    def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        return self.send(path, None if body is None else json.dumps(body))

    def send(self, path: str, content: str | bytes | None) -> tuple[int, Any]:
        return self._answer(self.client.post(f"{URL}/{path}", content, content_type="application/json"))

    def decide(self, wanted: Approval, decision: str, **more: Any) -> tuple[int, Any]:
        body = {"decision": decision, "plan_hash": wanted.plan_hash, **more}
        return self.post(f"{wanted.pk}/decision", {name: value for name, value in body.items() if value is not ...})

    def listed(self, **query: Any) -> list[UUID]:
        status, body = self.get(**query)
        assert status == 200, body
        return [UUID(item["id"]) for item in body["items"]]

    @staticmethod
    def _answer(response: Any) -> tuple[int, Any]:
        return response.status_code, response.json()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def rita(db: None) -> Caller:
    return Caller(person("rita", roles.REVIEWER))


@pytest.fixture
def rolf(db: None) -> Caller:
    return Caller(person("rolf", roles.REVIEWER))


@pytest.fixture
def ulla(db: None) -> Caller:
    return Caller(person("ulla", roles.USER))


@pytest.fixture
def olga(db: None) -> Caller:
    return Caller(person("olga", roles.OPERATOR))


def refused(answer: tuple[int, Any], status: int, slug: str) -> dict[str, Any]:
    found, body = answer
    assert (found, body["type"], body["status"]) == (status, f"/problems/{slug}", status), body
    assert body["detail"]
    refusal: dict[str, Any] = body
    return refusal


# --- What it shows ----------------------------------------------------------------------------------------------------


def test_an_approval_is_answered_whole(notes: Path, rita: Caller) -> None:
    found = asked(notes, 150, user=person("ulla"))
    status, body = rita.get(found.pk)
    assert status == 200
    base = f"{URL}/{found.pk}"
    assert body == {
        "id": str(found.pk),
        "kind": "plan",
        "state": "pending",
        "decision": None,
        "task_id": str(found.run_id),
        "agent": "payer",
        "agent_version": 1,
        "endpoint": "pay.v1",
        "title": found.title,
        "reason": found.reason,
        "requested_by": "ulla",
        "tools": ["test_pay"],
        "amount_usd": 150.0,
        "plan_hash": found.plan_hash,
        "version": 1,
        "revises": None,
        "who": {"groups": ["reviewer"], "users": [], "not_own": False},
        "quorum": 1,
        "demands": [{"groups": ["reviewer"], "users": [], "quorum": 1}],
        "votes": [],
        "missing_votes": 1,
        "claimed_by": None,
        "claimed_until": None,
        "created_at": body["created_at"],
        "deadline": body["deadline"],
        "auto_action": "reject",
        "decided_at": None,
        "decided_by": [],
        "comment": "",
        "may_decide": True,
        "why_not": "",
        "links": {
            "self": base,
            "task": f"/api/v1/tasks/{found.run_id}",
            "page": f"/approvals/{found.pk}/",
            "decision": f"{base}/decision",
            "claim": f"{base}/claim",
            "release": f"{base}/release",
            "delegate": f"{base}/delegate",
        },
        "plan": {
            "title": "",
            "summary": "",
            "calls": [
                {
                    "id": "1",
                    "tool": "test_pay",
                    "arguments": {"file": str(notes), "amount_usd": 150},
                    "why": "",
                    "touches": found.plan["calls"][0]["touches"],
                    "undoable": found.plan["calls"][0]["undoable"],
                    "cost_usd": None,
                    "flagged": False,
                }
            ],
        },
        "asked_plan": None,
        "effects": [],
    }


def test_to_look_is_told_once_with_the_token_that_looked(rita: Caller) -> None:
    found = approval()
    for _ in range(2):
        rita.get(found.pk)
    assert Viewing.objects.get(approval=found).user == rita.user
    entry = AuditEntry.objects.get(action="approval.view")
    assert (entry.actor_name, entry.target_id) == ("rita", str(found.pk))
    assert entry.token_id == rita.user.api_tokens.get().pk


def test_to_list_is_not_to_have_seen(rita: Caller) -> None:
    found = approval()
    assert rita.listed() == [found.pk]
    assert not Viewing.objects.exists()


def test_a_listed_approval_is_the_same_without_its_plans_and_effects(rita: Caller) -> None:
    found = approval()
    _, body = rita.get(found.pk)
    _, listed = rita.get()
    for name in ("plan", "asked_plan", "effects"):
        del body[name]
    assert listed == {"items": [body], "next_cursor": None}


def test_an_effect_is_shown_with_the_call_that_it_is_about(rita: Caller) -> None:
    _, body = rita.get(unknown_effect().pk)
    assert (body["kind"], body["plan"], body["plan_hash"], body["deadline"]) == ("effect", None, None, None)
    [effect] = body["effects"]
    assert (effect["tool"], effect["arguments"], effect["state"]) == ("test_pay", {"amount_usd": 150}, "unknown")


def test_a_reviewer_sees_what_they_may_decide_and_an_operator_all(rita: Caller, olga: Caller, ulla: Caller) -> None:
    hers, others = approval(), approval(groups=["finance"])
    assert rita.listed() == [hers.pk]
    assert olga.listed() == [others.pk, hers.pk]
    assert olga.listed(mine="true") == []
    assert ulla.listed() == []
    assert rita.get(hers.pk)[0] == olga.get(others.pk)[0] == 200
    refused(rita.get(others.pk), 404, "unknown-approval")
    refused(ulla.get(hers.pk), 404, "unknown-approval")
    refused(olga.get(uuid4()), 404, "unknown-approval")


def test_a_person_who_is_named_sees_it_and_a_group_of_the_house_does(ulla: Caller) -> None:
    approval(groups=["finance"])
    named = approval(groups=[], users=["ulla"])
    assert ulla.listed() == [named.pk]
    person("ulla", "finance")
    assert len(Caller(User.objects.get(username="ulla")).listed()) == 2


def test_who_may_not_decide_is_told_why(olga: Caller, rita: Caller) -> None:
    _, body = olga.get(approval().pk)
    assert (body["may_decide"], body["why_not"]) == (False, "Only the group reviewer may decide on this.")
    _, body = rita.get(approval(state="approved").pk)
    assert (body["may_decide"], body["why_not"]) == (False, "It was approved by rita already.")


def test_the_newest_comes_first_and_every_one_is_on_one_page(rita: Caller) -> None:
    made = [approval(due=timedelta(hours=5 - number)).pk for number in range(5)][::-1]
    seen: list[UUID] = []
    cursor = ""
    while True:
        _, body = rita.get(limit=2, cursor=cursor)
        seen += [UUID(item["id"]) for item in body["items"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
    assert seen == made


def test_filters(rita: Caller) -> None:
    pending, done, effect, old = approval(), approval(state="rejected"), unknown_effect(), approval(state="expired")
    Approval.objects.filter(pk=done.pk).update(agent="other")
    assert rita.listed(state="pending") == [effect.pk, pending.pk]
    assert rita.listed(state=["rejected", "expired"]) == [old.pk, done.pk]
    assert rita.listed(kind="effect") == [effect.pk]
    assert rita.listed(agent="other") == [done.pk]
    assert rita.listed(agent="nobody") == []
    assert len(rita.listed(state="", kind="")) == 4


def test_a_list_takes_as_many_statements_whatever_there_is(rita: Caller) -> None:
    rita.listed()  # which notes the token's use

    def statements() -> int:
        with CaptureQueriesContext(connection) as sent:
            rita.listed()
        return len(sent)

    def one() -> None:
        made = approval(claimed_by=rita.user, claimed_until=timezone.now() + timedelta(minutes=5))
        Vote.objects.create(approval=made, user=rita.user, user_name="rita", decision="approve")

    one()
    few = statements()
    for _ in range(30):
        one()
    assert statements() == few


# --- Deciding ---------------------------------------------------------------------------------------------------------


def test_what_is_approved_runs_and_is_shown_with_its_effects(notes: Path, rita: Caller) -> None:
    found = asked(notes, 150, 20)
    status, body = rita.decide(found, "approve", comment="fine")
    assert status == 200
    assert (body["state"], body["decision"], body["decided_by"], body["comment"]) == (
        "approved",
        "approve",
        ["rita"],
        "fine",
    )
    [vote] = body["votes"]
    assert (vote["by"], vote["decision"], vote["plan_hash"], vote["void"]) == (
        "rita",
        "approve",
        found.plan_hash,
        False,
    )
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150", "paid-20"]
    _, body = rita.get(found.pk)
    assert [(effect["tool"], effect["state"]) for effect in body["effects"]] == [("test_pay", "done")]
    entry = AuditEntry.objects.get(action="approval.vote")
    assert entry.after is not None
    assert (entry.after["way"], entry.token_id) == ("api", rita.user.api_tokens.get().pk)
    assert AuditEntry.objects.get(action="approval.decide").token_id == entry.token_id


@pytest.mark.parametrize("as_list", [True, False])
def test_a_changed_plan_is_run_as_it_was_changed(notes: Path, rita: Caller, as_list: bool) -> None:
    found = asked(notes, 150)
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": 60}}]
    status, body = rita.decide(found, "approve_with_changes", plan=calls if as_list else {"calls": calls})
    assert (status, body["decision"]) == (200, "approve_with_changes")
    assert body["plan"]["calls"][0]["arguments"]["amount_usd"] == 60
    assert body["asked_plan"]["calls"][0]["arguments"]["amount_usd"] == 150
    assert body["plan_hash"] != found.plan_hash
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-60"]


def test_a_plan_may_be_sent_back_as_it_was_answered_with_other_arguments(notes: Path, rita: Caller) -> None:
    found = asked(notes, 150, endpoint="plan.v1")
    _, body = rita.get(found.pk)
    plan = body["plan"]
    plan["calls"][0]["arguments"]["amount_usd"] = 70
    assert rita.decide(found, "approve_with_changes", plan=plan)[0] == 200
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-70"]


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (("calls", 0), "tool", "test_other"),
        (("calls", 0), "why", "Because."),
        (("calls", 0), "undoable", 3),
        (("calls", 0), "cost_usd", [1]),
        ((), "title", "Pay nobody"),
    ],
)
def test_what_only_the_agent_says_cannot_be_changed(
    notes: Path, rita: Caller, place: tuple[str | int, ...], name: str, value: Any
) -> None:
    found = asked(notes, 150, endpoint="plan.v1")
    _, body = rita.get(found.pk)
    at = body["plan"]
    for part in place:
        at = at[part]
    at[name] = value
    problem = refused(rita.decide(found, "approve_with_changes", plan=body["plan"]), 422, "bad-input")
    assert problem["errors"][0]["loc"] == ["plan", *place, name]
    assert fresh(found).state == "pending"


def test_changes_are_requested_and_the_next_version_says_what_it_revises(notes: Path, rita: Caller) -> None:
    first = asked(notes, 150, endpoint="plan.v1")
    status, body = rita.decide(first, "request_changes", comment="half of it")
    assert (status, body["state"], body["decision"]) == (200, "superseded", "request_changes")
    assert isinstance(carry_on(), Parked)
    [second] = rita.listed(state="pending")
    _, body = rita.get(second)
    assert (body["version"], body["revises"], body["plan"]["title"]) == (2, str(first.pk), "Pay the suppliers")


def test_what_is_rejected_does_not_run(notes: Path, rita: Caller) -> None:
    found = asked(notes, 150, 20)
    assert rita.decide(found, "reject", comment="too much")[1]["state"] == "rejected"
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-20"]


def test_each_flagged_step_is_decided_on(notes: Path, rita: Caller) -> None:
    load(config("per: step"))
    found = asked(notes, 150, 200)
    _, body = rita.get(found.pk)
    assert [call["flagged"] for call in body["plan"]["calls"]] == [True, True]
    refused(rita.decide(found, "approve", steps={"1": "approve"}), 422, "undecidable")
    status, body = rita.decide(found, "approve", steps={"1": "approve", "2": "reject"})
    assert (status, [call["id"] for call in body["plan"]["calls"]]) == (200, ["1"])
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]


def test_a_vote_that_is_not_the_last_says_how_many_are_missing(notes: Path, rita: Caller, rolf: Caller) -> None:
    load(config("quorum: 2"))
    found = asked(notes, 150)
    for _ in range(2):  # sent again, it is the same vote
        _, body = rita.decide(found, "approve")
        assert (body["state"], body["missing_votes"]) == ("pending", 1)
    assert [(vote["by"], vote["void"]) for vote in body["votes"]] == [("rita", False)]
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": 120}}]
    _, body = rolf.decide(found, "approve_with_changes", plan=calls)
    assert (body["state"], body["missing_votes"]) == ("pending", 1)
    assert refused(rita.decide(found, "approve"), 409, "plan-changed")["plan_hash"] == body["plan_hash"]
    _, body = rita.decide(fresh(found), "approve")
    assert (body["state"], body["decided_by"], body["missing_votes"]) == ("approved", ["rolf", "rita"], 0)


def test_a_vote_of_somebody_who_may_not_decide_any_more_is_missing_again(rita: Caller, rolf: Caller) -> None:
    found = approval(quorum=2)
    assert rita.decide(found, "approve")[1]["missing_votes"] == 1
    rita.user.groups.clear()
    assert rolf.get(found.pk)[1]["missing_votes"] == 2
    assert rolf.get()[1]["items"][0]["missing_votes"] == 2


def test_what_waits_for_me_is_what_i_have_not_voted_on(rita: Caller) -> None:
    voted, other = approval(quorum=2), approval()
    approval(state="rejected")
    rita.decide(voted, "approve")
    assert rita.listed(mine="true") == [other.pk]
    assert rita.listed(mine="true", state="rejected") == []


@pytest.mark.parametrize("altered", [[], {}, "x", 7, {"calls": [{"id": 1}]}, {"calls": "x", "title": None}])
def test_a_plan_that_somebody_altered_can_still_be_looked_at_and_rejected(rita: Caller, altered: Any) -> None:
    found = approval()
    Approval.objects.filter(pk=found.pk).update(plan=altered)
    assert rita.get(found.pk)[0] == 200
    refused(rita.decide(found, "approve"), 422, "undecidable")
    assert rita.decide(found, "approve_with_changes", plan=[{"id": "1"}])[0] == 422
    assert rita.decide(found, "reject", comment="It was altered.")[0] == 200


def test_after_its_deadline_nobody_decides(rita: Caller) -> None:
    found = approval(due=timedelta(seconds=-1))
    assert rita.get(found.pk)[1]["why_not"] == "Its deadline has passed."
    refused(rita.decide(found, "approve"), 409, "already-decided")


@pytest.mark.parametrize(
    ("finding", "state", "effect"), [("happened", "approved", "done"), ("again", "approved", "again")]
)
def test_what_became_of_an_effect_is_said_in_the_same_call(rita: Caller, finding: str, state: str, effect: str) -> None:
    found = unknown_effect()
    more = {"result": {"receipt": 7}} if finding == "happened" else {}
    status, body = rita.decide(found, finding, plan_hash=..., comment="the bank says so", **more)
    assert (status, body["state"], body["decision"]) == (200, state, finding)
    assert (body["effects"][0]["state"], body["effects"][0]["resolved_by"]) == (effect, "rita")
    assert found.effect is not None
    kept = Effect.objects.get(pk=found.effect.pk).result
    assert (kept or {}).get("content") == ({"receipt": 7} if more else None)


def test_an_effect_is_given_up_and_needs_a_reason(rita: Caller) -> None:
    found = unknown_effect()
    refused(rita.decide(found, "give_up", plan_hash=...), 422, "undecidable")
    assert rita.decide(found, "give_up", comment="not worth it")[1]["state"] == "rejected"


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_who_comes_second_is_told_who_was_first(notes: Path, rita: Caller, rolf: Caller) -> None:
    found = asked(notes, 150)
    rita.decide(found, "approve")
    problem = refused(rolf.decide(found, "reject", comment="no"), 409, "already-decided")
    assert (problem["state"], problem["decision"], problem["by"]) == ("approved", "approve", ["rita"])
    for call in ("claim", "delegate"):
        refused(rolf.post(f"{found.pk}/{call}", {"to": "ulla"} if call == "delegate" else None), 409, "already-decided")
    assert rolf.post(f"{found.pk}/release")[0] == 200


def test_another_plan_than_the_one_that_stands_is_refused_with_its_hash(notes: Path, rita: Caller) -> None:
    found = asked(notes, 150)
    body = {"decision": "approve", "plan_hash": "0" * 64}
    assert refused(rita.post(f"{found.pk}/decision", body), 409, "plan-changed")["plan_hash"] == found.plan_hash
    assert fresh(found).state == "pending"


def test_a_claim_keeps_others_out_until_it_is_taken_over_or_released(rita: Caller, rolf: Caller) -> None:
    found = approval()
    status, body = rita.post(f"{found.pk}/claim")
    assert (status, body["claimed_by"]) == (200, "rita")
    assert body["claimed_until"]
    refused(rolf.decide(found, "reject", comment="no"), 409, "claimed")
    refused(rolf.post(f"{found.pk}/claim", {}), 409, "claimed")
    assert rolf.post(f"{found.pk}/claim", {"take_over": True})[1]["claimed_by"] == "rolf"
    assert rita.post(f"{found.pk}/release")[1]["claimed_by"] == "rolf"
    assert rolf.post(f"{found.pk}/release")[1]["claimed_by"] is None
    assert AuditEntry.objects.filter(action="approval.claim", token_id__isnull=False).count() == 2


def test_a_claim_that_ran_out_is_none(rita: Caller) -> None:
    past = timezone.now() - timedelta(seconds=1)
    _, body = rita.get(approval(claimed_by=person("rolf"), claimed_until=past).pk)
    assert (body["claimed_by"], body["claimed_until"]) == (None, None)


def test_a_claim_of_somebody_who_may_not_decide_any_more_is_none(rita: Caller) -> None:
    until = timezone.now() + timedelta(minutes=5)
    found = approval(claimed_by=person("rolf", "reviewer"), claimed_until=until)
    assert rita.get(found.pk)[1]["claimed_by"] == "rolf"
    person("rolf").groups.clear()
    _, body = rita.get(found.pk)
    assert (body["claimed_by"], body["claimed_until"]) == (None, None)


def test_it_is_delegated_to_somebody_who_then_sees_it(rita: Caller, ulla: Caller) -> None:
    found = approval()
    refused(ulla.get(found.pk), 404, "unknown-approval")
    for nobody in ("nobody-at-all", "rita"):
        refused(rita.post(f"{found.pk}/delegate", {"to": nobody}), 422, "undecidable")
    status, body = rita.post(f"{found.pk}/delegate", {"to": "ulla", "note": "You know them."})
    assert (status, body["who"]["users"], body["claimed_by"]) == (200, ["ulla"], "ulla")
    assert ulla.get(found.pk)[1]["may_decide"] is True


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("decision", {"decision": "approve", "plan_hash": "0" * 64}),
        ("claim", {"take_over": True}),
        ("release", None),
        ("delegate", {"to": "rita"}),
    ],
)
def test_nothing_can_be_done_by_who_may_not(rita: Caller, olga: Caller, ulla: Caller, call: str, body: Any) -> None:
    found = approval(groups=["finance"], requested_by=ulla.user)
    before = Approval.objects.filter(pk=found.pk).values().get()
    refused(rita.post(f"{found.pk}/{call}", body), 404, "unknown-approval")
    refused(rita.post(f"{uuid4()}/{call}", body), 404, "unknown-approval")
    if call != "release":  # to give back what one does not have is harmless, for whoever may see it
        assert "finance" in refused(olga.post(f"{found.pk}/{call}", body), 403, "may-not-decide")["detail"]
    refused(ulla.post(f"{found.pk}/{call}", body), 403, "may-not-decide")
    assert Approval.objects.filter(pk=found.pk).values().get() == before
    assert not Vote.objects.exists()


def test_nobody_decides_on_their_own_where_the_policy_says_so(rita: Caller) -> None:
    own = approval(not_own=True, requested_by=rita.user)
    assert "yourself" in refused(rita.decide(own, "approve"), 403, "may-not-decide")["detail"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, ["decision"]),
        ({"decision": "approve"}, ["plan_hash"]),
        ({"decision": "approve", "plan_hash": None}, ["plan_hash"]),
        ({"decision": "approve", "plan_hash": 7}, ["plan_hash"]),
        ({"decision": "yes", "plan_hash": "x"}, ["decision"]),
        ({"decision": ["approve"], "plan_hash": "x"}, ["decision"]),
        ({"decision": "approve", "plan_hash": "x", "who": "me"}, ["who"]),
        ({"decision": "approve", "plan_hash": "x", "result": 1}, ["result"]),
        ({"decision": "approve", "plan_hash": "x", "comment": "x" * 2001}, ["comment"]),
        ({"decision": "approve", "plan_hash": "x", "comment": None}, ["comment"]),
        ({"decision": "approve", "plan_hash": "a\0b"}, ["plan_hash"]),
        ({"decision": "approve", "plan_hash": "x", "steps": {"1": "maybe"}}, ["steps", "1"]),
        ({"decision": "approve", "plan_hash": "x", "steps": ["1"]}, ["steps"]),
        ({"decision": "approve_with_changes", "plan_hash": "x", "plan": "all"}, ["plan"]),
        ({"decision": "approve_with_changes", "plan_hash": "x", "plan": {}}, ["plan", "calls"]),
        ({"decision": "approve_with_changes", "plan_hash": "x", "plan": [7]}, ["plan", "calls", 0]),
        ({"decision": "approve_with_changes", "plan_hash": "x", "plan": [{}]}, ["plan", "calls", 0, "id"]),
        ({"decision": "approve_with_changes", "plan_hash": "x", "plan": [{"id": 1}]}, ["plan", "calls", 0, "id"]),
        (
            {"decision": "approve_with_changes", "plan_hash": "x", "plan": [{"id": "1", "arguments": [1]}]},
            ["plan", "calls", 0, "arguments"],
        ),
        ({"decision": "happened", "plan_hash": "x", "comment": "c"}, ["plan_hash"]),
        ({"decision": "happened", "comment": "c", "plan": [{"id": "1"}]}, ["plan"]),
        ({"decision": "happened", "comment": "c", "steps": {"1": "approve"}}, ["steps"]),
        ({"decision": "again", "comment": "c", "result": 1}, ["result"]),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_and_names_the_place(rita: Caller, body: Any, loc: list[Any]) -> None:
    found = approval()
    problem = refused(rita.post(f"{found.pk}/decision", body), 422, "bad-input")
    assert problem["errors"][0]["loc"] == loc
    assert fresh(found).state == "pending"


@pytest.mark.parametrize(
    ("decision", "more"),
    [
        ("reject", {}),
        ("reject", {"comment": "  \n"}),
        ("request_changes", {}),
        ("approve_with_changes", {}),
        ("approve_with_changes", {"plan": []}),
        ("approve", {"plan": [{"id": "1"}]}),
        ("approve", {"steps": {"9": "approve"}}),
        ("approve", {"steps": {"1": "reject"}}),
        ("approve_with_changes", {"plan": [{"id": "2", "tool": "rm"}]}),
        ("happened", {"plan_hash": ..., "comment": "c"}),
    ],
)
def test_what_cannot_be_decided_so_is_refused_and_changes_nothing(
    rita: Caller, decision: str, more: dict[str, Any]
) -> None:
    found = approval()
    refused(rita.decide(found, decision, **more), 422, "undecidable")
    assert fresh(found).state == "pending"
    assert not Vote.objects.exists()


def test_arguments_are_held_against_the_tools_schema(notes: Path, rita: Caller) -> None:
    found = asked(notes, 150)
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": "a lot"}}]
    problem = refused(rita.decide(found, "approve_with_changes", plan=calls), 422, "undecidable")
    assert problem["errors"][0]["loc"] == ["plan", "calls", 0, "arguments"]
    assert "amount_usd" in problem["errors"][0]["msg"]


def test_a_decision_on_a_plan_is_none_on_an_effect(rita: Caller) -> None:
    found = unknown_effect()
    refused(rita.decide(found, "approve"), 422, "undecidable")
    refused(rita.decide(found, "approve", plan_hash=...), 422, "undecidable")


def _nested(depth: int) -> str:
    calls = f'[{{"id": "1", "arguments": {{"a": {"[" * depth}{"]" * depth}}}}}]'
    return f'{{"decision": "approve_with_changes", "plan_hash": "x", "plan": {calls}}}'


@pytest.mark.parametrize(
    ("content", "status", "slug"),
    [
        (_nested(70), 422, "bad-input"),
        (_nested(200_000), 422, "bad-input"),
        ('{"decision": "approve", "plan_hash": "x", "comment": "\\ud800"}', 422, "bad-input"),
        ('{"decision": "approve", "plan_hash": "x", "comment": "a\\u0000"}', 422, "bad-input"),
        ('{"decision": "approve", "plan_hash": "x", "result": 1e999}', 422, "bad-input"),
        ('{"decision": "approve", "plan_hash": "x", "result": NaN}', 400, "bad-json"),
        ('{"decision": ', 400, "bad-json"),
        (b"\xff\xfe", 400, "bad-json"),
        ('{"comment": "' + "x" * (1 << 20) + '"}', 413, "payload-too-large"),
        ("[]", 422, "bad-input"),
        ("7", 422, "bad-input"),
        ("null", 422, "bad-input"),
        ("", 422, "bad-input"),
    ],
)
def test_hostile_bodies_are_refused_and_change_nothing(
    rita: Caller, content: str | bytes, status: int, slug: str
) -> None:
    found = approval()
    refused(rita.send(f"{found.pk}/decision", content), status, slug)
    assert fresh(found).state == "pending"


def test_a_large_plan_of_unknown_calls_is_refused(rita: Caller) -> None:
    found = approval()
    calls = [{"id": str(number), "arguments": {}} for number in range(20_000)]
    problem = refused(rita.decide(found, "approve_with_changes", plan=calls), 422, "bad-input")
    assert problem["errors"] == [{"loc": ["plan", "calls"], "msg": "the plan has 1 calls, and none can be added"}]


@pytest.mark.parametrize(
    "query",
    [
        {"state": "done"},
        {"kind": "thing"},
        {"mine": "perhaps"},
        {"cursor": "nonsense"},
        {"cursor": "MQ"},
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "many"},
        {"agent": "a\0b"},
        {"agent": "x" * 201},
    ],
)
def test_a_list_that_makes_no_sense_is_refused(rita: Caller, query: dict[str, str]) -> None:
    assert refused(rita.get(**query), 422, "bad-input")["errors"][0]["loc"][:2] == ["query", next(iter(query))]


def test_a_list_that_takes_too_long_is_given_up(rita: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Approval.objects.extra(where=["pg_sleep(60) IS NOT NULL"])
    monkeypatch.setattr("approvals.api.LIST_S", 0.05)
    monkeypatch.setattr("approvals.api.for_you", lambda user: slow)
    approval()
    refused(rita.get(mine="true"), 503, "list-given-up")


@pytest.mark.parametrize("path", ["x", "1", "%00", "../tasks", f"{NOBODY}/nothing", f"{NOBODY}/decision/x"])
def test_an_address_at_which_there_is_nothing(rita: Caller, path: str) -> None:
    assert rita.client.get(f"{URL}/{path}").status_code == 404


# --- Signing in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("approvals:read", "get", ""),
        ("approvals:read", "get", f"/{NOBODY}"),
        *(("approvals:write", "post", f"/{NOBODY}/{call}") for call in ("decision", "claim", "release", "delegate")),
    ],
)
def test_every_call_needs_its_scope(scope: str, method: str, path: str) -> None:
    other = "approvals:write" if scope == "approvals:read" else "approvals:read"
    rita = person("rita", roles.REVIEWER)
    answer = getattr(Client(headers=bearer(rita, other, "tasks:write")), method)(URL + path)
    assert scope in refused((answer.status_code, answer.json()), 403, "forbidden")["detail"]
    answer = getattr(Client(), method)(URL + path)
    refused((answer.status_code, answer.json()), 401, "unauthenticated")


def test_a_session_decides_only_with_its_csrf_token(db: None) -> None:
    found, client = approval(), Client(enforce_csrf_checks=True)
    client.force_login(person("rita", roles.REVIEWER))
    body = {"decision": "reject", "plan_hash": found.plan_hash, "comment": "no"}
    answer = client.post(f"{URL}/{found.pk}/decision", body, content_type="application/json")
    refused((answer.status_code, answer.json()), 403, "csrf-failed")
    client.cookies["csrftoken"] = "a" * 32
    answer = client.post(
        f"{URL}/{found.pk}/decision", body, content_type="application/json", headers={"X-CSRFToken": "a" * 32}
    )
    assert answer.status_code == 200
    assert AuditEntry.objects.get(action="approval.vote").token_id is None


# --- The whole life ---------------------------------------------------------------------------------------------------


def test_the_trail_of_a_whole_life_holds(notes: Path, rita: Caller, rolf: Caller, ulla: Caller) -> None:
    load(config("quorum: 2"))
    first = asked(notes, 300, endpoint="plan.v1")
    rita.get(first.pk)
    rita.post(f"{first.pk}/claim")
    rita.post(f"{first.pk}/release")
    rita.post(f"{first.pk}/delegate", {"to": "ulla"})
    ulla.decide(first, "request_changes", comment="half")
    carry_on()
    second = Approval.objects.get(state="pending")
    rita.decide(second, "approve")
    rolf.decide(second, "approve")
    carry_on()
    told = list(
        AuditEntry.objects.filter(action__startswith="approval.").order_by("id").values_list("action", flat=True)
    )
    assert [action.removeprefix("approval.") for action in told] == [
        *("request", "view", "claim", "release", "delegate", "vote", "decide"),
        *("request", "vote", "vote", "decide"),
    ]
    while chain.seal():
        pass
    call_command("audit", "verify")
