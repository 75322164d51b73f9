"""A real Chromium, driven against the real site. Without one these tests are skipped, and say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright
from pytest_django.live_server_helper import LiveServer

from accounts import roles
from agents import registry
from tests.console.conftest import CONFIG
from tests.support.configs import load
from tests.support.people import person
from tests.support.talks import with_chat

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of this folder.

    Playwright's own loop runs in this thread until then: beside it Django would refuse to ask the database.
    """
    if CHROMIUM is None:
        pytest.skip(f"there is no browser on this machine: none of {', '.join(NAMES)} is in the PATH")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _site(chromium: Browser, transactional_db: None) -> Iterator[None]:
    load(CONFIG)
    yield
    registry.forget()


@pytest.fixture
def ulla(_site: None) -> User:
    """A user, on a site that has a chat."""
    load(with_chat(CONFIG))
    return person("ulla", roles.USER)


@pytest.fixture
def faults() -> list[str]:
    """What the browser complained of: errors of scripts, and what the policy refused. A test may empty it."""
    return []


Open = Callable[..., Page]


@pytest.fixture
def browse(chromium: Browser, live_server: LiveServer, faults: list[str]) -> Iterator[Open]:
    """Open a window of a person: ``browse(user, "/console/", width=…, **options of the context)``."""
    contexts: list[BrowserContext] = []

    def window(user: User | None, path: str, *, width: int = 1280, height: int = 900, **options: Any) -> Page:
        context = chromium.new_context(
            base_url=live_server.url, viewport={"width": width, "height": height}, reduced_motion="reduce", **options
        )
        contexts.append(context)
        if user is not None:
            context.add_cookies(
                [{"name": settings.SESSION_COOKIE_NAME, "value": _session(user), "url": live_server.url}]
            )
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if _is_fault(message) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(path)
        page.wait_for_load_state("networkidle")
        return page

    yield window
    for context in contexts:
        context.close()
    assert faults == []


def _is_fault(message: ConsoleMessage) -> bool:
    """Tell whether it is a fault. To the browser, a form that comes back with its mistakes is one, too."""
    return message.type == "error" and "422 (Unprocessable Entity)" not in message.text


def _session(user: User) -> str:
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return str(session.session_key)
