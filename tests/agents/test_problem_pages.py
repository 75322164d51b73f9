"""Every problem type has a page and a line in the reference: its `type` is a promise that it can be looked up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from accounts.problems import kinds
from agents.runtime.errors import RunError
from astra_site.problems import registry
from tests.agents.problem_table import rows

ROOT = Path(settings.BASE_DIR)
APPS = ("accounts", "audit", "jobs", "agents", "approvals", "astra_site")


def run_errors(base: type[RunError] = RunError) -> set[type[RunError]]:
    return {base, *(error for kind in base.__subclasses__() for error in run_errors(kind))}


def test_every_problem_that_the_source_names_is_registered() -> None:
    named = {
        slug
        for app in APPS
        for file in (ROOT / app).rglob("*.py")
        for slug in re.findall(r"/problems/([a-z][a-z0-9-]*)", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 3
    assert named <= set(registry())


def test_every_kind_of_problem_and_of_run_error_is_registered_with_its_meaning() -> None:
    slugs = {kind.slug for kind in kinds()} | {error.slug for error in run_errors()}
    assert slugs <= set(registry())
    for entry in registry().values():
        assert entry.title, entry.slug
        assert entry.meaning.endswith((".", ":")), entry.slug
        assert re.fullmatch(r"[a-z][a-z0-9-]*", entry.slug)


def test_no_two_kinds_of_problem_share_a_slug() -> None:
    found = [kind.slug for kind in kinds()]
    assert len(found) == len(set(found))


def test_every_problem_says_what_to_do() -> None:
    for slug, entry in registry().items():
        assert entry.advice.endswith("."), slug


def test_the_reference_lists_every_problem_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "problems.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if re.match(r"\| `[a-z-]+`", line)] == rows()


@pytest.mark.django_db
def test_a_problems_page_explains_it_to_anybody() -> None:
    for slug, entry in registry().items():
        response = Client().get(f"/problems/{slug}")
        assert response.status_code == 200, slug
        assert entry.title in response.content.decode().replace("&#x27;", "'")
    index = Client().get("/problems/").content.decode()
    assert all(f'href="/problems/{slug}"' in index for slug in registry())


@pytest.mark.django_db
def test_a_problem_that_is_none_has_no_page() -> None:
    assert Client().get("/problems/nothing-of-the-kind").status_code == 404
