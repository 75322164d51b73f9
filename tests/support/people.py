"""A fixed cast of users, and their tokens."""

from __future__ import annotations

from django.contrib.auth.models import Group, User

from accounts import tokens
from audit.trail import SYSTEM


def person(name: str, *roles: str) -> User:
    """Make (or find) a user in the groups of these roles."""
    user, _ = User.objects.get_or_create(username=name)
    for role in roles:
        user.groups.add(Group.objects.get_or_create(name=role)[0])
    return user


def bearer(user: User, *scopes: str) -> dict[str, str]:
    """Return the header of a new token of the user's; without scopes it has all."""
    _, secret = tokens.create(user, actor=SYSTEM, scopes=scopes or None)
    return {"Authorization": f"Bearer {secret}"}
