"""Static files are collected when they changed, and served before Django is asked."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.core.files.storage import storages
from django.templatetags.static import static as static_url
from pytest_django import Settings

from astra_site import static
from tests.roof.asgi_call import Answer, call

CSS = "body { color: black }"


@pytest.fixture
def source(settings: Settings, tmp_path: Path) -> Path:
    """A folder with one file in it, the only static file there is."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "site.css").write_text(CSS)
    settings.STATICFILES_DIRS = [folder]
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATIC_ROOT = tmp_path / "var" / "static"
    return folder


async def get(path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    return await call(static.StaticFiles(), path, method, headers)


def test_they_are_collected_once_and_again_when_one_changed(source: Path) -> None:
    assert static.collect() is True
    assert static.collect() is False
    (source / "site.css").write_text("body { color: white }")
    os.utime(source / "site.css", (time.time() + 5, time.time() + 5))
    assert static.collect() is True


def test_a_page_names_a_file_by_its_content(source: Path) -> None:
    static.collect()
    assert re.fullmatch(r"/static/site\.[0-9a-f]{12}\.css", static_url("site.css"))


def test_a_page_renders_though_nothing_was_collected(source: Path) -> None:
    assert isinstance(storages["staticfiles"], StaticFilesStorage)
    assert static_url("site.css") == "/static/site.css"
    assert static_url("no-such-file.css") == "/static/no-such-file.css"


async def test_a_named_by_content_file_may_be_kept_for_ever_and_a_plain_one_not(source: Path) -> None:
    static.collect()
    status, headers, body = await get(static_url("site.css"))
    assert (status, body.decode(), headers["content-type"]) == (200, CSS, 'text/css; charset="utf-8"')
    assert "immutable" in headers["cache-control"]
    assert "immutable" not in (await get("/static/site.css"))[1]["cache-control"]


async def test_a_client_that_has_the_file_gets_no_body(source: Path) -> None:
    static.collect()
    etag = (await get("/static/site.css"))[1]["etag"]
    status, _, body = await get("/static/site.css", headers={"If-None-Match": etag})
    assert (status, body) == (304, b"")


async def test_head_has_no_body_and_post_is_refused(source: Path) -> None:
    static.collect()
    status, headers, body = await get("/static/site.css", "HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(CSS)), b"")
    assert (await get("/static/site.css", "POST"))[0] == 405


@pytest.mark.parametrize("path", ["/static/none.css", "/static/../secret_key", "/static/", "/static/%2e%2e/secret_key"])
async def test_nothing_else_is_served(source: Path, path: str) -> None:
    static.collect()
    assert (await get(path))[0] == 404


async def test_with_debug_a_change_shows_without_collecting(source: Path, settings: Settings) -> None:
    settings.DEBUG = True
    assert (await get("/static/site.css"))[2].decode() == CSS
    (source / "site.css").write_text("/* new */")
    assert (await get("/static/site.css"))[2] == b"/* new */"
