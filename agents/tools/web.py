"""The tool `web_crawl`: read a site's pages about a question, best pages first, politely."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from django.conf import settings
from pydantic import Field

from agents.relevance import Ranker
from agents.tools import urls
from agents.tools.crawl import Crawl, Limits, Outcome
from agents.tools.fetch import Fetcher, FetchFailed
from agents.tools.guard import AllowList
from agents.tools.page import Passage
from agents.tools.registry import Refused, tool

PASSAGES_PER_PAGE = 4
PASSAGE_CHARS = 1600
FRONTIER = 25
SECONDS = 40.0


@tool(timeout_s=60, idempotent=True)
async def web_crawl(
    url: str,
    question: Annotated[str, Field(max_length=1000)] = "",
    max_pages: Annotated[int, Field(ge=1, le=20)] = 5,
    max_depth: Annotated[int, Field(ge=0, le=10)] = 4,
    follow: Annotated[list[str] | None, Field(max_length=100)] = None,
    skip: Annotated[list[str] | None, Field(max_length=1000)] = None,
) -> dict[str, Any]:
    """Read a web page, and pages of the same site it links to, and return the passages about a question.

    Pages whose links look most like the question are read first. Obeys robots.txt. The result lists the pages read,
    each with its best passages word for word, and `frontier`: links not read yet, best first; to go on, call again with
    them as `follow` and the pages read so far as `skip`.

    Args:
        url: Where to start, a whole http or https address.
        question: What to look for. Without it each page gives its beginning.
        max_pages: How many pages to read, 1 to 20. Use 1 to read just this page.
        max_depth: How many links away from the start to go.
        follow: Links of the same site to read instead of the start page.
        skip: Addresses not to read again.
    """
    start = urls.canonical(url if "://" in url else f"https://{url}")
    if start is None:
        raise Refused(
            "bad-url", f"{url} is no web address that can be read: it must be http or https, without a password."
        )
    seeds = [
        seed for seed in map(urls.canonical, follow or ()) if seed is not None and urls.site(seed) == urls.site(start)
    ]
    if follow and not seeds:
        raise Refused("bad-url", "None of the links to follow is on the site of the url.")
    seen = [known for known in map(urls.canonical, skip or ()) if known is not None]
    try:
        allow = AllowList(settings.ALLOWED_PRIVATE_HOSTS)
    except ValueError as error:
        raise Refused("misconfigured", f"ASTRA_ALLOWED_PRIVATE_HOSTS holds what is no network: {error}.") from None
    async with Fetcher(allow) as fetcher:
        try:
            outcome = await Crawl(fetcher, question, Limits(max_pages, max_depth, SECONDS)).run(start, seeds, seen)
        except FetchFailed as error:
            raise Refused(error.slug, str(error)) from None
    return await asyncio.to_thread(report, question, outcome)


def report(question: str, outcome: Outcome) -> dict[str, Any]:
    """Return what a crawl found, as the tool's result."""
    whole = [passage for visited in outcome.visited for passage in visited.page.passages]
    ranker = (
        Ranker(question, [f"{passage.heading} {passage.text}" for passage in whole], learn=True) if question else None
    )
    return {
        "pages": [
            {
                "url": visited.page.url,
                "title": visited.page.title,
                "passages": best_passages(ranker, visited.page.passages),
            }
            for visited in outcome.visited
        ],
        "frontier": [
            {"url": candidate.url, "text": candidate.text[:120], "score": round(score, 3)}
            for candidate, score in outcome.frontier[:FRONTIER]
        ],
        "skipped": [{"url": skipped, "reason": reason} for skipped, reason in outcome.skipped[:FRONTIER]],
        "stopped": outcome.stopped,
    }


def best_passages(ranker: Ranker | None, passages: list[Passage]) -> list[dict[str, Any]]:
    """Return a page's passages that answer best, best first; without a question its beginning."""
    if ranker is None:
        chosen = [(0.0, passage) for passage in passages[:PASSAGES_PER_PAGE]]
    else:
        scored = [(ranker.score(passage.text, heading=passage.heading), passage) for passage in passages]
        chosen = sorted((item for item in scored if item[0] > 0), key=lambda item: -item[0])[:PASSAGES_PER_PAGE]
    return [
        {"heading": passage.heading, "text": passage.text[:PASSAGE_CHARS], "score": round(score, 3)}
        for score, passage in chosen
    ]
