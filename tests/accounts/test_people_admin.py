"""What admins do to users and groups is in the trail, with what was there before."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from pytest_django import Settings

from accounts import roles
from audit.models import AuditEntry
from tests.support.people import person

PASSWORD = "A long enough 1"


@pytest.fixture(autouse=True)
def quick(settings: Settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def root(db: None) -> Client:
    User.objects.create_superuser("root", password="root's own")
    client = Client()
    client.force_login(User.objects.get(username="root"))
    return client


def told(**wanted: Any) -> list[tuple[str, str, str, Any, Any]]:
    entries = AuditEntry.objects.filter(**wanted).order_by("id")
    return [(entry.action, entry.actor_name, entry.note, entry.before, entry.after) for entry in entries]


def fields_of(user: User, **changes: Any) -> dict[str, Any]:
    given = {"username": user.username, "is_active": "on", "date_joined_0": "2026-01-01", "date_joined_1": "10:00:00"}
    return given | changes


def test_a_new_user(root: Client) -> None:
    given = {"username": "nina", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    assert root.post("/admin/auth/user/add/", given).status_code == 302
    kept = {"username": "nina", "is_active": True, "is_staff": False, "is_superuser": False, "groups": []}
    assert told() == [("user.add", "root", "nina", None, kept)]
    assert PASSWORD not in str(list(AuditEntry.objects.values()))


def test_another_role_and_being_staff(root: Client) -> None:
    ulla = person("ulla", roles.USER)
    given = fields_of(ulla, is_staff="on", groups=[Group.objects.get(name=roles.OPERATOR).pk])
    given |= {"date_joined_0": f"{ulla.date_joined:%Y-%m-%d}", "date_joined_1": f"{ulla.date_joined:%H:%M:%S}"}
    assert root.post(f"/admin/auth/user/{ulla.pk}/change/", given).status_code == 302
    assert told(target_id=str(ulla.pk)) == [
        (
            "user.change",
            "root",
            "ulla",
            {"is_staff": False, "groups": ["user"]},
            {"is_staff": True, "groups": ["operator"]},
        )
    ]


def test_a_password_that_an_admin_sets_is_told_and_not_kept(root: Client) -> None:
    ulla = person("ulla")
    ulla.set_password("old")
    ulla.save()
    given = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    assert root.post(f"/admin/auth/user/{ulla.pk}/password/", given).status_code == 302
    [(action, _, _, _, after)] = told()
    assert action == "user.change"
    assert set(after.values()) == {"changed"}
    assert PASSWORD not in str(list(AuditEntry.objects.values()))


def test_ones_own_password(root: Client) -> None:
    url = "/admin/password_change/"
    wrong = {"old_password": "wrong", "new_password1": PASSWORD, "new_password2": PASSWORD}
    assert root.get(url).status_code == 200
    assert root.post(url, wrong).status_code == 200
    assert told() == []
    root.post(url, wrong | {"old_password": "root's own"})
    assert User.objects.get(username="root").check_password(PASSWORD)
    assert told() == [("user.change", "root", "", None, {"password": "changed"})]


def test_ones_own_password_page_is_for_staff(db: None) -> None:
    client = Client()
    client.force_login(person("ulla", roles.USER))
    assert client.get("/admin/password_change/").status_code == 302
    assert not AuditEntry.objects.exists()


def test_those_who_are_deleted_one_by_one_or_together(root: Client) -> None:
    users = [person(name, roles.REVIEWER) for name in ("rita", "rosa", "ruth")]
    root.post(f"/admin/auth/user/{users[0].pk}/delete/", {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": [str(user.pk) for user in users[1:]], "post": "yes"}
    root.post("/admin/auth/user/", chosen)
    assert not User.objects.filter(username__startswith="r").exclude(username="root").exists()
    found = told(action="user.delete")
    assert sorted(note for _, _, note, _, _ in found) == ["rita", "rosa", "ruth"]
    assert {str(before["groups"]) for _, _, _, before, _ in found} == {"['reviewer']"}


def test_a_group(root: Client) -> None:
    root.post("/admin/auth/group/add/", {"name": "guests"})
    group = Group.objects.get(name="guests")
    root.post(f"/admin/auth/group/{group.pk}/change/", {"name": "visitors"})
    root.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"})
    assert told() == [
        ("group.add", "root", "guests", None, {"name": "guests", "permissions": []}),
        ("group.change", "root", "visitors", {"name": "guests"}, {"name": "visitors"}),
        ("group.delete", "root", "visitors", {"name": "visitors", "permissions": []}, None),
    ]
