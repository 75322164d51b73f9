"""Turn what a model wrote into HTML that is safe to show."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module

import nh3
from django.utils.safestring import SafeString
from markdown_it import MarkdownIt
from markdown_it.token import Token

#: The first headings of a text stand at this level, below those of the page around it.
TOP = 3
#: A longer text is cut: it is the browser that would choke on it.
MAX_CHARACTERS = 200_000
#: Cells that the rows of a table leave out are added, so many in all; there the table ends. With the parser's own bound
#: four kilobytes of text are 65,000 cells, and a second of work.
MAX_ADDED_CELLS = 200
import_module("markdown_it.rules_block.table").MAX_AUTOCOMPLETED_CELLS = MAX_ADDED_CELLS  # type: ignore[attr-defined]

_TAGS = frozenset(
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s strong table tbody td th thead tr ul".split()  # noqa: SIM905
)

_MARK = re.compile(r"\[(\d{1,3})\]")

# Without images: the site's policy loads none from elsewhere, and each would tell its host who reads the page.
_parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def render(text: str, *, sources: Collection[int] = ()) -> SafeString:
    """Return Markdown as sanitised HTML: no HTML of its own, no images, links to http(s) and mail alone.

    Args:
        sources: the numbers of the sources listed below the text; ``[2]`` becomes a link to ``#source-2`` if it is one.
    """
    tokens = _parser.parse(text[:MAX_CHARACTERS])
    _fit_headings(tokens)
    for token in tokens:
        if token.children and sources:
            token.children = list(_linked(token.children, sources))
    return _clean(tokens)


def render_block(text: str, highest: int) -> tuple[str, int]:
    """Render a part of a text that is not there as a whole yet.

    ``highest`` is the highest level of heading in what came before, 6 where there was none. Returned with the HTML as
    it is now.
    """
    tokens = _parser.parse(text[:MAX_CHARACTERS])
    levels = [int(token.tag[1]) for token in tokens if token.type == "heading_open"]
    highest = min([highest, *levels])
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(TOP + int(token.tag[1]) - highest, 6)}"
    return _clean(tokens), highest


def _clean(tokens: Sequence[Token]) -> SafeString:
    html = _parser.renderer.render(tokens, _parser.options, {})
    clean = nh3.clean(
        html,
        tags=set(_TAGS),
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        set_tag_attribute_values={"table": {"tabindex": "0"}},  # a wide one scrolls, by keyboard too
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return SafeString(clean)


def _fit_headings(tokens: Sequence[Token]) -> None:
    """Let the headings of a text begin at `TOP`, whatever it begins with, and leave no level out on the way down."""
    highest, last = 6, TOP - 1
    for token in tokens:
        if token.type == "heading_open":
            highest = min(highest, int(token.tag[1]))
    for token in tokens:
        if token.type == "heading_open":
            last = min(TOP + int(token.tag[1]) - highest, last + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{last}"


def _linked(tokens: Sequence[Token], sources: Collection[int]) -> Iterator[Token]:
    """Yield the tokens of a line with its marks of sources made links, but for those inside of a link."""
    inside = 0
    for token in tokens:
        inside += token.nesting if token.type in ("link_open", "link_close") else 0
        if token.type != "text" or inside:
            yield token
            continue
        for place, part in enumerate(_MARK.split(token.content)):
            if place % 2 == 0:
                yield Token("text", "", 0, content=part)
            elif int(part) in sources:
                yield Token("link_open", "a", 1, attrs={"href": f"#source-{part}"})
                yield Token("text", "", 0, content=f"[{part}]")
                yield Token("link_close", "a", -1)
            else:
                yield Token("text", "", 0, content=f"[{part}]")
