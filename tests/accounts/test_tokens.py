from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from accounts import tokens
from accounts.models import ApiToken
from audit.models import AuditEntry
from audit.trail import SYSTEM, Actor
from tests.support.people import person

pytestmark = pytest.mark.django_db


def test_a_new_token_names_its_user_and_its_scopes() -> None:
    made, secret = tokens.create(person("alice"), actor=SYSTEM, scopes=["tasks:read", "tasks:read"])
    found = tokens.authenticate(secret)
    assert found.pk == made.pk
    assert found.user.username == "alice"
    assert found.scopes == ["tasks:read"]


def test_the_secret_is_nowhere_in_the_database() -> None:
    made, secret = tokens.create(person("alice"), actor=SYSTEM)
    row = ApiToken.objects.filter(pk=made.pk).values().get()
    assert secret not in str(row)
    assert secret.startswith(row["prefix"])
    assert secret not in str(list(AuditEntry.objects.values()))


def test_two_tokens_never_share_a_secret() -> None:
    alice = person("alice")
    assert len({tokens.create(alice, actor=SYSTEM)[1] for _ in range(20)}) == 20


def test_an_unknown_scope_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(tokens.UnknownScope, match="tasks:read"):
        tokens.create(person("alice"), actor=SYSTEM, scopes=["tasks:delete"])


@pytest.mark.parametrize("secret", ["", "astra_", "astra_nope", "Bearer", "astra_\0", "ä" * 50])
def test_a_secret_that_was_never_given_out_is_refused(secret: str) -> None:
    with pytest.raises(tokens.InvalidToken):
        tokens.authenticate(secret)


def test_a_revoked_token_is_refused_and_revoking_twice_says_so() -> None:
    made, secret = tokens.create(person("alice"), actor=SYSTEM)
    boss = Actor(person("boss"))
    assert tokens.revoke(made, actor=boss)
    assert not tokens.revoke(made, actor=boss)
    with pytest.raises(tokens.InvalidToken):
        tokens.authenticate(secret)
    assert AuditEntry.objects.filter(action="token.revoke", actor_name="boss").count() == 1


def test_a_token_works_until_it_expires_and_not_after() -> None:
    with time_machine.travel("2030-01-01T00:00:00Z", tick=False) as clock:
        _, secret = tokens.create(person("alice"), actor=SYSTEM, expires_at=timezone.now() + timedelta(hours=1))
        clock.shift(timedelta(minutes=59))
        tokens.authenticate(secret)
        clock.shift(timedelta(minutes=1))
        with pytest.raises(tokens.InvalidToken):
            tokens.authenticate(secret)


def test_the_token_of_a_user_who_may_not_sign_in_is_refused() -> None:
    alice = person("alice")
    _, secret = tokens.create(alice, actor=SYSTEM)
    alice.is_active = False
    alice.save()
    with pytest.raises(tokens.InvalidToken):
        tokens.authenticate(secret)


def test_use_is_noted_at_most_once_a_minute() -> None:
    with time_machine.travel("2030-01-01T00:00:00Z", tick=False) as clock:
        made, secret = tokens.create(person("alice"), actor=SYSTEM)
        seen = []
        for _ in range(3):
            tokens.authenticate(secret)
            made.refresh_from_db()
            seen.append(made.last_used_at)
            clock.shift(timedelta(seconds=40))
    assert seen[0] is not None
    assert seen[1] == seen[0]
    assert seen[2] is not None
    assert seen[2] - seen[0] == timedelta(seconds=80)
