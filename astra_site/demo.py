"""The demo: one user of each role, so that a newcomer can look around."""

from __future__ import annotations

import secrets

from django.contrib.auth.models import Group, User
from django.db import transaction

from accounts import roles

USERS = (roles.OPERATOR, roles.REVIEWER, roles.USER, roles.ADMIN)
CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"


def is_due() -> bool:
    """Whether nobody has an account yet."""
    return not User.objects.exists()


def exists() -> bool:
    """Whether there is still a demo user."""
    return User.objects.filter(username__in=USERS).exists()


def create() -> dict[str, str]:
    """Make the demo users that are missing, each in the group of its name; return their passwords."""
    with transaction.atomic():
        return {name: _create_user(name) for name in USERS if not User.objects.filter(username=name).exists()}


def _create_user(name: str) -> str:
    password = readable_password()
    make = User.objects.create_superuser if name == roles.ADMIN else User.objects.create_user
    user = make(name, password=password)
    user.groups.add(Group.objects.get_or_create(name=name)[0])
    return password


def readable_password() -> str:
    """Return a password like ``tavo-rilu-keni-42``: easy to copy by eye, about 43 bits."""
    words = ("".join(secrets.choice(letters) for letters in (CONSONANTS, VOWELS) * 2) for _ in range(3))
    return "-".join([*words, f"{secrets.randbelow(100):02d}"])
