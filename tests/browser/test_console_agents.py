"""Agents, audit and tokens in a browser: accessible, whole at every width, usable by keyboard and without a script."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from accounts import roles, tokens
from accounts.models import ApiToken
from audit.trail import SYSTEM, Actor, record
from jobs.actions import Pause
from jobs.models import Hold
from tests.browser.conftest import Open
from tests.browser.test_console_accessibility import _overflow, violations
from tests.console.conftest import CONFIG
from tests.support.configs import load
from tests.support.people import person
from tests.support.tasks import fleet, task

LONG = "a_very_long_word_without_any_place_to_break_it_" * 4


@pytest.fixture
def olga(_site: None) -> User:
    return person("olga", roles.OPERATOR)


def _agents(olga: User) -> str:
    fleet(capabilities=["agent:helper@2"])
    task("dead")
    load(
        CONFIG.replace("version: 1\n    instructions: Help.", f"version: 2\n    instructions: Help {LONG}")
        .replace("dig.v1:", "dig.v2:")
        .replace("agent: digger", "agent: helper")
    )
    Pause(Actor(olga), note=f"because {LONG}").run("agent:helper")
    Pause(Actor(olga)).run("endpoint:help.v1")
    return "/console/agents/"


def _agent(olga: User) -> str:
    _agents(olga)
    task("queued", requires="agent:helper@1")
    return "/console/agents/helper/?old=1&new=2"


def _audit(olga: User) -> str:
    _agents(olga)
    changes = {"state": "queued", "long": LONG, **{f"field {number}": number for number in range(8)}}
    record(Actor(olga, "2001:db8:1111:2222:3333:4444:5555:6666", "r" * 64), "job.redrive", "job", LONG[:64])
    record(Actor(olga), "job.discard", "job", "x", note=f"note {LONG}", before={"state": "dead"}, after=changes)
    return "/console/audit/?since=24h"


def _tokens(olga: User) -> str:
    tokens.create(olga, actor=SYSTEM, name=LONG[:100])
    gone, _ = tokens.create(olga, actor=SYSTEM, name="old laptop", scopes=["tasks:read"])
    tokens.revoke(gone, actor=SYSTEM)
    return "/accounts/tokens/"


PAGES: dict[str, Callable[[User], str]] = {
    "agents": _agents,
    "agent": _agent,
    "agent-plain": lambda _: "/console/agents/digger/",
    "agent-unknown": lambda _: "/console/agents/nobody/",
    "audit": _audit,
    "audit-none": lambda _: "/console/audit/?actor=nobody",
    "tokens": _tokens,
    "tokens-none": lambda _: "/accounts/tokens/",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits(browse: Open, faults: list[str], olga: User, name: str, scheme: str) -> None:
    page = browse(olga, PAGES[name](olga), color_scheme=scheme, width=320, height=640)
    for menu in page.locator("details[data-menu] > summary").all():
        menu.click()
        box = menu.locator("xpath=following-sibling::*").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 320, "an open menu sticks out"
        page.keyboard.press("Escape")
    for fold in page.locator("main details:is(.fold, .retired, .audit-more) > summary").all():
        fold.click()
    for width in (320, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert _overflow(page) == [], f"at {width} px"
        assert violations(page) == [], f"at {width} px"
    if name == "agent-unknown":
        faults.clear()  # the browser notes a 404 as an error


def test_an_agent_is_paused_and_resumed_by_keyboard(browse: Open, olga: User) -> None:
    page = browse(olga, "/console/agents/helper/")
    page.get_by_text("Pause … helper").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("too loud")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Paused by olga")).to_be_visible()
    assert Hold.objects.get().note == "too loud"
    page.get_by_role("button", name="Resume helper").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("In use")).to_be_visible()
    assert not Hold.objects.exists()


def test_the_trail_is_filtered_without_a_script(browse: Open, olga: User) -> None:
    record(Actor(olga), "job.cancel", "job", "x")
    record(SYSTEM, "job.redrive", "job", "y")
    page = browse(olga, "/console/audit/", java_script_enabled=False)
    page.get_by_label("Who").fill("olga")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".audit tbody tr")).to_have_count(1)
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("Did").select_option("job.redrive")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("link", name="Astra", exact=True).last).to_be_visible()


def test_the_trail_follows_its_filters_and_keeps_them_in_the_address(browse: Open, olga: User) -> None:
    record(Actor(olga), "job.cancel", "job", "x")
    page = browse(olga, "/console/audit/")
    page.get_by_label("Did").select_option("job.cancel")
    expect(page.locator(".audit tbody tr")).to_have_count(1)
    expect(page).to_have_url("/console/audit/?action=job.cancel")
    page.get_by_role("link", name="24 h").click()
    expect(page.get_by_label("Did")).to_have_value("job.cancel")
    expect(page.locator(".audit tbody tr")).to_have_count(1)


def test_the_trail_is_given_out_as_it_is_filtered(browse: Open, olga: User) -> None:
    page = browse(olga, "/console/audit/")
    page.get_by_label("Who").fill("olga")
    page.get_by_label("Who").blur()
    expect(page).to_have_url("/console/audit/?actor=olga")
    page.get_by_text("Export …").click()
    link = page.get_by_role("link", name="JSON lines")
    expect(link).to_have_attribute("href", "?actor=olga&format=jsonl")


@pytest.mark.parametrize("script", [True, False])
def test_a_token_is_made_seen_once_and_revoked(browse: Open, olga: User, script: bool) -> None:
    page = browse(olga, "/accounts/tokens/", java_script_enabled=script)
    page.get_by_label("What is it for?").fill("import")
    page.get_by_label("See tasks").check()
    page.get_by_role("button", name="Make the token").click()
    secret = page.locator(".secret code").inner_text()
    assert tokens.authenticate(secret).name == "import"
    assert secret not in page.url
    page.get_by_role("link", name="I have it").click()
    assert secret not in page.content()
    page.get_by_text("Revoke …").click()
    page.get_by_role("button", name="Revoke this token").click()
    expect(page.get_by_text("Revoked: import")).to_be_visible()
    assert ApiToken.objects.get().revoked_at is not None
