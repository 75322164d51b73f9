"""The inbox: who sees what, filters and their counts, the order, claims, and the number in the navigation."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agents.models import Effect
from agents.queries import Page
from approvals import inbox
from approvals.claiming import Claim
from approvals.models import Approval, Vote
from audit.models import AuditEntry
from tests.support import approvals
from tests.support.approvals import config, fresh, reviewer
from tests.support.configs import loaded
from tests.support.people import person
from tests.support.statements import number_of
from tests.support.tasks import task

URL = "/approvals/"
HOUR = timedelta(hours=1)

_config = loaded(config())


def approval(title: str = "Refund 150 USD", **more: Any) -> Approval:
    """Write a request of this title."""
    return approvals.approval(endpoint="pay.v1", title=title, **more)


def effect(title: str = "Did it pay?", **more: Any) -> Approval:
    """Write a request that asks what became of a call."""
    run = task("waiting", endpoint="pay.v1")
    made = Effect.objects.create(
        key=f"{run.pk}-1",
        run=run,
        step_key="1",
        tool="test_pay",
        arguments={},
        idempotent=False,
        state="unknown",
        fence=1,
    )
    values: dict[str, Any] = {"kind": "effect", "effect": made, "plan": None, "asked_plan": None, "plan_hash": ""}
    values |= {"deadline": None, "sort_at": timezone.now(), "groups": ["reviewer", "operator"]}
    return approval(title, run=run, **(values | more))


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def rita(db: None) -> User:
    return person("rita", "reviewer")


@pytest.fixture
def client(rita: User) -> Client:
    """The reviewer's browser."""
    return browser(rita)


@pytest.fixture
def operator(db: None) -> Client:
    return browser(person("olga", "operator"))


def shown(client: Client, **query: str) -> list[str]:
    """Return the titles on the page, in its order."""
    response = client.get(URL, query)
    assert response.status_code == 200
    return [row.approval.title for row in response.context["rows"]]


def counts(client: Client, **query: str) -> dict[str, str]:
    """Return the tabs and their counts."""
    return {tab.label: str(tab.count) for tab in client.get(URL, query).context["results"].tabs}


def text(client: Client, path: str = URL, **query: str) -> str:
    """Return the page's words, without its marks."""
    page = client.get(path, query).content.decode()
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<main") :]).split())


def badge(client: Client, path: str = "/console/tasks/") -> str | None:
    """Return the number beside Approvals in the navigation: nothing at none, None where it has no such item."""
    page = client.get(path).content.decode()
    found = re.search(r'id="approvals-badge"[^>]*>([^<]*)<', page)
    return found and found[1]


# --- Who sees what ---------------------------------------------------------------------------------------------------


def test_what_waits_for_a_person_is_what_they_may_decide_on_the_nearest_deadline_first(client: Client) -> None:
    approval("in two days", due=48 * HOUR)
    approval("in an hour", due=HOUR)
    approval("for others", groups=["finance"])
    approval("by name", groups=[], users=["rita"], due=2 * HOUR)
    approval("decided", state="approved")
    assert shown(client) == ["in an hour", "by name", "in two days"]


def test_who_asked_does_not_see_what_they_may_not_decide_themselves(client: Client, rita: User) -> None:
    approval("mine", requested_by=rita, not_own=True)
    assert shown(client) == []
    assert shown(client, tab="pending") == []


def test_what_one_has_agreed_to_waits_for_others_and_is_still_to_be_seen(client: Client, rita: User) -> None:
    both = approval("two must agree", quorum=2)
    Vote.objects.create(approval=both, user=rita, user_name="rita", decision="approve", plan_hash=both.plan_hash)
    assert shown(client) == []
    assert counts(client) == {"For you": "0", "All pending": "1", "Decided": "0"}
    assert "1 of 2 with yours" in text(client, tab="pending")
    Vote.objects.update(void=True)
    assert shown(client) == ["two must agree"]


def test_an_operator_sees_all_that_is_pending_and_what_waits_for_others_says_for_whom(operator: Client) -> None:
    approval("for reviewers")
    effect("for operators too")
    assert shown(operator) == ["for operators too"]
    assert shown(operator, tab="pending") == ["for operators too", "for reviewers"]
    page = text(operator, tab="pending")
    assert "for the group reviewer" in page
    assert operator.get(URL, {"tab": "pending"}).content.decode().count("data-claim") == 1


def test_a_person_sees_nothing_of_what_is_for_others(db: None) -> None:
    approval("secret")
    approval("secret, decided", state="approved")
    ulla = browser(person("ulla", "user", "finance"))
    for tab in inbox.TABS:
        assert shown(ulla, tab=tab) == []
    assert "secret" not in text(ulla, tab="pending")
    assert "Nothing waits for you" in text(ulla)


