"""Deciding on the page: what is sent, what is refused, and what a refusal keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from accounts import roles
from approvals.models import Approval, Vote
from jobs.handlers import Succeeded
from tests.approvals.test_decision_page import browser, unknown_effect
from tests.support.approvals import approval, asked, carry_on, config, fresh, paid
from tests.support.configs import load, loaded
from tests.support.people import person

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config())


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def post(client: Client, found: Approval, verb: str = "decide", **data: Any) -> HttpResponse:
    answer: HttpResponse = client.post(f"/approvals/{found.pk}/{verb}/", {"plan_hash": found.plan_hash, **data})  # type: ignore[assignment]
    return answer


def told(answer: HttpResponse) -> str:
    return " ".join(answer.content.decode().split())


def test_approving_lets_the_run_go_on(notes: Path) -> None:
    found = asked(notes, 150)
    rita = browser()
    answer = post(rita, found, decision="approve")
    assert (answer.status_code, answer["Location"]) == (302, f"/approvals/{found.pk}/")
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]
    page = rita.get(f"/approvals/{found.pk}/").content.decode()
    assert "Approved. The run goes on." in page
    assert "What then ran" in page
    assert "Nothing else waits for you." in page


def test_against_it_a_comment_is_due_and_what_was_typed_stays(notes: Path) -> None:
    load(config("per: step"))
    found = asked(notes, 150, 200)
    for decision in ("reject", "request_changes"):
        answer = post(browser(), found, decision=decision, comment="  ", **{"step-1": "reject"})
        assert answer.status_code == 422
        assert 'aria-invalid="true"' in told(answer)
        assert 'value="reject" form="decide-form" required checked' in told(answer)
    assert fresh(found).state == "pending"
    assert post(browser(), found, decision="reject", comment="Too much.").status_code == 302
    assert fresh(found).comment == "Too much."


def test_each_flagged_step_must_be_answered(notes: Path) -> None:
    load(config("per: step"))
    found = asked(notes, 150, 200)
    answer = post(browser(), found, decision="approve", comment="Good", **{"step-1": "approve"})
    assert answer.status_code == 422
    assert "Say yes or no to each flagged step: 2 is open." in told(answer)
    assert "Good</textarea>" in told(answer)
    assert post(browser(), found, decision="approve", **{"step-1": "approve", "step-2": "reject"}).status_code == 302
    carry_on()
    assert paid(notes) == ["paid-150"]


def test_changes_are_shown_before_they_are_confirmed_and_then_run_exactly(notes: Path) -> None:
    found = asked(notes, 150, 300)
    rita = browser()
    edit = told(rita.get(f"/approvals/{found.pk}/?edit=1"))  # type: ignore[arg-type]
    assert 'name="arg-0-1" type="text" inputmode="decimal" value="150"' in edit
    assert 'value="approve"' not in edit
    given = {"arg-0-0": str(notes), "arg-0-1": "60", "arg-1-0": str(notes), "arg-1-1": "300", "drop-1": "1"}
    preview = post(rita, found, "changes", comment="Half", **given)
    assert preview.status_code == 200
    assert "$150.00</del>" in told(preview)
    assert "$60.00</ins>" in told(preview)
    assert "1 step changed, 1 left out" in told(preview)
    assert "Half</textarea>" in told(preview)
    assert fresh(found).state == "pending", "nothing is sent yet"
    shown = preview.context["page"].preview  # type: ignore[attr-defined]
    answer = post(rita, found, decision="approve_with_changes", calls=shown.written)
    assert answer.status_code == 302
    assert fresh(found).plan_hash == shown.plan_hash
    carry_on()
    assert paid(notes) == ["paid-60"]


def test_what_nobody_touched_stays_to_the_last_byte(notes: Path) -> None:
    text = "one\r\ntwo"
    found = approval(
        {"tool": "x", "arguments": {"body": text, "n": 2.0, "on": False, "none": None, "deep": {"a": [1]}, "s": "a"}},
        endpoint="pay.v1",
    )
    page = browser().get(f"/approvals/{found.pk}/?edit=1")
    fields = page.context["page"].form.steps[0].fields
    sent = {item.html_name: item.value.replace("\n", "\r\n") for item in fields if item.value}
    answer = post(browser(), found, "changes", **sent)
    assert answer.status_code == 422
    assert "Nothing is changed" in told(answer)
    by_name = {item.name: item.html_name for item in fields}
    changed = post(browser(), found, "changes", **(sent | {by_name["s"]: "b"}))
    (call,) = changed.context["page"].preview.calls  # type: ignore[attr-defined]
    assert call["arguments"] == {**found.plan["calls"][0]["arguments"], "s": "b"}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("a lot", "Write a number, like 99.50."),
        ("", "Fill this in."),
        ("1_000", "Write a number"),
        ("1e999", "Write a number"),
    ],
)
def test_a_field_that_cannot_be_read_says_so_itself(notes: Path, typed: str, words: str) -> None:
    found = asked(notes, 150)
    answer = post(browser(), found, "changes", **{"arg-0-0": "kept.txt", "arg-0-1": typed})
    assert answer.status_code == 422
    amount = told(answer).partition('id="arg-0-1"')[2]
    assert words in amount
    assert 'value="kept.txt"' in told(answer)


def test_what_the_tool_refuses_stands_beside_the_argument(notes: Path) -> None:
    found = approval({"tool": "test_pay", "arguments": {"file": "a", "amount_usd": "150"}}, endpoint="pay.v1")
    answer = post(browser(), found, "changes", **{"arg-0-0": "b", "arg-0-1": '{"much": true}'})
    assert answer.status_code == 422
    item = answer.context["page"].form.steps[0].fields[1]  # type: ignore[attr-defined]
    assert (item.control, item.error) == ("json", "Input should be a valid number.")
    assert "What is wrong stands beside each field" in told(answer)


def test_going_back_from_the_preview_keeps_the_changes(notes: Path) -> None:
    found = asked(notes, 150, 300)
    rita = browser()
    given = {"arg-0-0": str(notes), "arg-0-1": "60", "arg-1-0": str(notes), "arg-1-1": "300", "drop-1": "1"}
    written = post(rita, found, "changes", **given).context["page"].preview.written  # type: ignore[attr-defined]
    again = told(post(rita, found, "changes", back="1", calls=written))
    assert 'name="arg-0-1" type="text" inputmode="decimal" value="60"' in again
    assert 'name="drop-1" value="1" checked' in again


def test_a_plan_of_nothing_is_not_approved(notes: Path) -> None:
    found = asked(notes, 150)
    answer = post(browser(), found, "changes", **{"drop-0": "1"})
    assert answer.status_code == 422
    assert "Nothing is left of the plan" in told(answer)


def test_a_change_that_others_must_decide_on_says_so_before_it_is_sent(notes: Path) -> None:
    load(config(more='  - {when: {tool: test_pay, "amount_usd >": 1000}, group: operator, quorum: 2}\n'))
    found = asked(notes, 150)
    answer = told(post(browser(), found, "changes", **{"arg-0-0": str(notes), "arg-0-1": "5000"}))
    assert "Then must agree: the group reviewer, and 2 of the group operator." in answer
    assert fresh(found).groups == ["reviewer"]


def test_the_second_reviewer_is_told_who_decided_what_and_keeps_what_they_wrote(notes: Path) -> None:
    found = asked(notes, 150)
    post(browser("rita"), found, decision="approve")
    answer = post(browser("rolf"), found, decision="reject", comment="I would not.")
    assert answer.status_code == 409
    assert "Your decision was not counted" in told(answer)
    assert "approved by rita already" in told(answer)
    assert "I would not." in told(answer)
    assert 'name="decision"' not in told(answer)


def test_a_plan_that_changed_meanwhile_is_refused_with_what_changed(notes: Path) -> None:
    load(config("quorum: 2"))
    found = asked(notes, 150)
    calls = f'[{{"id": "1", "arguments": {{"file": "{notes}", "amount_usd": 120}}}}]'
    post(browser("rolf"), found, decision="approve_with_changes", calls=calls)
    answer = post(browser("rita"), found, decision="approve", comment="Fine")
    assert answer.status_code == 409
    notice = told(answer).partition('id="refusal"')[2].partition("</section>")[0]
    assert "$150.00</del>" in notice
    assert "$120.00</ins>" in notice
    assert "Fine</textarea>" in told(answer)
    assert f'name="plan_hash" value="{fresh(found).plan_hash}"' in told(answer)
    assert Vote.objects.filter(approval=found, void=False).count() == 1
    stale = post(browser("rita"), found, "changes", **{"arg-0-1": "1"})
    assert stale.status_code == 409
    assert "1 more person" not in told(answer)
    assert post(browser("rita"), fresh(found), decision="approve").status_code == 302
    carry_on()
    assert paid(notes) == ["paid-120"]


def test_the_first_of_two_votes_says_how_many_are_missing(notes: Path) -> None:
    load(config("quorum: 2"))
    found = asked(notes, 150)
    rita = browser("rita")
    post(rita, found, decision="approve")
    page = rita.get(f"/approvals/{found.pk}/").content.decode()
    assert "Your vote counts. 1 more person has to agree." in page
    assert "You agreed to this version." in page


def test_a_claim_is_taken_renewed_taken_over_and_given_back(notes: Path) -> None:
    found = asked(notes, 150)
    rita, rolf = browser("rita"), browser("rolf")
    rita.get(f"/approvals/{found.pk}/")
    assert fresh(found).claimed_by is None, "to look at it claims nothing"
    post(rita, found, "claim")
    assert "You are on it until" in rita.get(f"/approvals/{found.pk}/").content.decode()
    until = fresh(found).claimed_until
    assert post(rita, found, "claim", renew="1").status_code == 204
    assert until is not None and (fresh(found).claimed_until or until) > until
    refused = post(rolf, found, decision="reject", comment="No.")
    assert refused.status_code == 409
    assert "Take over from rita" in told(refused)
    assert "No.</textarea>" in told(refused), "and the form is still there"
    assert post(rolf, found, "claim").status_code == 409
    assert post(rolf, found, "claim", take_over="1").status_code == 302
    assert post(rita, found, "claim", renew="1").status_code == 409
    post(rolf, found, "release")
    assert fresh(found).claimed_by is None


def test_it_is_handed_to_somebody_by_name(notes: Path) -> None:
    found = asked(notes, 150)
    person("ulla", roles.USER)
    wrong = post(browser(), found, "delegate", to="nobody-like-that", note="Please")
    assert "It was not handed over</h2>" in told(wrong)
    assert wrong.status_code == 422
    assert "nobody-like-that" in told(wrong).partition('id="to-error"')[2]
    assert 'value="Please"' in told(wrong)
    assert post(browser(), found, "delegate", to="ulla").status_code == 302
    assert post(browser("ulla", roles.USER), fresh(found), decision="approve").status_code == 302


def test_an_operator_who_may_not_decide_is_refused(notes: Path) -> None:
    found = asked(notes, 150)
    olga = browser("olga", roles.OPERATOR)
    for verb, data in (
        ("decide", {"decision": "approve"}),
        ("claim", {}),
        ("changes", {}),
        ("delegate", {"to": "olga"}),
    ):
        answer = post(olga, found, verb, **data)
        assert answer.status_code == 403, verb
        assert "Only the group reviewer may decide on this" in told(answer)
    assert fresh(found).state == "pending"


def test_no_decision_and_a_decision_of_nobodys_are_refused(notes: Path) -> None:
    found = asked(notes, 150)
    assert post(browser(), found).status_code == 422
    assert post(browser(), found, decision="burn").status_code == 422
    assert post(browser(), found, decision="approve_with_changes", calls="[1]").status_code == 422
    assert browser().get(f"/approvals/{found.pk}/decide/").status_code == 405


@pytest.mark.parametrize(
    "forged",
    [
        {"decision": "approve", "plan_hash": "\0"},
        {"calls": '[{"id": []}]'},
        {"calls": '[{"id": {}, "arguments": {"amount_usd": "much"}}]'},
        {"calls": '[{"id": "1", "arguments": {"amount_usd": "\\ud800"}}]'},
        {"calls": '[{"id": "1", "arguments": {"amount_usd": NaN}}]'},
        {"calls": "[" * 100_000},
    ],
)
def test_a_form_that_no_page_made_is_refused_in_words(notes: Path, forged: dict[str, Any]) -> None:
    found = asked(notes, 150)
    answer = post(browser(), found, **{"decision": "approve_with_changes", **forged})
    assert answer.status_code in (409, 422)
    assert told(answer)
    assert fresh(found).state == "pending"
    assert not Vote.objects.exists()


def test_a_vote_of_somebody_who_may_not_decide_any_more_is_missing_again(notes: Path) -> None:
    load(config("quorum: 3"))
    found = asked(notes, 150)
    post(browser("rita"), found, decision="approve")
    post(browser("rolf"), found, decision="approve")
    address = f"/approvals/{found.pk}/"
    rolf = browser("rolf")
    assert "You agreed to this version. 1 more must." in " ".join(rolf.get(address).content.decode().split())
    User.objects.get(username="rita").groups.clear()
    assert "You agreed to this version. 2 more must." in " ".join(rolf.get(address).content.decode().split())


def test_the_pulse_tells_what_happened_since(notes: Path) -> None:
    load(config("quorum: 2"))
    found = asked(notes, 150)
    rita, rolf = browser("rita"), browser("rolf")
    address = f"/approvals/{found.pk}/pulse/"
    seen = {"hash": found.plan_hash, "votes": "0", "claim": ""}

    def pulse() -> str:
        return " ".join(rita.get(address, seen).content.decode().split())

    assert "notice" not in pulse()
    post(rolf, found, "claim")
    assert "rolf is on it now" in pulse()
    post(rolf, found, "release")
    post(rolf, found, decision="approve")
    assert "rolf agreed, 1 more must." in pulse()
    calls = f'[{{"id": "1", "arguments": {{"file": "{notes}", "amount_usd": 120}}}}]'
    post(rolf, found, decision="approve_with_changes", calls=calls)
    assert "The plan was changed since you opened this page, by rolf" in pulse()
    post(rolf, fresh(found), decision="reject", comment="After all, no.")
    assert "rejected by rolf" in pulse()
    assert 'data-live="ended"' in pulse()
    assert found.viewings.filter(user__username="rita").count() == 0, "it is no look at the plan"


@pytest.mark.parametrize("finding", ["happened", "again", "give_up"])
def test_an_effect_is_settled_with_how_one_knows(finding: str) -> None:
    found = unknown_effect()
    assert post(browser(), found, "resolve").status_code == 422
    silent = post(browser(), found, "resolve", finding=finding, result="re_1")
    assert silent.status_code == 422
    assert 'aria-describedby="comment-help comment-error"' in told(silent)
    assert "re_1</textarea>" in told(silent)
    assert f'value="{finding}" required checked' in told(silent)
    answer = post(browser(), found, "resolve", finding=finding, result="re_1", comment="I looked at the bank.")
    assert answer.status_code == 302
    assert fresh(found).decision == finding
    effect = fresh(found).effect
    assert effect is not None and effect.note == "I looked at the bank."
    second = post(browser("rolf"), found, "resolve", finding="again", comment="No.")
    assert second.status_code == 409
