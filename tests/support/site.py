"""A web site on loopback: pages from a mapping or a folder, with robots.txt, redirects and whatever a handler does."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.http_server import Exchange, HttpServer

Answer = Callable[[Exchange], Awaitable[None]]


@dataclass
class Site(HttpServer):
    """Serves ``pages`` (path to HTML, or to a function that answers) and, where it has none, files of ``folder``."""

    pages: Mapping[str, str | Answer] = field(default_factory=dict)
    folder: Path | None = None

    async def handle(self, exchange: Exchange) -> None:
        path = exchange.request.path
        page = self.pages.get(path)
        if isinstance(page, str):
            media_type = "text/plain" if path.endswith(".txt") else "text/html; charset=utf-8"
            await exchange.reply(page, media_type=media_type)
        elif page is not None:
            await page(exchange)
        elif self.folder is not None and (file := self.folder / path.lstrip("/")).is_file():
            await exchange.reply(file.read_bytes(), media_type=mimetypes.guess_type(file.name)[0] or "text/plain")
        else:
            await exchange.reply("not here", status=404)

    @property
    def visited(self) -> list[str]:
        """The paths that were asked for, robots.txt left out, in order."""
        return [request.path for request in self.requests if request.path != "/robots.txt"]


def redirect(to: str, status: int = 302) -> Answer:
    """Answer with a redirect."""

    async def answer(exchange: Exchange) -> None:
        await exchange.reply("", status=status, headers={"location": to})

    return answer


def html(title: str, body: str, **head: Any) -> str:
    """Return a page."""
    extra = "".join(f"<{key} {value}>" for key, value in head.items())
    return f"<!doctype html><html><head><title>{title}</title>{extra}</head><body>{body}</body></html>"


TOPICS = ("harbour", "lantern", "orchard", "quarry", "meadow", "foundry", "canal", "archive", "beacon", "granary")
HEADINGS = {
    "beacon": "When the beacon is lit",
    "foundry": "The coke of the foundry",
    "canal": "Why the gate of the canal is dredged",
}
FACTS = {
    "beacon": "The beacon is lit when the wind exceeds forty knots, which the keeper reads on the northern mast.",
    "foundry": "A foundry needs exactly twelve tonnes of coke for each casting week, says the ledger of 1884.",
    "canal": "Because the canal silts up, its lower gate is dredged every third spring.",
}


def handbook(chapters: int = 30, sections: int = 10) -> dict[str, str]:
    """Return a site of ``chapters * (sections + 1) + 1`` interlinked pages, 331 by default.

    The index links chapters, chapters their sections, every page its neighbours. Each section is about one topic; the
    last section of a topic's first chapter states the fact of `FACTS`.
    """
    pages: dict[str, str] = {}
    entries = []
    for chapter in range(chapters):
        topic = TOPICS[chapter % len(TOPICS)]
        name = f"/chapter-{chapter}.html"
        entries.append(f'<li><a href="{name}">Chapter {chapter}: the {topic}</a></li>')
        links = []
        for section in range(sections):
            page = f"/chapter-{chapter}/section-{section}.html"
            last = section == sections - 1
            heading = HEADINGS.get(topic, f"The {topic} at last") if last else f"Part {section} of the {topic}"
            links.append(f'<li><a href="{page}">{heading}</a></li>')
            fact = FACTS.get(topic, "") if last and chapter < len(TOPICS) else ""
            pages[page] = html(
                f"{heading}, volume {chapter}",
                f'<nav><a href="/">Home</a> <a href="{name}">Up</a></nav><main><h1>{heading}</h1>'
                f"<p>This is section {section} of chapter {chapter}. It describes the {topic} in the usual words.</p>"
                f"<p>{fact}</p><p>Keepers write the daily log number {chapter * sections + section} here.</p></main>"
                f'<footer><a href="/chapter-{(chapter + 1) % chapters}.html">Next chapter</a></footer>',
            )
        pages[name] = html(
            f"Chapter {chapter}: the {topic}",
            f"<h1>The {topic}</h1><p>About it, in volume {chapter}.</p><ul>{''.join(links)}</ul>",
        )
    pages["/"] = html("The keeper's handbook", f"<h1>The keeper's handbook</h1><ul>{''.join(entries)}</ul>")
    return pages
