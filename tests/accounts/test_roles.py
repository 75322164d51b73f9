from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.management import call_command

from accounts import roles
from tests.support.people import person

pytestmark = pytest.mark.django_db


def test_every_role_has_its_group() -> None:
    assert set(Group.objects.values_list("name", flat=True)) >= set(roles.ROLES)


@pytest.mark.django_db(transaction=True)
def test_the_groups_are_there_again_after_a_flush() -> None:
    call_command("flush", interactive=False, verbosity=0)
    assert set(Group.objects.values_list("name", flat=True)) == set(roles.ROLES)


def test_a_user_without_a_group_is_neither_operator_nor_reviewer() -> None:
    alice = person("alice")
    assert not roles.is_operator(alice)
    assert not roles.is_reviewer(alice)
    assert roles.of(alice) == frozenset()


def test_a_reviewer_is_no_operator() -> None:
    assert not roles.is_operator(person("rita", roles.REVIEWER))
    assert roles.is_reviewer(person("rita"))


def test_an_admin_and_a_superuser_are_operators_too() -> None:
    assert roles.is_operator(person("ada", roles.ADMIN))
    assert roles.is_operator(User.objects.create_superuser("root"))


def test_a_group_of_another_name_gives_no_role() -> None:
    assert roles.of(person("alice", "operators")) == frozenset()


def test_nobody_and_a_user_who_may_not_sign_in_have_no_role() -> None:
    boss = person("boss", roles.OPERATOR)
    boss.is_active = False
    assert not roles.is_operator(boss)
    assert not roles.is_operator(AnonymousUser())
    assert not roles.is_operator(None)
