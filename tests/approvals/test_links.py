"""A link in a mail decides once, as one person, on one plan, and only when its form is sent."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from approvals import links, notices
from approvals.deciding import Decide
from approvals.links import LinkRefused
from approvals.models import Approval, DecisionLink, Vote
from audit.models import AuditEntry
from jobs.handlers import Succeeded
from jobs.models import Job
from tests.jobs.drive import at_once
from tests.support import approvals
from tests.support.approvals import asked, carry_on, config, fresh, paid, reviewer
from tests.support.configs import load, loaded
from tests.support.people import person
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

_config = loaded(config("links: true"))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def rita() -> User:
    return person("rita", "reviewer")


@pytest.fixture
def visitor() -> Client:
    """Somebody's browser that is not signed in; forms need their token."""
    return Client(enforce_csrf_checks=True)


def approval(*calls: dict[str, Any], **more: Any) -> Approval:
    return approvals.approval(*calls, endpoint="pay.v1", **more)


def link_for(user: User, about: Approval) -> str:
    """Return the path of a link."""
    return links.make(about, user).removeprefix("http://127.0.0.1:8000")


def sent(visitor: Client, path: str, decision: str, comment: str = "") -> tuple[int, str]:
    """Open a link, send its form, and return the status and the page."""
    visitor.get(path)
    if "csrftoken" not in visitor.cookies:  # there was no form: send one all the same
        visitor.get("/accounts/login/")
    token = visitor.cookies["csrftoken"].value
    data = {"decision": decision, "comment": comment, "csrfmiddlewaretoken": token}
    response = visitor.post(path, data)
    return response.status_code, text_of(response.content)


def text_of(page: bytes) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.decode()).split())


def opened(visitor: Client, path: str) -> tuple[int, str]:
    response = visitor.get(path)
    return response.status_code, text_of(response.content)


# --- It decides ------------------------------------------------------------------------------------------------------


def test_opening_a_link_shows_the_plan_and_changes_nothing(visitor: Client, rita: User, notes: Path) -> None:
    about = asked(notes, 150)
    path = link_for(rita, about)
    entries = AuditEntry.objects.count()
    for _ in range(3):
        status, page = opened(visitor, path)
        assert status == 200
        assert "rita, your decision is asked for" in page
        assert "$150.00" in page
    assert visitor.head(path).status_code == 200
    assert fresh(about).state == "pending"
    assert not Vote.objects.exists()
    assert AuditEntry.objects.count() == entries
    assert DecisionLink.objects.get().used_at is None


def test_its_form_decides_as_that_person_and_the_run_goes_on(visitor: Client, rita: User, notes: Path) -> None:
    about = asked(notes, 150)
    status, page = sent(visitor, link_for(rita, about), "approve")
    assert (status, "You approved it" in page, "It runs now" in page) == (200, True, True)
    assert isinstance(carry_on(), Succeeded)
    assert paid(notes) == ["paid-150"]
    found = fresh(about)
    assert (found.state, found.decided_by) == ("approved", ["rita"])
    assert DecisionLink.objects.get().used_at is not None
    entry = AuditEntry.objects.get(action="approval.vote")
    assert (entry.actor_name, entry.address) == ("rita", "127.0.0.1")
    assert entry.after is not None
    assert entry.after["way"] == "link"


@pytest.mark.parametrize("decision", ["reject", "request_changes"])
def test_a_decision_against_says_why(visitor: Client, rita: User, notes: Path, decision: str) -> None:
    about = asked(notes, 150)
    path = link_for(rita, about)
    status, page = sent(visitor, path, decision)
    assert status == 422
    assert "Say why" in page
    assert fresh(about).state == "pending"
    assert sent(visitor, path, decision, "too much")[0] == 200
    assert (fresh(about).decision, fresh(about).comment) == (decision, "too much")


def test_without_its_token_the_form_is_refused(visitor: Client, rita: User, notes: Path) -> None:
    about = asked(notes, 150)
    path = link_for(rita, about)
    visitor.get(path)
    assert visitor.post(path, {"decision": "approve"}).status_code == 403
    assert fresh(about).state == "pending"


@pytest.mark.parametrize("decision", ["", "approve_with_changes", "again"])
def test_a_link_takes_three_answers_only(visitor: Client, rita: User, notes: Path, decision: str) -> None:
    about = asked(notes, 150)
    status, page = sent(visitor, link_for(rita, about), decision)
    assert (status, "Choose what you decide" in page) == (422, True)
    assert fresh(about).state == "pending"


