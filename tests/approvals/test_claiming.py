"""Who is on a request: claims that run out, that are taken over and given back; handing a request to somebody else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import F

from approvals.claiming import LEASE, Claim, Delegate, Release
from approvals.deciding import Decide
from approvals.errors import AlreadyDecided, Claimed, MayNot, Undecidable, UnknownApproval
from approvals.models import Approval
from audit.models import AuditEntry
from jobs.actions import MAX_NOTE
from jobs.ids import uuid7
from tests.support.approvals import approval, asked, config, fresh, reviewer
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config())


def written(**more: Any) -> Approval:
    return approval(endpoint="pay.v1", **more)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def pass_time(span: timedelta) -> None:
    Approval.objects.update(claimed_until=F("claimed_until") - span)


def story(of: Approval) -> list[tuple[str, str]]:
    entries = AuditEntry.objects.filter(target_id=str(of.pk)).order_by("id")
    return [(entry.actor_name, entry.action.removeprefix("approval.")) for entry in entries]


def test_only_who_has_claimed_it_decides() -> None:
    of = written()
    Claim(reviewer("rita")).run(of.pk)
    with pytest.raises(Claimed, match="rita is on it until"):
        Decide(reviewer("rolf"), "reject", of.plan_hash, "no").run(of.pk)
    Decide(reviewer("rita"), "reject", of.plan_hash, "no").run(of.pk)
    found = fresh(of)
    assert (found.state, found.claimed_by_id, found.claimed_until) == ("rejected", None, None)


def test_a_claim_runs_out() -> None:
    of = written()
    Claim(reviewer("rita")).run(of.pk)
    pass_time(LEASE)
    Decide(reviewer("rolf"), "reject", of.plan_hash, "no").run(of.pk)
    assert fresh(of).decided_by == ["rolf"]


def test_renewing_a_claim_says_nothing_new() -> None:
    of = written()
    until = Claim(reviewer("rita")).run(of.pk).claimed_until
    pass_time(timedelta(minutes=5))
    again = Claim(reviewer("rita")).run(of.pk).claimed_until
    assert until is not None
    assert again is not None
    assert again >= until
    assert story(of) == [("rita", "claim")]


def test_a_claim_is_taken_over_only_by_who_says_so() -> None:
    of = written()
    Claim(reviewer("rita")).run(of.pk)
    with pytest.raises(Claimed):
        Claim(reviewer("rolf")).run(of.pk)
    assert Claim(reviewer("rolf"), take_over=True).run(of.pk).claimed_by == person("rolf")
    assert story(of) == [("rita", "claim"), ("rolf", "claim")]
    assert AuditEntry.objects.order_by("id").last().before == {"claimed_by": "rita"}  # type: ignore[union-attr]


def test_a_claim_of_somebody_who_may_not_decide_any_more_holds_nobody_up() -> None:
    of = written()
    rita = reviewer("rita")
    Claim(rita).run(of.pk)
    person("rita").groups.clear()
    assert Claim(reviewer("rolf")).run(of.pk).claimed_by == person("rolf")


def test_a_claim_of_somebody_whose_account_is_gone_holds_nobody_up() -> None:
    of = written()
    Claim(reviewer("rita")).run(of.pk)
    User.objects.get(username="rita").delete()
    Decide(reviewer("rolf"), "reject", of.plan_hash, "no").run(of.pk)
    assert fresh(of).state == "rejected"


def test_giving_back_lets_others_decide_and_is_harmless_twice() -> None:
    of = written()
    Claim(reviewer("rita")).run(of.pk)
    for _ in range(2):
        Release(reviewer("rita")).run(of.pk)
    Release(reviewer("rolf")).run(of.pk)
    assert fresh(of).claimed_by_id is None
    assert story(of) == [("rita", "claim"), ("rita", "release")]


def test_nobody_gives_back_the_claim_of_another() -> None:
    of = written()
    Claim(reviewer("rita")).run(of.pk)
    Release(reviewer("rolf")).run(of.pk)
    assert fresh(of).claimed_by == person("rita")


def test_who_may_not_decide_any_more_can_still_give_back() -> None:
    of = written()
    Claim(reviewer("rita")).run(of.pk)
    person("rita").groups.clear()
    Release(reviewer("rita", "user")).run(of.pk)
    assert fresh(of).claimed_by_id is None


def test_only_who_may_decide_claims() -> None:
    of = written()
    with pytest.raises(MayNot):
        Claim(reviewer("olga", "operator")).run(of.pk)
    with pytest.raises(MayNot):
        Delegate(reviewer("olga", "operator"), "rita").run(of.pk)


def test_what_is_decided_is_not_claimed() -> None:
    of = written(state="approved")
    with pytest.raises(AlreadyDecided, match="approved by rita"):
        Claim(reviewer("rolf")).run(of.pk)
    with pytest.raises(AlreadyDecided):
        Delegate(reviewer("rolf"), "user").run(of.pk)


def test_what_there_is_not_is_not_claimed() -> None:
    with pytest.raises(UnknownApproval):
        Claim(reviewer()).run(uuid7())


def test_the_vote_of_one_of_two_gives_the_claim_back(notes: Path) -> None:
    load(config("quorum: 2"))
    of = asked(notes, 150)
    Claim(reviewer("rita")).run(of.pk)
    Decide(reviewer("rita"), "approve", of.plan_hash).run(of.pk)
    assert fresh(of).claimed_by_id is None
    Decide(reviewer("rolf"), "approve", of.plan_hash).run(of.pk)
    assert fresh(of).state == "approved"


# --- Delegating -----------------------------------------------------------------------------------------------------


def test_whom_it_is_delegated_to_has_it_and_may_decide() -> None:
    of = written()
    person("ulla", "user")
    Delegate(reviewer("rita"), "ulla", "you know them").run(of.pk)
    found = fresh(of)
    assert (found.users, found.claimed_by) == (["ulla"], person("ulla"))
    with pytest.raises(Claimed, match="ulla"):
        Decide(reviewer("rita"), "reject", of.plan_hash, "no").run(of.pk)
    Decide(reviewer("ulla", "user"), "reject", of.plan_hash, "no").run(of.pk)
    entry = AuditEntry.objects.get(action="approval.delegate")
    assert (entry.note, entry.after) == ("you know them", {"to": "ulla", "run": str(of.run_id)})


def test_delegating_to_somebody_who_may_already_gives_them_nothing_but_the_claim() -> None:
    of = written()
    person("rolf", "reviewer")
    Delegate(reviewer("rita"), "rolf").run(of.pk)
    assert (fresh(of).users, fresh(of).claimed_by) == ([], person("rolf"))


def test_what_somebody_else_is_on_is_not_delegated() -> None:
    of = written()
    person("ulla", "user")
    Claim(reviewer("rita")).run(of.pk)
    with pytest.raises(Claimed):
        Delegate(reviewer("rolf"), "ulla").run(of.pk)


@pytest.mark.parametrize("to", ["nobody", "", "\0", "rita\0x", "x" * 1000])
def test_it_is_delegated_to_somebody(to: str) -> None:
    of = written()
    with pytest.raises(Undecidable, match="nobody called"):
        Delegate(reviewer("rita"), to).run(of.pk)


def test_it_is_not_delegated_to_a_closed_account() -> None:
    of = written()
    ulla = person("ulla", "user")
    ulla.is_active = False
    ulla.save()
    with pytest.raises(Undecidable, match="nobody called"):
        Delegate(reviewer("rita"), "ulla").run(of.pk)


def test_it_is_not_delegated_to_oneself() -> None:
    of = written()
    with pytest.raises(Undecidable, match="yours to decide"):
        Delegate(reviewer("rita"), "rita").run(of.pk)


@pytest.mark.parametrize("role", ["user", "reviewer"])
def test_it_is_not_delegated_to_whoever_asked_where_the_policy_says_so(role: str) -> None:
    of = written(requested_by=person("ulla", role), not_own=True)
    with pytest.raises(Undecidable, match="ulla asked for this"):
        Delegate(reviewer("rita"), "ulla").run(of.pk)
    assert fresh(of).users == []


def test_a_note_is_kept_whole_or_refused() -> None:
    of = written()
    person("ulla", "user")
    with pytest.raises(Undecidable, match="2,001"):
        Delegate(reviewer("rita"), "ulla", "x" * (MAX_NOTE + 1)).run(of.pk)
