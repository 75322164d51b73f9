"""A page of the web as its readers see it: title, text under headings, links. No markup, menus or scripts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lxml import etree, html  # type: ignore[import-untyped]

from agents.relevance import sentences
from agents.tools.fetch import Fetched
from agents.tools.urls import canonical

PASSAGE_CHARS = 900
MAX_LINKS = 8000
MAX_PASSAGES = 800
_TAG = re.compile(r"\w+")
_SILENT = frozenset(
    _TAG.findall(
        "script style noscript template svg math iframe object embed canvas audio video form button select textarea "
        "nav aside footer head"
    )
)
_BLOCKS = frozenset(
    _TAG.findall(
        "address article blockquote body caption center dd details dialog div dl dt fieldset figcaption figure h1 h2 "
        "h3 h4 h5 h6 header hr li main ol p pre section summary table tbody tfoot thead tr ul"
    )
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_FURNITURE = re.compile(
    r"(^|[\s_-])(nav|navbar|navheader|navfooter|navigation|menu|sidebar|breadcrumbs?|footer|cookie\w*|banner|toc|"
    r"pagination|share|social|skip\w*|headerlink|sphinxsidebar|related|edit-?(link|page)|copyright)($|[\s_-])",
    re.I,
)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]+)", re.I)
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_BOX_TITLE = re.compile(r"(note|tip|warning|caution|important|example|see also|contents|table of contents)\W*", re.I)
_SPACE = re.compile(r"\s+")
#: The beginning of an element as HTML 5 reads it: `<name`, then its attributes.
_START = re.compile(
    r"""(<[a-z][^\s/>]*+)((?:[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"?+|'[^']*+'?+|[^\s>"'][^\s>]*+)?+)?+)++)""",
    re.I,
)
_ATTRIBUTE = re.compile(r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"?+|'[^']*+'?+|[^\s>"'][^\s>]*+)?+)?+""")
#: The parser's time grows with the square of an element's attributes: one of 3 MB kept it busy for minutes.
MAX_ATTRIBUTES = 1000
#: Shorter ones cannot have so many that it matters.
LONG_START = 10_000
MAX_HEADING = 300
#: What a link stands among is a line of so many characters and elements; in more than that, only what is next to it.
MAX_LINE = 300
MAX_IN_LINE = 100


@dataclass(frozen=True, slots=True)
class Link:
    """A link on a page: where to (canonical), its words, the words around it and how many links hang below it."""

    url: str
    text: str
    around: str = ""
    below: int = 0


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a page's text, word for word, and the headings that it stands under."""

    heading: str
    text: str


@dataclass(slots=True)
class Page:
    """What was read."""

    url: str
    title: str
    passages: list[Passage] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)


def decode(body: bytes, declared: str | None) -> str:
    """Return the text of ``body``: byte order mark, then what the server declared, the page's meta tag, UTF-8."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    meta = _META_CHARSET.search(body[:2048])
    for encoding in (declared, meta.group(1).decode("ascii") if meta else None):
        try:
            if encoding:
                return body.decode(encoding, "replace")
        except (LookupError, UnicodeError, ValueError):
            continue
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")


def read(fetched: Fetched) -> Page:
    """Parse a fetched page. Never raises: what is no markup is read as text."""
    text = decode(fetched.body, fetched.charset).replace("\x00", "")
    if fetched.media_type in ("text/plain", "text/markdown"):
        blocks = [_Block("p", part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]
        first = blocks[0].text.splitlines()[0].lstrip("# ")[:200] if blocks else fetched.url
        return Page(fetched.url, first, list(_passages(blocks)))
    try:
        root = html.document_fromstring(_tamed(re.sub(r"^\s*<\?xml[^>]*\?>", "", text[:200]) + text[200:]))
    except (etree.ParserError, etree.XMLSyntaxError, ValueError, AssertionError):
        return Page(fetched.url, fetched.url)
    title = _clean("".join(root.xpath("//title[1]//text()"))) or _clean("".join(root.xpath("(//h1)[1]//text()")))
    page = Page(fetched.url, (title or fetched.url)[:300])
    page.links = list(_links(root, fetched.url))
    page.passages = list(_passages(list(_Reader().blocks(_main(root)))))[:MAX_PASSAGES]
    return page


def _tamed(markup: str) -> str:
    """Return the markup without the attributes of elements that have thousands of them."""
    parts: list[str] = []
    done = 0
    for start in _START.finditer(markup):
        if start.end() - start.start() > LONG_START:
            attributes = itertools.islice(_ATTRIBUTE.finditer(markup, start.end(1), start.end()), MAX_ATTRIBUTES + 1)
            if sum(1 for _ in attributes) > MAX_ATTRIBUTES:
                parts.append(markup[done : start.end(1)])
                done = start.end()
    return "".join([*parts, markup[done:]])


def _clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def _links(root: html.HtmlElement, url: str) -> Iterator[Link]:
    robots = " ".join(root.xpath("//meta[translate(@name,'ROBTS','robts')='robots']/@content")).lower()
    if "nofollow" in robots or "none" in robots.split(","):
        return
    bases = root.xpath("//base/@href")
    base = canonical(bases[0], url) if bases else None
    # Thousands of links may share what stands around or above them: each such thing is read once.
    lines: dict[html.HtmlElement, str | None] = {}
    counts: dict[html.HtmlElement, int] = {}
    for element in root.xpath("(//a[@href])[position() <= $most]", most=MAX_LINKS):
        target = canonical(element.get("href"), base or url)
        if target is None or target == url or "nofollow" in (element.get("rel") or ""):
            continue
        text = _clean(element.text_content())
        hint = _clean(element.get("title") or "")
        text = f"{text} ({hint})" if text and hint and hint not in text else text or hint
        around = _around(element, lines)
        yield Link(target, text[:200], "" if around in text else around, _below(element, counts))


def _around(element: html.HtmlElement, lines: dict[html.HtmlElement, str | None]) -> str:
    """Return the words a link stands among: those of its sentence or entry, at most 200 characters.

    ``lines`` keeps the text of each parent that was asked for, or None where it is long.
    """
    parent = element.getparent()
    if parent is None:
        return ""
    if parent not in lines:
        lines[parent] = _short_text(parent)
    whole = lines[parent]
    if whole is not None:
        return _clean(whole)[:200]
    before = element.getprevious()
    lead = (before.tail if before is not None else parent.text) or ""
    return _clean(f"{lead[-90:]} {element.text_content()[:100]} {(element.tail or '')[:90]}")[:200]


def _short_text(element: html.HtmlElement) -> str | None:
    """Return the text in an element, or None if it is long or has much in it."""
    if sum(1 for _ in itertools.islice(element.iter(), MAX_IN_LINE + 1)) > MAX_IN_LINE:
        return None
    text = "".join(element.itertext())
    return text if len(text) <= MAX_LINE else None


def _below(element: html.HtmlElement, counts: dict[html.HtmlElement, int]) -> int:
    """Return how many links hang below this one in a nested list: the entry of a chapter has those of its sections.

    ``counts`` keeps the number of links in each holder that was asked for.
    """
    for above in element.iterancestors("li", "dt"):
        holder = above.getnext() if above.tag == "dt" else above
        if holder is None or (above.tag == "dt" and holder.tag != "dd"):
            return 0
        if holder not in counts:
            counts[holder] = int(holder.xpath("count(.//a[@href])"))
        return counts[holder] - (0 if above.tag == "dt" else 1)
    return 0


def _main(root: html.HtmlElement) -> html.HtmlElement:
    for query in ("//main", "//*[@role='main']", "//article"):
        found = root.xpath(query)
        if len(found) == 1 and len(_clean(found[0].text_content())) > 200:
            return found[0]
    bodies = root.xpath("//body")
    return bodies[0] if bodies else root


@dataclass(slots=True)
class _Block:
    tag: str
    text: str
    #: Which part of the text is links, 0 to 1.
    linked: float = 0.0

    def is_entry(self, share: float) -> bool:
        """Tell whether it is an entry of a list of links, which make up more than ``share`` of it, and not a text."""
        return self.linked > share and len(self.text) < 160 and self.tag != "pre" and self.text[-1] not in ".!?:"


def _is_furniture(element: html.HtmlElement) -> bool:
    if element.get("hidden") is not None or element.get("aria-hidden") == "true":
        return True
    if element.get("role") in ("navigation", "banner", "contentinfo", "search", "menu"):
        return True
    names = f"{element.get('class') or ''} {element.get('id') or ''}"
    return bool(names.strip()) and len(names) < 200 and bool(_FURNITURE.search(names))


class _Reader:
    """Reads the blocks of text under an element, in order; without recursion, for pages nest as deep as they like."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._tag = "p"
        self._depth_of_pre = 0
        self._in_link = False
        self._linked = 0
        #: Whether the words hold any sign yet.
        self._has_text = False

    def blocks(self, main: html.HtmlElement) -> Iterator[_Block]:
        walker = etree.iterwalk(main, events=("start", "end", "comment", "pi"))
        for event, element in walker:
            name = element.tag if isinstance(element.tag, str) else ""
            if event == "start":
                if element is not main and (name in _SILENT or _is_furniture(element)):
                    walker.skip_subtree()
                    continue
                yield from self._open(name)
                self._in_link = self._in_link or name == "a"
                self._linked += len(element.text or "") if self._in_link else 0
                self._add(element.text or "")
            else:
                if event == "end":
                    yield from self._close(name)
                    self._in_link = self._in_link and name != "a"
                tail = (element.tail or "") if element is not main else ""
                self._linked += len(tail) if self._in_link else 0
                self._add(tail)
        yield from self._flush()

    def _add(self, text: str) -> None:
        self._words.append(text)
        self._has_text = self._has_text or (bool(text) and not text.isspace())

    def _open(self, name: str) -> Iterator[_Block]:
        if name == "br":
            self._words.append("\n" if self._depth_of_pre else " ")
        elif name in ("td", "th"):
            self._words.append(" | " if self._has_text else "")
        elif name in _BLOCKS and not self._depth_of_pre:
            yield from self._flush()
            self._tag = name
        self._depth_of_pre += name == "pre"

    def _close(self, name: str) -> Iterator[_Block]:
        self._depth_of_pre -= name == "pre"
        if name in _BLOCKS and not self._depth_of_pre:
            yield from self._flush()
            self._tag = "p"

    def _flush(self) -> Iterator[_Block]:
        text = "".join(self._words)
        self._words.clear()
        self._has_text = False
        text = text.strip("\n").rstrip() if self._tag == "pre" else _clean(text)
        linked, self._linked = self._linked, 0
        if text.strip(" |"):
            yield _Block(self._tag, text, linked / len(text))


def _passages(blocks: list[_Block]) -> Iterator[Passage]:
    """Yield passages of about ``PASSAGE_CHARS``; never across a heading, and nothing is parted from its lead-in."""
    headings: dict[int, str] = {}
    held: list[str] = []
    size = 0
    leads_in = False
    # Where most blocks have links in them, the page is a register of others.
    share = 0.1 if sum(block.is_entry(0.1) for block in blocks) > max(20, len(blocks) / 2) else 0.35

    def flush() -> Iterator[Passage]:
        nonlocal size
        if held:
            where = " > ".join(headings[level] for level in sorted(headings))
            yield Passage(where[:300], "\n".join(held))
        held.clear()
        size = 0

    for block in blocks:
        level = _HEADINGS.get(block.tag)
        if level is not None and _BOX_TITLE.fullmatch(block.text):
            continue
        if level is not None:
            yield from flush()
            headings = {above: text for above, text in headings.items() if above < level}
            headings[level] = block.text[:MAX_HEADING].rstrip("#¶ ")
            continue
        if block.is_entry(share):
            continue
        for text in _pieces(block):
            full = size + len(text) > PASSAGE_CHARS and not (leads_in and size + len(text) < 2 * PASSAGE_CHARS)
            if full or (block.tag == "dt" and size > 200):
                yield from flush()
            held.append(text)
            size += len(text)
            leads_in = text.endswith(":") or block.tag == "dt"
    yield from flush()


def _pieces(block: _Block) -> Iterator[str]:
    """Yield a block whole, or, when it is far too long, sentence by sentence in pieces that fit."""
    if len(block.text) <= 2 * PASSAGE_CHARS:
        yield block.text
        return
    start = end = 0
    for span in sentences(block.text):
        if span.end - start > PASSAGE_CHARS and end > start:
            yield block.text[start:end]
            start = span.start
        end = span.end
        while end - start > 2 * PASSAGE_CHARS:
            yield block.text[start : start + PASSAGE_CHARS]
            start += PASSAGE_CHARS
    if end > start:
        yield block.text[start:end]
