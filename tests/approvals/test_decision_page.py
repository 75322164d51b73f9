"""The page of one request: what it says in each of its states, and to whom."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles
from agents.models import Conversation, Effect, Message
from approvals.models import Approval, Vote
from tests.support.approvals import approval, config
from tests.support.configs import loaded
from tests.support.people import person
from tests.support.tasks import step, task

pytestmark = pytest.mark.django_db

CHAT = """
  talk.v1: {agent: payer, mode: streaming-sync}
"""
_config = loaded(config().replace("approvals:", CHAT.strip("\n") + "\napprovals:"))


def browser(name: str = "rita", *names: str) -> Client:
    client = Client()
    client.force_login(person(name, *(names or (roles.REVIEWER,))))
    return client


def asks(*calls: dict[str, Any], **more: Any) -> Approval:
    return approval(*calls, **{"endpoint": "pay.v1", **more})


def unknown_effect(**more: Any) -> Approval:
    """Return the request of a call of which nobody knows how it ended."""
    run = task("waiting", endpoint="pay.v1")
    effect = Effect.objects.create(
        key=str(run.pk)[-12:],
        run=run,
        step_key="tools 1#1",
        tool="test_pay",
        arguments={"file": "ledger", "amount_usd": 80},
        idempotent=False,
        state="unknown",
        attempt=2,
        fence=1,
    )
    values: dict[str, Any] = {
        "wait_key": "effect",
        "title": "test_pay",
        "reason": "It was begun.",
        "groups": ["reviewer"],
    }
    return Approval.objects.create(
        kind="effect",
        run=run,
        agent="payer",
        agent_version=1,
        endpoint="pay.v1",
        effect=effect,
        tools=["test_pay"],
        sort_at=timezone.now(),
        **(values | more),
    )


def page(found: Approval, client: Client | None = None, query: str = "") -> str:
    answer = (client or browser()).get(f"/approvals/{found.pk}/{query}")
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def test_it_says_what_is_asked_why_by_whom_and_what_happens_if_nobody_answers() -> None:
    rule = {"name": "r", "tools": ["test_pay"], "conditions": [["amount_usd", ">", 100]]}
    call = {"tool": "test_pay", "arguments": {"file": "ledger", "amount_usd": 150}, "why": "It is due."}
    found = asks(call, rules=[rule], requested_by=person("ulla", roles.USER), title="Pay Anna")
    told = page(found)
    for words in (
        "Pay Anna",
        "a refund over 100 USD",
        "test_pay with amount_usd &gt; 100",
        "<strong>payer</strong>, version 1, asks for <strong>ulla</strong>",
        "pay.v1",
        "it is rejected",
        "It is never approved by itself",
        "the group reviewer",
        "Pay somebody",
        "$150.00",
        "It is due.",
        "Nobody knows whether it can be undone",
        found.plan_hash,
    ):
        assert words in told, words


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"auto_action": "return"}, "goes back to the agent"),
        ({"auto_action": "escalate", "escalate_to": "bosses"}, "the group bosses is asked, with as much time again"),
        (
            {"escalate_to": "bosses", "escalate_at": timezone.now() + timedelta(hours=1)},
            "the group bosses may decide as well",
        ),
    ],
)
def test_it_says_what_happens_at_the_deadline(more: dict[str, Any], words: str) -> None:
    assert words in page(asks(**more))


def test_it_is_called_as_in_the_inbox_and_each_step_after_what_its_tool_does() -> None:
    call = {"tool": "test_pay", "arguments": {"amount_usd": 150}}
    told = page(asks(call, call, title="Test pay: $150.00 and 1 more"))
    assert '<h1 id="decision-title" tabindex="-1">Test pay: $150.00 and 1 more</h1>' in told
    assert '<span class="visually-hidden">Step 2: </span>Pay somebody</h3>' in told


def test_each_reason_is_given_once() -> None:
    rules = [
        {
            "name": "a",
            "tools": ["test_pay"],
            "conditions": [["amount_usd", ">", 100]],
            "reason": "A refund over 100 USD",
        },
        {"name": "b", "tools": ["test_pay"], "conditions": [["amount_usd", ">", 140]], "reason": "A large refund"},
    ]
    told = page(asks(rules=rules, reason="A refund over 100 USD; A large refund\nToo few could when it was asked."))
    assert (told.count("A refund over 100 USD"), told.count("A large refund")) == (1, 1)
    assert "The rule:" in page(asks(rules=rules, reason="A large refund", wait_key="2"))


def test_who_must_agree_is_no_more_people_than_it_takes() -> None:
    both = {"groups": ["reviewer", "operator"], "users": [], "quorum": 2}
    one, two = ({"groups": ["reviewer"], "users": [], "quorum": number} for number in (1, 2))
    among = "2 of the group reviewer or the group operator, among them 1 of the group reviewer<"
    assert f"<dd>{among}" in page(asks(demands=[one, both], quorum=2))
    assert "<dd>2 of the group reviewer<" in page(asks(demands=[two, {**both, "quorum": 1}], quorum=2, wait_key="2"))


def offered(told: str) -> list[str]:
    return re.findall(
        r'<option value="(\w+)">', told[told.index('<datalist id="to-others">') :].split("</datalist>")[0]
    )


def test_it_offers_those_to_whom_it_may_be_handed() -> None:
    for name, role in (("rolf", roles.REVIEWER), ("olga", roles.OPERATOR), ("ulla", roles.USER)):
        person(name, role)
    User.objects.filter(pk=person("gone", roles.REVIEWER).pk).update(is_active=False)
    asker = person("rosa", roles.REVIEWER)
    told = page(asks(users=["ulla"], not_own=True, requested_by=asker))
    assert offered(told) == ["rolf", "ulla"]
    told = page(asks(groups=["reviewer", "operator"], requested_by=asker, wait_key="2"))
    assert offered(told) == ["olga", "rolf", "rosa"]


def test_a_drafted_text_is_read_as_the_document_that_it_is() -> None:
    body = "# A title\n\nSome *words*.\n\n<script>alert(1)</script>"
    told = page(asks({"tool": "publish_it", "arguments": {"body": body, "options": {"draft": True}}}))
    assert "<h3>A title</h3>" in told
    assert "<em>words</em>" in told
    assert "<script>alert" not in told
    plain = page(asks({"tool": "publish_it", "arguments": {"body": "Line one\nline two"}}))
    assert '<p class="text-value">Line one line two</p>' in plain


def test_marks_that_would_deceive_are_shown() -> None:
    calls = [{"tool": name, "arguments": {"file": "fdp.\u202eexe"}} for name in ("test_pay", "no\u202etool")]
    found = asks(*calls, title="Pay \u202enna", reason="over \u202e100 USD")
    told = page(found)
    assert "⟨U+202E⟩" in told
    assert "\u202e" not in told
    assert "over ⟨U+202E⟩100 USD" in told
    assert "<code>no⟨U+202E⟩tool</code>" in told
    for address in (f"/approvals/{found.pk}/steps/2/", "/approvals/"):
        told = browser().get(address).content.decode()
        assert "⟨U+202E⟩" in told
        assert "\u202e" not in told


def test_a_claim_of_somebody_who_may_not_decide_any_more_is_none() -> None:
    until = timezone.now() + timedelta(minutes=9)
    found = asks(claimed_by=person("rolf", "reviewer"), claimed_until=until)
    assert "rolf is on it" in page(found)
    person("rolf").groups.clear()
    assert "rolf is on it" not in page(found)


def test_nothing_approves_by_itself_or_by_a_default() -> None:
    told = page(asks(flagged=["1"]))
    assert "checked" not in told
    form = told[told.index('id="decide-form"') :]
    assert form.index('type="submit" formmethod="dialog"') < form.index('value="approve"')
    assert "autofocus" not in told


def test_who_may_not_see_it_is_told_that_there_is_none() -> None:
    found = asks()
    for path in ("", "steps/1/", "pulse/"):
        answer = browser("ulla", roles.USER).get(f"/approvals/{found.pk}/{path}")
        assert answer.status_code == 404
        assert "no such request" in answer.content.decode()
    for path in ("decide", "changes", "claim", "release", "delegate", "resolve"):
        assert browser("ulla", roles.USER).post(f"/approvals/{found.pk}/{path}/").status_code == 404
    assert browser().get("/approvals/00000000-0000-0000-0000-000000000000/").status_code == 404
    assert browser().get(f"/approvals/{found.pk}/steps/9/").status_code == 404


def test_an_operator_who_may_not_decide_reads_it_and_who_may() -> None:
    told = page(asks(), browser("olga", roles.OPERATOR))
    assert "Only the group reviewer may decide on this" in told
    assert 'name="decision"' not in told
    assert "Take it" not in told


def test_whoever_asked_does_not_decide_where_the_rule_says_so() -> None:
    rita = person("rita", roles.REVIEWER, roles.OPERATOR)
    told = page(asks(requested_by=rita, not_own=True))
    assert "somebody else has to decide" in told
    assert 'name="decision"' not in told


def test_the_first_look_at_each_version_is_recorded() -> None:
    from audit.models import AuditEntry

    found, rita = asks(), browser()
    page(found, rita)
    page(found, rita)
    rita.head(f"/approvals/{found.pk}/")
    assert found.viewings.count() == 1
    Approval.objects.filter(pk=found.pk).update(plan_hash="0" * 64)
    page(found, rita)
    assert found.viewings.count() == 2
    assert AuditEntry.objects.filter(action="approval.view", target_id=str(found.pk)).count() == 2
    assert "Looked at by" not in page(found, rita)
    assert "Looked at by" in page(found, browser("rolf"))


def test_a_plan_that_was_altered_in_the_database_is_said_to_be() -> None:
    found = asks()
    assert "The plan in the database is not the one" not in page(found)
    found.plan["calls"][0]["arguments"]["amount_usd"] = 9
    found.save()
    assert "The plan in the database is not the one" in page(found)
    Approval.objects.filter(pk=found.pk).update(plan={"calls": "nonsense"})
    assert "The plan in the database is not the one" in page(found), "and the page still stands"


def test_the_run_so_far_stands_beside_it_for_a_reviewer_who_sees_no_tasks() -> None:
    run = task("waiting", endpoint="pay.v1", input={"order": "A-7", "wish": "Pay Anna"}, run={"steps_done": 9})
    step(run, "look", kind="tool", output={"ok": True, "content": "The order is there."})
    step(run, "draw", kind="value", output=4)
    step(run, "plan", kind="step", output={"calls": [{"tool": "test_pay"}]})
    found = asks(run=run)
    told = page(found)
    assert "The order is there." in told
    assert "asks for test pay" in told
    assert "draw" not in told
    assert "7 earlier steps" in told
    assert "Pay Anna" in told
    assert f"/console/tasks/{run.pk}/" not in told
    assert f"/console/tasks/{run.pk}/" in page(found, browser("olga", roles.OPERATOR, roles.REVIEWER))


def test_the_run_so_far_is_told_in_words() -> None:
    run = task("waiting", endpoint="pay.v1")
    order = {"item": "A standing desk", "left_usd": 240, "refunds": [{"refund": "7", "amount_usd": 80}], "notes": []}
    step(run, "draft", kind="model", output={"text": "", "calls": [{"tool": "order_lookup"}]})
    step(
        run,
        "order_lookup",
        kind="tool",
        input={"tool": "order_lookup", "arguments": {"order_id": "A-1005"}},
        output={"tool": "order_lookup", "call_id": "1", "ok": True, "error": None, "content": order},
    )
    by = {"approval_id": "x", "decision": "approve_with_changes", "by": ["rita"], "comment": "Less."}
    step(run, "approve calls 2", kind="wait", output=by)
    step(run, "web_crawl", kind="tool", output={"ok": False, "content": "x" * 5_000})
    step(run, "write post", kind="model", output={"text": "A post. " + "y" * 5_000, "data": None})
    step(run, "draft", kind="model", output={"text": "It is paid."})
    step(run, "verify answer", kind="step", output={"ok": True, "reason": "", "instead": ""})
    step(run, "answer", kind="compose", output={"text": "It is paid."})
    told = page(asks(run=run))
    for words in (
        "Looked up order A-1005",
        "<dt>Item</dt><dd>A standing desk</dd>",
        '<dt>Left</dt><dd class="number">$240.00</dd>',
        "<dt>Refunds</dt><dd>Refund 7 · Amount $80.00</dd>",
        "<dt>Notes</dt><dd>None</dd>",
        "Asked people: approved with changes by rita",
        '<p class="soft">Less.</p>',
        "Could not read the web page",
        '<p>Write post</p><p class="soft">A post.',
        "Checked the answer",
        "<p>Answered</p>",
    ):
        assert words in told, words
    assert told.count("It is paid.") == 1, "not the draft of it as well"
    for hidden in ("draft", "approve calls", "verify answer", "Thought about it", "{&quot;"):
        assert hidden not in told, hidden


def test_of_a_reply_the_end_of_the_conversation_is_shown() -> None:
    ulla = person("ulla", roles.USER)
    run = task("waiting", endpoint="talk.v1", user=ulla, input={"text": "Pay Anna now"})
    talk = Conversation.objects.create(user=ulla, endpoint=run.endpoint)
    for place, (role, text) in enumerate(
        [("user", "Who is Anna?"), ("assistant", "A supplier."), ("user", "Pay her")], 1
    ):
        Message.objects.create(conversation=talk, place=place, role=role, text=text, run=run if place == 3 else None)
    Message.objects.create(conversation=talk, place=4, role="user", text="Said later")
    told = page(asks(run=run, endpoint="talk.v1"))
    assert told.index("Who is Anna?") < told.index("A supplier.") < told.index("Pay her")
    assert "Said later" not in told


def test_versions_are_kept_and_compared() -> None:
    run = task("waiting", endpoint="pay.v1")
    pay = {"tool": "test_pay", "arguments": {"amount_usd": 150}}
    half, least = ({"tool": "test_pay", "arguments": {"amount_usd": amount}} for amount in (75, 50))
    said = {"state": "superseded", "decision": "request_changes", "run": run}
    one = asks(pay, **said, comment="Half of it.", wait_key="1")
    two = asks(half, **said, comment="Less still.", wait_key="2", version=2, revises=one)
    now = asks(least, run=run, version=3, revises=two)
    told = page(now)
    assert "What changed since version 2" in told
    assert "$75.00</del>" in told
    assert "$50.00</ins>" in told
    assert "Half of it." in told
    older = page(now, query="?against=1")
    assert "What changed since version 1" in older
    assert "$150.00</del>" in older
    assert "What changed since version 2" in page(now, query="?against=77")


def test_earlier_decisions_on_such_plans_are_told_as_far_as_one_may_see_them() -> None:
    asks(state="rejected", title="Refund Bob", comment="Not so.", amount_usd=480, wait_key="1")
    asks(state="approved", title="A secret", comment="Whispered.", amount_usd=777, groups=["bosses"], wait_key="2")
    asks({"tool": "other", "arguments": {}}, state="approved", title="Another tool", wait_key="3")
    asks(state="superseded", title="Not needed", wait_key="4")
    told = page(asks())
    assert "Refund Bob" in told
    assert "Not so." in told
    assert "$777.00" in told
    assert "Approved by rita" in told
    for hidden in ("A secret", "Whispered", "Another tool", "Not needed"):
        assert hidden not in told


def test_after_the_decision_it_says_what_ran_and_leads_to_the_next() -> None:
    found = asks(state="approved", comment="Fine.", decided_by=["rita", "rolf"])
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
        result={"ok": True, "content": "paid-150"},
    )
    other = asks(title="The next one")
    asks(
        title="Somebody is on this",
        due=timedelta(hours=1),
        claimed_by=person("rolf"),
        claimed_until=timezone.now() + timedelta(minutes=9),
    )
    told = page(found)
    assert "Approved by rita and rolf" in told
    assert "paid-150" in told
    assert "What then ran" in told
    assert f'href="/approvals/{other.pk}/">Next: The next one' in told
    assert 'name="decision"' not in told
    after = browser().get(f"/approvals/{found.pk}/", headers={"HX-Request": "true", "HX-Target": "after"})
    assert after.content.decode().strip().startswith('<section class="panel after" id="after"')


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"state": "expired", "decided_by": []}, "nobody decided in time"),
        ({"state": "superseded", "decided_by": []}, "the run went on or ended without it"),
        ({"state": "rejected"}, "Rejected by rita"),
        ({"state": "superseded", "decision": "request_changes"}, "Changes requested by rita"),
    ],
)
def test_each_end_is_said_in_words(more: dict[str, Any], words: str) -> None:
    assert words in page(asks(**more))


def test_an_effect_that_nobody_knows_of_has_three_ways_out() -> None:
    told = page(unknown_effect())
    for words in ("Pay somebody", "$80.00", "Nobody knows whether it took effect", "2 times", "Cannot be undone"):
        assert words in told, words
    for finding in ("happened", "again", "give_up"):
        assert f'value="{finding}"' in told
    assert "checked" not in told
    assert "There is no deadline" in told


def test_a_large_plan_stays_usable() -> None:
    calls = [{"tool": "publish_it", "arguments": {"body": f"Post {n}\n" + "word " * 20_000}} for n in range(200)]
    found = asks(*calls, flagged=["150"])
    answer = browser().get(f"/approvals/{found.pk}/")
    told = answer.content.decode()
    assert len(told) < 1_500_000
    assert told.count('class="plan-step"') == 200
    assert told.count('class="plan-fold"') == 200 - 12 - 1, "the first ones are open, and the flagged one"
    whole = browser().get(f"/approvals/{found.pk}/steps/200/").content.decode()
    assert "Post 199" in whole
    assert whole.count("word ") >= 20_000
    exact = browser().get(f"/approvals/{found.pk}/steps/200/?json")
    assert exact.json() == calls[199]["arguments"]
    assert "too large to be changed here" in browser().get(f"/approvals/{found.pk}/?edit=1").content.decode()


def test_the_number_of_queries_is_the_same_whatever_there_is_to_show() -> None:
    def large() -> Approval:
        run = task("waiting", endpoint="pay.v1", run={"steps_done": 30})
        for number in range(30):
            step(run, f"s{number}", output={"text": "so"})
        calls = [{"tool": "test_pay", "arguments": {"amount_usd": n}} for n in range(60)]
        for n in range(8):
            asks(*calls[:1], state="rejected", comment="no", wait_key=f"e{n}")
        before = None
        for n in range(5):
            before = asks(
                calls[n],
                run=run,
                state="superseded",
                decision="request_changes",
                wait_key=f"v{n}",
                revises=before,
                version=n + 1,
            )
        found = asks(*calls, run=run, revises=before, version=6, quorum=9)
        for n in range(8):
            voter = person(f"v{n}", roles.REVIEWER)
            Vote.objects.create(
                approval=found, user=voter, user_name=voter.username, decision="approve", plan_hash=found.plan_hash
            )
            found.viewings.create(user=voter, plan_hash=found.plan_hash)
        return found

    pay = {"tool": "test_pay", "arguments": {"amount_usd": 1}}
    said = {"state": "superseded", "decision": "request_changes"}
    first = asks(pay, **said, wait_key="v0")
    small = asks(pay, run=first.run, revises=first, version=2)
    Vote.objects.create(
        approval=small, user=person("v0"), user_name="v0", decision="approve", plan_hash=small.plan_hash
    )
    rita = browser()
    counts = []
    for found in (small, large()):
        page(found, rita)  # the first look writes
        with CaptureQueriesContext(
            connection,
        ) as queries:
            page(found, rita)
        counts.append(len(queries))
    assert counts[0] == counts[1]
