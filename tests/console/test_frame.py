"""What every page has in common: signing in, the frame, the theme, the policy, what went wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.test import Client, RequestFactory
from django.views import defaults

from accounts import roles
from tests.support.people import person

TEMPLATES = sorted((settings.BASE_DIR / "templates").rglob("*.html"))


def test_signing_in_leads_to_the_page_that_was_asked_for(ulla: User) -> None:
    ulla.set_password("right")
    ulla.save()
    client = Client()
    wrong = client.post("/accounts/login/", {"username": "ulla", "password": "wrong", "next": "/console/tasks/"})
    assert b"Please enter a correct username and password" in wrong.content
    assert b'value="ulla"' in wrong.content
    right = client.post("/accounts/login/", {"username": "ulla", "password": "right", "next": "/console/tasks/"})
    assert right["Location"] == "/console/tasks/"


def test_signing_in_leads_to_no_other_site(ulla: User) -> None:
    ulla.set_password("right")
    ulla.save()
    data = {"username": "ulla", "password": "right", "next": "https://elsewhere.example/"}
    assert Client().post("/accounts/login/", data)["Location"] == "/"


def test_signing_out_ends_the_session(user: Client) -> None:
    assert user.get("/accounts/logout/").status_code == 405
    user.post("/accounts/logout/")
    assert user.get("/console/tasks/").status_code == 302


def test_the_theme_is_kept_in_a_cookie_and_in_the_first_paint(db: None) -> None:
    client = Client()
    assert b"data-theme" not in client.get("/accounts/login/").content.split(b"<head>")[0]
    client.post("/accounts/theme/", {"theme": "dark", "next": "/accounts/login/"})
    assert b'<html lang="en" data-theme="dark">' in client.get("/accounts/login/").content
    client.post("/accounts/theme/", {"theme": ""})
    assert b'<html lang="en">' in client.get("/accounts/login/").content


@pytest.mark.parametrize("theme", ['"><script>', "blue"])
def test_a_theme_that_does_not_exist_is_the_systems(db: None, theme: str) -> None:
    client = Client()
    client.cookies["theme"] = theme
    assert b'<html lang="en">' in client.get("/accounts/login/").content


@pytest.mark.parametrize("back", ["https://elsewhere.example/", "//elsewhere.example", "javascript:alert(1)"])
def test_changing_the_theme_leads_to_no_other_site(db: None, back: str) -> None:
    assert Client().post("/accounts/theme/", {"theme": "dark", "next": back})["Location"] == "/"


@pytest.mark.parametrize(
    ("role", "links"),
    [
        (roles.OPERATOR, ["Chat", "Overview", "Tasks", "Approvals", "Dead letters", "Queues", "Agents", "Audit"]),
        (roles.REVIEWER, ["Chat", "Tasks", "Approvals"]),
        (roles.USER, ["Chat", "Tasks"]),
    ],
    ids=["operator", "reviewer", "user"],
)
def test_the_navigation_shows_what_a_role_may_see(db: None, role: str, links: list[str]) -> None:
    client = Client()
    client.force_login(person("somebody", role))
    page = client.get("/console/tasks/").content.decode()
    nav = page[page.index("<nav") : page.index("</nav>")]
    assert re.findall(r"</svg>([\w ]+)<", nav) == links


def test_pages_load_nothing_from_elsewhere_and_run_no_inline_script(operator: Client) -> None:
    policy = operator.get("/console/")["Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["script-src"] == directives["style-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["object-src"] == "'none'"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_an_inline_script_style_or_handler(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


def test_a_page_that_is_not_there_is_told_in_words(operator: Client) -> None:
    page = operator.get("/console/nothing/")
    assert page.status_code == 404
    assert b"There is nothing here" in page.content


def test_an_error_of_ours_is_told_without_a_trace(rf: RequestFactory) -> None:
    page = defaults.server_error(rf.get("/"))
    assert page.status_code == 500
    assert b"Something broke on our side" in page.content


def test_a_refusal_says_why_and_who_is_signed_in(ulla: User, rf: RequestFactory) -> None:
    request = rf.get("/")
    request.user = ulla
    page = defaults.permission_denied(request, PermissionDenied("Only for the brave."))
    assert b"Only for the brave." in page.content
    assert b"<strong>ulla</strong> (user)" in page.content


def test_a_form_without_its_token_is_told_that_nothing_was_done(ulla: User) -> None:
    client = Client(enforce_csrf_checks=True)
    page = client.post("/accounts/login/", {"username": "ulla", "password": "x"})
    assert page.status_code == 403
    assert b"nothing was done" in page.content


def test_a_request_that_makes_no_sense_is_told_so(rf: RequestFactory) -> None:
    page = defaults.bad_request(rf.get("/"), SuspiciousOperation())
    assert page.status_code == 400
    assert b"made no sense" in page.content
