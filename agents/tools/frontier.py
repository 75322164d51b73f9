"""The links a crawl has seen and not visited, ranked by what their words share with the question."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from agents.relevance import emphasis, query_terms, terms
from agents.tools import urls
from agents.tools.page import Link

MAX_QUERIES_PER_PATH = 5
MAX_CANDIDATES = 5000
NEAR_CHARS = 100
_HUBS = frozenset({"index", "content", "toc", "sitemap", "overview", "documentat", "manual", "guid"})
_REGISTER = re.compile(
    r"(the )?(general |subject |word )?(index|contents|table of contents|site ?map|a ?[-\u2013] ?z)", re.I
)
_EMPTY_WORDS = frozenset({"next", "prev", "previou", "up", "home", "here", "more", "back", "top", "link", "section"})


@dataclass(frozen=True, slots=True)
class Signpost:
    """A link with its words taken apart: those on it and in its URL, and those around it."""

    link: Link
    on: frozenset[str]
    around: frozenset[str]
    #: How much the words around it count: few words are about the link, many about much else.
    nearness: float
    #: How much the words on it tell.
    tells: int

    @classmethod
    def of(cls, link: Link) -> Signpost:
        """Take the words of a link apart."""
        on = terms(link.text)
        return cls(
            link,
            frozenset([*on, *terms(urls.words(link.url))]),
            frozenset(terms(link.around)) if link.around else frozenset(),
            0.5 if len(link.around) <= NEAR_CHARS else 0.2,
            sum(len(term) for term in on[:12] if term not in _EMPTY_WORDS),
        )


@dataclass(slots=True)
class Candidate:
    """A page that may be visited: what all the links to it say."""

    url: str
    text: str
    depth: int
    order: int
    on: frozenset[str]
    around: frozenset[str]
    nearness: float
    tells: int
    below: int
    found_on: float
    prior: float

    def learn(self, sign: Signpost, found_on: float) -> None:
        """Take in what one more link to the page says."""
        self.on |= sign.on
        if sign.nearness == self.nearness:
            self.around |= sign.around
        elif sign.nearness > self.nearness:
            self.around, self.nearness = sign.around, sign.nearness
        self.below = max(self.below, sign.link.below)
        self.found_on = max(self.found_on, found_on)
        if sign.tells > self.tells:
            self.text, self.tells = sign.link.text, sign.tells


class Frontier:
    """The candidates. How telling a word is depends on how many carry it, so ranks change while links come in."""

    def __init__(self, question: str, seen: Iterable[str]) -> None:
        self._query = query_terms(question)
        self._candidates: dict[str, Candidate] = {}
        self._seen = set(seen)
        self._queries: defaultdict[str, set[str]] = defaultdict(set)
        self._frequency: Counter[str] = Counter()
        self._order = 0

    def add(self, sign: Signpost, *, depth: int, found_on: float = 0.0, prior: float = 0.0) -> None:
        """Take a link in, unless it was seen, is no page, or is one query too many of the same path.

        ``found_on`` is how relevant the page was that it stands on (0 to 1); ``prior`` is added to its score.
        """
        self._order += 1
        url = sign.link.url
        known = self._candidates.get(url)
        if known is not None:
            known.learn(sign, found_on)
            return
        if url in self._seen or len(self._candidates) >= MAX_CANDIDATES or not urls.looks_like_a_page(url):
            return
        parts = urlsplit(url)
        queries = self._queries[parts.path]
        if parts.query and parts.query not in queries and len(queries) >= MAX_QUERIES_PER_PATH:
            return
        queries.add(parts.query)
        self._frequency.update(sign.on.intersection(self._query))
        self._candidates[url] = Candidate(
            url=url,
            text=sign.link.text,
            depth=depth,
            order=self._order,
            on=sign.on,
            around=sign.around,
            nearness=sign.nearness,
            tells=sign.tells,
            below=sign.link.below,
            found_on=found_on,
            prior=prior,
        )

    def discard(self, url: str) -> None:
        """Forget a link: it was visited."""
        self._seen.add(url)
        self._candidates.pop(url, None)

    def put_back(self, candidate: Candidate) -> None:
        """Take in again a candidate that was not visited after all."""
        self._candidates[candidate.url] = candidate

    def take(self, depth: int) -> Candidate | None:
        """Take the best link that is no deeper than ``depth``; None when there is none."""
        within = [candidate for candidate in self._candidates.values() if candidate.depth <= depth]
        weights = self._weights()
        best = max(within, key=lambda one: (self._score(one, weights), -one.order), default=None)
        if best is not None:
            self.discard(best.url)
        return best

    def ranked(self, count: int) -> list[tuple[Candidate, float]]:
        """Return the best ``count`` links with their scores."""
        weights = self._weights()
        scored = [(candidate, self._score(candidate, weights)) for candidate in self._candidates.values()]
        return sorted(scored, key=lambda item: (-item[1], item[0].order))[:count]

    def _weights(self) -> dict[str, float]:
        size = len(self._candidates) + 1
        return {term: math.log(1 + size / (1 + self._frequency[term])) * emphasis(term) for term in self._query}

    @staticmethod
    def _score(candidate: Candidate, weights: dict[str, float]) -> float:
        """Return what a link promises: mostly 0 to 1."""
        total = on = around = 0.0
        for term, weight in weights.items():
            total += weight
            if term in candidate.on:
                on += weight
            elif term in candidate.around:
                around += weight
        words = (on + candidate.nearness * around) / total if total else 0.0
        # Without a word in common, a page that leads to many others is the better bet; best of all a register.
        hub = min(0.12, 0.03 * math.log1p(max(candidate.below, 0)) + 0.06 * (not _HUBS.isdisjoint(candidate.on)))
        hub += 0.2 * bool(_REGISTER.fullmatch(candidate.text))
        return words + hub + 0.15 * candidate.found_on - 0.02 * candidate.depth + candidate.prior
