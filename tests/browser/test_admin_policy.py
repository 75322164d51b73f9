"""Django admin keeps its own look and scripts under the strict policy: a breach would be a fault of the browser."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from jobs.models import BulkOperation, Job
from tests.browser.conftest import Open
from tests.support.tasks import task


def test_an_admin_finds_a_job_discards_it_and_goes_to_the_console(browse: Open) -> None:
    run = task("dead")
    task("queued")
    page = browse(User.objects.create_superuser("root"), "/admin/jobs/job/")
    page.get_by_role("link", name="Dead letter", exact=True).click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.locator("#result_list tbody input[type=checkbox]").check()
    page.locator("select[name=action]").select_option("discard")
    page.get_by_label("Note (to discard)").fill("a duplicate")
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    expect(page.get_by_text("1 job discarded.")).to_be_visible()
    assert Job.objects.get(pk=run.pk).state == "discarded"
    page.goto(f"/admin/jobs/job/{run.pk}/change/")
    page.get_by_role("link", name="View in console").click()
    page.wait_for_url(f"**/console/tasks/{run.pk}/")


def test_all_jobs_of_a_list_are_changed_in_the_background_after_a_yes(
    browse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.job_admin.ACTION_UP_TO", 50)
    for _ in range(60):
        task("dead")
    page = browse(User.objects.create_superuser("root"), "/admin/jobs/job/?state__exact=dead")
    page.locator("#action-toggle").check()
    page.get_by_role("button", name="Select all 60 jobs").click()
    page.locator("select[name=action]").select_option("redrive")
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    expect(page.get_by_role("heading", name="Redrive 60 jobs?")).to_be_visible()
    page.get_by_role("button", name="Yes, in the background").click()
    page.get_by_role("link", name="See how far it has come").click()
    page.wait_for_url("**/console/operations/*/")
    assert BulkOperation.objects.get().expected == 60


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_admin_fits_its_window_and_leads_to_the_console(browse: Open, width: int, scheme: str) -> None:
    root = User.objects.create_superuser("root")
    run = task("dead", user=root)
    page = browse(root, "/admin/", width=width, color_scheme=scheme)
    paths = ["/admin/", "/admin/jobs/job/", f"/admin/jobs/job/{run.pk}/change/", f"/admin/auth/user/{root.pk}/delete/"]
    for path in paths:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
    page.get_by_role("navigation", name="Console").get_by_role("link", name="Dead letters").click()
    page.wait_for_url("**/console/dead-letters/")


def test_the_forms_of_django_admin_work(browse: Open) -> None:
    page = browse(User.objects.create_superuser("root"), "/admin/auth/user/add/")
    page.goto("/admin/jobs/hold/add/")
    page.get_by_label("Key").fill("agent:helper")
    page.get_by_label("Reason").fill("paused")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()
