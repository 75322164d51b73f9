"""Every page, in both themes and at the narrowest and a wide window: axe finds nothing, and nothing sticks out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from axe_core_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no stubs
from django.utils import timezone
from playwright.sync_api import Page

from accounts import roles
from agents.models import Run
from audit.trail import Actor
from jobs.actions import Pause
from jobs.models import BulkOperation, Hold, JobEvent, LaneSample, Wait
from tests.browser.conftest import Open
from tests.support.people import person
from tests.support.tasks import PROBLEM, fleet, step, task

REPORT = {
    "report": "# A very long title of a report that has to be broken\n\n"
    "It is so [1]. `a_very_long_identifier_that_has_no_place_to_break_it_whatever_one_does`\n\n"
    "| Setting | Default | Since | Why |\n|---|---:|---|---|\n| `autovacuum_vacuum_threshold` | 50 | 8.1 | So |\n\n"
    "```\nSELECT a_long_line FROM a_table_with_a_long_name WHERE the_condition IS longer THAN the_window;\n```",
    "citations": [{"title": "A page", "url": "https://example.org/" + "deep/" * 30, "quote": "it is so"}],
}


def _dead() -> Run:
    run = task("dead", input={"question": "Compare " + "every setting " * 20})
    step(run, "a_step_with_quite_a_long_name_for_a_step", model="anthropic:claude-sonnet-4-5-20250929")
    lost = fleet(hostname="a-machine-with-a-long-name.in.a.deep.domain.example", ended="lost")
    JobEvent.objects.create(job=run.job, kind="state", old="running", new="queued", reason="lease-lost", worker=lost)
    JobEvent.objects.create(job=run.job, kind="state", old="running", new="dead", reason="failed", data=PROBLEM)
    return run


def _waiting() -> Run:
    run = task("waiting")
    Wait.objects.create(job=run.job, kind="person", key="approve#0")
    return run


def _task(make: Callable[[], Run]) -> Callable[[], str]:
    return lambda: f"/console/tasks/{make().pk}/"


def _overview() -> str:
    worker = fleet()
    task("running", worker=worker, progress={"done": 3, "total": 9, "note": "Reading"})
    task("queued", submitted=timedelta(minutes=9))
    task("blocked", blocked_on=["hold:agent:helper"])
    task("succeeded", submitted=timedelta(minutes=12), finished_at=timezone.now())  # slower than its mode may be
    _dead()
    _waiting()
    return "/console/"


def _list() -> str:
    _overview()
    task("succeeded", run={"cost_known": False})
    return "/console/tasks/?since=24h"


def _queues() -> str:
    _overview()
    fleet({"queue": 4, "batch": 2, "suspect": 1}, hostname="a-machine-with-a-long-name.in.a.deep.domain.example")
    fleet(ended="lost", ended_at=timezone.now() - timedelta(hours=2))
    minute = timezone.now().replace(second=0, microsecond=0)
    for ago in (0, 1, 2, 9, 10, 40):
        LaneSample.objects.create(
            lane="queue",
            minute=minute - timedelta(minutes=ago),
            queued=9_000 + ago,
            oldest_s=3_000.0,
            running=4,
            slots=4,
        )
    note = "A note with a very long word: " + "donaudampfschifffahrt" * 8
    Hold.objects.create(key="lane:queue", reason="paused", note=note, placed_by="olga")
    Hold.objects.create(key="endpoint:an.endpoint.with.quite.a.long.name.v1", reason="breaker", placed_by="astra")
    return "/console/queues/?figures=queue"


def _everything_paused() -> str:
    Hold.objects.create(key="all", reason="paused", placed_by="olga")
    return "/console/queues/"


def _overview_of_trouble() -> str:
    _queues()
    fleet(version="0.0.9", pid=9)
    task("dead", lane="queue", error=PROBLEM | {"fingerprint": "other"})
    return "/console/"


def _dead_letters() -> str:
    _dead()
    task("dead", error=PROBLEM | {"fingerprint": "builtins.ValueError in " + "a_module_with_a_long_name." * 4})
    return "/console/dead-letters/"


def _dead_letter_group() -> str:
    _dead()
    return "/console/dead-letters/group/?error="


def _operation(**more: Any) -> str:
    values = {
        "verb": "redrive",
        "selector": "tasks",
        "selection": {"filter": {"state": "dead"}},
        "words": "dead letters of help.v1 whose last failure was " + "very long " * 12,
        "expected": 1_200,
        "changed": 700,
        "refused": 3,
        "refusals": {"It was redriven meanwhile by otto, so it was not redriven again.": 3},
        "state": "running",
        "asked_by_name": "olga",
        "started_at": timezone.now(),
    }
    return f"/console/operations/{BulkOperation.objects.create(**(values | more)).pk}/"


def _operations() -> str:
    _operation()
    _operation(state="stopped", finished_at=timezone.now())
    _operation(state="failed", finished_at=timezone.now(), problem="The selection can't be read: " + "x" * 80)
    return "/console/operations/"


def _audit() -> str:
    for key in ("lane:queue", "agent:helper"):
        Pause(Actor(known_as="olga", address="2001:db8::8a2e:370:7334"), note="Because " * 30).run(key)
    return "/console/audit/"


def _step() -> str:
    run = task("succeeded")
    return f"/console/tasks/{run.pk}/steps/{step(run, input={'a': [1, {'b': None}]}, output='words').pk}/"


def _running() -> Run:
    run = task("running", progress={"done": 3, "total": 9, "note": "Reading https://example.org/" + "deep/" * 20})
    step(run)
    return run


PAGES: dict[str, Callable[[], str]] = {
    "sign-in": lambda: "/accounts/login/",
    "overview": _overview,
    "overview-empty": lambda: "/console/",
    "overview-of-trouble": _overview_of_trouble,
    "queues": _queues,
    "queues-empty": lambda: "/console/queues/",
    "queues-paused": _everything_paused,
    "dead-letters": _dead_letters,
    "dead-letters-empty": lambda: "/console/dead-letters/",
    "dead-letter-group": _dead_letter_group,
    "operations": _operations,
    "operations-empty": lambda: "/console/operations/",
    "operation": _operation,
    "operation-stopped": lambda: _operation(state="stopped", finished_at=timezone.now()),
    "agents": lambda: "/console/agents/",
    "agent": lambda: "/console/agents/helper/",
    "audit": _audit,
    "audit-empty": lambda: "/console/audit/",
    "tasks": _list,
    "tasks-empty": lambda: "/console/tasks/",
    "task-running": _task(_running),
    "task-dead": _task(_dead),
    "task-blocked": _task(lambda: task("blocked")),
    "task-waiting": _task(_waiting),
    "task-report": _task(lambda: task("succeeded", output=REPORT)),
    "step": _step,
    "new-task": lambda: "/console/tasks/new/?endpoint=dig.v1",
    "new-task-json": lambda: "/console/tasks/new/?endpoint=nested.v1",
    "not-found": lambda: "/console/nothing/",
}


def violations(page: Page) -> list[Any]:
    """Return what axe finds, short enough to read."""
    found = Axe().run(page)["violations"]
    return [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits(browse: Open, faults: list[str], name: str, scheme: str) -> None:
    who = None if name == "sign-in" else person("olga", roles.OPERATOR)
    page = browse(who, PAGES[name](), color_scheme=scheme, width=320, height=640)
    for menu in page.locator("details[data-menu] > summary").all():
        menu.click()
        box = menu.locator("xpath=following-sibling::*").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 320, "an open menu sticks out"
        page.keyboard.press("Escape")
    for width in (320, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert _overflow(page) == [], f"at {width} px"
        if width != 768:
            assert violations(page) == [], f"at {width} px"
    if name == "not-found":
        faults.clear()  # the browser notes a 404 as an error


def _overflow(page: Page) -> list[str]:
    """Return what reaches beyond the window, or beyond its panel where that neither scrolls nor cuts."""
    found: list[str] = page.evaluate(
        """() => {
            const found = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
            for (const panel of document.querySelectorAll(".panel, .notice, .tile")) {
                const edge = panel.getBoundingClientRect().right + 1;
                for (const part of panel.querySelectorAll("*")) {
                    let cut = part.parentElement;
                    while (cut !== panel && getComputedStyle(cut).overflowX === "visible") cut = cut.parentElement;
                    const box = part.getBoundingClientRect();
                    if (cut !== panel || !part.checkVisibility()) continue;
                    if (box.width > 1 && box.right > edge) found.push(part.outerHTML.slice(0, 80));
                }
            }
            return found;
        }"""
    )
    return found
