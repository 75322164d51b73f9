"""Django admin keeps its own look and scripts under the strict policy: a breach would be a fault of the browser."""

from __future__ import annotations

from django.contrib.auth.models import User
from playwright.sync_api import expect

from jobs.models import Job
from tests.browser.conftest import Open
from tests.support.tasks import task


def test_an_admin_finds_a_job_discards_it_and_goes_to_the_console(browse: Open) -> None:
    run = task("dead")
    task("queued")
    page = browse(User.objects.create_superuser("root"), "/admin/jobs/job/")
    page.get_by_role("link", name="Dead letter").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.locator("#result_list tbody input[type=checkbox]").check()
    page.locator("select[name=action]").select_option("discard")
    page.get_by_label("Note (to discard)").fill("a duplicate")
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    expect(page.get_by_text("1 job discarded.")).to_be_visible()
    assert Job.objects.get(pk=run.pk).state == "discarded"
    page.goto(f"/admin/jobs/job/{run.pk}/change/")
    page.get_by_role("link", name="View on site").click()
    page.wait_for_url(f"**/console/tasks/{run.pk}/")


def test_the_forms_of_django_admin_work(browse: Open) -> None:
    page = browse(User.objects.create_superuser("root"), "/admin/auth/user/add/")
    page.goto("/admin/jobs/hold/add/")
    page.get_by_label("Key").fill("agent:helper")
    page.get_by_label("Reason").fill("paused")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()
