"""The page of a task in every state, with hostile content too: axe finds nothing, and nothing sticks out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page

from accounts import roles
from agents.models import Run
from jobs.models import Hold, JobEvent, Wait
from jobs.states import State
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import violations
from tests.support.people import person
from tests.support.tasks import fleet, step, task

LONG = "nowhere-to-break-" * 60
FAULT = {
    "title": LONG,
    "detail": LONG,
    "type": "/problems/program-error",
    "error": "E" * 120,
    "at": LONG,
    "fingerprint": "f" * 64,
}


def _hostile() -> Run:
    run = task("dead", input={LONG: LONG, "deep": [[[[{LONG: LONG}]]]]}, error=FAULT, partition_key="k" * 200)
    step(run, "s" * 120, kind="tool", input={"tool": "x", "arguments": {"a": LONG}})
    step(run, model="m" * 120)
    worker = fleet(hostname="h" * 120)
    events = []
    for number in range(40):
        claimed = {"old": "queued", "new": "running", "reason": "claimed", "worker": worker}
        failed = {"old": "running", "new": "scheduled", "reason": "retry", "data": {**FAULT, "delay_s": 3.5}}
        events += [JobEvent(job=run.job, kind="state", fence=number, **values) for values in (claimed, failed)]
        if number % 10 == 9:
            values = {"old": "dead", "new": "queued", "reason": "redriven", "actor": "a" * 150}
            events.append(JobEvent(job=run.job, kind="state", **values))
    JobEvent.objects.bulk_create(events)
    return run


def _findings() -> Run:
    errors = [{"loc": ["input", *["name_of_a_field"] * 12], "msg": LONG}]
    return task("dead", error={"title": "The input does not fit", "retriable": False, "errors": errors})


def _held() -> Run:
    Hold.objects.create(key="agent:helper", reason="paused", placed_by="o" * 150, note=LONG)
    return task("blocked", blocked_on=["hold:agent:helper", "no-worker:agent:" + "h" * 100], hold_keys=["agent:helper"])


def _copied() -> Run:
    old = task("dead")
    for _ in range(3):
        task("succeeded", run={"redriven_from": old})
    return old


def _parked() -> Run:
    run = task("waiting", lane="suspect")
    Wait.objects.create(job=run.job, kind="person", key="k" * 200)
    return run


PAGES: dict[str, Callable[[], Run]] = {
    **{state: (lambda state=state: task(state)) for state in State.values},  # type: ignore[misc]
    "hostile": _hostile,
    "findings": _findings,
    "held": _held,
    "copied": _copied,
    "parked": _parked,
    "one long line": lambda: task("succeeded", input="x" * 5_000, output="y" * 5_000),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_of_a_task_is_accessible_and_fits(browse: Open, name: str) -> None:
    run = PAGES[name]()
    page = browse(person("olga", roles.OPERATOR), f"/console/tasks/{run.pk}/", width=320, height=640)
    for summary in page.locator("#task .fold > summary, .steps > li > details > summary").all():
        if summary.is_visible():
            summary.click()
    page.wait_for_load_state("networkidle")
    for width in (320, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert sticking_out(page) == [], f"at {width} px"
    page.set_viewport_size({"width": 320, "height": 900})
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 1280, "height": 900})
    assert violations(page) == []


def sticking_out(page: Page) -> list[Any]:
    """Return what is wider than the window, unless what it stands in cuts or scrolls it."""
    found: list[Any] = page.evaluate(
        """() => {
            const found = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
            for (const part of document.querySelectorAll("#main *")) {
                let cut = part.parentElement;
                while (cut && getComputedStyle(cut).overflowX === "visible") cut = cut.parentElement;
                const box = part.getBoundingClientRect();
                if (cut || !part.checkVisibility()) continue;
                if (box.width > 1 && box.right > innerWidth + 1) found.push(part.outerHTML.slice(0, 80));
            }
            return found;
        }"""
    )
    return found
