"""A best-first crawl of one site: the links that look most like the question are visited first, within hard limits."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from agents.relevance import Ranker
from agents.tools import urls
from agents.tools.fetch import Fetched, Fetcher, FetchFailed
from agents.tools.frontier import Candidate, Frontier, Signpost
from agents.tools.page import Link, Page, read

AT_ONCE = 4
#: Pages are asked for in groups, so that the same site gives the same crawl; a slow one holds its group up this long.
GROUP_S = 2.5
#: Between tries of a start page that fails for a moment.
PAUSES = (0.4, 1.2)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far one crawl goes."""

    pages: int = 10
    depth: int = 4
    seconds: float = 45.0


@dataclass(frozen=True, slots=True)
class Digest:
    """A page that was read, with what was worked out about it beside the loop."""

    page: Page
    hash: str
    relevance: float
    signs: list[Signpost]


@dataclass(slots=True)
class Visited:
    """A page and how many links away from the start it is."""

    page: Page
    depth: int


@dataclass(slots=True)
class Outcome:
    """What a crawl came to."""

    visited: list[Visited] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    #: Links not visited yet, best first, with their score.
    frontier: list[tuple[Candidate, float]] = field(default_factory=list)
    #: Why it ended: done, pages or time.
    stopped: str = "done"


class Crawl:
    """One crawl. Its pages are parsed in ``executor``, so that the loop stays free."""

    def __init__(self, fetcher: Fetcher, question: str, limits: Limits, executor: Executor | None = None) -> None:
        self._fetcher = fetcher
        self._question = question
        self._limits = limits
        self._executor = executor
        self._ranker = Ranker(question)
        self._outcome = Outcome()
        self._sites: set[str] = set()
        self._hashes: set[str] = set()
        #: Pages that were had, those with a text seen before too; and those that were not.
        self._read = 0
        self._failed = 0
        self._frontier = Frontier(question, ())

    async def run(self, start: str, seeds: Sequence[str], skip: Iterable[str] = ()) -> Outcome:
        """Crawl the site of ``start`` from ``seeds`` (the start itself when empty), best link first.

        Raises:
            FetchFailed: the start page cannot be had and there are no seeds.
        """
        deadline = time.monotonic() + self._limits.seconds
        self._frontier = Frontier(self._question, skip)
        self._sites.add(urls.site(start))
        # Whoever names pages wants them read, in that order, before what they lead to.
        for position, seed in enumerate(seeds):
            self._frontier.add(Signpost.of(Link(seed, "")), depth=0, prior=3.0 - position / 100)
        if not seeds:
            self._frontier.discard(start)
            try:
                async with asyncio.timeout(self._limits.seconds):
                    await self._visit_start(start)
            except TimeoutError:
                raise FetchFailed("timeout", f"{start} did not answer in time", passing=True) from None
        await self._visit_others(deadline)
        self._outcome.frontier = self._frontier.ranked(40)
        return self._outcome

    async def _visit_start(self, start: str) -> None:
        for pause in (*PAUSES, None):
            try:
                digest = await self._load(start, anywhere=True)
            except FetchFailed as error:
                if pause is None or not error.passing:
                    raise
                await asyncio.sleep(pause)
            else:
                self._sites.add(urls.site(digest.page.url))
                self._keep(digest, 0)
                return

    async def _visit_others(self, deadline: float) -> None:
        """Visit the best links, four at a time, until a limit is reached or nothing is left."""
        under_way: dict[asyncio.Task[Digest], Candidate] = {}
        try:
            while self._begin(under_way):
                left = deadline - time.monotonic()
                if left <= 0:
                    self._outcome.stopped = "time"
                    return
                await asyncio.wait(under_way, timeout=min(left, GROUP_S))
                for task in [task for task in under_way if task.done()]:
                    self._settle(task, under_way.pop(task))
            self._outcome.stopped = "pages" if self._read >= self._limits.pages else "done"
        finally:
            for task, candidate in under_way.items():
                task.cancel()
                self._frontier.put_back(candidate)
            await asyncio.gather(*under_way, return_exceptions=True)

    def _begin(self, under_way: dict[asyncio.Task[Digest], Candidate]) -> bool:
        """Ask for the next pages; return whether any is under way."""
        while len(under_way) < AT_ONCE and self._read + len(under_way) < self._limits.pages:
            candidate = self._frontier.take(self._limits.depth)
            if candidate is None or self._failed > 2 * self._limits.pages + 10:
                break
            under_way[asyncio.create_task(self._load(candidate.url))] = candidate
        return bool(under_way)

    def _settle(self, task: asyncio.Task[Digest], candidate: Candidate) -> None:
        try:
            digest = task.result()
        except FetchFailed as error:
            self._failed += 1
            self._outcome.skipped.append((candidate.url, error.slug))
        else:
            self._frontier.discard(digest.page.url)
            self._keep(digest, candidate.depth)

    async def _load(self, url: str, *, anywhere: bool = False) -> Digest:
        fetched = await self._fetcher.get(url, (lambda _: True) if anywhere else self._may_go)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._digest, fetched)

    def _digest(self, fetched: Fetched) -> Digest:
        page = read(fetched)
        text = "\n".join(f"{passage.heading} {passage.text}" for passage in page.passages)
        best = max((self._ranker.coverage(f"{p.heading} {p.text}") for p in page.passages[:200]), default=0.0)
        key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if text else page.url
        return Digest(page, key, best, [Signpost.of(link) for link in page.links])

    def _may_go(self, url: str) -> bool:
        return urls.site(url) in self._sites

    def _keep(self, digest: Digest, depth: int) -> None:
        self._read += 1
        if digest.hash in self._hashes:
            self._outcome.skipped.append((digest.page.url, "same-text"))
        else:
            self._hashes.add(digest.hash)
            self._outcome.visited.append(Visited(digest.page, depth))
        for sign in digest.signs:
            if self._may_go(sign.link.url):
                self._frontier.add(sign, depth=depth + 1, found_on=digest.relevance)
