"""What only a browser can show: pages that follow what happens without losing the reader's place."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone
from playwright.sync_api import Page, expect

from accounts import roles
from agents.models import Run
from jobs.models import Job, JobEvent
from tests.browser.conftest import Open
from tests.support.people import person
from tests.support.tasks import fleet, step, task


def refresh(page: Page) -> None:
    """Press the refresh button and wait for the answer."""
    with page.expect_response(lambda response: "hx-request" in response.request.headers):
        page.get_by_role("link", name="Refresh now").click()


def finish(run: Run) -> None:
    now = timezone.now()
    JobEvent.objects.create(job=run.job, kind="state", old="running", new="succeeded", reason="finished")
    Job.objects.filter(pk=run.pk).update(state="succeeded", worker=None, finished_at=now)
    Run.objects.filter(pk=run.pk).update(output={"answer": "It ends in the **sea**."})


def test_a_running_task_is_followed_to_its_end(browse: Open) -> None:
    run = task("running")
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/")
    expect(page.get_by_role("status").get_by_text("Running")).to_be_visible()
    page.get_by_label("Refresh by itself").select_option("2")
    step(run, "search", kind="tool")
    expect(page.get_by_text("search", exact=True)).to_be_visible()
    finish(run)
    expect(page.get_by_role("status").get_by_text("Succeeded")).to_be_visible()
    expect(page.locator("strong", has_text="sea")).to_be_visible()
    expect(page).to_have_title("Succeeded · help.v1 · Astra")
    expect(page.locator("[data-refresh-state]")).to_have_text("Up to date")


def test_a_refresh_keeps_open_steps_focus_and_scroll_position(browse: Open) -> None:
    run = task("running")
    for number in range(40):
        step(run, f"step-{number}", kind="step", output={"number": number})
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/", height=600)
    opened = page.locator("details", has_text="step-12")
    opened.locator("summary").click()
    expect(opened.locator(".literal", has_text="12")).to_be_visible()
    page.locator("details", has_text="step-14").locator("summary").focus()
    page.evaluate("document.querySelector('.steps').dataset.same = 'node'")
    page.evaluate("scrollTo(0, 500)")
    step(run, "one-more", kind="step")
    page.evaluate("htmx.trigger('#task', 'refresh')")
    expect(page.get_by_text("one-more")).to_be_attached()
    expect(opened.locator(".literal", has_text="12")).to_be_visible()
    assert page.evaluate("document.activeElement.textContent.includes('step-14')")
    assert page.evaluate("scrollY") == 500
    assert page.evaluate("document.querySelector('.steps').dataset.same") in ("node", None)


def test_a_step_that_arrives_while_watching_can_be_opened(browse: Open) -> None:
    run = task("running")
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/")
    step(run, "late", kind="tool", output={"found": "needle"})
    refresh(page)
    page.locator("details", has_text="late").locator("summary").click()
    expect(page.get_by_text("needle")).to_be_visible()


def test_the_overview_rests_while_text_is_selected_or_the_menu_is_open(browse: Open) -> None:
    fleet()
    page = browse(person("olga", roles.OPERATOR), "/console/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "hx-request" in request.headers else None)
    state = page.locator("[data-refresh-state]")
    page.get_by_label("Refresh by itself").select_option("2")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.verdict-line'))")
    expect(state).to_have_text("Paused while text is selected")
    page.evaluate("getSelection().removeAllRanges()")
    page.locator(".who").click()
    expect(state).to_have_text("Paused while a menu is open")
    resting = len(asked)
    page.keyboard.press("Escape")
    expect(page.locator("details[data-menu][open]")).to_have_count(0)
    with page.expect_request(lambda request: "hx-request" in request.headers):
        pass
    assert resting == 0


def test_a_page_that_cannot_be_refreshed_says_since_when_and_recovers(browse: Open, faults: list[str]) -> None:
    fleet(started_at=timezone.now())
    page = browse(person("olga", roles.OPERATOR), "/console/")
    page.context.set_offline(True)
    page.get_by_role("link", name="Refresh now").click()
    expect(page.locator("[data-refresh-state]")).to_contain_text("Not up to date since")
    expect(page.locator("#overview")).to_have_attribute("data-stale", "")
    expect(page.get_by_text("All is well.")).to_be_visible()
    page.context.set_offline(False)
    refresh(page)
    expect(page.locator("#overview")).not_to_have_attribute("data-stale", "")
    faults.clear()  # being offline is an error to the browser


def test_whoever_was_signed_out_meanwhile_is_led_to_sign_in_and_not_shown_half_a_page(browse: Open) -> None:
    fleet()
    page = browse(person("olga", roles.OPERATOR), "/console/")
    page.context.clear_cookies()
    page.get_by_role("link", name="Refresh now").click()
    page.wait_for_url("**/accounts/login/?next=/console/")


def test_relative_times_go_on_by_themselves(browse: Open) -> None:
    task(submitted=timedelta(seconds=20))
    page = browse(person("olga", roles.OPERATOR), "/console/tasks/")
    page.clock.install()
    time = page.locator("tbody time [data-ago]")
    expect(time).to_contain_text("s ago")
    page.clock.fast_forward("03:00")
    expect(time).to_contain_text("3 min ago")


def test_typing_in_the_filter_narrows_the_list_and_stands_in_the_address(browse: Open) -> None:
    task(input="the river")
    task(input="the hill")
    page = browse(person("olga", roles.OPERATOR), "/console/tasks/")
    page.get_by_label("Text or id").press_sequentially("river")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_label("Text or id")).to_be_focused()
    page.wait_for_url("**/console/tasks/?q=river")
    page.get_by_role("link", name="Queued").click()
    page.wait_for_url("**/console/tasks/?q=river&state=queued")
    page.go_back()
    page.wait_for_url("**/console/tasks/?q=river")
    page.wait_for_load_state("networkidle")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.go_back()
    expect(page.get_by_label("Text or id")).to_have_value("")
    expect(page.locator("tbody tr")).to_have_count(2)


def test_an_endpoint_chosen_the_moment_its_predecessor_is_there_shows_its_own_fields(browse: Open) -> None:
    page = browse(person("ulla", roles.USER), "/console/tasks/new/?endpoint=nested.v1")
    page.evaluate(
        """() => document.addEventListener("htmx:afterSwap", () => {
             const select = document.querySelector("#endpoint");
             select.value = "dig.v1";
             select.dispatchEvent(new Event("change", { bubbles: true }));
           }, { once: true })"""
    )
    page.get_by_label("Endpoint").select_option("help.v1")
    expect(page.get_by_label("Question")).to_be_visible()
    page.wait_for_url("**/new/?endpoint=dig.v1")
    expect(page.get_by_label("Endpoint")).to_have_value("dig.v1")


def test_a_task_is_submitted_from_the_browser(browse: Open) -> None:
    page = browse(person("ulla", roles.USER), "/console/tasks/")
    page.get_by_role("link", name="New task").first.click()
    page.get_by_label("Endpoint").select_option("help.v1")
    expect(page.get_by_label("Message")).to_be_visible()
    page.get_by_label("Endpoint").select_option("dig.v1")
    expect(page.get_by_label("Question")).to_be_visible()
    page.get_by_role("button", name="Submit task").click()
    expect(page.get_by_text("Fill this in.")).to_be_visible()
    page.get_by_label("Question").fill("Where does it end?")
    page.get_by_role("button", name="Submit task").click()
    page.wait_for_url("**/console/tasks/*-*/")
    expect(page.get_by_role("heading", name="Where does it end?")).to_be_visible()
    assert Run.objects.get().input == {"question": "Where does it end?"}


def test_an_id_is_copied_whole(browse: Open) -> None:
    run = task("succeeded")
    page = browse(
        person("olga", roles.OPERATOR),
        f"/console/tasks/{run.pk}/",
        permissions=["clipboard-read", "clipboard-write"],
    )
    page.get_by_role("button", name="Copy task id").click()
    assert page.evaluate("navigator.clipboard.readText()") == str(run.pk)


def test_the_theme_changes_at_once_and_stays(browse: Open) -> None:
    page = browse(person("olga", roles.OPERATOR), "/console/tasks/", color_scheme="light")
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.locator(".who").click()
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_everything_works_without_javascript(browse: Open) -> None:
    olga = person("olga", roles.OPERATOR)
    run = task("dead", user=olga, endpoint="dig.v1", input={"question": "Why?"})
    made = step(run, "search", kind="tool", output={"found": "needle"})
    page = browse(olga, "/console/", java_script_enabled=False)
    page.get_by_role("link", name="Tasks", exact=True).click()
    page.get_by_label("Text or id").fill("Why")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="Why?").click()
    page.locator("details", has_text="search").locator("summary").click()
    page.get_by_role("link", name="Open this step").click()
    expect(page.get_by_text("needle")).to_be_visible()
    assert f"/steps/{made.pk}/" in page.url
    page.go_back()
    page.get_by_text("Redrive …").click()
    page.get_by_role("button", name="From its last step").click()
    expect(page.get_by_text("Redriven from its last step.")).to_be_visible()
    page.get_by_text("Cancel …").click()
    page.get_by_role("button", name="Cancel this task").click()
    expect(page.get_by_text("The task is cancelled.")).to_be_visible()
    page.goto("/console/tasks/new/")
    page.get_by_label("Endpoint").select_option("help.v1")
    page.get_by_role("button", name="Choose").click()
    page.get_by_label("Message").fill("Hello")
    page.get_by_role("button", name="Submit task").click()
    expect(page.get_by_role("heading", name="Hello")).to_be_visible()
    page.locator(".who").click()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.locator(".who").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/accounts/login/")


def test_the_whole_console_can_be_reached_by_keyboard(browse: Open) -> None:
    task("dead")
    page = browse(person("olga", roles.OPERATOR), "/console/tasks/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
