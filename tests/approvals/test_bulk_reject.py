"""Rejecting several requests: exactly those that were confirmed, each as if alone, and told one by one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from approvals import bulk_rejecting
from approvals.claiming import Claim
from approvals.deciding import Decide
from approvals.models import Approval
from audit.models import AuditEntry
from jobs.handlers import Succeeded
from tests.approvals.test_inbox import approval, browser, effect, text
from tests.support.approvals import asked, carry_on, config, fresh, paid, reviewer
from tests.support.configs import loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db

URL = "/approvals/reject/"

_config = loaded(config())


@pytest.fixture
def client(db: None) -> Client:
    return browser(person("rita", "reviewer"))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def plans(*approvals: Approval) -> list[str]:
    return [f"{each.pk} {each.plan_hash}" for each in approvals]


def outcomes(response: Any) -> dict[str, str]:
    """Return what became of each, by its title."""
    found = [*response.context["done"], *response.context["not_done"]]
    return {each.approval.title if each.approval else "": each.outcome for each in found}


def test_the_page_before_says_exactly_which_will_be_rejected_and_which_not(client: Client) -> None:
    one, taken, other = approval("one"), approval("taken"), approval("for others", groups=["finance"])
    unknown, ended = effect("what became of it"), approval("ended", state="approved")
    Claim(reviewer("rolf")).run(taken.pk)
    chosen = [str(each.pk) for each in (one, taken, other, unknown, ended)]
    page = client.get(URL, {"ids": chosen})
    proposal = page.context["proposal"]
    assert [row.approval.title for row in proposal.rows] == ["one"]
    assert {row.approval.title: why for row, why in proposal.left} == {
        "taken": "rolf is on it.",
        "what became of it": "It asks what became of a call. Settle it on its own page.",
        "ended": "It was approved by rita already.",
    }
    assert proposal.unknown == 1
    assert f'value="{one.pk} {one.plan_hash}"' in page.content.decode()
    assert page.content.decode().count('name="plans"') == 1
    assert Approval.objects.filter(state="rejected").count() == 0, "a GET decides nothing"


@pytest.mark.django_db(transaction=True)
def test_all_that_were_confirmed_are_rejected_for_the_reason_and_the_runs_go_on(client: Client, notes: Path) -> None:
    first = asked(notes, 150)
    second = asked(notes, 170)
    done = client.post(URL, {"plans": plans(first, second), "note": " too much "})
    assert done.status_code == 200
    assert set(outcomes(done).values()) == {"rejected"}
    for each in (first, second):
        assert (fresh(each).state, fresh(each).comment, fresh(each).decided_by) == ("rejected", "too much", ["rita"])
        assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == []
    assert AuditEntry.objects.filter(action="approval.decide", note="too much").count() == 2


def test_each_that_was_not_rejected_says_why(client: Client) -> None:
    one, first, changed = approval("one"), approval("first"), approval("changed")
    taken, unknown, other = approval("taken"), effect("unknown"), approval("for others", groups=["finance"])
    sent = plans(one, first, changed, taken, unknown, other)
    Decide(reviewer("rolf"), "reject", first.plan_hash, "mine").run(first.pk)
    Approval.objects.filter(pk=changed.pk).update(plan_hash="f" * 64)
    Claim(reviewer("rolf")).run(taken.pk)
    done = client.post(URL, {"plans": [*sent, f"{uuid4()} x"], "note": "no"})
    assert outcomes(done) == {
        "one": "rejected", "first": "first", "changed": "changed", "taken": "claimed", "unknown": "refused",
        "": "refused",
    }  # fmt: skip
    words = {each.approval.title: each.words for each in done.context["not_done"] if each.approval}
    assert words["first"] == "It was rejected by rolf already."
    assert "rolf is on it" in words["taken"]
    assert "for others" not in done.content.decode(), "not even that it is there"
    assert fresh(changed).state == fresh(taken).state == fresh(unknown).state == fresh(other).state == "pending"


def test_sending_it_twice_changes_nothing_and_tells_the_same(client: Client) -> None:
    one = approval("one")
    data = {"plans": plans(one), "note": "no"}
    client.post(URL, data)
    entries = AuditEntry.objects.count()
    again = client.post(URL, data)
    assert outcomes(again) == {"one": "rejected"}
    assert "You rejected it already." in again.content.decode()
    assert AuditEntry.objects.count() == entries


def test_without_a_reason_nothing_is_rejected_and_the_page_asks_again(client: Client) -> None:
    one = approval("one")
    again = client.post(URL, {"plans": plans(one), "note": "  "})
    assert again.status_code == 422
    assert "Say why" in again.content.decode()
    assert fresh(one).state == "pending"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "Choose some requests first"),
        ({"plans": ["nonsense"]}, "not the id of a request"),
        ({"plans": [f"{uuid4()} x" for _ in range(bulk_rejecting.AT_ONCE + 1)]}, "At most 200"),
    ],
    ids=["none", "no id", "too many"],
)
def test_what_makes_no_sense_is_told_in_the_inbox(client: Client, data: dict[str, Any], words: str) -> None:
    assert client.post(URL, data | {"note": "no"})["Location"] == "/approvals/"
    assert words in text(client)
    ids = [each.split()[0] for each in data.get("plans", [])]
    assert client.get(URL, {"ids": ids})["Location"] == "/approvals/"


def test_a_plan_that_changed_while_one_wrote_the_reason_is_shown_anew_and_not_rejected(client: Client) -> None:
    one = approval("one")
    sent = plans(one)
    Approval.objects.filter(pk=one.pk).update(plan_hash="f" * 64)
    again = client.post(URL, {"plans": sent, "note": ""})
    assert f'value="{one.pk} {one.plan_hash}"' not in again.content.decode()
    assert f'value="{one.pk} {"f" * 64}"' in again.content.decode()


def test_nobody_rejects_for_others(db: None) -> None:
    one = approval("one")
    ulla = browser(person("ulla", "user"))
    assert outcomes(ulla.post(URL, {"plans": plans(one), "note": "no"})) == {"": "refused"}
    assert fresh(one).state == "pending"


def test_only_rows_that_may_be_rejected_together_have_a_box(client: Client) -> None:
    one = approval("one")
    effect()
    taken = approval("taken")
    Claim(reviewer("rolf")).run(taken.pk)
    page = client.get("/approvals/").content.decode()
    assert re.findall(r'name="ids" value="([^"]+)"', page) == [str(one.pk)]
    assert 'value="approve"' not in page