def test_of_a_quorum_each_has_a_link_of_their_own(visitor: Client, rita: User, notes: Path) -> None:
    load(config("links: true, quorum: 2"))
    about = asked(notes, 150)
    first, second = link_for(rita, about), link_for(person("rolf", "reviewer"), about)
    assert "1 more vote is needed" in sent(visitor, first, "approve")[1]
    assert sent(visitor, first, "approve")[0] == 410
    assert fresh(about).state == "pending"
    assert "It runs now" in sent(visitor, second, "approve")[1]
    assert fresh(about).decided_by == ["rita", "rolf"]


def test_a_link_that_is_used_twice_at_once_votes_once(rita: User, notes: Path) -> None:
    load(config("links: true, quorum: 3"))
    about = asked(notes, 150)
    token = link_for(rita, about).split("/")[-2]
    held = [links.read(token) for _ in range(4)]

    def use(n: int) -> object:
        return links.decide(held[n], "approve", "", reviewer())

    results = at_once(*(lambda n=n: use(n) for n in range(4)))
    assert sum(isinstance(result, LinkRefused) for result in results) == 3
    assert Vote.objects.count() == 1


def test_two_links_of_one_person_are_used_up_together(visitor: Client, rita: User, notes: Path) -> None:
    load(config("links: true, quorum: 2"))
    about = asked(notes, 150)
    first, second = link_for(rita, about), link_for(rita, about)
    assert sent(visitor, first, "approve")[0] == 200
    assert sent(visitor, second, "approve")[0] == 410


# --- It does no more -------------------------------------------------------------------------------------------------


def test_a_used_link_says_so(visitor: Client, rita: User) -> None:
    path = link_for(rita, approval(links=True, quorum=2))
    DecisionLink.objects.update(used_at=timezone.now())
    status, page = opened(visitor, path)
    assert (status, "You have decided with this link already" in page) == (410, True)


def test_an_expired_link_says_so(visitor: Client, rita: User) -> None:
    about = approval(links=True)
    path = link_for(rita, about)
    DecisionLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    status, page = opened(visitor, path)
    assert (status, "This link has expired" in page) == (410, True)


def test_it_is_good_until_the_deadline(rita: User) -> None:
    about = approval(links=True, due=timedelta(hours=5))
    link_for(rita, about)
    assert DecisionLink.objects.get().expires_at == about.deadline


def test_a_decided_request_says_by_whom(visitor: Client, rita: User, notes: Path) -> None:
    about = asked(notes, 150)
    path = link_for(rita, about)
    Decide(reviewer("rolf"), "approve", about.plan_hash).run(about.pk)
    status, page = opened(visitor, path)
    assert (status, "It was approved by rolf already" in page) == (409, True)


def test_one_that_is_decided_while_the_page_is_open_says_so(visitor: Client, rita: User, notes: Path) -> None:
    about = asked(notes, 150)
    path = link_for(rita, about)
    visitor.get(path)
    Decide(reviewer("rolf"), "reject", about.plan_hash, "no").run(about.pk)
    status, page = sent(visitor, path, "approve")
    assert (status, "It was rejected by rolf already" in page) == (409, True)


def test_a_changed_plan_is_not_decided_on_unseen(visitor: Client, rita: User, notes: Path) -> None:
    load(config("links: true, quorum: 2"))
    about = asked(notes, 150)
    path = link_for(rita, about)
    calls = [{"id": "1", "arguments": {"file": str(notes), "amount_usd": 120}}]
    Decide(reviewer("rolf"), "approve_with_changes", about.plan_hash, calls=calls).run(about.pk)
    status, page = sent(visitor, path, "approve")
    assert (status, "The plan was changed since this link was sent" in page) == (409, True)
    assert Vote.objects.filter(user=rita).count() == 0


def test_an_account_that_is_no_longer_active_decides_nothing(visitor: Client, rita: User, notes: Path) -> None:
    about = asked(notes, 150)
    path = link_for(rita, about)
    User.objects.filter(pk=rita.pk).update(is_active=False)
    status, page = sent(visitor, path, "approve")
    assert (status, "no longer active" in page) == (403, True)
    assert fresh(about).state == "pending"


def test_somebody_who_may_no_longer_decide_is_told_who_may(visitor: Client, rita: User, notes: Path) -> None:
    about = asked(notes, 150)
    path = link_for(rita, about)
    rita.groups.remove(Group.objects.get(name="reviewer"))
    status, page = sent(visitor, path, "approve")
    assert (status, "Only the group reviewer may decide" in page) == (403, True)
    assert fresh(about).state == "pending"


