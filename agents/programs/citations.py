"""Checking a report's citations: a quote stands, word for word, in the text that it names, or it goes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

#: A shorter quote proves nothing.
LEAST_WORDS = 3
#: How alike a passage must be to a quote to be taken for what was meant.
ALIKE = 0.85
UNVERIFIED = "[unverified]"
_WORD = re.compile(r"\w+(?:[.,'\u2019]\w+)*|[=<>+*/%&|~^-]+")
# Words that no quote may get wrong: numbers, operators, negations.
_DECIDES = re.compile(r"[\d.,]+\w*|[^\w\s]+|no|not|never|none|nor|without|cannot|\w+n't")
_GAP = re.compile(r"\s*(?:\[?\s*(?:\u2026|\.\.\.+)\s*\]?)\s*")
_MARK = re.compile(r"\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\](?!\()")


@dataclass(frozen=True, slots=True)
class Checked:
    """What is left of a report: its text with marks renumbered, its citations, and how many were left out."""

    report: str
    citations: list[dict[str, Any]]
    left_out: int


def check(report: str, citations: Sequence[dict[str, Any]], sources: Sequence[dict[str, Any]]) -> Checked:
    """Keep the citations whose quotes stand in the sources they name, numbered in the order of their marks.

    A quote that stands in another source than it names gets that source; one that is nearly right becomes what the
    source says. A mark without a citation that stands becomes ``[unverified]``. Citations no mark points at go.

    Args:
        report: Markdown with marks like ``[1]`` or ``[1, 2]``.
        citations: ``{"n", "source", "quote"}`` each.
        sources: ``{"n", "url", "title", "text"}`` each.
    """
    standing: dict[int, dict[str, Any]] = {}
    for citation in citations:
        found = _stands(str(citation.get("quote", "")), citation.get("source"), sources)
        if found is not None and citation.get("n") not in standing:
            standing[int(citation["n"])] = found
    if standing and not _MARK.search(report):
        report = f"{report.rstrip()}\n\n{' '.join(f'[{n}]' for n in standing)}"
    order: dict[int, int] = {}

    def renumber(match: re.Match[str]) -> str:
        named = map(int, re.findall(r"\d+", match.group(1)))
        marks = [f"[{order.setdefault(n, len(order) + 1)}]" if n in standing else UNVERIFIED for n in named]
        return "".join(dict.fromkeys(marks))

    report = _MARK.sub(renumber, report)
    kept = [{"n": order[n], **standing[n]} for n in sorted(order, key=lambda n: order[n])]
    return Checked(report, kept, len(citations) - len(standing))


def _stands(quote: str, named: Any, sources: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return url, title and the quote as its source has it, None when it stands nowhere."""
    first = [source for source in sources if source["n"] == named]
    rest = [source for source in sources if source["n"] != named]
    for find, among in ((_verbatim, [*first, *rest]), (_nearly, first)):
        for source in among:
            text = find(quote, str(source["text"]))
            if text:
                return {"url": source["url"], "title": source["title"], "quote": text}
    return None


def _words(text: str) -> list[tuple[str, int, int]]:
    """Return the words of a text, folded so that only differences that matter remain, with their places."""
    return [
        (unicodedata.normalize("NFKC", match.group()).casefold().replace("\u2019", "'"), match.start(), match.end())
        for match in _WORD.finditer(text)
    ]


def _verbatim(quote: str, text: str) -> str:
    """Return the piece of ``text`` that ``quote`` repeats word for word; gaps (…) may stand for anything between."""
    parts = [words for part in _GAP.split(quote) if (words := [word for word, _, _ in _words(part)])]
    if sum(map(len, parts)) < LEAST_WORDS:
        return ""
    have = _words(text)
    folded = [word for word, _, _ in have]
    pieces: list[str] = []
    start = 0
    for part in parts:
        at = next((i for i in range(start, len(folded) - len(part) + 1) if folded[i : i + len(part)] == part), None)
        if at is None:
            return ""
        start = at + len(part)
        pieces.append(_whole(text, have[at][1], have[start - 1][2]))
    return " … ".join(pieces)


def _nearly(quote: str, text: str) -> str:
    """Return the piece of ``text`` that ``quote`` renders nearly: a word dropped, added or changed here and there."""
    wanted = [word for word, _, _ in _words(quote)]
    have = _words(text)
    folded = [word for word, _, _ in have]
    if len(wanted) < 2 * LEAST_WORDS or len(folded) < LEAST_WORDS:
        return ""
    matcher = SequenceMatcher(None, folded, wanted, autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    if not blocks:
        return ""
    first, last = blocks[0].a, blocks[-1].a + blocks[-1].size
    meant = folded[first:last]
    if SequenceMatcher(None, meant, wanted, autojunk=False).ratio() < ALIKE:
        return ""
    if sorted(filter(_DECIDES.fullmatch, meant)) != sorted(filter(_DECIDES.fullmatch, wanted)):
        return ""
    return _whole(text, have[first][1], have[last - 1][2])


def _whole(text: str, start: int, end: int) -> str:
    """Return ``text[start:end]`` with the brackets and the stop that belong to it."""
    while start and text[start - 1] in "\u201c\"'(":
        start -= 1
    while end < len(text) and text[end] in ".!?\u201d\"')":
        end += 1
    return text[start:end]
