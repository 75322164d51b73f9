"""The demo users: one of each role, with passwords that are printed once and kept nowhere."""

from __future__ import annotations

import math
import re

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User

from accounts import roles
from astra_site import demo

pytestmark = pytest.mark.django_db


def test_each_demo_user_signs_in_with_the_password_shown_and_has_the_role_of_its_name() -> None:
    assert demo.is_due()
    passwords = demo.create()
    assert list(passwords) == ["operator", "reviewer", "user", "admin"]
    for name, password in passwords.items():
        user = authenticate(username=name, password=password)
        assert isinstance(user, User)
        assert name in roles.of(user)
        assert user.is_superuser is user.is_staff is (name == "admin")


def test_they_are_made_once() -> None:
    demo.create()
    assert not demo.is_due()
    assert demo.create() == {}


def test_a_user_of_that_name_is_left_as_it_is() -> None:
    User.objects.create_user("operator", password="mine")
    assert "operator" not in demo.create()
    assert authenticate(username="operator", password="mine")


def test_passwords_are_readable_and_hard_to_guess() -> None:
    made = {demo.readable_password() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"([b-z][aeiou]){2}-([b-z][aeiou]){2}-([b-z][aeiou]){2}-\d\d", word) for word in made)
    choices = (len(demo.CONSONANTS) * len(demo.VOWELS)) ** 6 * 100
    assert math.log2(choices) > 40