@pytest.mark.parametrize("more", [{"links": False}, {"flagged": ["1"]}])
def test_what_is_decided_step_by_step_or_no_longer_by_links_needs_signing_in(
    visitor: Client, rita: User, more: dict[str, object]
) -> None:
    about = approval(links=True)
    path = link_for(rita, about)
    Approval.objects.filter(pk=about.pk).update(**more)
    status, page = opened(visitor, path)
    assert (status, "Sign in to decide" in page) == (403, True)
    assert not links.allowed(fresh(about))


def test_a_plan_of_very_many_calls_is_read_where_one_signs_in(rita: User) -> None:
    call = {"tool": "test_pay", "arguments": {"amount_usd": 150}}
    assert links.allowed(approval(*[call] * 50, links=True))
    assert not links.allowed(approval(*[call] * 51, links=True))


def test_what_is_hidden_in_a_text_is_spelled_out(visitor: Client, rita: User) -> None:
    call = {"tool": "test_pay", "arguments": {"note": "line\n" + "x" * 200 + "\u202e"}}
    about = approval(call, links=True, title="Pay \u202e", reason="why\u200b")
    page = opened(visitor, link_for(rita, about))[1]
    assert "x⟨U+202E⟩" in page
    assert "why⟨U+200B⟩" in page
    assert "\u202e" not in page


def test_a_link_that_was_altered_or_cut_off_is_none(visitor: Client, rita: User) -> None:
    path = link_for(rita, approval(links=True))
    token = path.split("/")[-2]
    for other in (token[:-1], f"{token}x", token[5:], "x", "a.b.c", "%00", "é"):
        status, page = opened(visitor, f"/approvals/link/{other}/")
        assert (status, "There is no such link" in page) == (404, True), other


def test_a_link_whose_row_is_gone_is_none(visitor: Client, rita: User) -> None:
    path = link_for(rita, approval(links=True))
    DecisionLink.objects.all().delete()
    assert visitor.get(path).status_code == 404


def test_links_that_expired_a_week_ago_are_forgotten(rita: User) -> None:
    for days in (8, 6, -1):
        link_for(rita, approval())
        DecisionLink.objects.filter(pk=DecisionLink.objects.latest("pk").pk).update(
            expires_at=timezone.now() - timedelta(days=days)
        )
    kept = list(DecisionLink.objects.order_by("pk"))[1:]
    assert (links.sweep(), links.sweep()) == (1, 0)
    assert list(DecisionLink.objects.order_by("pk")) == kept


def test_its_secret_is_not_in_the_database(rita: User) -> None:
    about = approval(links=True)
    token = links.make(about, rita).split("/")[-2]
    nonce = links._signer().unsign_object(token)[3]
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(l)::text FROM approvals_decisionlink l")
        [row] = cursor.fetchall()
    assert nonce not in row[0]


def test_the_address_is_told_to_nobody(visitor: Client, rita: User) -> None:
    path = link_for(rita, approval(links=True))
    for response in (visitor.get(path), visitor.get("/approvals/link/none/")):
        assert response["Referrer-Policy"] == "strict-origin"
        assert "no-store" in response["Cache-Control"]
        assert "noindex" in response["X-Robots-Tag"]


def test_only_this_page_needs_no_login(visitor: Client, rita: User) -> None:
    about = approval(links=True)
    assert visitor.get(link_for(rita, about)).status_code == 200
    assert visitor.get(f"/approvals/{about.pk}/").status_code == 302


# --- In a mail -------------------------------------------------------------------------------------------------------


def test_each_gets_a_link_of_their_own_where_the_policy_allows_it(settings: Settings, visitor: Client) -> None:
    from tests.approvals.test_notices import deliver_all, somebody

    with SmtpServer() as smtp:
        settings.SMTP_URL = smtp.url
        for name in ("rita", "rolf"):
            somebody(name)
        about = approval(links=True)
        notices.sweep()
        deliver_all()
        found = {mail.to[0]: re.findall(r"once: http://127.0.0.1:8000(\S+)", mail.text) for mail in smtp.mails}
    assert sorted(found) == ["rita@example.org", "rolf@example.org"]
    tokens = [path.split("/")[-2] for paths in found.values() for path in paths]
    assert len(set(tokens)) == 2
    payloads = str(list(Job.objects.filter(handler="notice").values_list("payload", flat=True)))
    assert not any(token in payloads for token in tokens)
    assert "rolf, your decision is asked for" in opened(visitor, found["rolf@example.org"][0])[1]
    assert fresh(about).state == "pending"
