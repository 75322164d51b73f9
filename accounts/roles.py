"""Roles are Django's groups of fixed names. What a role may do is decided here, on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from django.apps import apps
from django.apps.registry import Apps
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db.models import prefetch_related_objects

if TYPE_CHECKING:
    from collections.abc import Iterable

ADMIN = "admin"
OPERATOR = "operator"
REVIEWER = "reviewer"
USER = "user"

#: Each role and what it is for.
ROLES = {
    ADMIN: "Uses Django admin; sees and does what an operator does.",
    OPERATOR: "Sees every task, works the queues and the dead letters.",
    REVIEWER: "Decides on approvals.",
    USER: "Submits tasks and sees their own.",
}

Person = AbstractBaseUser | AnonymousUser | None


def of(user: Person) -> frozenset[str]:
    """Return the roles of a user, read once per user object. A superuser is an admin and an operator."""
    if not _is_active(user):
        return frozenset()
    found: frozenset[str] | None = getattr(user, "_roles", None)
    if found is None:
        found = group_names(user) & ROLES.keys()
        if user.is_superuser:
            found |= {ADMIN}
        if ADMIN in found:
            found |= {OPERATOR}
        user._roles = found  # type: ignore[attr-defined]
    return found


def group_names(user: Person) -> frozenset[str]:
    """Return the names of all groups that a user is in, read once per user object."""
    if not _is_active(user):
        return frozenset()
    found: frozenset[str] | None = getattr(user, "_group_names", None)
    if found is None:
        names: Iterable[str] = user.groups.values_list("name", flat=True)
        found = frozenset(names)
        user._group_names = found  # type: ignore[attr-defined]
    return found


def learn_groups(users: Iterable[User]) -> None:
    """Read the groups of many users at once, for `group_names` and all that asks it. One statement."""
    known = list(users)
    prefetch_related_objects(known, "groups")
    for user in known:
        if user.is_active:
            user._group_names = frozenset(group.name for group in user.groups.all())  # type: ignore[attr-defined]


def is_operator(user: Person) -> bool:
    """Tell whether the user sees and steers everybody's work."""
    return OPERATOR in of(user)


def is_reviewer(user: Person) -> bool:
    """Tell whether the user may decide on approvals at all; which ones, their policy says."""
    return REVIEWER in of(user)


def make_groups(*, using: str, apps: Apps = apps, **kwargs: object) -> None:
    """Make the group of each role where it is missing, once the table of groups is there."""
    try:
        group = apps.get_model("auth", "Group")
    except LookupError:
        return
    for name in ROLES:
        group._default_manager.using(using).get_or_create(name=name)


def _is_active(user: Person) -> TypeGuard[User]:
    return isinstance(user, User) and user.is_active
