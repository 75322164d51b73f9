"""Fetch pages politely and within bounds: robots.txt, one queue per host, limits on size, time and redirects."""

from __future__ import annotations

import asyncio
import time
import weakref
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpcore
import httpx
from protego import Protego

from agents.tools.guard import AddressRefused, AllowList, GuardedTransport, NoSuchHost
from agents.tools.urls import canonical, origin

USER_AGENT = "Astra-web-crawl/0.1"
ROBOT = "Astra-web-crawl"
READABLE = ("text/html", "application/xhtml+xml", "text/plain", "text/markdown")
MAX_REDIRECTS = 5
MAX_PAGE_BYTES = 3_000_000
MAX_ROBOTS_BYTES = 500_000
PAGE_S = 15.0
ROBOTS_FRESH_S = 600.0
PUBLIC_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0


class FetchFailed(Exception):
    """A page could not be had. ``slug`` is stable; ``passing`` is True when a second try may succeed."""

    def __init__(self, slug: str, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.slug = slug
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Fetched:
    """A page as it came: ``url`` is where it really was, after redirects."""

    url: str
    media_type: str
    charset: str | None
    body: bytes
    #: The page was longer than the limit; ``body`` is its beginning.
    cut: bool = False


@dataclass(slots=True)
class _Host:
    """The queue of one host, shared by all crawls of this process."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))
    next_at: float = 0.0
    robots: Protego | None = None
    robots_until: float = 0.0
    reading_robots: asyncio.Lock = field(default_factory=asyncio.Lock)


_hosts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, OrderedDict[str, _Host]] = weakref.WeakKeyDictionary()


def _host(where: str) -> _Host:
    hosts = _hosts.setdefault(asyncio.get_running_loop(), OrderedDict())
    host = hosts.setdefault(where, _Host())
    hosts.move_to_end(where)
    while len(hosts) > 2000:
        hosts.popitem(last=False)
    return host


class Fetcher:
    """Fetches pages for one crawl. Use as ``async with Fetcher(allow) as fetcher``."""

    def __init__(self, allow: AllowList, *, max_bytes: int = MAX_PAGE_BYTES, page_s: float = PAGE_S) -> None:
        self._allow = allow
        self._max_bytes = max_bytes
        self._page_s = page_s
        self._client = httpx.AsyncClient(
            transport=GuardedTransport(allow),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip", "Accept": "text/html, text/*;q=0.8"},
            timeout=httpx.Timeout(page_s, connect=5.0),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._client.aclose()

    async def get(self, url: str, may_go: Callable[[str], bool] = lambda _: True) -> Fetched:
        """Fetch the page at a canonical URL, following at most five redirects to where ``may_go`` lets it.

        Raises:
            FetchFailed: with one of the slugs private-address, robots, no-such-host, unreachable, timeout, not-found,
                http-status, busy, off-site, redirects, not-text, broken.
        """
        for _ in range(MAX_REDIRECTS + 1):
            await self._ask_robots(url)
            async with self._turn(url):
                found = await self._request(url, self._max_bytes)
            if isinstance(found, Fetched):
                return found
            if not may_go(found):
                raise FetchFailed("off-site", f"{url} leads away, to {found}")
            url = found
        raise FetchFailed("redirects", f"{url} redirects more than {MAX_REDIRECTS} times")

    async def _request(self, url: str, limit: int) -> Fetched | str:
        """Return the page, or where it is said to be."""
        try:
            async with asyncio.timeout(self._page_s), self._client.stream("GET", url) as response:
                if response.is_redirect:
                    target = canonical(response.headers.get("location", ""), url)
                    if target is None:
                        raise FetchFailed("redirects", f"{url} redirects to what is no web address")
                    return target
                self._check_status(url, response)
                media_type, charset = self._media_type(url, response)
                body, cut = await _read(response, limit)
                return Fetched(url, media_type, charset, body, cut)
        except AddressRefused as error:
            raise FetchFailed("private-address", str(error)) from None
        except (TimeoutError, httpcore.TimeoutException, httpx.TimeoutException):
            raise FetchFailed("timeout", f"{url} did not answer in {self._page_s:g} s", passing=True) from None
        except NoSuchHost as error:
            raise FetchFailed("no-such-host", f"{url} cannot be reached: {error}", passing=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.TransportError, OSError) as error:
            raise FetchFailed(
                "unreachable", f"{url} cannot be reached: {str(error) or 'no connection'}", passing=True
            ) from None
        except (zlib.error, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise FetchFailed("broken", f"{url} answers with what cannot be read: {error}") from None

    @staticmethod
    def _check_status(url: str, response: httpx.Response) -> None:
        status = response.status_code
        if status == 200 or status == 203:
            return
        if status in (404, 410):
            raise FetchFailed("not-found", f"{url} does not exist (HTTP {status})")
        if status in (429, 503):
            raise FetchFailed("busy", f"{url} asks to come back later (HTTP {status})", passing=True)
        raise FetchFailed("http-status", f"{url} answers HTTP {status}", passing=status >= 500)

    @staticmethod
    def _media_type(url: str, response: httpx.Response) -> tuple[str, str | None]:
        declared = response.headers.get("content-type", "text/html")
        media_type = declared.partition(";")[0].strip().lower()
        if media_type not in READABLE:
            raise FetchFailed("not-text", f"{url} is {media_type or 'of no known type'}, not a page of text")
        return media_type, response.charset_encoding

    # --- Manners -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, url: str) -> AsyncIterator[None]:
        """Wait for this process's turn at the host: four at a time, and a pause between two."""
        host = _host(origin(url))
        async with host.slots:
            pause = self._pause(url, host)
            now = time.monotonic()
            begin = max(now, host.next_at)
            host.next_at = begin + pause
            if begin > now:
                await asyncio.sleep(begin - now)
            yield

    def _pause(self, url: str, host: _Host) -> float:
        asked = host.robots.crawl_delay(ROBOT) if host.robots else None
        if asked:
            return min(float(asked), LONGEST_PAUSE_S)
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return 0.0 if self._allow.names(parts.hostname or "", port) else PUBLIC_PAUSE_S

    async def _ask_robots(self, url: str) -> None:
        host = _host(origin(url))
        async with host.reading_robots:
            if time.monotonic() >= host.robots_until:
                host.robots = await self._robots(origin(url))
                host.robots_until = time.monotonic() + ROBOTS_FRESH_S
        if host.robots is not None and not host.robots.can_fetch(url, ROBOT):
            raise FetchFailed("robots", f"robots.txt of {origin(url)} asks crawlers to stay away from {url}")

    async def _robots(self, where: str) -> Protego | None:
        """Read robots.txt as RFC 9309 says: none (4xx) allows all, one that fails (5xx) forbids all."""
        place = f"{where}/robots.txt"
        try:
            for _ in range(MAX_REDIRECTS + 1):
                found = await self._request(place, MAX_ROBOTS_BYTES)
                if isinstance(found, Fetched):
                    return Protego.parse(found.body.decode("utf-8", "replace"))
                place = found
        except FetchFailed as error:
            if error.slug in ("http-status", "busy") and error.passing:
                raise FetchFailed(
                    "robots", f"{place} fails, so the site may not be crawled now", passing=True
                ) from None
            if error.slug in ("private-address", "no-such-host", "unreachable", "timeout"):
                raise FetchFailed(error.slug, str(error).replace(place, where), passing=error.passing) from None
        return None


async def _read(response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    """Return at most ``limit`` decoded bytes; a compressed body is unpacked piece by piece, so it cannot explode."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)
    elif encoding in ("identity", ""):
        unpack = None
    else:
        raise FetchFailed("broken", f"{response.url} is encoded as {encoding}, which nobody asked for")
    body = bytearray()
    async for part in response.aiter_raw(65536):
        room = limit + 1 - len(body)
        body += unpack.decompress(part, room) if unpack else part[:room]
        if len(body) > limit:
            return bytes(body[:limit]), True
    return bytes(body), False
