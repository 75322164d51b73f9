"""The tool `web_crawl`: which pages it reads, what it returns of them, and what cannot trap it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.tools import page, web
from agents.tools.fetch import Fetched
from agents.tools.page import Page
from agents.tools.registry import Refused
from agents.tools.urls import canonical, looks_like_a_page
from agents.tools.urls import site as site_of
from agents.tools.web import web_crawl
from tests.support.http_server import Exchange
from tests.support.site import Site, handbook, html, redirect

POSTGRESQL = Path("/usr/share/doc/postgresql-doc-15/html")


@pytest.fixture(autouse=True)
def _allowed(settings: Any) -> None:
    settings.ALLOWED_PRIVATE_HOSTS = ["127.0.0.1"]


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(pages=handbook()) as server:
        yield server


def paths(result: dict[str, Any], site: Site) -> list[str]:
    return [one["url"].removeprefix(site.url) for one in result["pages"]]


def parse(markup: str | bytes, media_type: str = "text/html", charset: str | None = None) -> Page:
    body = markup.encode() if isinstance(markup, str) else markup
    return page.read(Fetched("http://h/dir/page.html", media_type, charset, body))


# --- URLs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "one"),
    [
        ("HTTP://Example.ORG:80/a/../b/./c#top", "http://example.org/b/c"),
        ("https://example.org:443", "https://example.org/"),
        ("https://example.org/a//b?utm_source=x&z=1&a=2&PHPSESSID=9", "https://example.org/a/b?a=2&z=1"),
        ("https://example.org/p;jsessionid=AB12?q=1", "https://example.org/p?q=1"),
        ("https://bücher.example/ä b", "https://xn--bcher-kva.example/%C3%A4%20b"),
        ("https://example.org/dir/", "https://example.org/dir/"),
        ("https://example.org/%7euser/%2e%2e/x", "https://example.org/~user/../x"),
    ],
)
def test_a_page_has_one_spelling(url: str, one: str) -> None:
    assert canonical(url) == one
    assert canonical(one) == canonical(canonical(one) or "")


@pytest.mark.parametrize(
    "url", ["mailto:a@b.c", "javascript:void(0)", "file:///etc/passwd", "http://", "http://u:p@h/", "http://h:x/", "//"]
)
def test_what_is_no_web_address_is_none(url: str) -> None:
    assert canonical(url) is None


@given(st.text(max_size=60))
def test_no_text_breaks_the_reading_of_urls(text: str) -> None:
    for url in (text, f"http://{text}", f"http://h/{text}", f"http://h/?{text}"):
        one = canonical(url, "http://base.example/dir/")
        if one is not None:
            looks_like_a_page(one)
            site_of(one)


# --- Pages -------------------------------------------------------------------------------------------------------


def test_menus_scripts_and_footers_are_left_out() -> None:
    read = parse(
        html(
            "The title",
            "<nav>menu</nav><div class='sidebar'>side</div><script>alert(1)</script><style>p{}</style>"
            "<h1>Top</h1><p>First <b>bold</b>&nbsp;words.</p><!-- hidden --><div hidden>not seen</div>"
            "<p>Second.</p><footer>foot</footer><div role='navigation'>more</div>",
        )
    )
    assert read.title == "The title"
    assert [(one.heading, one.text) for one in read.passages] == [("Top", "First bold words.\nSecond.")]


def test_passages_keep_to_their_headings_and_code_to_its_lead_in() -> None:
    words = " ".join(f"word{number}" for number in range(120))
    read = parse(
        html(
            "T",
            f"<h1>One</h1><p>{words}</p><p>The formula is:</p><pre>a = b\n  + c</pre><h2>Two</h2><p>Other.</p>"
            "<dl><dt>term</dt><dd>meaning</dd></dl><table><tr><td>x</td><td>y</td></tr></table>",
        )
    )
    assert [one.heading for one in read.passages] == ["One", "One > Two"]
    assert read.passages[0].text.endswith("The formula is:\na = b\n  + c")
    assert read.passages[1].text == "Other.\nterm\nmeaning\nx | y"


def test_a_paragraph_of_any_length_comes_in_pieces() -> None:
    read = parse(html("T", f"<p>{'word ' * 3000}</p><p>{'A short sentence. ' * 500}</p>"))
    assert max(len(one.text) for one in read.passages) <= 2 * page.PASSAGE_CHARS
    assert sum(len(one.text) for one in read.passages) > 20_000


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("<p>Grüße</p>".encode("latin-1"), "latin-1"),
        (b"<meta charset='iso-8859-1'>" + "<p>Grüße</p>".encode("latin-1"), None),
        ("<p>Grüße</p>".encode(), None),
        ("<p>Grüße</p>".encode("utf-8-sig"), "latin-1"),
        ("<p>Grüße</p>".encode("utf-16"), None),
        ("<p>Grüße</p>".encode("cp1252"), "no-such-charset"),
    ],
)
def test_the_charset_is_found(body: bytes, charset: str | None) -> None:
    assert parse(body, charset=charset).passages[0].text == "Grüße"


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(alphabet="<>/apretdivhl1 \"'=!-&;x\n", max_size=200)))
def test_no_bytes_break_the_reading_of_pages(body: bytes | str) -> None:
    read = parse(body)
    assert isinstance(read.title, str)
    assert all(one.text for one in read.passages)


def test_a_page_nested_without_end_is_survived() -> None:
    assert "deep" in str(parse("<div>" * 200 + "deep" + "</div>" * 200).passages)
    parse("<div>" * 100_000 + "too deep")


@pytest.mark.parametrize(
    "body",
    [
        "word " * 100_000 + "".join(f"<a href=/{number}>link</a>" for number in range(60_000)),
        "<ul><li>" + "".join(f"<a href=/{number}>link</a>" for number in range(60_000)),
        "<div><a href=/x>link</a>" * 250 + "<b></b>" * 300_000,
        "<table>" + "<td>x" * 400_000,
        "<a " + " ".join(f"a{number}=1" for number in range(250_000)) + ">",
        "<a x='>' " + " ".join(f"a{number}" for number in range(250_000)) + ">",
        "<a x='" * 400_000,
        f"<h1>{'x' * 1_000_000}</h1><h2>{'x' * 1_000_000}</h2>" + "<p>A word." * 100_000,
        "<p>" + "A. " * 800_000,
        "<pre>" + "a:\n" * 800_000,
    ],
    ids=["links", "entries", "parents", "cells", "attributes", "flags", "quotes", "headings", "sentences", "colons"],
)
def test_no_page_keeps_its_reader_busy_for_long(body: str) -> None:
    began = time.thread_time()
    parse(body)
    # It takes a second or two. Where time grows by the square, it takes minutes.
    assert time.thread_time() - began < 20


def test_an_element_with_thousands_of_attributes_is_read_without_them() -> None:
    many = " ".join(f"a{number}='>'" for number in range(2_000))
    read = parse(f"<p>Before <a href=y>it</a>.</p><a {many} href=x>Within</a> <i>after</i>.")
    assert [link.url for link in read.links] == ["http://h/dir/y"]
    assert "Within after." in read.passages[-1].text


def test_a_plain_text_is_read_as_paragraphs() -> None:
    read = parse("# A title\n\nFirst part.\n\nSecond part.", "text/plain")
    assert (read.title, read.passages[0].text) == ("A title", "# A title\nFirst part.\nSecond part.")


def test_links_know_their_words_and_a_page_may_forbid_following() -> None:
    read = parse("<p>See the <a href='../x.html#part' title='More of it'>chapter</a>.</p><a rel=nofollow href=y>y</a>")
    assert [(one.url, one.text, one.around) for one in read.links] == [
        ("http://h/x.html", "chapter (More of it)", "See the chapter.")
    ]
    assert parse("<meta name='Robots' content='noindex, NOFOLLOW'><a href=x>x</a>").links == []


# --- Crawls ------------------------------------------------------------------------------------------------------


async def test_the_page_that_answers_is_found_among_hundreds(site: Site) -> None:
    assert len(site.pages) > 300
    result = await web_crawl(f"{site.url}/", "When is the beacon lit?", max_pages=8)
    assert "/chapter-8/section-9.html" in paths(result, site)
    best = max((one for page in result["pages"] for one in page["passages"]), key=lambda one: one["score"])
    assert "forty knots" in best["text"]
    assert len(site.visited) <= 8
    assert result["stopped"] == "pages"


async def test_a_crawl_goes_on_in_waves_and_reads_nothing_twice(site: Site) -> None:
    seen: list[str] = []
    waiting: list[str] = []
    for _ in range(4):
        result = await web_crawl(f"{site.url}/", "the daily log", max_pages=10, follow=waiting[:10], skip=seen)
        seen += [one["url"] for one in result["pages"]]
        waiting += [one["url"] for one in result["frontier"]]
        waiting = [url for url in dict.fromkeys(waiting) if url not in seen]
    assert len(seen) == len(set(seen)) == 40
    assert len(site.visited) == 40


async def test_the_links_that_are_named_are_read_first_and_in_order(site: Site) -> None:
    follow = [f"{site.url}/chapter-5.html", f"{site.url}/chapter-3.html"]
    result = await web_crawl(f"{site.url}/", "beacon", max_pages=2, follow=follow)
    assert paths(result, site) == ["/chapter-5.html", "/chapter-3.html"]


async def test_the_same_site_gives_the_same_crawl(site: Site) -> None:
    first = await web_crawl(f"{site.url}/", "canal silts", max_pages=6)
    second = await web_crawl(f"{site.url}/", "canal silts", max_pages=6)
    assert paths(first, site) == paths(second, site)


async def test_other_sites_are_not_visited(site: Site) -> None:
    with Site(pages={"/": html("Elsewhere", "beacon")}) as other:
        site.pages = {
            "/": html("Home", f"<a href='{other.url}/'>the beacon</a> <a href=/in>in</a> <a href=/out>out</a>"),
            "/in": html("In", "<p>inside words</p>"),
            "/out": redirect(f"{other.url}/"),
        }
        result = await web_crawl(f"{site.url}/", "beacon")
        assert sorted(paths(result, site)) == ["/", "/in"]
        assert {"url": f"{site.url}/out", "reason": "off-site"} in result["skipped"]
        assert other.requests == []


async def test_the_start_may_redirect_to_its_real_home(site: Site) -> None:
    with Site(pages={"/": redirect(f"{site.url}/")}) as short:
        result = await web_crawl(f"{short.url}/", "beacon", max_pages=2)
    assert paths(result, site)[0] == "/"


async def test_traps_do_not_hold_it(site: Site) -> None:
    days = 0

    async def calendar(exchange: Exchange) -> None:
        nonlocal days
        days += 1
        links = "".join(f"<a href='/calendar?day={days}{part}'>day</a>" for part in range(5))
        await exchange.reply(html(f"Day {days}", f"<p>day {days}</p>{links}"))

    async def deeper(exchange: Exchange) -> None:
        path = exchange.request.path
        await exchange.reply(html(path, f"<p>{path}</p><a href='{path}deeper/'>on</a><a href='#a'>a</a>"))

    pages: dict[str, Any] = {"/": html("Home", "<a href='/calendar'>calendar</a><a href='/deeper/'>deeper</a>")}
    pages |= {"/calendar": calendar} | {"/" + "deeper/" * depth: deeper for depth in range(1, 30)}
    site.pages = pages
    result = await web_crawl(f"{site.url}/", "", max_pages=20, max_depth=10)
    assert result["stopped"] == "done"
    assert len(result["pages"]) <= 10


async def test_a_text_that_was_seen_is_not_read_again(site: Site) -> None:
    same = html("Same", "<p>the very same words</p>")
    site.pages = {"/": html("Home", "<a href='/a'>a</a><a href='/b'>b</a><a href='/a#x'>a</a>"), "/a": same, "/b": same}
    result = await web_crawl(f"{site.url}/", "words")
    assert paths(result, site) == ["/", "/a"]
    assert result["skipped"] == [{"url": f"{site.url}/b", "reason": "same-text"}]


async def test_depth_ends_a_crawl(site: Site) -> None:
    result = await web_crawl(f"{site.url}/", "beacon", max_pages=20, max_depth=0)
    assert paths(result, site) == ["/"]


async def test_time_ends_a_crawl_with_what_it_has(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SECONDS", 0.5)

    async def stalls(exchange: Exchange) -> None:
        await exchange.stall()

    site.pages = {"/": html("Home", "<p>the beacon</p><a href='/slow'>slow</a>"), "/slow": stalls}
    result = await web_crawl(f"{site.url}/", "beacon")
    assert (result["stopped"], paths(result, site)) == ("time", ["/"])
    assert [one["url"] for one in result["frontier"]] == [f"{site.url}/slow"], "it can be read later"


async def test_a_start_that_fails_for_a_moment_is_tried_again(site: Site) -> None:
    tries = 0

    async def busy_once(exchange: Exchange) -> None:
        nonlocal tries
        tries += 1
        await exchange.reply("x" if tries == 1 else html("Home", "<p>hello</p>"), status=503 if tries == 1 else 200)

    site.pages = {"/": busy_once}
    assert len((await web_crawl(f"{site.url}/"))["pages"]) == 1


async def test_a_page_without_a_question_gives_its_beginning(site: Site) -> None:
    result = await web_crawl(f"{site.url}/chapter-0/section-0.html", max_pages=1)
    assert result["pages"][0]["passages"][0]["text"].startswith("This is section 0 of chapter 0.")


async def test_a_page_about_something_else_gives_nothing(site: Site) -> None:
    result = await web_crawl(f"{site.url}/", "zebra migration", max_pages=2)
    assert [one["passages"] for one in result["pages"]] == [[], []]


@pytest.mark.parametrize(
    ("url", "slug"),
    [
        ("ftp://example.org/", "bad-url"),
        ("http://user:pw@127.0.0.1/", "bad-url"),
        ("http://127.0.0.1:9/", "unreachable"),
        ("http://10.0.0.1/", "private-address"),
        ("{site}/nowhere", "not-found"),
    ],
)
async def test_a_start_that_cannot_be_read_says_why(site: Site, url: str, slug: str) -> None:
    with pytest.raises(Refused) as caught:
        await web_crawl(url.format(site=site.url))
    assert caught.value.slug == slug


async def test_links_to_follow_must_be_of_the_site(site: Site) -> None:
    with pytest.raises(Refused, match="on the site"):
        await web_crawl(f"{site.url}/", follow=["http://example.org/"])


@pytest.mark.skipif(not POSTGRESQL.is_dir(), reason="postgresql-doc-15 is not installed")
@pytest.mark.parametrize(
    ("question", "where", "says"),
    [
        ("How does autovacuum decide when to vacuum a table?", "routine-vacuuming.html", "vacuum threshold ="),
        ("What is the default value of shared_buffers?", "runtime-config-resource.html", "128MB"),
        ("How can I restore a backup to a point in time?", "continuous-archiving.html", "previous point in time"),
        ("What does TOAST do with values that are too large?", "storage-toast.html", "out-of-line"),
    ],
)
async def test_a_real_documentation_is_crawled_to_the_right_page(question: str, where: str, says: str) -> None:
    with Site(folder=POSTGRESQL) as site:
        result = await web_crawl(f"{site.url}/index.html", question, max_pages=15)
    found = {one["url"].rpartition("/")[2]: one["passages"] for one in result["pages"]}
    assert where in found
    assert says in " ".join(one["text"] for one in found[where])
