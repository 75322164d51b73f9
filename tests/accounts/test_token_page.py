"""The page of one's own API tokens."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import roles, token_views, tokens
from accounts.models import ApiToken
from audit.models import AuditEntry
from audit.trail import SYSTEM
from tests.support.people import person

URL = "/accounts/tokens/"
HOSTILE = '<img src=x onerror="alert(1)">"\'{{ 7|add:7 }}'


@pytest.fixture
def ulla(db: None) -> User:
    return person("ulla", roles.USER)


@pytest.fixture
def client(ulla: User) -> Client:
    return signed_in(ulla)


def signed_in(user: User, **options: bool) -> Client:
    client = Client(**options)  # type: ignore[arg-type]
    client.force_login(user)
    return client


def make(client: Client, **given: object) -> str:
    """Make a token and return what the page answered."""
    answer = client.post(URL, {"name": "import", "scope": ["tasks:read"], "life": "30"} | given)
    assert answer.status_code == 201, answer.content.decode()
    return answer.content.decode()


def secret_in(page: str) -> str:
    found = re.search(r"<code>(astra_[\w-]{43})</code>", page)
    assert found
    return found[1]


def test_nobody_sees_it_without_signing_in(db: None) -> None:
    assert Client().get(URL)["Location"].startswith("/accounts/login/")
    assert Client().post(URL, {"name": "x"})["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("role", roles.ROLES)
def test_everybody_has_the_page_and_the_way_to_it(db: None, role: str) -> None:
    page = signed_in(person("anybody", role)).get(URL)
    assert page.status_code == 200
    assert f'href="{URL}"' in page.content.decode()


def test_a_token_that_is_made_works_and_is_shown_once(client: Client, ulla: User) -> None:
    answer = client.post(URL, {"name": "import", "scope": ["tasks:read"], "life": "30"})
    assert "no-store" in answer["Cache-Control"]
    secret = secret_in(answer.content.decode())
    token = tokens.authenticate(secret)
    assert (token.user, token.name, token.scopes) == (ulla, "import", ["tasks:read"])
    assert token.expires_at is not None
    assert timedelta(days=29) < token.expires_at - timezone.now() <= timedelta(days=30)
    page = client.get(URL).content.decode()
    assert secret not in page
    assert token.prefix in page
    assert "Usable" in page


def test_the_secret_is_in_no_address_session_or_trail(client: Client) -> None:
    secret = secret_in(make(client))
    assert secret not in str([session.get_decoded() for session in Session.objects.all()])
    assert secret not in str(list(AuditEntry.objects.values()))
    assert secret not in str(list(ApiToken.objects.values()))


def test_making_and_revoking_are_in_the_trail_with_the_address(client: Client) -> None:
    make(client)
    client.post(f"{URL}{ApiToken.objects.get().pk}/revoke/")
    told = AuditEntry.objects.filter(target_type="token").order_by("id")
    assert [(entry.action, entry.actor_name, entry.address) for entry in told] == [
        ("token.create", "ulla", "127.0.0.1"),
        ("token.revoke", "ulla", "127.0.0.1"),
    ]


def test_a_revoked_token_opens_nothing_and_is_still_listed(client: Client) -> None:
    secret = secret_in(make(client))
    token = ApiToken.objects.get()
    page = client.post(f"{URL}{token.pk}/revoke/", follow=True).content.decode()
    assert "Revoked: import" in page
    with pytest.raises(tokens.InvalidToken):
        tokens.authenticate(secret)
    assert f'action="{URL}{token.pk}/revoke/"' not in page
    assert "was revoked before" in client.post(f"{URL}{token.pk}/revoke/", follow=True).content.decode()


def test_anothers_tokens_are_neither_seen_nor_revoked(client: Client) -> None:
    hers, _ = tokens.create(person("olga", roles.OPERATOR), actor=SYSTEM, name="olga's own")
    assert "olga" not in client.get(URL).content.decode()
    assert client.post(f"{URL}{hers.pk}/revoke/").status_code == 404
    hers.refresh_from_db()
    assert hers.revoked_at is None


@pytest.mark.parametrize("token_id", ["999", "9" * 30])
def test_a_token_that_is_not_there_is_not_found(client: Client, token_id: str) -> None:
    assert client.post(f"{URL}{token_id}/revoke/").status_code == 404


def test_revoking_needs_a_post_with_its_csrf_token(ulla: User) -> None:
    token, _ = tokens.create(ulla, actor=SYSTEM)
    careful = signed_in(ulla, enforce_csrf_checks=True)
    assert careful.get(f"{URL}{token.pk}/revoke/").status_code == 405
    assert careful.post(f"{URL}{token.pk}/revoke/").status_code == 403
    assert careful.post(URL, {"name": "x", "scope": "tasks:read"}).status_code == 403
    assert list(ApiToken.objects.filter(revoked_at=None)) == [token]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "  "}, "Say what it is for"),
        ({"name": "x" * 101}, "A name may have 100 characters"),
        ({"name": "a\0b"}, "can’t be stored"),
        ({"scope": []}, "Choose at least one"),
        ({"scope": ["everything:write"]}, "Choose at least one"),
        ({"life": "100000000"}, "Choose one of these"),
        ({"life": "-1"}, "Choose one of these"),
    ],
)
def test_what_is_filled_in_wrong_is_said_and_makes_nothing(
    client: Client, given: dict[str, object], words: str
) -> None:
    answer = client.post(URL, {"name": "import", "scope": ["tasks:read"], "life": "30"} | given)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not ApiToken.objects.exists()


def test_what_was_filled_in_stays_in_the_form(client: Client) -> None:
    page = client.post(URL, {"name": "", "scope": ["chat:read"], "life": "365"}).content.decode()
    assert 'value="chat:read" checked' in page
    assert 'value="365" selected' in page


def test_a_scope_for_operators_is_offered_to_operators_alone(
    client: Client, olga: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tokens.SCOPES, "metrics:read", "Scrape the metrics.")
    assert "metrics:read" not in client.get(URL).content.decode()
    assert client.post(URL, {"name": "x", "scope": "metrics:read", "life": ""}).status_code == 422
    assert "metrics:read" in signed_in(olga).get(URL).content.decode()
    make(signed_in(olga), scope="metrics:read", life="")
    assert ApiToken.objects.get().expires_at is None


@pytest.fixture
def olga(db: None) -> User:
    return person("olga", roles.OPERATOR)


def test_a_person_has_a_bounded_number_of_usable_tokens(
    client: Client, ulla: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_views, "MOST", 2)
    spent, _ = tokens.create(ulla, actor=SYSTEM)
    tokens.revoke(spent, actor=SYSTEM)
    make(client)
    make(client)
    answer = client.post(URL, {"name": "one more", "scope": ["tasks:read"], "life": ""})
    assert answer.status_code == 422
    assert "Revoke one first" in answer.content.decode()


def test_hostile_names_are_shown_as_text(client: Client) -> None:
    page = make(client, name=HOSTILE)
    assert "<img src=x" not in page
    assert "&lt;img" in page
    assert "{{ 7|add:7 }}" in page


def test_an_expired_token_says_so_and_has_nothing_to_revoke(client: Client, ulla: User) -> None:
    tokens.create(ulla, actor=SYSTEM, expires_at=timezone.now() - timedelta(hours=1))
    page = client.get(URL).content.decode()
    assert "Expired" in page
    assert "Revoke …" not in page


def test_older_tokens_are_on_further_pages(client: Client, ulla: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_views, "PAGE", 2)
    for number in range(5):
        tokens.create(ulla, actor=SYSTEM, name=f"number {number}")
    seen, query = [], ""
    while True:
        context = client.get(f"{URL}{query}").context
        seen += [row.token.name for row in context["shown"]]
        if context["older"] is None:
            break
        query = f"?before={context['older']}"
    assert seen == [f"number {number}" for number in (4, 3, 2, 1, 0)]
    assert client.get(f"{URL}?before=nonsense").status_code == 200


def test_the_list_asks_as_often_for_thirty_tokens_as_for_one(client: Client, ulla: User) -> None:
    asked = []
    for count in (1, 29):
        for _ in range(count):
            tokens.create(ulla, actor=SYSTEM)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            client.get(URL)
        asked.append(len(queries))
    assert asked[0] == asked[1]