def test_decided_ones_stand_the_last_first_and_say_how_they_ended(client: Client) -> None:
    ends: list[tuple[str, dict[str, Any]]] = [
        ("approved", {"decided_by": ["rita", "rolf"]}),
        ("rejected", {}),
        ("expired", {"decided_by": []}),
        ("superseded", {"decision": "request_changes"}),
        ("superseded", {"decision": "", "decided_by": []}),
    ]
    for age, (state, more) in enumerate(ends):
        approval(f"{age}", state=state, **({"decided_at": timezone.now() - age * HOUR} | more))
    assert shown(client, tab="decided") == ["0", "1", "2", "3", "4"]
    words = [row.end[1] for row in client.get(URL, {"tab": "decided"}).context["rows"]]
    assert words == ["Approved", "Rejected", "Expired", "Changes requested", "Needless by now"]
    assert "rita and rolf" in text(client, tab="decided")
    assert shown(client, state="expired") == ["2"], "a state leads to the decided ones"
    assert counts(client, state="expired") == {"For you": "0", "All pending": "0", "Decided": "1"}


def test_a_row_says_what_one_must_know(client: Client) -> None:
    long_ago = timezone.now() - 3 * HOUR
    approval(
        "Pay the bill", amount_usd=Decimal("1234.5"), version=2, created_at=long_ago, due=30 * timedelta(minutes=1)
    )
    effect("Did it pay?")
    page = text(client)
    assert "Pay the bill v2 , revised payer for user · a refund over 100 USD $1,234.50" in page
    assert "3 h ago" in page
    assert re.search(r"soon in 29 min", page)
    assert "Did it pay? Unknown effect" in page


# --- Filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"agent": "planner"}, ["B"]),
        ({"tool": "mail"}, ["B"]),
        ({"group": "finance"}, ["C"]),
        ({"kind": "effect"}, ["D"]),
        ({"kind": "plan"}, ["A", "B", "C"]),
        ({"amount": "100"}, ["A", "C"]),
        ({"amount": "100.01"}, ["C"]),
        ({"due": "1h"}, ["A"]),
        ({"due": "4h"}, ["A", "B"]),
        ({"claim": "mine"}, ["B"]),
        ({"claim": "free"}, ["D", "A"]),
        ({"q": "OVER 100"}, ["A", "B", "C"]),
        ({"q": "fond of tea"}, ["C"]),
        ({"q": "100% certain"}, []),
        ({"kind": "nonsense", "amount": "much", "due": "overdue", "claim": "?", "tab": "x"}, ["D", "A", "B", "C"]),
    ],
    ids=str,
)
def test_a_filter_finds_what_fits_and_the_counts_follow(
    client: Client, rita: User, query: dict[str, str], found: list[str]
) -> None:
    later = timezone.now() + HOUR
    rolf = person("rolf", "reviewer")
    refund = {"tool": "refund", "arguments": {}}
    approval("A", due=HOUR / 2, amount_usd=Decimal(100), claimed_by=rita, claimed_until=timezone.now() - HOUR)
    approvals.approval(
        refund, {"tool": "mail", "arguments": {}}, endpoint="plan.v1", title="B", due=3 * HOUR, claimed_by=rita,
        claimed_until=later,
    )  # fmt: skip
    approval(
        "C", due=90 * HOUR, amount_usd=Decimal(500), groups=["reviewer", "finance"], claimed_by=rolf,
        claimed_until=later, reason="a refund over 100 USD to somebody fond of green tea",
    )  # fmt: skip
    effect("D", sort_at=timezone.now() - HOUR, reason="nobody knows")
    assert shown(client, **query) == found
    assert counts(client, **query)["For you"] == str(len(found))


def test_what_ends_today_ends_before_midnight(client: Client) -> None:
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    for title, deadline in (("today", midnight - timedelta(seconds=1)), ("tomorrow", midnight + HOUR)):
        approval(title, deadline=deadline, sort_at=deadline)
    assert shown(client, due="today") == ["today"]


def test_a_request_is_found_by_its_id_and_by_its_tasks(client: Client) -> None:
    one = approval("one")
    approval("two")
    assert shown(client, q=str(one.pk)) == shown(client, q=f" {str(one.run_id).upper()} ") == ["one"]


def test_filters_keep_to_their_tab(client: Client) -> None:
    """A deadline within the hour says nothing of what is decided."""
    approval("decided", state="approved", due=90 * HOUR)
    assert shown(client, tab="decided", due="1h", claim="mine") == ["decided"]
    assert counts(client, due="1h") == {"For you": "0", "All pending": "0", "Decided": "1"}


