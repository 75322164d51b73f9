"""Fetching: which addresses may be reached, what is refused, how much is read and how politely."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from agents.tools import fetch
from agents.tools.fetch import Fetcher, FetchFailed
from agents.tools.guard import AddressRefused, AllowList, GuardedBackend, is_public
from tests.support.http_server import Exchange
from tests.support.site import Site, html, redirect

LOCAL = AllowList(["127.0.0.1"])


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(pages={"/": html("Home", "<p>hello</p>")}) as server:
        yield server


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(LOCAL, max_bytes=100_000, page_s=5.0) as one:
        yield one


def says(body: bytes | str = "<p>x</p>", **more: Any) -> Any:
    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, **more)

    return answer


async def failure(fetcher: Fetcher, url: str) -> FetchFailed:
    with pytest.raises(FetchFailed) as caught:
        await fetcher.get(url)
    return caught.value


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:0:0:0:0:0:80ff:fffe",
        "168.63.129.16", "192.0.0.192", "192.88.99.1", "3fff::1", "fec0::1", "::ffff:168.63.129.16",
    ],
)  # fmt: skip
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://0.0.0.0:{port}/",
        "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://127.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/", "http://169.254.169.254/latest/meta-data/",
    ],
)  # fmt: skip
async def test_private_addresses_are_refused_however_they_are_written(site: Site, url: str) -> None:
    async with Fetcher(AllowList()) as fetcher:
        refused = await failure(fetcher, url.format(port=site.port))
    assert refused.slug == "private-address"
    assert "ASTRA_ALLOWED_PRIVATE_HOSTS" in str(refused)
    assert not site.requests


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.1:{port}", "127.0.0.0/8", "LOCALHOST", "localhost:{port}"])
async def test_an_operator_may_allow_hosts_ports_and_networks(site: Site, entry: str) -> None:
    async with Fetcher(AllowList([entry.format(port=site.port)])) as fetcher:
        host = "localhost" if "local" in entry.lower() else "127.0.0.1"
        assert (await fetcher.get(f"http://{host}:{site.port}/")).body


@pytest.mark.parametrize("entry", ["127.0.0.1:1", "10.0.0.0/8", "example.org", "::1"])
async def test_an_allowance_holds_for_nothing_else(site: Site, entry: str) -> None:
    async with Fetcher(AllowList([entry])) as fetcher:
        assert (await failure(fetcher, f"{site.url}/")).slug == "private-address"


class Names:
    """A name server for the running loop: answers in turn, and counts."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        return [(2, 1, 6, "", (address, port)) for address in answer]


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer of the name server would lead inside, and is never asked for."""
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names)
    stream = await GuardedBackend(AllowList(["127.0.0.0/8"])).connect_tcp("rebind.test", site.port)
    assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"
    assert names.asked == 1
    await stream.aclose()
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        await GuardedBackend(AllowList(["127.0.0.0/8"])).connect_tcp("rebind.test", site.port)


async def test_of_several_addresses_only_an_allowed_one_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["10.0.0.1", "127.0.0.1"]))
    stream = await GuardedBackend(AllowList(["127.0.0.1"])).connect_tcp("both.test", site.port)
    assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"
    await stream.aclose()


async def test_the_server_still_hears_the_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["127.0.0.1"]))
    async with Fetcher(AllowList(["127.0.0.1"])) as fetcher:
        await fetcher.get(f"http://docs.test:{site.port}/")
    assert {request.headers["host"] for request in site.requests} == {f"docs.test:{site.port}"}


async def test_no_url_leads_to_a_unix_socket() -> None:
    with pytest.raises(AddressRefused):
        await GuardedBackend(AllowList()).connect_unix_socket("/run/docker.sock")


@pytest.mark.parametrize(
    ("error", "slug", "says"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no-such-host", "no such host: nowhere.test"),
        (socket.gaierror(socket.EAI_NODATA, "No address"), "no-such-host", "no such host: nowhere.test"),
        (UnicodeError("label too long"), "no-such-host", "no such host: nowhere.test"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "unreachable", "could not be looked up"),
        (OSError("the network is down"), "unreachable", "could not be looked up"),
    ],
)
async def test_a_name_that_does_not_exist_is_told_from_one_that_cannot_be_looked_up(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, error: Exception, slug: str, says: str
) -> None:
    async def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fails)
    failed = await failure(fetcher, "http://nowhere.test/page")
    assert (failed.slug, failed.passing) == (slug, True)
    assert says in str(failed)


async def test_a_redirect_inside_is_checked_anew(site: Site, fetcher: Fetcher) -> None:
    site.pages = {"/": redirect("http://169.254.169.254/latest/meta-data/")}
    assert (await failure(fetcher, f"{site.url}/")).slug == "private-address"


@pytest.mark.parametrize(
    ("to", "slug"),
    [("/", "redirects"), ("file:///etc/passwd", "redirects"), ("http://user:pw@127.0.0.1/", "redirects")],
)
async def test_redirects_that_lead_nowhere_are_given_up(site: Site, fetcher: Fetcher, to: str, slug: str) -> None:
    site.pages = {"/": redirect(to)}
    assert (await failure(fetcher, f"{site.url}/")).slug == slug
    assert len(site.visited) <= fetch.MAX_REDIRECTS + 1


async def test_a_redirect_may_be_kept_on_the_site(site: Site, fetcher: Fetcher) -> None:
    site.pages = {"/": redirect("/there"), "/there": "<p>here</p>"}
    assert (await fetcher.get(f"{site.url}/")).url == f"{site.url}/there"
    with pytest.raises(FetchFailed) as caught:
        await fetcher.get(f"{site.url}/", lambda _: False)
    assert caught.value.slug == "off-site"


@pytest.mark.parametrize(
    ("status", "slug", "passing"),
    [(404, "not-found", False), (410, "not-found", False), (403, "http-status", False), (500, "http-status", True),
     (429, "busy", True), (503, "busy", True)],
)  # fmt: skip
async def test_statuses_are_told_apart(site: Site, fetcher: Fetcher, status: int, slug: str, passing: bool) -> None:
    site.pages = {"/": says(status=status)}
    failed = await failure(fetcher, f"{site.url}/")
    assert (failed.slug, failed.passing) == (slug, passing)


async def test_what_is_no_text_is_not_read(site: Site, fetcher: Fetcher) -> None:
    site.pages = {"/": says(b"%PDF", media_type="application/pdf")}
    assert (await failure(fetcher, f"{site.url}/")).slug == "not-text"


async def test_an_encoding_nobody_asked_for_is_refused(site: Site, fetcher: Fetcher) -> None:
    site.pages = {"/": says(b"??", headers={"content-encoding": "br"})}
    assert (await failure(fetcher, f"{site.url}/")).slug == "broken"


async def test_a_broken_gzip_is_refused(site: Site, fetcher: Fetcher) -> None:
    site.pages = {"/": says(b"not gzip at all", headers={"content-encoding": "gzip"})}
    assert (await failure(fetcher, f"{site.url}/")).slug == "broken"


async def test_a_compressed_page_is_unpacked(site: Site, fetcher: Fetcher) -> None:
    site.pages = {"/": says(gzip.compress(b"<p>hello</p>"), headers={"content-encoding": "gzip"})}
    assert (await fetcher.get(f"{site.url}/")).body == b"<p>hello</p>"


async def test_a_gzip_bomb_is_cut_at_the_limit(site: Site, fetcher: Fetcher) -> None:
    bomb = gzip.compress(b"\x00" * 300_000_000, compresslevel=9)
    site.pages = {"/": says(bomb, headers={"content-encoding": "gzip"})}
    began = time.monotonic()
    fetched = await fetcher.get(f"{site.url}/")
    assert (len(fetched.body), fetched.cut) == (100_000, True)
    assert time.monotonic() - began < 2, "it was not unpacked whole"


async def test_an_endless_page_is_cut_at_the_limit(site: Site, fetcher: Fetcher) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.begin(media_type="text/html")
        while True:
            await exchange.piece(b"more " * 2000)

    site.pages = {"/": endless}
    fetched = await fetcher.get(f"{site.url}/")
    assert (len(fetched.body), fetched.cut) == (100_000, True)


async def test_a_page_that_trickles_is_given_up_on(site: Site) -> None:
    async def trickles(exchange: Exchange) -> None:
        await exchange.begin(media_type="text/html")
        while True:
            await exchange.piece(b".")
            await asyncio.sleep(0.02)

    site.pages = {"/": trickles}
    async with Fetcher(LOCAL, page_s=0.3) as fetcher:
        failed = await failure(fetcher, f"{site.url}/")
    assert (failed.slug, failed.passing) == ("timeout", True)


async def test_a_server_that_hangs_up_is_unreachable(site: Site, fetcher: Fetcher) -> None:
    async def hangs_up(exchange: Exchange) -> None:
        exchange.cut()

    site.pages = {"/": hangs_up}
    failed = await failure(fetcher, f"{site.url}/")
    assert (failed.slug, failed.passing) == ("unreachable", True)


async def test_robots_txt_is_obeyed_and_read_once(site: Site, fetcher: Fetcher) -> None:
    rules = "User-agent: *\nDisallow: /private/\nAllow: /private/open\n"
    site.pages = {"/robots.txt": rules, "/a": "a", "/b": "b", "/private/open": "c"}
    for path in ("/a", "/b", "/private/open"):
        await fetcher.get(site.url + path)
    failed = await failure(fetcher, f"{site.url}/private/x")
    assert failed.slug == "robots"
    assert [request.path for request in site.requests].count("/robots.txt") == 1
    assert "/private/x" not in site.visited


async def test_rules_for_us_by_name_go_before_those_for_all(site: Site, fetcher: Fetcher) -> None:
    site.pages = {"/robots.txt": "User-agent: *\nDisallow:\n\nUser-agent: Astra-web-crawl\nDisallow: /\n", "/a": "a"}
    assert (await failure(fetcher, f"{site.url}/a")).slug == "robots"


@pytest.mark.parametrize(("status", "allowed"), [(404, True), (403, True), (500, False), (503, False)])
async def test_a_robots_txt_that_fails_forbids_and_one_that_is_missing_allows(
    site: Site, fetcher: Fetcher, status: int, allowed: bool
) -> None:
    site.pages = {"/robots.txt": says(status=status), "/a": "a"}
    if allowed:
        assert (await fetcher.get(f"{site.url}/a")).body == b"a"
    else:
        assert (await failure(fetcher, f"{site.url}/a")).slug == "robots"


async def test_a_crawl_delay_is_kept(site: Site, fetcher: Fetcher) -> None:
    when: list[float] = []

    async def page(exchange: Exchange) -> None:
        when.append(time.monotonic())
        await exchange.reply("x")

    site.pages = {"/robots.txt": "User-agent: *\nCrawl-delay: 0.2\n", "/a": page, "/b": page, "/c": page}
    await asyncio.gather(*(fetcher.get(f"{site.url}/{name}") for name in "abc"))
    assert when[2] - when[0] >= 0.38


async def test_a_host_is_asked_for_at_most_four_pages_at_once(site: Site, fetcher: Fetcher) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        await exchange.reply("x")

    site.pages = {f"/{number}": slow for number in range(12)}
    async with Fetcher(LOCAL) as other:
        await asyncio.gather(*((fetcher if number % 2 else other).get(f"{site.url}/{number}") for number in range(12)))
    assert 2 <= site.busiest <= 4, "both fetchers together"
