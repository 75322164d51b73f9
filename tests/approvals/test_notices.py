"""Telling people that a request waits: once, by one message each, of nothing that is decided already."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from approvals import notices
from approvals.claiming import Delegate
from approvals.deadlines import sweep as sweep_deadlines
from approvals.deciding import Decide
from approvals.models import Approval, DecisionLink, Vote
from approvals.notice_words import safe, span
from audit.trail import Actor
from jobs import lanes, script
from jobs.claim import claim, finish
from jobs.handlers import Claim, Failed, Outcome, Succeeded
from jobs.models import Job
from jobs.pool import close_pool
from tests.jobs.drive import at_once, worker
from tests.support import approvals
from tests.support.approvals import fresh, reviewer
from tests.support.configs import loaded
from tests.support.http_server import Exchange, HttpServer
from tests.support.people import person
from tests.support.smtp_server import SmtpServer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated"),
]

_config = loaded()


class Channel(HttpServer):
    """Takes what is posted, or answers with `status`."""

    status = 200

    async def handle(self, exchange: Exchange) -> None:
        await exchange.reply("", status=self.status)


@pytest.fixture
def smtp(settings: Settings) -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        settings.SMTP_URL = server.url
        settings.PUBLIC_URL = "https://astra.example"
        yield server


@pytest.fixture
def channel() -> Iterator[Channel]:
    with Channel() as server:
        yield server


def somebody(name: str, *roles: str) -> User:
    """Return a person with a mail address."""
    user = person(name, *(roles or ("reviewer",)))
    User.objects.filter(pk=user.pk).update(email=f"{name}@example.org")
    user.refresh_from_db()
    return user


def approval(*calls: dict[str, Any], title: str = "", **more: Any) -> Approval:
    """Return a request; one with a title has a plan of that title."""
    found = approvals.approval(*calls, **more)
    if title:
        found.title, found.plan = title, {**found.plan, "title": title}
        found.save()
    return found


def jobs() -> list[Job]:
    return list(Job.objects.filter(handler="notice").order_by("id"))


def claimed() -> Claim:
    found = script.run(claim(worker(lanes.DELIVERY), lanes.DELIVERY))
    assert found is not None, "no message is to be delivered"
    return found


def deliver(found: Claim | None = None) -> Outcome:
    """Deliver the next message, as a worker does."""
    job = found or claimed()

    async def run() -> Outcome:
        try:
            return await notices.deliver(job)
        finally:
            await close_pool()

    outcome = asyncio.run(run())
    assert script.run(finish(job, outcome))
    return outcome


def deliver_all() -> None:
    for _ in range(len([job for job in jobs() if job.state == "queued"])):
        assert isinstance(deliver(), Succeeded)


# --- Who, and how often ----------------------------------------------------------------------------------------------


def test_everybody_who_may_decide_gets_one_mail_and_is_not_told_again(smtp: SmtpServer) -> None:
    somebody("rita")
    somebody("rolf")
    somebody("ulla", "user")
    person("nomail", "reviewer")
    gone = somebody("gone")
    gone.is_active = False
    gone.save()
    asked = approval(amount_usd=150)
    assert notices.sweep() == 1
    assert notices.sweep() == 0
    assert fresh(asked).told_at is not None
    deliver_all()
    assert sorted(mail.to[0] for mail in smtp.mails) == ["rita@example.org", "rolf@example.org"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"groups": ["operator"]}, ["ada", "root"]),
        ({"groups": ["admin"]}, ["ada"]),
        ({"groups": ["reviewer", "operator"]}, ["rita"]),
        ({"groups": ["nobody"]}, []),
        (
            {
                "groups": ["reviewer", "operator"],
                "demands": [
                    {"groups": ["reviewer"], "users": [], "quorum": 1},
                    {"groups": ["operator"], "users": [], "quorum": 1},
                ],
            },
            ["ada", "rita", "root"],
        ),
    ],
    ids=["operators", "admins", "either", "others", "both"],
)
def test_admins_are_told_where_nobody_else_who_may_decide_can_be(
    smtp: SmtpServer, more: dict[str, Any], told: list[str]
) -> None:
    somebody("rita")
    somebody("ada", "admin")
    somebody("root", "user")
    User.objects.filter(username="root").update(is_superuser=True)
    person("nomail", "operator")
    approval(**more)
    notices.sweep()
    deliver_all()
    assert sorted(mail.to[0] for mail in smtp.mails) == [f"{name}@example.org" for name in told]


def test_admins_are_spared_where_an_operator_is_told(smtp: SmtpServer) -> None:
    somebody("ada", "admin")
    olga = somebody("olga", "operator")
    approval(groups=["operator"])
    notices.sweep()
    deliver_all()
    assert [mail.to[0] for mail in smtp.mails] == ["olga@example.org"]
    approval(groups=["operator"], requested_by=olga, not_own=True)
    notices.sweep()
    deliver_all()
    assert [mail.to[0] for mail in smtp.mails] == ["olga@example.org", "ada@example.org"]


def test_the_mail_says_what_who_how_much_why_until_when_and_what_then(smtp: SmtpServer) -> None:
    somebody("rita")
    asked = approval(title="Refund 150 USD", amount_usd=150, due=timedelta(hours=3), auto_action="return")
    notices.sweep()
    deliver_all()
    [mail] = smtp.mails
    assert mail.message["Subject"] == "To decide: Refund 150 USD"
    assert mail.text.startswith("A request waits for your decision.\n\nRefund 150 USD\n")
    for line in (
        "  Asked by: helper, for user",
        "  Amount: 150.00 USD",
        "  Why you: a refund over 100 USD",
        f"  Read and decide: https://astra.example/approvals/{asked.pk}/",
    ):
        assert f"{line}\n" in mail.text
    assert re.search(r"  Decide by: .+ UTC \(due in (3 h|2 h|\d+ min)\); else it goes back to the agent\n", mail.text)
    assert "signing in" not in mail.text, "the policy allows no link that decides"
    assert not DecisionLink.objects.exists()


def test_a_plan_without_a_title_is_told_in_words(smtp: SmtpServer) -> None:
    somebody("rita")
    refund = {"tool": "refund", "arguments": {"order_id": "A-1", "amount_usd": 150}}
    approval(refund, refund, refund)
    notices.sweep()
    deliver_all()
    subject = str(smtp.mails[0].message["Subject"]).strip()
    assert subject.startswith("To decide: Pay money back to the customer of an order: Order ID A-1 · Amount $150.00")
    assert subject.endswith(" and 2 more")


def test_named_people_are_told_and_nobody_of_their_own_request_where_that_is_not_theirs(smtp: SmtpServer) -> None:
    rita = somebody("rita")
    somebody("olga", "user")
    approval(requested_by=rita, not_own=True, users=["olga"])
    notices.sweep()
    deliver_all()
    assert [mail.to for mail in smtp.mails] == [["olga@example.org"]]


def test_many_requests_are_one_mail_each_with_the_first_twenty_and_a_count(smtp: SmtpServer) -> None:
    somebody("rita")
    for number in range(23):
        approval(title=f"Refund {number}")
    notices.sweep()
    assert len(jobs()) == 1
    deliver_all()
    [mail] = smtp.mails
    assert mail.message["Subject"] == "23 requests wait for your decision"
    assert len(re.findall(r"^Refund \d+$", mail.text, re.MULTILINE)) == 20
    assert "And 3 more: https://astra.example/approvals/\n" in mail.text


def test_when_the_twenty_are_decided_first_the_others_are_told_of_all_the_same(smtp: SmtpServer) -> None:
    somebody("rita")
    all_of_them = [approval() for _ in range(21)]
    notices.sweep()
    Approval.objects.filter(pk__in=[one.pk for one in all_of_them[:20]]).update(
        state="approved", decided_at=timezone.now()
    )
    deliver_all()
    [mail] = smtp.mails
    assert "https://astra.example/approvals/\n" in mail.text


def test_what_was_decided_before_it_is_sent_is_not_sent(smtp: SmtpServer) -> None:
    somebody("rita")
    asked = approval()
    notices.sweep()
    Approval.objects.filter(pk=asked.pk).update(state="approved", decided_at=timezone.now())
    deliver_all()
    assert smtp.mails == []
    assert [job.state for job in jobs()] == ["succeeded"]


def test_ten_thousand_requests_are_a_message_for_each_person(smtp: SmtpServer) -> None:
    for name in ("rita", "rolf"):
        somebody(name)
    first = approval()
    rows = {name: value for name, value in Approval.objects.filter(pk=first.pk).values()[0].items() if name != "id"}
    Approval.objects.bulk_create([Approval(**rows | {"wait_key": f"{n}"}) for n in range(9_999)], batch_size=2_000)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert notices.sweep() == 10_000
    assert len(jobs()) == 2
    assert len(queries) < 40
    assert not Approval.objects.filter(told_at=None).exists()
    deliver_all()
    assert "And 9,980 more" in smtp.mails[0].text


def test_a_flood_is_a_message_a_minute(smtp: SmtpServer) -> None:
    somebody("rita")
    for _ in range(20):
        approval()
    assert notices.sweep() == 20
    late = approval()
    assert notices.sweep() == 0, "it waits for others"
    Approval.objects.filter(pk=late.pk).update(created_at=F("created_at") - timedelta(minutes=1))
    approval()
    assert notices.sweep() == 2, "the first of them has waited a minute"
    assert len(jobs()) == 2


def test_without_any_way_to_tell_nothing_is_sent_and_nothing_fails() -> None:
    somebody("rita")
    asked = approval()
    assert notices.sweep() == 1
    assert jobs() == []
    assert fresh(asked).told_at is not None


# --- Once ------------------------------------------------------------------------------------------------------------


def test_two_schedulers_at_once_tell_once(smtp: SmtpServer) -> None:
    somebody("rita")
    for _ in range(10):
        approval()
    results = at_once(notices.sweep, notices.sweep, notices.sweep)
    assert sum(result for result in results if isinstance(result, int)) == 10, results
    assert Approval.objects.filter(told_at=None).count() == 0
    told = [item[0] for job in jobs() for item in job.payload["items"]]
    assert len(told) == len(set(told)) == 10


def test_a_sweep_that_dies_before_its_commit_has_told_nobody_and_the_next_tells_all(
    smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody("rita")
    asked = approval()
    with monkeypatch.context() as patch:

        def dies(due: Any) -> None:
            submit(due)
            raise KeyboardInterrupt

        submit = notices._submit
        patch.setattr(notices, "_submit", dies)
        with pytest.raises(KeyboardInterrupt):
            notices.sweep()
    assert jobs() == []
    assert fresh(asked).told_at is None
    assert notices.sweep() == 1
    assert len(jobs()) == 1


def test_a_request_that_somebody_decides_on_now_is_told_of_at_the_next_turn(smtp: SmtpServer) -> None:
    somebody("rita")
    asked, other = approval(), approval()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1 FROM approvals_approval WHERE id = %s FOR UPDATE", [asked.pk])
        [told] = at_once(notices.sweep)
        cursor.execute("ROLLBACK")
    assert told == 1
    assert fresh(asked).told_at is None
    assert fresh(other).told_at is not None
    assert notices.sweep() == 1


# --- Reminders, escalations, delegations ------------------------------------------------------------------------------


def test_a_reminder_comes_once_and_not_to_those_who_have_voted(smtp: SmtpServer) -> None:
    rita = somebody("rita")
    somebody("rolf")
    asked = approval(
        quorum=2, due=timedelta(hours=2, minutes=1), told_at=timezone.now(), remind_at=timezone.now(), title="Pay"
    )
    Vote.objects.create(approval=asked, user=rita, user_name="rita", decision="approve", plan_hash=asked.plan_hash)
    assert notices.sweep() == 1
    assert notices.sweep() == 0
    deliver_all()
    [mail] = smtp.mails
    assert mail.to == ["rolf@example.org"]
    assert mail.message["Subject"] == "Reminder, due in 2 h: Pay"
    assert fresh(asked).remind_at is None


def test_who_it_is_escalated_to_is_told_so_and_the_others_are_not_told_again(smtp: SmtpServer) -> None:
    somebody("rita")
    somebody("olga", "operator")
    asked = approval(escalate_to="operator", escalate_at=timezone.now(), told_at=timezone.now(), title="Pay")
    sweep_deadlines()
    assert notices.sweep() == 1
    deliver_all()
    [mail] = smtp.mails
    assert mail.to == ["olga@example.org"]
    assert mail.message["Subject"] == "Escalated to you: Pay"
    assert fresh(asked).told_at is not None


def test_only_who_it_is_handed_to_is_told_of_that(smtp: SmtpServer) -> None:
    rita = somebody("rita")
    somebody("rolf")
    somebody("ulla", "user")
    asked = approval(told_at=timezone.now(), title="Pay")
    Delegate(Actor(user=rita), "ulla").run(asked.pk)
    assert notices.sweep() == 0
    deliver_all()
    [mail] = smtp.mails
    assert (mail.to, mail.message["Subject"]) == (["ulla@example.org"], "Handed to you: Pay")
    assert "handed to you by rita." in mail.text


# --- Channels --------------------------------------------------------------------------------------------------------


def test_a_channel_of_a_group_is_told_only_of_that_groups_requests(channel: Channel, settings: Settings) -> None:
    at = f"json://127.0.0.1:{channel.port}"
    settings.NOTIFY_URLS = (("", f"{at}/all"), ("finance", f"{at}/finance"))
    approval(title="For reviewers")
    Group.objects.get_or_create(name="finance")
    approval(title="For finance", groups=["finance"])
    notices.sweep()
    assert "127.0.0.1" not in str([job.payload for job in jobs()])
    deliver_all()
    said = {request.path: request.json()["message"] for request in channel.requests}
    assert "For reviewers" in said["/all"]
    assert "For finance" in said["/all"]
    assert "For finance" in said["/finance"]
    assert "For reviewers" not in said["/finance"]


def test_a_channel_that_became_another_groups_is_not_told(channel: Channel, settings: Settings) -> None:
    at = f"json://127.0.0.1:{channel.port}"
    settings.NOTIFY_URLS = (("reviewer", f"{at}/1"),)
    approval()
    notices.sweep()
    settings.NOTIFY_URLS = (("finance", f"{at}/1"),)
    deliver_all()
    assert channel.requests == []


def test_a_channel_that_is_gone_is_told_nothing(settings: Settings) -> None:
    settings.NOTIFY_URLS = (("", "json://127.0.0.1:9/"),)
    approval()
    notices.sweep()
    settings.NOTIFY_URLS = ()
    assert isinstance(deliver(), Succeeded)


def test_a_failure_is_tried_again_and_then_a_dead_letter_without_a_secret(channel: Channel, settings: Settings) -> None:
    channel.status = 500
    settings.NOTIFY_URLS = (("", f"json://127.0.0.1:{channel.port}/s3cret"),)
    approval()
    notices.sweep()
    states = []
    for attempt in range(notices.RETRY.max_attempts):
        outcome = deliver()
        assert isinstance(outcome, Failed)
        [job] = jobs()
        states.append(job.state)
        if attempt < notices.RETRY.max_attempts - 1:
            assert job.run_at is not None and job.run_at > timezone.now()
            Job.objects.filter(pk=job.pk).update(state="queued", run_at=None, queued_at=timezone.now())
    assert states == ["scheduled"] * 5 + ["dead"]
    assert len(channel.requests) == 6
    [job] = jobs()
    assert job.error is not None
    assert job.error["detail"].startswith("Status 500 from channel 1")
    assert "s3cret" not in str(job.error)


def test_a_mail_that_comes_late_is_sent_when_the_server_is_back(smtp: SmtpServer) -> None:
    somebody("rita")
    approval()
    notices.sweep()
    smtp.refusals["MAIL"] = ["451 later"]
    assert isinstance(deliver(), Failed)
    Job.objects.filter(handler="notice").update(state="queued", run_at=None, queued_at=timezone.now())
    assert isinstance(deliver(), Succeeded)
    assert len(smtp.mails) == 1


# --- What nobody else has a say in ------------------------------------------------------------------------------------

EVIL = (
    "Pay\r\nBcc: eve@example.org\n\n# <!channel> @everyone [x](https://evil.example) www.evil.example \u202e<b>"
    + "x" * 999
)


def test_what_a_model_wrote_is_one_short_line_of_text(smtp: SmtpServer, channel: Channel, settings: Settings) -> None:
    settings.NOTIFY_URLS = (("", f"json://127.0.0.1:{channel.port}"),)
    somebody("rita")
    approval(title=EVIL[:300], reason=EVIL)
    notices.sweep()
    deliver_all()
    [mail], [request] = smtp.mails, channel.requests
    assert mail.to == ["rita@example.org"]
    assert mail.message["Bcc"] is None
    subject = str(mail.message["Subject"])
    assert len(subject) < 150
    for text in (subject, mail.text, request.json()["message"], request.json()["title"]):
        for sign in ("<", ">", "@", "\u202e", "https://evil", "\nBcc", "\n#", "www.evil"):
            assert sign not in text, sign


def test_neither_is_what_it_wants_to_call(smtp: SmtpServer) -> None:
    somebody("rita")
    approval({"tool": "refund", "arguments": {"note <b>": "@everyone\u202e https://evil.example"}})
    notices.sweep()
    deliver_all()
    [mail] = smtp.mails
    for text in (str(mail.message["Subject"]), mail.text):
        for sign in ("<", "@", "\u202e", "https://evil"):
            assert sign not in text, sign


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\n c", "a b c"),
        ("x" * 30, "x" * 19 + "…"),
        ("see https://a.b", "see https: //a.b"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_a_text_is_flattened_and_cut(text: str, shown: str) -> None:
    assert safe(text, 20) == shown


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(seconds=40), "40 s"),
        (timedelta(minutes=5), "5 min"),
        (timedelta(hours=2), "2 h"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=3), "3 days"),
    ],
)
def test_a_span_is_said_roughly(length: timedelta, words: str) -> None:
    assert span(length) == words


def test_a_decision_leaves_nothing_to_remind_of(smtp: SmtpServer) -> None:
    somebody("rita")
    asked = approval(told_at=timezone.now(), remind_at=timezone.now() + timedelta(hours=1))
    Decide(reviewer(), "reject", asked.plan_hash, "no").run(asked.pk)
    Approval.objects.filter(pk=asked.pk).update(remind_at=timezone.now())
    assert notices.sweep() == 0