def test_filters_of_what_is_decided_look_among_the_last_and_say_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "DECIDED_AMONG", 2)
    for age in range(4):
        approval(f"{age}", state="approved", decided_at=timezone.now() - age * HOUR)
    assert shown(client, tab="decided", kind="plan") == ["0", "1", "2"], "with what was decided at the same time"
    assert "were decided last" in text(client, tab="decided", kind="plan")
    assert shown(client, tab="decided") == shown(client, state="approved") == ["0", "1", "2", "3"]
    assert "were decided last" not in text(client, state="approved")


def test_nothing_found_leads_back_to_all(client: Client) -> None:
    approval()
    page = client.get(URL, {"q": "xylophone", "tab": "pending"}).content.decode()
    assert "No request matches" in page
    assert 'href="/approvals/?tab=pending">Clear the filters' in page


@pytest.mark.parametrize("tab", ["", "pending", "decided"])
def test_pages_follow_one_another_without_a_gap(client: Client, monkeypatch: pytest.MonkeyPatch, tab: str) -> None:
    monkeypatch.setattr(inbox, "PAGE", 2)
    monkeypatch.setattr(inbox.find, "__kwdefaults__", {"cursor": "", "limit": 2})
    same = timezone.now() + HOUR
    for place in range(5):
        state = {"state": "approved", "decided_at": timezone.now()} if tab == "decided" else {}
        approval(f"{place}", deadline=same, sort_at=same, **state)
    if tab == "decided":
        Approval.objects.update(decided_at=same)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(URL, {"tab": tab, "cursor": cursor}).context
        seen += [row.approval.title for row in page["rows"]]
        cursor = page["page"].next_cursor
    assert sorted(seen) == ["0", "1", "2", "3", "4"]
    assert seen == sorted(seen, reverse=tab == "decided")


@pytest.mark.parametrize("cursor", ["x", "MTIz", "bm90IGEgdGltZQ"])
def test_a_cursor_that_is_none_leads_to_the_beginning(client: Client, cursor: str) -> None:
    assert client.get(URL, {"cursor": cursor})["Location"] == URL


