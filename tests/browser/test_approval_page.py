"""One decision in a real browser: two reviewers at once, the keyboard alone, and nothing that axe finds."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts import roles
from agents.models import Effect
from approvals.deciding import Decide
from approvals.models import Approval, Vote
from audit.trail import Actor
from tests.approvals.test_decision_page import unknown_effect
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import _overflow, violations
from tests.support.approvals import approval, config, fresh
from tests.support.configs import load
from tests.support.people import person
from tests.support.tasks import step, task

POST = (
    "# Why it waits\n\nA run that asks **holds no worker**.\n\n- It survives a restart\n- and a deploy.\n\n"
    + "A paragraph that goes on and on, so that it has to be read. " * 60
    + "\n\n`a_very_long_identifier_that_has_no_place_to_break_it_whatever_one_does_with_it`\n"
)


@pytest.fixture
def rita(_site: None) -> User:
    load(config())
    return person("rita", roles.REVIEWER)


@pytest.fixture
def rolf(_site: None) -> User:
    return person("rolf", roles.REVIEWER)


def asks(*calls: dict[str, Any], **more: Any) -> Approval:
    pay = {"tool": "test_pay", "arguments": {"file": "ledger", "amount_usd": 150}}
    return approval(*(calls or (pay,)), **{"endpoint": "pay.v1", "title": "Pay Anna", **more})


def path(found: Approval) -> str:
    return f"/approvals/{found.pk}/"


def has_focus(page: Page, words: str) -> bool:
    told: str = page.evaluate(
        "((at) => at === document.body ? '' : at.innerText || at.name || '')(document.activeElement)"
    )
    return words in told


def tab_to(page: Page, words: str) -> None:
    """Press Tab until the focus is on what says so."""
    for _ in range(80):
        if has_focus(page, words):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never came to {words!r}")


def test_of_two_reviewers_one_wins_and_the_other_is_told(
    browse: Open, rita: User, rolf: User, faults: list[str]
) -> None:
    found = asks()
    hers, his = browse(rita, path(found)), browse(rolf, path(found))
    his.get_by_label("Comment").fill("I would not pay this.")
    hers.get_by_role("button", name="Approve", exact=True).click()
    expect(hers.get_by_role("heading", name="What was decided")).to_be_visible()
    his.get_by_role("button", name="Reject").click()
    notice = his.get_by_role("alert")
    expect(notice).to_contain_text("approved by rita already")
    expect(notice).to_contain_text("I would not pay this.")
    assert his.evaluate("document.activeElement.id") == "refusal"
    expect(his.get_by_role("button", name="Approve")).to_have_count(0)
    assert fresh(found).decided_by == ["rita"]
    assert [fault for fault in faults if "409" not in fault] == []
    faults.clear()


def test_a_plan_that_changes_while_the_page_is_open_is_refused(
    browse: Open, rita: User, rolf: User, faults: list[str]
) -> None:
    found = asks(quorum=2)
    page = browse(rita, path(found))
    page.get_by_label("Comment").fill("Fine with me.")
    calls = [{"id": "1", "arguments": {"file": "ledger", "amount_usd": 120}}]
    Decide(Actor(user=rolf), "approve_with_changes", found.plan_hash, calls=calls).run(found.pk)
    page.get_by_role("link", name="Refresh now").click()
    expect(page.locator("#pulse")).to_contain_text("The plan was changed since you opened this page, by rolf")
    assert page.evaluate("document.activeElement.id") != "pulse", "it says so without moving the focus"
    page.get_by_role("button", name="Approve", exact=True).click()
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("The plan was changed while you read it")
    expect(notice.locator("del")).to_contain_text("$150.00")
    expect(notice.locator("ins")).to_contain_text("$120.00")
    expect(page.get_by_label("Comment")).to_have_value("Fine with me.")
    assert fresh(found).state == "pending"
    assert [fault for fault in faults if "409" not in fault] == []
    faults.clear()


def test_by_keyboard_alone_from_the_inbox_to_an_approval_with_changes(browse: Open, rita: User) -> None:
    found = asks(flagged=["1"])
    page = browse(rita, "/approvals/")
    tab_to(page, "Pay Anna")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Pay Anna")).to_be_visible()
    tab_to(page, "Approve with changes")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Change the plan")).to_be_visible()
    tab_to(page, "arg-0-1")
    page.keyboard.press("Control+a")
    page.keyboard.type("60")
    page.keyboard.press("Enter")  # it leads to the preview, not past it
    expect(page.get_by_role("heading", name="What your changes come to")).to_be_focused()
    expect(page.locator(".plan-diff ins")).to_contain_text("$60.00")
    assert fresh(found).state == "pending"
    tab_to(page, "step-1")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What your changes come to")).to_be_visible()
    assert fresh(found).state == "pending", "Enter in a field approves nothing"
    tab_to(page, "Approve with these changes")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What was decided")).to_be_visible()
    decided = fresh(found)
    assert decided.decision == "approve_with_changes"
    assert decided.plan["calls"][0]["arguments"]["amount_usd"] == 60


def test_by_keyboard_alone_changes_are_requested_with_a_reason(browse: Open, rita: User) -> None:
    found = asks()
    page = browse(rita, path(found))
    assert page.evaluate("document.activeElement.tagName") == "BODY", "nothing has the focus by itself"
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    tab_to(page, "Request changes")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Comment")).to_be_focused()
    expect(page.locator("#comment-error")).to_be_visible()
    assert fresh(found).state == "pending"
    page.keyboard.type("Half of it is enough.")
    expect(page.locator("#comment-error")).to_be_hidden()
    tab_to(page, "Request changes")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What was decided")).to_be_visible()
    assert (fresh(found).decision, fresh(found).comment) == ("request_changes", "Half of it is enough.")


@pytest.mark.parametrize("scripts", [True, False])
def test_enter_on_a_flagged_step_decides_nothing(browse: Open, rita: User, scripts: bool) -> None:
    found = asks(flagged=["1"])
    page = browse(rita, path(found), java_script_enabled=scripts)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.get_by_label("Yes").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Approve", exact=True).click()
    page.get_by_role("heading", name="What was decided").wait_for()
    assert len(sent) == 1, "the button's, which still works after it"


def test_a_flagged_step_without_an_answer_stops_an_approval_but_no_rejection(browse: Open, rita: User) -> None:
    found = asks(flagged=["1"])
    page = browse(rita, path(found))
    page.get_by_role("button", name="Approve", exact=True).click()
    assert has_focus(page, "step-1")
    page.get_by_label("Comment").fill("No.")
    page.get_by_role("button", name="Reject").click()
    expect(page.get_by_role("heading", name="What was decided")).to_be_visible()
    assert fresh(found).decision == "reject"


def test_what_was_typed_outlives_reading_the_page_again(browse: Open, rita: User) -> None:
    page = browse(rita, path(asks()))
    page.get_by_label("Comment").fill("Half a thought")
    page.reload()
    expect(page.get_by_label("Comment")).to_have_value("Half a thought")


def test_a_claim_of_ones_own_is_renewed_while_the_page_is_seen(browse: Open, rita: User) -> None:
    found = asks()
    page = browse(rita, path(found))
    page.clock.install()
    page.get_by_role("button", name="Take it").click()
    expect(page.get_by_text("You are on it until")).to_be_visible()
    soon = timezone.now() + timedelta(minutes=1)
    Approval.objects.filter(pk=found.pk).update(claimed_until=soon)
    with page.expect_response("**/claim/") as renewed:
        page.clock.run_for(130_000)
    assert renewed.value.status == 204
    until = fresh(found).claimed_until
    assert until is not None and until > soon


def test_without_a_script_everything_still_works(browse: Open, rita: User) -> None:
    found = asks()
    page = browse(rita, path(found), java_script_enabled=False)
    page.get_by_role("button", name="Approve with changes").click()
    page.get_by_label("Amount").fill("60")
    page.get_by_role("button", name="See what changes").click()
    page.get_by_role("button", name="Approve with these changes").click()
    assert page.get_by_role("heading", name="What was decided").is_visible()
    assert fresh(found).plan["calls"][0]["arguments"]["amount_usd"] == 60


def _rich() -> Approval:
    run = task("waiting", endpoint="pay.v1", input={"question": POST, "order": "A-1"}, run={"steps_done": 9})
    step(run, "a_step_with_quite_a_long_name_for_a_step_of_a_run", output={"text": "word " * 100})
    before = asks(state="superseded", decision="request_changes", comment="Half. " * 60, run=run, wait_key="1")
    asks(state="rejected", comment="No.", amount_usd=480, wait_key="2")
    pay = {
        "tool": "test_pay",
        "arguments": {"file": "a/very/long/path/" * 12, "amount_usd": 1250.5},
        "why": "It is due.",
        "touches": ["the ledger", "a_resource_with_a_very_long_name_that_cannot_be_broken_anywhere_at_all"],
        "undoable": False,
        "cost_usd": Decimal("0.25"),
    }
    publish = {"tool": "publish_it", "arguments": {"body": POST, "tags": ["a", "b"], "options": {"at": {"hour": 9}}}}
    short = {"tool": "publish_it", "arguments": {"body": "A line\nand another"}}
    found = asks(
        pay,
        publish,
        *([short] * 12),
        run=run,
        revises=before,
        version=2,
        flagged=["1"],
        quorum=2,
        title="Pay " + "everybody " * 20,
        rules=[{"name": "r", "tools": ["test_pay"], "conditions": [["amount_usd", ">", 100]]}],
    )
    rolf = person("rolf", roles.REVIEWER)
    voted = {"user_name": "rolf", "decision": "approve", "plan_hash": found.plan_hash, "comment": "Fine."}
    Vote.objects.create(approval=found, user=rolf, **voted)
    until = timezone.now() + timedelta(minutes=9)
    Approval.objects.filter(pk=found.pk).update(claimed_by=rolf, claimed_until=until)
    return found


def _decided() -> Approval:
    found = asks(state="approved", comment="Fine.")
    Effect.objects.create(
        key="k",
        run=found.run,
        step_key="t",
        tool="test_pay",
        arguments={"amount_usd": 150},
        idempotent=False,
        state="done",
        fence=1,
        finished_at=timezone.now(),
        approval_id=found.pk,
        result={"ok": True, "content": {"id": "re_" + "x" * 60}},
    )
    asks(title="The next " + "one " * 40)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_every_state_fits_and_axe_finds_nothing(browse: Open, rita: User, scheme: str, width: int) -> None:
    rich = path(_rich())
    step_page = f"{rich}steps/1/"
    page = browse(rita, rich, width=width, color_scheme=scheme)

    def check(what: str) -> None:
        assert violations(page) == [], what
        assert _overflow(page) == [], what

    check("pending")
    for fold in page.locator(".exact > summary, .plan-fold > summary, .delegate > summary").all()[:5]:
        fold.click()
    check("unfolded")
    page.get_by_role("button", name="Reject").click()
    check("a comment is missing")
    page.get_by_role("button", name="Approve with changes").click()
    expect(page.get_by_role("heading", name="Change the plan")).to_be_visible()
    check("edit")
    page.locator("[name=arg-0-1]").fill("x")
    page.get_by_role("button", name="See what changes").click()
    expect(page.get_by_role("alert")).to_be_visible()
    check("a field is wrong")
    page.locator("[name=arg-0-1]").fill("60")
    page.locator("[name=arg-1-0]").fill(POST.replace("restart", "crash"))
    page.get_by_role("button", name="See what changes").click()
    expect(page.get_by_role("heading", name="What your changes come to")).to_be_visible()
    check("preview")
    for there in (step_page, path(unknown_effect()), path(_decided())):
        page.goto(there)
        page.wait_for_load_state("networkidle")
        check(there)


def test_who_may_not_see_it_is_told_so(browse: Open, rita: User, faults: list[str]) -> None:
    page = browse(person("ulla", roles.USER), path(asks()))
    expect(page.get_by_role("heading", name="There is no such request")).to_be_visible()
    assert violations(page) == []
    faults.clear()