@pytest.mark.parametrize(
    "query", [{}, {"tab": "pending"}, {"tab": "decided"}, {"q": "Refund", "claim": "free"}], ids=str
)
def test_thirty_requests_cost_as_many_queries_as_one(
    operator: Client, query: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that is given up is asked again elsewhere: here none is, however busy the machine.
    monkeypatch.setattr("approvals.inbox.COUNT_S", 60.0)
    monkeypatch.setattr("approvals.badge.COUNT_S", 60.0)

    def fill(times: int) -> None:
        for place in range(times):
            asker = person(f"asker-{place}", "user")
            approval(requested_by=asker, groups=["operator"], quorum=2)
            approval(state="approved", requested_by=asker)
            until = timezone.now() + HOUR
            approval(groups=["operator"], claimed_by=asker, claimed_until=until, requested_by=asker)

    fill(1)
    operator.get(URL, query)
    with CaptureQueriesContext(connection) as few:
        operator.get(URL, query)
    fill(30)
    with CaptureQueriesContext(connection) as many:
        assert len(shown(operator, **query)) >= 30
    assert number_of(many) == number_of(few)
    # Session, user, groups; two for what the filters offer; counts and list, each with its time-out; the badge; the
    # groups of those who claim some.
    assert number_of(few) <= 10


def test_when_finding_takes_too_long_the_page_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    approval()
    given_up = inbox.Results(Page([], None), client.get(URL).context["results"].tabs, given_up=2.0)
    monkeypatch.setattr("approvals.inbox_views.find", lambda *_, **__: given_up)
    assert "given up after 2 seconds" in text(client)


# --- Claims ----------------------------------------------------------------------------------------------------------


def test_a_claim_from_the_list_leads_back_to_it_and_shows_who_is_on_it(client: Client) -> None:
    one = approval()
    back = client.post("/approvals/claim/", {"claim": str(one.pk), "back": "tab=pending&q=Refund"})
    assert back["Location"] == "/approvals/?tab=pending&q=Refund"
    page = text(client)
    assert "You are on it until" in page
    assert "Give back" in page
    client.post("/approvals/claim/", {"release": str(one.pk)})
    assert fresh(one).claimed_by is None
    told = AuditEntry.objects.filter(target_type="approval").order_by("pk")
    assert [entry.action for entry in told] == ["approval.claim", "approval.release"]


def test_what_another_is_on_cannot_be_claimed_from_the_list(client: Client) -> None:
    one = approval()
    Claim(reviewer("rolf")).run(one.pk)
    page = client.get(URL).content.decode()
    assert "data-claim" not in page
    client.post("/approvals/claim/", {"claim": str(one.pk)})
    assert "rolf is on it until" in text(client)
    assert fresh(one).claimed_by == User.objects.get(username="rolf")


def test_a_claim_of_somebody_who_may_not_decide_any_more_is_none(client: Client) -> None:
    approval(claimed_by=person("rolf", "reviewer"), claimed_until=timezone.now() + HOUR)
    (row,) = client.get(URL).context["rows"]
    assert (row.holder, row.may_reject) == ("rolf", False)
    person("rolf").groups.clear()
    (row,) = client.get(URL).context["rows"]
    assert (row.holder, row.may_reject) == ("", True)


def test_a_claim_leads_to_no_other_site(client: Client) -> None:
    one = approval()
    answer = client.post("/approvals/claim/", {"claim": str(one.pk), "back": "https://elsewhere.example/"})
    assert answer["Location"].startswith("/approvals/?")
    assert client.post("/approvals/claim/", {"claim": "x"}).status_code == 404
    assert client.get("/approvals/claim/").status_code == 405


def test_after_a_claim_the_region_comes_with_what_is_to_be_told(client: Client) -> None:
    one = approval()
    headers = {"HX-Request": "true", "HX-Target": "inbox"}
    answer = client.post("/approvals/claim/", {"claim": str(one.pk)}, headers=headers, follow=True)
    page = answer.content.decode()
    assert "<html" not in page
    assert 'id="inbox-told" role="status" hx-swap-oob="true"' in page
    assert "You are on it until" in page


# --- The number in the navigation ------------------------------------------------------------------------------------


def test_the_number_beside_approvals_is_what_waits_for_the_person(client: Client, operator: Client) -> None:
    assert (badge(client), badge(operator)) == ("", "")
    approval()
    approval(groups=["finance"])
    effect()
    assert (badge(client), badge(operator)) == ("2", "1")


def test_who_is_named_in_a_pending_request_finds_approvals_in_the_navigation(db: None) -> None:
    ulla = browser(person("ulla", "user"))
    assert badge(ulla) is None
    one = approval(groups=[], users=["ulla"])
    assert badge(ulla) == "1"
    Approval.objects.filter(pk=one.pk).update(state="approved", decided_at=timezone.now(), decision="approve")
    assert badge(ulla) is None
    assert badge(ulla, URL) == "", "on the page itself it stays"


def test_past_a_bound_nobody_needs_the_number(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("approvals.badge.UP_TO", 2)
    for _ in range(3):
        approval()
    assert badge(client) == "2+"


def test_a_page_costs_one_query_for_the_number_and_its_region_none(client: Client) -> None:
    approval()

    def of_approvals(**headers: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get("/console/tasks/", headers=headers)
        return sum("approvals_approval" in query["sql"] for query in queries)

    assert of_approvals() == 1
    assert of_approvals(**{"HX-Request": "true", "HX-Target": "tasks"}) == 0


def test_the_inbox_does_not_count_twice(client: Client) -> None:
    approval()
    with CaptureQueriesContext(connection) as queries:
        assert badge(client, URL) == "1"
    assert sum("approvals_approval" in query["sql"] for query in queries) == 2, "the counts and the list"


@pytest.mark.django_db(transaction=True)
def test_no_page_fails_for_want_of_the_number(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    approval()
    monkeypatch.setattr("approvals.badge.for_you", lambda user: Approval.objects.extra(where=["1 / 0 = 1"]))
    assert badge(client) == ""


def test_the_lists_refresh_brings_the_number_along(client: Client) -> None:
    approval()
    headers = {"HX-Request": "true", "HX-Target": "inbox"}
    page = client.get(URL, headers=headers).content.decode()
    assert 'id="approvals-badge" hx-swap-oob="true" class="badge">1<' in page
    filtered = client.get(URL, {"q": "Refund"}, headers=headers).content.decode()
    assert "approvals-badge" not in filtered, "that would be the number of what the filter finds"


def test_a_claim_needs_a_person_who_may(db: None) -> None:
    one = approval()
    ulla = browser(person("ulla", "user"))
    ulla.post("/approvals/claim/", {"claim": str(one.pk)})
    assert fresh(one).claimed_by is None
    assert "Only the group reviewer may decide" in text(ulla)


def test_who_may_decide_on_nothing_is_told_so_without_filters(db: None) -> None:
    approval()
    ulla = browser(person("ulla", "user"))
    assert "Nothing here is yours to decide" in text(ulla)
    assert "Filter requests" not in ulla.get(URL).content.decode()
    approval(users=["ulla"], wait_key="2")
    assert "Nothing here is yours to decide" not in text(ulla)
    assert "Nothing here is yours to decide" not in text(browser(person("rita", "reviewer")))
